"""Scripts around other people's packages, run as they are and under `perstep watch`: the same output, and a ledger.

    python -P benchmarks/strangers.py FOLDER [--fetch] [--only NAME ...] [--date 2026-11-28]

`strangers.toml` lists the packages: source, version, SHA-256, licence, and a few lines that give them a small model
with random weights in place of a checkpoint. Nothing of theirs is copied into this repository. FOLDER holds the wheels
and sdists; `--fetch` downloads those of PyPI that it lacks. Each is unpacked beside the script and never installed: its
files are the script's own. A file with another SHA-256 is not run. With `--date` it writes results/strangers.json.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import msgspec

from perstep._json import Json
from perstep.machine import describe
from perstep.report import Column, Table, to_text

HERE = Path(__file__).resolve().parent
LIST = HERE / "strangers.toml"
RESULT = HERE / "results" / "strangers.json"
LONGEST_S = 300

MODEL = '''
"""A small Llama with random weights, and a byte-level tokenizer without a file: what stands for a checkpoint."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

torch.manual_seed(0)
torch.set_num_threads(1)
SPECIAL = ["<pad>", "<s>", "</s>", "true", "false"]


def tokenizer():
    """Bytes, and some special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({one: number for number, one in enumerate([*SPECIAL, *letters])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def model(spelled, layers=2):
    """Over the tokens of a tokenizer."""
    torch.manual_seed(layers)
    config = transformers.LlamaConfig(
        vocab_size=len(spelled), hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config).eval()
'''
"""`stranger_model.py`, which the lines of the list import."""


@dataclass(frozen=True)
class Archive:
    """A wheel or an sdist.

    Attributes:
        pypi: its name and version there; empty where it is from elsewhere.
        file: its name in the folder.
        sha256: of it.
        licence: of what is in it.
        source: where it is from.
    """

    file: str
    sha256: str
    licence: str
    pypi: str = ""
    source: str = "https://pypi.org"

    def lacks(self, folder: Path) -> str:
        """Why it cannot be run from a folder, or empty."""
        path = folder / self.file
        if not path.is_file():
            return f"{self.file} is not there"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        return "" if found == self.sha256 else f"{self.file} has the SHA-256 {found}, not {self.sha256}"


@dataclass(frozen=True)
class Stranger:
    """One package, with what it needs and the lines that run it.

    Attributes:
        name: of the script.
        archive: the package.
        run: the lines.
        weights: what stands in the place of weights, in words.
        needs: names of other archives.
        replace: what has to change in its files to run with what is installed: file, old text, new text.
    """

    name: str
    archive: Archive
    run: str
    weights: str
    needs: list[str] = field(default_factory=list)
    replace: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What became of one.

    Attributes:
        name: of the script.
        said: `equal`, or what went wrong.
        calls: watched generate calls or loops.
        line: of the program that costs most.
        part: its costliest part outside the forward.
        share: of the step.
    """

    name: str
    said: str
    calls: int = 0
    line: str = ""
    part: str = ""
    share: float | None = None


_OF_AN_ARCHIVE = ("file", "sha256", "licence", "pypi", "source")


def read_list(path: Path = LIST) -> tuple[list[Stranger], dict[str, Archive]]:
    """The packages, and what they need by name."""
    listed = tomllib.loads(path.read_text(encoding="utf-8"))
    also = {one["pypi"].split("==")[0]: Archive(**one) for one in listed["also"]}
    strangers = [
        Stranger(
            name=one["name"],
            archive=Archive(**{name: one[name] for name in _OF_AN_ARCHIVE if name in one}),
            run=one["run"],
            weights=one["weights"],
            needs=one.get("needs", []),
            replace=one.get("replace", []),
        )
        for one in listed["stranger"]
    ]
    return strangers, also


def fetch(archives: list[Archive], folder: Path) -> None:
    """Download what a folder lacks from PyPI, without what it depends on."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        if archive.pypi and archive.lacks(folder):
            print(f"fetching {archive.pypi}", file=sys.stderr)
            kind = "--only-binary=:all:" if archive.file.endswith(".whl") else "--no-binary=:all:"
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", kind, "--dest", str(folder)]
            subprocess.run([*command, archive.pypi], check=False)


def unpack(archive: Path, target: Path) -> Path:
    """Put what an archive holds into a folder; where its modules lie."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)  # noqa: S202 - its SHA-256 is listed
        return target
    with tarfile.open(archive) as sdist:
        sdist.extractall(target, filter="data")
    (inside,) = (one for one in target.iterdir() if one.is_dir() and one.name in archive.name)
    return inside


def try_one(stranger: Stranger, also: dict[str, Archive], folder: Path) -> Outcome:
    """Run one as it is and watched."""
    archives = [stranger.archive, *(also[name] for name in stranger.needs)]
    for archive in archives:
        if lacking := archive.lacks(folder):
            return Outcome(stranger.name, f"not run: {lacking}")
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        paths = [unpack(folder / one.file, work / f"package{number}") for number, one in enumerate(archives)]
        for file, old, new in stranger.replace:
            path = paths[0] / file
            path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        script = work / "stranger" / f"run_{stranger.name.replace('-', '_')}.py"
        script.parent.mkdir()
        script.write_text(stranger.run, encoding="utf-8")
        (script.parent / "stranger_model.py").write_text(MODEL, encoding="utf-8")
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PERSTEP_CACHE_DIR": str(work / "cache")}
        env["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
        run = work / "run"
        plain = _run([sys.executable, str(script)], env, script.parent)
        watched = _run([sys.executable, "-m", "perstep", "watch", "--out", str(run), str(script)], env, script.parent)
        return _outcome(stranger.name, plain, watched, run)


def _run(command: list[str], env: dict[str, str], work: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=work, capture_output=True, text=True, check=False, timeout=LONGEST_S)


def _outcome(
    name: str, plain: subprocess.CompletedProcess[str], watched: subprocess.CompletedProcess[str], run: Path
) -> Outcome:
    if plain.returncode:
        return Outcome(name, f"ends with {plain.returncode} by itself: {_last(plain.stderr)}")
    if (plain.stdout, plain.returncode) != (watched.stdout, watched.returncode):
        return Outcome(name, f"differs when it is watched: {_last(watched.stderr)}")
    if not (run / "results.json").is_file():
        return Outcome(name, f"equal, but there is no ledger: {_last(watched.stderr)}")
    sites = json.loads((run / "results.json").read_text(encoding="utf-8"))["sites"]
    found = max(sites, key=_took_ns)
    part, share = costliest(found)
    return Outcome(name, "equal", sum(site["calls"] for site in sites), found["site"], part, share)


def _took_ns(site: dict[str, Json]) -> float:
    return sum((site[kind] or {}).get("step_ns", 0.0) * (site[kind] or {}).get("steps", 0) for kind in _KINDS)


_KINDS = ("decode", "prefill")
_OF_THE_MODEL = ("forward", "residual")


def costliest(site: dict[str, Json]) -> tuple[str, float | None]:
    """The part of a line's step that costs most outside the forward, and its share; nothing without a ledger."""
    ledger = site["decode"] or site["prefill"]
    parts = {} if ledger is None else ledger["parts"]
    outside = {name: part["share"] for name, part in parts.items() if name not in _OF_THE_MODEL}
    best = max(outside, key=lambda name: outside[name], default="")
    return best, outside.get(best)


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["nothing on stderr"])[-1][:200]


def outcomes(folder: Path, only: list[str]) -> Iterator[Outcome]:
    """What becomes of each."""
    strangers, also = read_list()
    chosen = [one for one in strangers if not only or one.name in only]
    for number, stranger in enumerate(chosen, start=1):
        print(f"{number} of {len(chosen)}: {stranger.name}", file=sys.stderr)
        try:
            yield try_one(stranger, also, folder)
        except subprocess.TimeoutExpired:
            yield Outcome(stranger.name, f"takes more than {LONGEST_S} s")


def write(found: list[Outcome], date: str) -> None:
    """Keep what became of each, with what was installed and on which machine."""
    versions = {name: version(name) for name in ("torch", "transformers")}
    result = {
        "schema_version": 1,
        "date": date,
        "machine": {**msgspec.to_builtins(describe()), "versions": versions},
        "equal": sum(one.said == "equal" for one in found),
        "of": len(found),
        "rows": [asdict(one) for one in found],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """The number of those that could be run and were not equal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fetch", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--date", default="", help="of the run; then the result is written")
    options = parser.parse_args()
    strangers, also = read_list()
    if options.fetch:
        fetch([*(one.archive for one in strangers), *also.values()], options.folder)
    found = list(outcomes(options.folder, options.only))
    columns = [
        Column[Outcome]("script", lambda one: one.name, words=True),
        Column[Outcome]("output", lambda one: one.said, words=True),
        Column[Outcome]("calls", lambda one: one.calls or None, "{:,}".format),
        Column[Outcome]("costliest line", lambda one: one.line, words=True),
        Column[Outcome]("its costliest part outside the forward", lambda one: one.part, words=True),
        Column[Outcome]("of the step", lambda one: one.share, "{:.1%}".format),
    ]
    print(to_text(Table("Scripts around other people's packages", columns, found)), end="")
    if options.date:
        write(found, options.date)
    return sum(one.said != "equal" and not one.said.startswith("not run") for one in found)


if __name__ == "__main__":
    sys.exit(main())
