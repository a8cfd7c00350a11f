"""The pages that explain the code say what the code says: parts, tests, laws by name, the core to read."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.sources import tree_of

from perstep.experiments import registry
from perstep.machine import Noise
from perstep.machine._cpu import Cpu
from perstep.machine._software import Software

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
DOCS = ROOT / "docs"
CORE_LINES = 2_000
"""The core is to be read in an afternoon."""

LAW_BY_NUMBER = re.compile(r"\blaws? \d", re.IGNORECASE)
LAW_BY_NAME = re.compile(r'\(laws? "([^"]+)"(?: and "([^"]+)")?')
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def page(name: str) -> str:
    """A page of the documentation."""
    return (DOCS / name).read_text(encoding="utf-8")


def headings(text: str, level: int) -> list[str]:
    """The headings of a page at one level."""
    return re.findall(rf"^{'#' * level} (.+)$", text, re.MULTILINE)


def texts(*folders: Path) -> Iterator[tuple[Path, str]]:
    """What people read in these folders: source, pages and tables, not stored results."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".md", ".toml") and path != Path(__file__):
                yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def boundary_tables() -> Iterator[str]:
    """The modules that define a table `BOUNDARIES`, wherever they are."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in tree_of(path).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == "BOUNDARIES" for target in targets):
                yield ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def test_every_part_of_a_boundary_table_is_in_the_glossary() -> None:
    """In the column of parts, as it is written in runs."""
    explained = set(re.findall(r"^\| `([^`]+)`", page("glossary.md"), re.MULTILINE))
    tables = {name: importlib.import_module(name).BOUNDARIES for name in boundary_tables()}
    assert len(tables) >= 4
    missing = {f"{part} ({name})" for name, table in tables.items() for part in table if part not in explained}
    assert not missing


KNOBS = {"experts", "context", "output"}
"""Experiments that share a page."""


@pytest.mark.parametrize("name", ["knobs", *(name for name in registry.EXPERIMENTS if name not in KNOBS)])
def test_the_page_of_an_experiment_has_its_picture_and_says_what_it_is_not(name: str) -> None:
    """Two to five points under one heading, and a picture that is in the folder."""
    text = page(f"{name}.md")
    pictures = re.findall(r"!\[[^\]]+\]\((img/[^)]+)\)", text)
    assert pictures
    assert all((DOCS / picture).is_file() for picture in pictures)
    [section] = re.findall(r"^## What (?:it is|they are) not\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    assert 2 <= len(re.findall(r"^- \*\*", section, re.MULTILINE)) <= 5


def test_every_block_of_code_is_one_for_the_documentation() -> None:
    """A fence with more than the name of a language, or inside a list, is no fence there: its lines run together."""
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    fences = [(path.name, line) for path in pages for line in path.read_text(encoding="utf-8").splitlines()
              if line.lstrip().startswith("```")]  # fmt: skip
    assert [fence for fence in fences if not re.fullmatch(r"```[a-z]*", fence[1])] == []


def test_examples_in_docstrings_are_code_on_the_page_of_the_api() -> None:
    """Under `Examples:`; below `Example:` the lines of a doctest become quotations."""
    assert [str(path) for path, text in texts(SOURCE) if re.search(r"^ *Example:$", text, re.MULTILINE)] == []


def test_tables_have_their_lines() -> None:
    """No row of dashes in the middle of a line, as re-wrapped text leaves it."""
    broken = [path.name for path in DOCS.glob("*.md") if re.search(r"\S.*\|[-:]{3,}\|.*\| \S", path.read_text("utf-8"))]
    assert broken == []


def test_the_glossary_is_in_alphabetical_order() -> None:
    """Each word once."""
    words = [word.casefold() for word in re.findall(r"^\*\*(.+?)\*\*", page("glossary.md"), re.MULTILINE)]
    assert words == sorted(set(words))


@pytest.mark.parametrize("facts", [Noise, Cpu, Software])
def test_every_fact_about_the_machine_is_explained(facts: type[msgspec.Struct]) -> None:
    """Each field of a manifest and of the noise of a round stands in a table of its page."""
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", page("machine.md"), re.MULTILINE))))
    assert not set(facts.__struct_fields__) - explained


def test_every_test_that_a_law_names_exists() -> None:
    """Found in the source by name; the message says where a test of that name is now."""
    defined: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef):
                defined.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    wrong = [
        f"{path}::{name}: {', '.join(defined.get(name, ['nowhere']))}"
        for path, name in TEST.findall(page("laws.md"))
        if path not in defined.get(name, [])
    ]
    assert not wrong


def test_every_law_has_a_number_and_a_test() -> None:
    """Under its heading: what it demands, the number that made it a law, and what holds it."""
    laws = re.split(r"^### ", page("laws.md"), flags=re.MULTILINE)[1:]
    assert len(laws) >= 14
    for law in laws:
        name = law.splitlines()[0]
        assert "- **Number.**" in law, name
        assert "- **Tests.**" in law, name
        assert TEST.search(law), name


def test_laws_are_cited_by_name() -> None:
    """By the words of a heading of docs/laws.md, and never by a number."""
    names = {name.casefold() for name in headings(page("laws.md"), 3)}
    everything = list(texts(SOURCE, ROOT / "tests", DOCS, ROOT / "benchmarks"))
    assert not [f"{path}: {found[0]}" for path, text in everything for found in LAW_BY_NUMBER.finditer(text)]
    flat = [(path, re.sub(r"\s+", " ", text)) for path, text in everything]
    cited = [(path, name) for path, text in flat for found in LAW_BY_NAME.findall(text) for name in found if name]
    assert cited
    assert not [f"{path}: {name}" for path, name in cited if name.casefold() not in names]


@pytest.fixture(scope="module")
def core() -> list[Path]:
    """The files of the core, in the order of the page."""
    return [ROOT / found for found in re.findall(r"^### \d+\. `(src/[^`]+)`", page("reading.md"), re.MULTILINE)]


def test_the_core_can_be_read_in_an_afternoon(core: list[Path]) -> None:
    """The page says how many lines it has, and that is at most 2,000."""
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in core)
    assert lines <= CORE_LINES
    assert f"{lines:,} lines" in page("reading.md"), f"docs/reading.md must say that the core has {lines:,} lines"


def test_what_the_core_page_names_is_there(core: list[Path]) -> None:
    """Every function and class that is to be looked at exists in its file."""
    for path, section in zip(core, re.split(r"^### \d+\. ", page("reading.md"), flags=re.MULTILINE)[1:], strict=True):
        defined = {node.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for name in re.findall(r"`(?:\w+\.)?(\w+)\(\)`", section):
            assert name in defined, f"{name} is not in {path.name}"


def test_the_examples_of_the_core_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    """As they are printed, and they print what the text says."""
    for example in re.findall(r"```python\n(.*?)```", page("reading.md"), re.DOTALL):
        exec(compile(example, "reading.md", "exec"), {})  # noqa: S102 - the page is ours
    shown = capsys.readouterr().out
    assert "[100] {'embed': array([20]), 'mlp': array([75])} [5]" in shown
    assert "attn.rope\nkv.append\nattn.scores\nattn.softmax" in shown
