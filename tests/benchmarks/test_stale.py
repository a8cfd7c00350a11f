"""`make stale`: a result is stale once what it measures has changed."""

import json
import runpy
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STALE = runpy.run_path(str(ROOT / "benchmarks" / "stale.py"))


def commit(root: Path, path: str, text: str) -> str:
    """Commit a file and return the commit's name."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["add", "-A"], [*who, "commit", "-qm", f"change of {path}"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    return str(STALE["git"](root, "rev-parse", "HEAD"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a result of `dropins`, and the code it measures."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit(tmp_path, "src/perstep/fast/one.py", "1")
    commit(tmp_path, "benchmarks/results/dropins.json", "{}")
    return tmp_path


def test_every_result_has_a_line() -> None:
    """And each line a result and code that exist."""
    assert {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")} == set(STALE["MEASURES"])
    paths = [ROOT / "src" / "perstep" / path for measures in STALE["MEASURES"].values() for path in measures.split()]
    assert [path for path in paths if not path.exists()] == []


def test_a_result_is_stale_once_its_code_has_changed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of other code it is not; measured again it is not."""
    commit(repository, "src/perstep/report/other.py", "1")
    STALE["main"](repository)
    assert "dropins" not in capsys.readouterr().out
    changed = commit(repository, "src/perstep/fast/one.py", "2")
    assert STALE["main"](repository) == 1
    result = repository / "benchmarks" / "results" / "dropins.json"
    at = STALE["measured_at"](repository, result)[:10]
    assert f"dropins: measured at {at}; other code in 1 of 1 files: fast/one.py" in capsys.readouterr().out
    STALE["stamp"](result, repository)
    assert json.loads(result.read_text(encoding="utf-8"))["commit"] == changed
    STALE["main"](repository)
    assert "dropins" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "path", "stale"),
    [
        ('"""Another."""\ndef f(x):\n    """Words."""\n    after = x + 1  # why\n    return after\n', "one.py", False),
        ("def f(x):\n    y = x + 1\n    return y\n", "moved.py", False),
        ("def f(x):\n    y = x + 2\n    return y\n", "one.py", True),
        ("def f(x):\n    y = x + 1\n    return x\n", "one.py", True),
        ("def f(x, *, y=0):\n    y = x + 1\n    return y\n", "one.py", True),
    ],
)
def test_words_names_and_places_are_no_change(repository: Path, text: str, path: str, stale: bool) -> None:
    """A docstring, a comment, the name of a local variable, another file; what is computed is one."""
    commit(repository, "src/perstep/fast/one.py", "def f(x):\n    y = x + 1\n    return y\n")
    at = STALE["git"](repository, "rev-parse", "HEAD")
    (repository / "src/perstep/fast/one.py").unlink()
    commit(repository, f"src/perstep/fast/{path}", text)
    changed, files = STALE["changed_since"](repository, at, "dropins", "fast")
    assert (changed, files) == ([f"src/perstep/fast/{path}"] if stale else [], 1)


def test_a_result_of_changed_files_says_so(repository: Path) -> None:
    """The commit alone would name other code."""
    (repository / "src/perstep/fast/one.py").write_text("3", encoding="utf-8")
    result = repository / "benchmarks" / "results" / "dropins.json"
    STALE["stamp"](result, repository)
    assert json.loads(result.read_text(encoding="utf-8"))["commit"].endswith("+changes")
