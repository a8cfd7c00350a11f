"""How far `perstep predict` is off on architectures, contexts and numbers of layers that it has not seen.

Measures the cells of benchmarks/predict.toml by `perstep sweep`, each in a fresh process, and then validates on them:
whole architectures and whole octaves of context are left out in turn. Claimed for a left-out architecture, where the
steps' own noise is at most 5 %: a median error of at most 10 %, a p90 of at most 25 %, and intervals that hold at least
90 % of the cells. Writes results/predict.json and the table in docs/predict.md. Killed, it goes on where it was.

    OMP_NUM_THREADS=1 python -P benchmarks/predict.py --date 2026-01-31            # about 15 minutes, in the root
    OMP_NUM_THREADS=1 python -P benchmarks/predict.py --date 2026-01-31 --quick    # sixteen cells; nothing is written
"""

import argparse
import json
import re
import sys
from pathlib import Path

import msgspec

from perstep.cli import run
from perstep.errors import InputError
from perstep.predicting.cells import Cells, read_cells
from perstep.predicting.show import validation_tables
from perstep.predicting.validate import OWN, QUIET, Sheet, Validation, validate
from perstep.report import to_markdown, to_text

ROOT = Path(__file__).resolve().parent.parent
GRID = ROOT / "benchmarks" / "predict.toml"
RESULT = ROOT / "benchmarks" / "results" / "predict.json"
PAGE = ROOT / "docs" / "predict.md"
BLOCK = re.compile(r"(<!-- table: predict -->\n).*?(<!-- end -->)", re.DOTALL)
MEDIAN_CLAIM, P90_CLAIM, COVERAGE_CLAIM = 0.10, 0.25, 0.90
# One core of a server of 2020 to 2023: two AVX2 units of 8 float32 multiply-adds a cycle at 3.5 GHz, and the eight
# channels of DDR4-3200 of its socket, which one core may have to itself.
SHEET = Sheet(gb_s=204.8, gflop_s=2 * 2 * 8 * 3.5)


def measured(out: Path, *, quick: bool) -> Cells:
    """The cells, measured now or before."""
    grid = GRID
    if quick:
        grid = out.with_suffix(".toml")
        grid.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"rounds = \d+", "rounds = 3", GRID.read_text()).replace("[32, 256]", "[16, 64]")
        names = [line for line in text.splitlines() if "architectures/" in line]
        for line in names[4:]:
            text = text.replace(f"{line}\n", "")
        grid.write_text(text)
    resume = ["--resume"] if (out / "sweep.json").exists() else []
    code = run(["sweep", str(grid), "--out", str(out), *resume])
    if code:
        sys.exit(code)
    return read_cells(out)


def is_held(found: Validation) -> bool:
    """Whether the claims hold for architectures that were left out."""
    ours = next(one for one in found.scores if one.left_out == "architecture" and one.method == OWN)
    if ours.noise is None or ours.noise > QUIET:
        return False  # what was off may be the noise
    covered = ours.coverage is not None and ours.coverage >= COVERAGE_CLAIM
    return ours.median <= MEDIAN_CLAIM and ours.p90 <= P90_CLAIM and covered


def filled(page: str, found: list[Validation], date: str, hardware: str) -> str:
    """The page of the documentation with this table."""
    tables = "\n".join(to_markdown(table) for table in validation_tables(found))
    said = f"Measured on {date} on {hardware}, by `benchmarks/predict.py`.\n\n{tables}"
    return BLOCK.sub(lambda match: f"{match[1]}\n{said}\n{match[2]}", page)


def main() -> int:
    """1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--date", required=True, help="of the run, for the result file")
    parser.add_argument("--out", type=Path, help="the sweep's folder")
    parser.add_argument("--quick", action="store_true", help="sixteen cells of three rounds; nothing is written")
    options = parser.parse_args()
    name = "predict-quick" if options.quick else "predict"
    cells = measured(options.out or Path(".perstep") / "sweeps" / name, quick=options.quick)
    try:
        found = validate(cells, SHEET)
    except InputError as error:
        print(error, file=sys.stderr)
        return InputError.exit_code
    for table in validation_tables(found):
        print(to_text(table))
    if cells.left_out:
        print(cells.words)
    held = all(map(is_held, found))
    print("claims hold" if held else "CLAIMS DO NOT HOLD")
    if options.quick:
        return 0
    hardware = cells.cells[0].hardware
    result = {
        "schema_version": 1,
        "date": options.date,
        "hardware": hardware,
        "claims": {"median": MEDIAN_CLAIM, "p90": P90_CLAIM, "coverage": COVERAGE_CLAIM, "hold": held},
        "left_out": dict(cells.left_out),
        "validations": msgspec.to_builtins(found),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found, options.date, hardware), encoding="utf-8")
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
