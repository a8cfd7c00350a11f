"""Sentences with numbers in them: no exponent (`4.8e+02 %`), and no noun or verb of the wrong number (`1 rounds are`).

Sentences are built by f-strings, so the f-strings are walked: a number that prints an exponent from 10^6 on, a count
before a noun with an s outside `plural`, and a verb after `plural`, which would agree with one count alone. Literals,
pages and the help of every command are searched for what such sentences print.
"""

import ast
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.sources import tree_of

from perstep._words import plural, short
from perstep.cli.app import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "perstep"
MODULES = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(SOURCE.rglob("*.md"))]

NOUNS = (
    "arms|blocks|bytes|calls|candidates|cells|choices|columns|comparisons|configurations|contexts|copies|cores|devices|"
    "digits|entries|experts|features|files|forwards|frames|graphs|ids|images|kernels|keys|launches|layers|lengths|lines|"
    "logits|models|numbers|others|parts|pixels|points|positions|prefills|probes|processes|processors|prompts|queries|"
    "rounds|rows|runs|samples|seconds|sequences|states|steps|strings|tables|texts|threads|tokens|values|verdicts|words"
)
"""What perstep counts."""
NO_ADJECTIVE = (
    "and|as|at|beside|chose|counts|cuts|does|fit|for|from|gives|has|have|holds|in|is|lacks|makes|must|needs|of|or|share|takes|"
    "tells|the|to|wants|with"
)
ADJECTIVES = rf"(?:(?!(?:{NO_ADJECTIVE})\b)[a-z-]+ ){{0,2}}"
COUNTED = re.compile(rf" {ADJECTIVES}(?:{NOUNS})\b")
VERB = re.compile(r" (?:are|is|was|were|has|have|do|does|(?:differ|fit|hold|make|need|run|stand|take|work)s?)\b")
PRINTED = re.compile(
    rf"\de\+\d|(?<![^\s(])(?<![-−–+*/×=] )1 {ADJECTIVES}(?:{NOUNS})\b"
    r"|(?<![\d,.])1 of [\d,]+ [a-z ]+ (?:are|were|have|do)\b|\}\} of [^.]*\}\} (?:is|are|was|were|has|have)\b"
)
"""What a wrong sentence looks like once it is printed, or in a template. `N - 1 forwards` is right."""
SHARE = re.compile(r"(?:^ ?|[.;:(] )\{\} of \{\}[^.;:]+ (?:is|are|was|were|has|have|does|do)\b")
"""A sentence about some of several, whose verb agrees with how many: `1 of 3 rounds was`."""
EXPONENT = re.compile(r"(?:^|[^,])(?:\.\d+)?[gG]$")
WORDS = {"duration", "interval", "percent", "significant"}
"""Functions that write a number, whose noun has its s even after 1: `1.00 tokens`."""

ALLOWED = {
    "automata/schema/enums.py": {"len(texts)", "trie.num_nodes"},
    "experiments/ledger/device/findings.py": {"kind"},
    "experiments/ledger/device/show.py": {"work.unmatched"},
    "machine/warnings.py": {"threads"},
    "stats/warmup.py": {"i * window"},
    "targets/transformers/blocks.py": {"count"},
}
"""Module -> values that are no counts, or are never 1 where they are said."""


def name_of(node: ast.expr) -> str:
    """The function that is called, or nothing."""
    return ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""


def is_constant(node: ast.expr) -> bool:
    """Whether a value is made of constants of modules alone: they are known, and not 1."""
    names = [name for name in re.findall(r"[\w.]*[A-Za-z]\w*", ast.unparse(node)) if not name[0].isdigit()]
    return bool(names) and all(name.rpartition(".")[2].strip("_").isupper() for name in names)


def wrong(value: ast.FormattedValue, after: str, before: str = "") -> str:
    """What is wrong with a value of an f-string between these words, or nothing."""
    spec = ast.unparse(value.format_spec)[2:-1] if value.format_spec else ""
    if EXPONENT.search(spec):
        return "an exponent from 10^6 on: write short() or significant()"
    if value.conversion != -1:  # !r: a text
        return ""
    wrong_verb = VERB.match(after) and (before == " of " or not before.endswith(" of "))  # a prompt of 3 tokens is
    if name_of(value.value) == "plural":
        return "a verb after plural(): give it both forms, or write a sentence without it" if wrong_verb else ""
    if re.search(r"\.\d+[f%]$", spec) or name_of(value.value) in WORDS or is_constant(value.value):
        return ""
    return "a count before a noun: write plural()" if COUNTED.match(after) else ""


def values_of(tree: ast.AST) -> Iterator[tuple[ast.FormattedValue, str, str]]:
    """Every value of an f-string, with the words behind it and the words before it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            texts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
            for part, before, after in zip(node.values, ["", *texts], [*texts[1:], ""], strict=False):
                if isinstance(part, ast.FormattedValue):
                    yield part, str(after or ""), str(before or "")


def skeleton(sentence: ast.JoinedStr) -> str:
    """The words of an f-string with `{}` for each value."""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in sentence.values)


def wrong_messages(path: Path, allowed: Collection[str] = ()) -> Iterator[str]:
    """Where a module builds a wrong sentence, or says one."""
    tree = tree_of(path)
    for value, after, before in values_of(tree):
        reason = wrong(value, after, before)
        if reason and ast.unparse(value.value) not in allowed:
            yield f"{path}:{value.lineno}: {{{ast.unparse(value.value)}}}{after[:20]}: {reason}"
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and (found := SHARE.search(skeleton(node))):
            yield f"{path}:{node.lineno}: {found[0]}: a verb after a count of several: write plural() around it"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (f"{path}:{node.lineno}: {found}" for found in printed(node.value))


def printed(text: str) -> list[str]:
    """What is wrong in words as they are read."""
    return [found[0] for found in PRINTED.finditer(" ".join(text.replace("│", " ").split()))]


@pytest.mark.parametrize("name", MODULES)
def test_no_sentence_of_a_module_has_an_exponent_or_a_wrong_number(name: str) -> None:
    """Errors, notes, titles, remarks and docstrings."""
    assert list(wrong_messages(MODULES[name], ALLOWED.get(name, ()))) == []


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed_is_there(name: str) -> None:
    """An exception goes with the sentence that it was for."""
    found = "\n".join(wrong_messages(MODULES[name]))
    assert [value for value in ALLOWED[name] if f"{{{value}}}" not in found] == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_no_help_has_an_exponent_or_a_wrong_number(cli: Callable[..., Any], command: str) -> None:
    """As it is printed, defaults included."""
    said = cli(*command.split(), "--help")
    assert said.code == 0
    assert printed(said.out) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_has_an_exponent_or_a_wrong_number(page: Path) -> None:
    """README, the documentation with its copied output, and the templates of a run's README."""
    assert printed(page.read_text(encoding="utf-8")) == []


WRONG = {
    'f"{n} rounds"': "a count before a noun",
    'f"{len(found):,} fresh decode steps of {m}"': "a count before a noun",
    'f"the one of {run.rounds} rounds"': "a count before a noun",
    'f"{short(x)} tokens a pass"': "a count before a noun",
    'f"{x:.3g} %"': "an exponent",
    'f"{1e9 * x:g} s"': "an exponent",
    "f\"{plural(n, 'round')} are too few\"": "a verb after plural()",
    "f\"{n} of {plural(m, 'round')} are too few\"": "a verb after plural()",
    'f"{a} of {plural(b, one)} ({c:.0%}) were late"': "a verb after a count of several",
    'f"So. {a} of {len(b)} known delays were late"': "a verb after a count of several",
    '"1 of 3 rounds were late"': "1 of 3 rounds were",
    '"{{ a }} of {{ b | plural }} were late"': "}} of {{ b | plural }} were",
    '"it takes 4.8e+02 %"': "8e+0",
    '"only 1 rounds are"': "1 rounds",
    '"(1 decode steps)"': "1 decode steps",
}
"""Sentence as it is written in code -> what is wrong with it."""

RIGHT = [
    "f\"{plural(n, 'round')} measured\"",
    "f\"{plural(n, 'round is', 'rounds are')} too few\"",
    "f\"a prompt of {plural(n, 'token')} is too long\"",
    "f\"{plural(n, f'{of} was', f'{of} were')} late, in {a} of {plural(b, 'row')} it was not\"",
    '"11 of 30 rounds were late, 1 of 3 rounds was"',
    'f"{MIN_ROUNDS} rounds, {2 * files.MAX_BYTES:,} bytes"',
    'f"{duration(ns)} of kernels, {x:.1f} steps, {significant(x)} tokens"',
    'f"{name!r} points to nothing, {name} has layers"',
    'f"{difference:.1e} of the largest, {value:,g}"',
    '"1 round, 11 rounds, N - 1 forwards, 1e-6"',
]


@pytest.mark.parametrize("code", WRONG)
def test_a_planted_wrong_sentence_is_found(tmp_path: Path, code: str) -> None:
    """Once, with its line."""
    path = tmp_path / "module.py"
    path.write_text(f"\nsaid = {code}\n", encoding="utf-8")
    (found,) = wrong_messages(path)
    assert found.startswith(f"{path}:2: ")
    assert WRONG[code] in found


@pytest.mark.parametrize("code", RIGHT)
def test_a_right_sentence_is_not_found(tmp_path: Path, code: str) -> None:
    """Constants, units, measured numbers, and names that a verb follows."""
    path = tmp_path / "module.py"
    path.write_text(f"said = {code}\n", encoding="utf-8")
    assert list(wrong_messages(path)) == []


def test_numbers_in_words() -> None:
    """No exponent however large or small; zeros at the end go, those of a whole number stay."""
    assert [short(x) for x in (0, 2.0, 0.5, 1e6, 1234567.8, 1e-5, float("inf"))] == [
        *("0", "2", "0.5", "1000000", "1234568", "0.00001", "inf")
    ]
    assert [short(x, 3) for x in (480.0, 1.0, 1.996, 0.012345)] == ["480", "1", "2", "0.0123"]
    assert [plural(n, "round is", "rounds are") for n in (0, 1, 2000)] == [
        "0 rounds are",
        "1 round is",
        "2,000 rounds are",
    ]
    assert [plural(quota, "core") for quota in (1.0, 1.5, 2.0)] == ["1 core", "1.5 cores", "2 cores"]
