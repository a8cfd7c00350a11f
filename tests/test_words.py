"""Words that sentences for people must not use: on every page, in every help text, error, note and docstring.

A reader has to stop at each of them: a riddle, or a coinage where the field has a term. The table says what to write
instead. Code in backticks and names are not sentences. Help is covered twice: its text is in docstrings, and
`docs/generate.py` copies it to docs/commands.md.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sources import tree_of

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "perstep"

SAY_INSTEAD = {
    r"all the same": "still, or anyway",
    r"at hand": "say where it is",
    r"comes? back": "the time saved, or: is returned",
    r"dispatch": "call overhead",
    r"foretells?|foretold": "predict",
    r"in no part": "unattributed",
    r"in peace": "undisturbed",
    r"inflation": "instrumentation overhead",
    r"(?:is|are) told(?! apart)": "gets, or: the error says",
    r"ladders?": "ceiling sweep, or: sweep over buffer sizes",
    r"laps?": "interval between two marks",
    r"made of noise": "noise alone",
    r"moments hence": "in the same step",
    r"must not be believed": "is invalid",
    r"no matter": "for any",
    r"of everything random": "say which numbers are random",
    r"paces?": "round speed, or: slowdown of a round",
    r"riddles?": "say it",
    r"so many": "the number, or: this number of",
    r"stands? apart": "is shown separately",
    r"what it is of": "say what it describes",
    r"was never seen to": "never did",
}
"""Pattern of whole words, in any case -> what to write."""

PATTERN = re.compile("|".join(rf"(?P<w{at}>\b(?:{words})\b)" for at, words in enumerate(SAY_INSTEAD)), re.IGNORECASE)
CODE = re.compile(r"```.*?```|``.*?``|`[^`\n]*`", re.DOTALL)


def pages() -> list[Path]:
    """Everything that is written in Markdown, templates of a run's README among it; not stored results."""
    own = [ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "ARCHITECTURE")]
    return [*own, *sorted((ROOT / "docs").glob("*.md")), *sorted(SOURCE.rglob("*.md"))]


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(SOURCE.rglob("*.py"))


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """The prose of a file with its lines: of a page all of it, of a module its string literals of two words or more."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


def wrong_words(path: Path) -> Iterator[str]:
    """Where a word of the table is, and what to write."""
    for line, text in sentences(path):
        prose = CODE.sub(lambda code: "\n" * code[0].count("\n"), text)
        for found in PATTERN.finditer(prose):
            instead = list(SAY_INSTEAD.values())[int(str(found.lastgroup)[1:])]
            at = line + prose.count("\n", 0, found.start())
            yield f"{path.relative_to(ROOT)}:{at}: {found[0]!r}: write: {instead}"


@pytest.mark.parametrize("path", [*pages(), *modules()], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_uses_a_word_of_the_table(path: Path) -> None:
    """Pages, docstrings, help, errors and notes."""
    assert list(wrong_words(path)) == []


def test_a_word_of_the_table_is_found_in_prose_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a docstring, in a message and on a page, by its line; not in code, in names or inside other words."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    module, page = tmp_path / "module.py", tmp_path / "page.md"
    module.write_text('"""A lap.\n\nIt is `one lap`, overlapped."""\npace = "pace"\nsaid = f"at a pace of {pace}"\n')
    page.write_text("# A page\n\n```text\na ladder\n```\n\nSo many\nladders.\n")
    assert [found.split(": write")[0] for found in wrong_words(module)] == ["module.py:1: 'lap'", "module.py:5: 'pace'"]
    assert [found.split(": write")[0] for found in wrong_words(page)] == [
        "page.md:7: 'So many'",
        "page.md:8: 'ladders'",
    ]


SILENT = {"found", "held", "instead", "known", "made", "told", "trying"}
"""As names of variables these say nothing about what is in them."""

PUBLIC = {("automata/cache.py", "made")}
"""Parameters that users may give by name."""


def silent_names(tree: ast.AST) -> set[str]:
    """Parameters and local variables of functions with such a name; fields of classes are named in place."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]
    names = {
        node.id if isinstance(node, ast.Name) else node.arg
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.arg) or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }
    return names & SILENT


def test_names_say_what_they_hold() -> None:
    """In all of the source."""
    wrong = {
        (str(path.relative_to(SOURCE)), name) for path in SOURCE.rglob("*.py") for name in silent_names(tree_of(path))
    }
    assert wrong == PUBLIC


def test_a_name_that_says_nothing_is_seen() -> None:
    """As a parameter, as a variable, and of a lambda."""
    code = "def f(held):\n    found = [made for made in held]\n    return lambda told: told"
    assert silent_names(ast.parse(code)) == {"held", "found", "made", "told"}
