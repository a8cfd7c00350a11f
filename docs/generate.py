"""Write generated blocks into the documentation, or check that they are up to date (`--check`).

A block may also be a table of a file of results: `<!-- table: maskbench/correctness of benchmarks/results/x.json -->`.

A block stands between `<!-- generated: perstep ledger --help -->` and `<!-- end -->`; the command is run and its
output put there, so that help in the docs is the help that is printed.

A picture of a page is that of a stored run of the tests (`tests/golden`), which `report` makes again byte for byte.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- generated: perstep (?P<arguments>[^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
PICTURES = {
    "cache": "cache/latency.png",
    "context": "context/context.png",
    "depth": "depth/depth.png",
    "experts": "experts/experts.png",
    "mask": "mask/overhead.png",
    "ops": "ops/ops.png",
    "output": "output/output.png",
    "watch": "watch/ledger.png",
}
"""Name in docs/img -> picture of a stored run."""
TABLE = re.compile(r"(<!-- table: (?P<place>\S+) of (?P<file>\S+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def table_of(place: str, file: str) -> str:
    """The rows at a place of a file of results, in Markdown; a value that a row lacks is a dash."""
    rows = json.loads((ROOT / file).read_text(encoding="utf-8"))
    for name in place.split("/"):
        if name not in rows:
            return "Not measured yet."
        rows = rows[name]
    columns = list(max(rows, key=len))
    lines = [columns, ["---"] * len(columns), *([str(row.get(name, "-")) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def output_of(arguments: str) -> str:
    """What `perstep ARGUMENTS` prints, in a terminal 100 columns wide without colours."""
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "perstep", *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").split("\n"))


def fill(text: str) -> str:
    """The page with every block renewed."""

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n```text\n{output_of(match['arguments'])}\n```\n\n{match[3]}"

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{table_of(match['place'], match['file'])}\n\n{match['end']}"

    return TABLE.sub(table, BLOCK.sub(block, text))


def main() -> int:
    """Write or check; 1 if a page is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is stale")
    check = parser.parse_args().check
    stale = []
    for name, stored in PICTURES.items():
        picture, made = ROOT / "docs" / "img" / f"{name}.png", (ROOT / "tests" / "golden" / stored).read_bytes()
        if not picture.exists() or picture.read_bytes() != made:
            stale.append(picture.relative_to(ROOT))
            if not check:
                picture.write_bytes(made)
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        new = fill(old)
        if new != old:
            stale.append(page.relative_to(ROOT))
            if not check:
                page.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'stale; run make docs' if check else 'written'}", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
