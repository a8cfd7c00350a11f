"""Numbers in README and the documentation are those of committed results, as their sentences write them.

A claim is a sentence made from a file of `benchmarks/results/`; the page must hold it, whatever its line breaks. Tables
that are generated (`docs/generate.py`, `benchmarks/tables.py`) are checked where they are made.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = "README.md"

Found = Any
"""A file of results."""
Claims = Iterator[tuple[str, str]]
"""A page, and what it says."""


def ends(row: Mapping[str, float], name: str, digits: int) -> str:
    """A ratio with its interval."""
    low, high = (row[end] for end in (("ci_low", "ci_high") if "ci_low" in row else (f"{name}_low", f"{name}_high")))
    return f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def per_cent(value: float, digits: int = 1) -> str:
    """A share."""
    return f"{100 * value:.{digits}f}"


def more(row: Mapping[str, float], name: str) -> str:
    """By how much a ratio is above 1, in per cent."""
    return per_cent(row[name] - 1).replace("-0.0", "0.0").replace("-", "−")


def real_clock(found: Found) -> Claims:
    """Comparisons whose answer is known, and other tools at the same task."""
    identical, detection = found["identical"], found["detection"]
    where = "docs/statistics.md"
    yield where, f"`benchmarks/real_clock.py`, on 2 shared cores of a virtual machine, {found['date']}"
    yield where, f"{identical['false_verdicts']} gave a false verdict; {identical['intervals_holding_0']} of"
    yield where, f"error of the estimate was {per_cent(identical['median_error'], 2)} %"
    yield README, f"| {identical['tries']} comparisons of identical programs, {identical['seconds_each']} s each |"
    yield (
        README,
        (f"{identical['false_verdicts']} false verdicts, {identical['intervals_holding_0']} intervals include 0"),
    )
    yield README, "detected in " + " and ".join(f"{row['found']} of {row['tries']}" for row in detection)
    for same, own in zip(found["side_by_side"], found["at_defaults"], strict=True):
        tool, counted = same["tool"], ("false_alarms", "found_1_percent", "wrong_sign")
        counts = [", ".join(str(row[name]) for name in counted) for row in (same, own)]
        of = " of 20" if tool == "perstep.compare" else ""
        seconds = f"{own['seconds_each']:.{0 if own['seconds_each'] > 10 else 1}f} s"
        yield README, f"| {counts[0]}{of} | {seconds}: {counts[1]}{of and ' of 10'} |"


def aa(found: Found) -> Claims:
    """Identical arms, idle and busy."""
    arms, power, busy = found["processes"]["identical"], found["processes"]["power"], found["busy"]
    different = sum(row["called_different"] for row in arms)
    yield README, f"{different} of {sum(row['tries'] for row in arms)} called different"
    detectable = sum(row["detectable_below_it"] for row in power)
    yield (
        README,
        (
            f"detected in {sum(row['of_these_found'] for row in power)} of the {detectable} comparisons whose printed"
            " detectable change was below 5 %"
        ),
    )
    same, slower = ([row for row in busy if bool(row["true_change"]) is is_slower] for is_slower in (False, True))
    wrong = sum(row["called_different"] + row["processor_called_different"] for row in same)
    yield README, f"{wrong} of {sum(row['tries'] for row in same)} called different, by wall or processor time"
    caught = sum(row["processor_called_different"] for row in slower)
    yield README, f"+10 % of processor time detected in {caught} of {sum(row['tries'] for row in slower)}"


def statistics(found: Found) -> Claims:
    """Coverage and false verdicts in simulated noise."""
    rows = found["studies"]["coverage"]
    hard = [row for row in rows if row["noise"] == "ar1-rounds-0.8"]
    promised = [row for row in rows if row not in hard]
    yield README, f"cover the truth in {per_cent(min(row['coverage'] for row in promised))} % of cases at worst in nine"
    yield README, f"in {per_cent(min(row['coverage'] for row in hard))} % (goal: 94 %, missed)"
    worst = [per_cent(max(row["false_verdicts"] for row in of)) for of in (hard, promised)]
    yield README, f"False verdicts: {worst[0]} % at worst, in the same noise; {worst[1]} % elsewhere"
    yield "docs/laws.md", f"at most {worst[1]} % of comparisons of identical arms had a false verdict"


def selftest(found: Found) -> Claims:
    """Delays that were planted in each part."""
    rows = found["attribution"]
    close = [row for row in rows if abs(row["found_ns"] - row["true_ns"]) <= max(0.03 * row["true_ns"], 1000)]
    small = max(abs(row["found_ns"] - row["true_ns"]) for row in rows if row["delay_ns"] == 20_000)
    said = f"{len(close)} of {len(rows)} measured within 3 % or 1 µs (largest error at 20 µs: {small / 1e3:.1f} µs)"
    yield README, said
    elsewhere = max(abs(row["largest_elsewhere_ns"]) for row in rows if row["delay_ns"] == 20_000)
    yield "docs/laws.md", f"each was found within {small / 1e3:.1f} µs, and no other part moved by more than"
    yield "docs/laws.md", f"{ceil(elsewhere / 100) / 10} µs (`benchmarks/results/selftest.json`)"


def ledger_mini(found: Found) -> Claims:
    """The ledger that README shows, row by row."""
    decode = found["decode"]
    overhead = [per_cent(decode[name] - 1) for name in ("inflation", "inflation_ci_low", "inflation_ci_high")]
    cost = f"{overhead[0]} % [{overhead[1]}, {overhead[2]}]"
    yield README, f"instrumentation overhead {cost} · {decode['forwards']} forwards"
    yield README, f"| {cost}; {per_cent(decode['residual_share'])} % of the step"
    for name, part in decode["parts"].items():
        us = part["ns_per_step"] / 1e3
        shown = f"{us:.{2 if us < 10 else 1}f}"
        yield README, f"{name} {shown} {per_cent(part['share'])} %"
    shares = [per_cent(found[kind]["residual_share"], 2) for kind in ("prefill", "decode")]
    yield "docs/laws.md", f"is {shares[0]} % of its prefill and {shares[1]} % of its decode step"


def observer(found: Found) -> Claims:
    """What watching costs, and what was planted."""
    small, large = ({row["observer"]: row for row in of["observers"]} for of in found["inflation"])
    watch = {name: ends(small[f"watch, {name}"], "ratio", 3) for name in ("phases", "modules")}
    others = [f"{small[name]['ratio']:.2f}" for name in ("torch.profiler", "pyinstrument")]
    marks = [ends(small[f"marks, {name}"], "ratio", 3) for name in ("phases", "modules")]
    yield (
        README,
        (
            f"`phases` {watch['phases']}, `modules` {watch['modules']}; torch.profiler {others[0]}, pyinstrument"
            f" {others[1]}. Of that the marks, which a ledger corrects for: {marks[0]} and {marks[1]}"
        ),
    )
    ratios = ", ".join(ends(large[f"watch, {name}"], "ratio", 3) for name in ("phases", "modules"))
    profilers = ", ".join(f"{large[name]['ratio']:.2f}" for name in ("torch.profiler", "pyinstrument"))
    yield README, f"| {ratios}; {profilers} |"
    watched = {
        (of["what"], of["steps"], of["vocab"], of_steps): ends(of[of_steps][1], "ratio", 3)
        for of in found["watched"]
        for of_steps in ("observers", "typical")
    }
    calls, loops = (
        " and ".join(watched[what, 515, vocab, "observers"] for vocab in (320, 32_000)) for what in ("call", "loop")
    )
    yield README, f"| calls {calls}; loops by hand {loops} (goal: 1.02"
    yield (
        "docs/loops.md",
        (
            f"{watched['loop', 67, 320, 'observers']} times as long, a typical step"
            f" {watched['loop', 67, 320, 'typical']} times"
        ),
    )
    yield "docs/loops.md", f"{watched['loop', 515, 320, 'observers']} times, at 32,000 tokens"
    yield "docs/loops.md", f"{watched['loop', 515, 32_000, 'observers']} times"
    planted = [
        max(row["found_within"] for row in found["planted"] if row["part"] == part)
        for part in ("logits/Spins", "stop/Dawdles")
    ]
    spins, dawdles = (f"{ceil(1000 * error) / 10}" for error in planted)
    yield README, f"| within {spins} % and {dawdles} % |"
    step = small["unwatched"]["step_us"] / 1e3
    phases, modules, profiler = (
        " ".join([more(row, "ratio") + " %", f"[{more(row, 'ci_low')}, {more(row, 'ci_high')}]"])
        for row in (small["marks, phases"], small["marks, modules"], small["torch.profiler"])
    )
    yield "docs/laws.md", f"Around a step of {step:.1f} ms marks at `--detail phases` cost {phases}, at"
    yield "docs/laws.md", f"`modules` {modules}; `torch.profiler` cost {profiler}"


def ablation(found: Found) -> Claims:
    """Planted parts, found by taking them away and in their place."""
    away, place = (
        [one["error"] for row in found["rows"] for one in row[way].values()] for way in ("taken_away", "in_place")
    )
    yield README, f"{100 * min(away):.0f} to {100 * max(away):.0f} % more than was added"
    assert max(map(abs, place)) <= 0.01


def strangers(found: Found) -> Claims:
    """Other people's decode loops under `watch`."""
    assert found["equal"] == sum(row["said"] == "equal" and row["calls"] > 0 for row in found["rows"])
    yield README, f"equal output in {found['equal']} of {found['of']}"


def theory_vs_measured(found: Found) -> Claims:
    """The step from shapes and ceilings."""
    first, last = (found["contexts"][place]["S"] for place in (0, -1))
    theory, sheet = (found["summary"][name]["largest_step_error"] for name in ("theory", "data_sheet"))
    yield (
        README,
        (
            f"error at most {per_cent(theory)} % from {first} to {last:,} tokens"
            f" of context; a roofline from the data sheet: {per_cent(sheet, 0)} %"
        ),
    )


def cache_fits(found: Found) -> Claims:
    """Steps without a cache at contexts that a fit did not see."""
    targets = found["targets"]
    worst = {form: max(of[form]["largest_held_out_error"] for of in targets.values())
             for form in ("without_cache", "without_cache_polynomial", "with_cache")}  # fmt: skip
    said = f"error at most {per_cent(worst['without_cache'])} %; of a quadratic polynomial"
    yield README, f"{said} {per_cent(worst['without_cache_polynomial'], 0)} %"
    yield "docs/cache.md", f"the error of the line was at most {per_cent(worst['with_cache'])} %"
    named = {"GPT-2, four layers": "gpt2, 4 layers", "SmolLM2-135M, four layers": "smollm2-135m, 4 layers",
             "Qwen3-0.6B, two layers": "qwen3-0.6b, 2 layers"}  # fmt: skip
    for shown, name in named.items():
        claimed, other = (
            targets[name][form]["largest_held_out_error"] for form in ("without_cache", "without_cache_polynomial")
        )
        yield "docs/cache.md", f"| {shown} | {per_cent(claimed)} % | {per_cent(other, 0)} % |"


def depth(found: Found) -> Claims:
    """Skipped blocks, and latency against depth."""
    by_row = {row["row"].split(" of")[0]: ends(row, "ratio", 3) for row in found["mask_over_truncated"]}
    yield README, f"{by_row['4']}, {by_row['8']} and {by_row['16']}"
    near, large = (found[which]["fits"]["decode_per_forward"]["heldout_error"] for which in ("depth_near", "depth"))
    yield README, f"error at most {per_cent(near)} % where the weights"
    yield README, f"{per_cent(large)} % with a head of 33 MB"
    yield "docs/depth.md", f"the line was {per_cent(large)} % wrong"
    times = list(found["depth"]["decode_ms"].values())
    added = [after - before for before, after in pairwise(times)]
    third, seventh, rest = (f"{min(of):.1f} to {max(of):.1f}" for of in (added[:2], added[2:6], added[6:]))
    said = f"{third} ms up to the third, {seventh} from the fourth to the seventh, and {rest} from the eighth on"
    yield "docs/depth.md", said
    r_squared = found["depth_near"]["fits"]["decode_per_forward"]["r_squared"]
    prefill = found["depth"]["fits"]["prefill"]["heldout_error"]
    yield "docs/depth.md", f"within {per_cent(near)} %, R² {r_squared:.3f}"
    yield "docs/depth.md", f"prefill of a larger one within {per_cent(prefill)} %"
    speed = found["how_long_weights_stay"]["gb_s_by_pause_ms"]
    at = {ms: f"{speed[ms]:.0f}" for ms in ("0", "4", "8", "32")}
    said = f"{at['0']} GB/s, after 4 ms with {at['4']}, after 8 ms with {at['8']}, after 32 ms with {at['32']}"
    yield "docs/depth.md", said


def predict(found: Found) -> Claims:
    """Steps of architectures that no fit has seen."""
    scores = {row["method"]: row for row in found["validations"][0]["scores"] if row["left_out"] == "architecture"}
    same, other = (scores[f"perstep, ceilings of {of}"] for of in ("the same rounds", "other cells"))
    errors = [[f"{per_cent(row[name])} %" for name in ("median", "p90", "coverage")] for row in (same, other)]
    yield README, f"{same['cells']} cells of ten architectures"
    yield (
        README,
        (
            f"error at the median {errors[0][0]}, p90 {errors[0][1]} with the ceilings of the same rounds,"
            f" {errors[0][2]} within their interval; {errors[1][0]}, {errors[1][1]} and {errors[1][2]} with those"
        ),
    )
    assert same["folds"] == 10


def planted(found: Found) -> Claims:
    """A planted millisecond under `watch`."""
    yield README, f"in {found['found']} of {found['of']}"


def reference_vs_transformers(found: Found) -> Claims:
    """The NumPy decoder beside transformers."""
    first, second, third = (f"{row['ratio']:.1f}" for row in found["rows"][:3])
    yield README, f"{first}, {second} and {third} times as fast at a context of 8, 256 and 1,024"


def constrained(found: Found) -> Claims:
    """A grammar under `fast.decode`, beside other engines' own processors."""
    rows = {row["arm"]: row for row in found["smollm2"]["rows"]}
    yield (
        README,
        (
            f"ratio {ends(rows['TokenMask, fast.decode'], 'ratio', 2)}; llguidance's own processor in the same run"
            f" {ends(rows['llguidance in generate'], 'ratio', 3)}, xgrammar's"
            f" {ends(rows['xgrammar.contrib.hf'], 'ratio', 3)}"
        ),
    )


def decode_loop(found: Found) -> Claims:
    """The loop between forwards."""
    one, four = found["results"][:2]
    yield README, f"ratio {ends(one, 'ratio', 2)}; batch 4, padded: {ends(four, 'ratio', 2)}"


def dropins(found: Found) -> Claims:
    """Drop-ins beside what they replace."""
    rows = found["results"]

    def times(what: str, batch: int) -> list[str]:
        ratios = [1 / row["ratio"] for row in rows if row["what"] == what and row["batch"] == batch]
        return [f"1/{ratio:.{0 if ratio > 10 else 1}f}" for ratio in ratios]

    yield README, f"batch 1: ratios {', '.join(times('TopP(0.9)', 1))}; batch 32: {', '.join(times('TopP(0.9)', 32))}"
    cells = {row["what"].removeprefix("four cells: "): row for row in rows if row["what"].startswith("four cells: ")}

    def more(cell: str, digits: int = 1) -> str:
        value, low, high = (per_cent(cells[cell][f"overhead{end}"], digits) for end in ("", "_low", "_high"))
        return f"+{value} % [{low.replace('-', '−')}, {high}]"

    yield README, f"Python {more('naive: processor and criterion', 0)}"
    yield README, f"drop-ins {more('drop-ins under fast.decode')} under `fast.decode`"
    yield README, f"{more('drop-ins: processor and criterion')} in plain `generate`"
    yield README, f"a pair that does nothing costs +{per_cent(cells['empty pair']['overhead'])} %"
    built = [row for row in rows if row["what"] == "StopStrings, construction"]
    ours, theirs = ([row[name] / 1e3 for row in built] for name in ("ours_us", "other_us"))
    low, high = (f"{round(end(theirs), -1):,.0f}" for end in (min, max))
    yield README, f"{min(ours):.0f} to {max(ours):.0f} ms instead of {low} to {high} ms"
    row = next(row for row in rows if row["what"] == "Utf8, bytes, a row at a time" and row["batch"] == 32)
    yield README, f"{row['ours_us']:.0f} µs, ratio 1/{1 / row['ratio']:.0f}"


def validity(found: Found) -> Claims:
    """Texts drawn under schemas."""
    assert found["valid"] == found["texts"]
    for page in ("docs/laws.md", "docs/mask.md"):
        yield page, f"{found['texts']:,} texts"


CLAIMS: dict[str, Callable[[Found], Claims]] = {
    function.__name__: function
    for function in (
        aa, ablation, cache_fits, constrained, decode_loop, depth, dropins, ledger_mini, observer, planted, predict,
        real_clock, reference_vs_transformers, selftest, statistics, strangers, theory_vs_measured, validity,
    )
}  # fmt: skip
"""Result -> what the pages say of it."""


def page(name: str) -> str:
    """A page without its line breaks, bars and frames of tables as they are."""
    return re.sub(r"[ \n▏▎▍▌▋▊▉█]+", " ", (ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("result", CLAIMS)
def test_a_page_says_what_a_result_says(result: str) -> None:
    """Each number of a sentence is the result's, to the digits that are shown."""
    found = json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8"))
    missing = [f"{where}: {said}" for where, said in CLAIMS[result](found) if said not in page(where)]
    assert not missing


def test_what_fix_saves_is_what_its_page_shows() -> None:
    """README's numbers are those of the run that docs/fix.md prints, and its date."""
    shown = page("docs/fix.md")
    day = re.search(r"of one run of 60 s on two quiet cores of a virtual machine, ([\d-]+):", shown)
    call, step = re.findall(r"-([\d.]+) % \[-([\d.]+) %, -([\d.]+) %\]", shown)
    assert day is not None
    assert f"In the run of {day[1]} that [docs/fix.md](docs/fix.md) shows" in page(README)
    for what, (value, high, low) in (("a decode step fell by", step), ("from its first 67, fell by", call)):
        assert f"{what} {float(value):.1f} % [{low}, {high}]" in page(README)


def test_every_result_that_readme_names_is_checked() -> None:
    """The last column of the table that says why to believe it."""
    named = set(re.findall(r"\| `(\w+)` \|$", (ROOT / README).read_text(encoding="utf-8"), re.MULTILINE))
    assert len(named) >= 11
    assert named <= CLAIMS.keys()
