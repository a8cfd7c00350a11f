"""Nothing in the package is unused, and no function is longer than a screen."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.sources import tree_of
from vulture import Vulture

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 60

BY_NAME = {
    "__getattr__": "Python calls it",
    "__dir__": "Python calls it",
    "build_memo": "named in automata.engines.ENGINES",
    "build_lazy": "named in automata.engines.ENGINES",
    "Axes": "named in quoted annotations",
}
"""Used where vulture cannot see it."""

NOT_READ = {
    "stored for who reads results.json, with the numbers that it explains": """
        PartFindings.agrees Point.with_cache_repetitions Point.without_cache_repetitions Square.gamma_ms
        StageFit.max_deviation StageKnee.line_r_squared StageModel.heldout_error_median KernelTime.mean_ns
        Fill.in_place_p50_us Fill.in_place_p99_us OperatorFound.calls_per_step Prediction.from_sizes AboutCell.texts_end
        SiteFindings.broken_off
        Spread.P50 Spread.P95 Spread.P99 TimeChange.ties""",
    "read by columns, which put their names together": """
        PartChange.ref_ci_high_ns
        PartChange.ref_ci_low_ns
        Point.without_cache_high_ms Point.without_cache_low_ms""",
    "stored in manifest.json or samples.jsonl: what was measured, and how": """
        Conditions.rewound KnobConditions.end_tokens
        Conditions.end_tokens Conditions.languages Workload.schema_sha256 Conditions.steps_per_turn
        TraceCounts.by_operator TraceCounts.idle_launches AboutLanguage.automaton
        Host.load_average_5min Host.load_average_15min""",
    "stored with this machine's ceilings and noise": """
        BetweenRunNoise.measured_at Ceilings.elapsed_ns Ceilings.measured_at_unix_s DeviceCeilings.elapsed_ns""",
    "the answer of a public function or object": """
        Change.ties Summary.mad Summary.outliers Replayed.stopped_BN
        Reference.stored_dtypes TraceWork.outside_ns SelfTest.resolves_in_10_s SelfTest.resolves_in_60_s""",
}
"""Fields that nothing in src, its templates or the docs reads by name, and what they are for."""


def test_nothing_is_unused() -> None:
    """Functions, classes, methods, properties and imports; fields of structs are used by who reads a run.

    Commands are used by the table in `cli/app.py`, which names them.
    """
    vulture = Vulture()
    vulture.scavenge([str(ROOT / folder) for folder in ("src", "tests", "benchmarks", "docs", "training")])
    found = [
        f"{item.filename.relative_to(ROOT)}:{item.first_lineno} {item.typ} {item.name}"
        for item in vulture.get_unused_code(min_confidence=60)
        if ROOT / "src" in item.filename.parents
        and item.typ not in ("variable", "attribute")
        and item.name not in BY_NAME
        and item.filename.parent.name != "cli"
    ]
    assert found == []


def test_no_function_is_longer_than_a_screen() -> None:
    """Its docstring included."""
    long = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MOST_LINES:
                    long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert long == []


def data_classes(source: Path) -> Iterator[tuple[str, list[str]]]:
    """Every struct, named tuple and dataclass with the fields that it adds."""
    trees = [tree_of(path) for path in source.rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    known = {"Struct", "NamedTuple"}
    while True:
        more = {one.name for one in classes if _is_data(one, known)} - known
        if not more:
            break
        known |= more
    for one in classes:
        if one.name in known and _is_data(one, known):
            yield (
                one.name,
                [
                    line.target.id
                    for line in one.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                ],
            )


def _is_data(one: ast.ClassDef, known: set[str]) -> bool:
    bases = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in one.bases}
    return bool(bases & known) or any("dataclass" in ast.unparse(decorator) for decorator in one.decorator_list)


def unread_fields(source: Path, texts: list[Path]) -> set[str]:
    """Fields that no attribute, no text constant and no code in a page or a template names."""
    named = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                named.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                named.add(node.value)
    for text in texts:
        for code in re.findall(r"`+[^`]+`+|\{[{%].*?[%}]\}", text.read_text(encoding="utf-8")):
            named.update(re.findall(r"\w+", re.sub('"[^"]*"', "", code) if code.startswith("{") else code))
    return {f"{name}.{field}" for name, fields in data_classes(source) for field in fields if field not in named}


def test_every_field_is_read() -> None:
    """In src, in a template, or in the docs; those that are for somebody else are listed, and no others."""
    texts = [*(ROOT / "src").rglob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    listed = [name for names in NOT_READ.values() for name in names.split()]
    assert sorted(listed) == sorted(unread_fields(ROOT / "src", texts))


def test_a_field_that_nothing_reads_is_found(tmp_path: Path) -> None:
    """Of a class that inherits from a struct; what a page or a getattr names is read."""
    page = tmp_path / "page.md"
    page.write_text("`told` is told.")
    (tmp_path / "one.py").write_text(
        "class Base(msgspec.Struct):\n    told: int\n    read: int\n"
        "class More(Base):\n    asked: int\n    lost: int\n"
        "def f(x):\n    x.lost = 1\n    return x.read, getattr(x, 'asked')\n"
    )
    assert unread_fields(tmp_path, [page]) == {"More.lost"}
