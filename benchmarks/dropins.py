"""The drop-ins of `perstep.fast` against what they replace, in one process, taking turns.

Every round visits every arm once, in turning order; ratios are paired inside rounds (`perstep.stats`). Logits are
copied anew before each call, outside the clock. Peers: transformers' own classes, and the UTF-8 processor of
`utf8-tokenizer` where that is installed (without its dependencies); grammar masks meet theirs in `constrained.py`. The
four cells are those of a published report: logits processor and word criterion, with and without, batch 3, byte
vocabulary, words generated from embeddings; the naive pair is that of `perstep generate`. Where choices must be the
same they are compared. From the repository, on a machine that does nothing else:

    python -P benchmarks/dropins.py --date 2026-01-31              # about two minutes
    python -P benchmarks/dropins.py --date 2026-01-31 --quick      # to see that it runs
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mistral_common
import numpy as np
import torch
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from transformers.generation import logits_process as theirs

from perstep import fast, stats
from perstep.automata import Vocabulary
from perstep.experiments.generate.bytes import Utf8InPython, WordInPython
from perstep.machine import describe, identity

RESULT = Path(__file__).parent / "results" / "dropins.json"
BYTES = Vocabulary([bytes([byte]) for byte in range(256)])
WIDE = 131_072
STOPS = (["\n\n"], ["</tool_call>"], ["\n\n", "</tool_call>", "<|end|>", "Observation:"])
Arm = Callable[[], object]


def timed_ns(work: Arm, calls: int) -> float:
    """One call, in ns: the mean of several in a row where it is short."""
    begun = time.perf_counter_ns()
    for _ in range(calls):
        work()
    return (time.perf_counter_ns() - begun) / calls


def against(ours: Arm, other: Arm, rounds: int, name: str, reach: float | None, **facts: Any) -> dict[str, Any]:
    """Both arms in turning order; medians in µs, and ours over the other's with its interval."""
    arms = [other, ours]
    calls = [max(1, int(200_000 / max(timed_ns(arm, 2), 1))) for arm in arms]
    costs = np.array(
        [
            [timed_ns(arms[arm], calls[arm]) for arm in ((0, 1) if number % 2 else (1, 0))][:: 1 if number % 2 else -1]
            for number in range(rounds)
        ]
    )
    return row_of(costs, name, reach, **facts)


def row_of(costs: np.ndarray, name: str, reach: float | None, **facts: Any) -> dict[str, Any]:
    """A line of the result from costs [rounds, (other, ours)] in ns."""
    change = stats.paired_changes(costs)[1]
    other, ours = np.median(costs, axis=0) / 1e3

    def ratio(value: float | None) -> float | None:
        return None if value is None else 1 + value

    found = {
        "what": name, **facts, "ours_us": ours, "other_us": other, "ratio": ratio(change.estimate),
        "ratio_low": ratio(change.ci_low), "ratio_high": ratio(change.ci_high), "reach": reach, "rounds": len(costs),
    }  # fmt: skip
    wanted = "" if reach is None else f"  wanted <= {reach:.3g}"
    print(f"{name:34} {facts}  {ours:10.1f} us  over {other:10.1f} us = {found['ratio']:.4f}{wanted}", flush=True)
    return found


# Sampling


def logits(rows: int, kind: str) -> torch.Tensor:
    """Float32 logits [rows, 131072] whose 0.9-nucleus is small (up to 10 tokens), about 500, or nearly everything."""
    generator = torch.Generator().manual_seed(rows)
    scale = 0.01 if kind == "flat" else 1.0
    made = torch.randn(rows, WIDE, generator=generator) * scale
    if kind != "flat":
        count, bonus = (8, 18.0) if kind == "small" else (600, 9.0)
        made[:, 1000 : 1000 + count] += bonus
    return made


def sampling(rounds: int, batches: list[int]) -> list[dict[str, Any]]:
    """Top-p at three nuclei, and the others, at 131,072."""
    rows = []
    wanted = {"small": 1 / 20, "500": 1 / 10, "flat": 1 / 4}
    for batch in batches:
        for kind, reach in wanted.items():
            scores = logits(batch, kind)
            ours, other = fast.TopP(0.9), theirs.TopPLogitsWarper(0.9)
            kept = (ours(None, scores) > -torch.inf).sum(1)
            same = bool((kept == (other(None, scores) > -torch.inf).sum(1)).all())
            few = max(rounds // (1 if batch == 1 else 4), 9)
            rows.append(
                against(
                    lambda: ours(None, scores), lambda: other(None, scores), few, "TopP(0.9)", reach,  # noqa: B023
                    batch=batch, nucleus=int(kept.median()), same_count=same,
                )
            )  # fmt: skip
        scores, ids = logits(batch, "500"), torch.randint(0, WIDE, (batch, 400))
        suppressed = list(range(7, WIDE, 131))[:1000]
        pairs: list[tuple[str, Any, Any, float | None]] = [
            ("TopK(50)", fast.TopK(50), theirs.TopKLogitsWarper(50), None),
            ("MinP(0.05)", fast.MinP(0.05), theirs.MinPLogitsWarper(0.05), None),
            (
                "SuppressTokens(1000)", fast.SuppressTokens(suppressed),
                theirs.SuppressTokensLogitsProcessor(suppressed), 1 / 100 if batch == 1 else None,
            ),
            ("RepetitionPenalty(1.2)", fast.RepetitionPenalty(1.2), theirs.RepetitionPenaltyLogitsProcessor(1.2), None),
        ]  # fmt: skip
        for name, one, two, wish in pairs:
            same = torch.equal(one(ids, scores), two(ids, scores.clone()))
            few = max(rounds // (1 if batch == 1 else 4), 9)
            rows.append(
                against(
                    lambda: one(ids, scores), lambda: two(ids, scores), few, name, wish,  # noqa: B023
                    batch=batch, same=same,
                )
            )  # fmt: skip
        scratch, suppress = scores.clone(), fast.SuppressTokens(suppressed)
        theirs_too = theirs.SuppressTokensLogitsProcessor(suppressed)
        few = max(rounds // (1 if batch == 1 else 4), 9)
        rows.append(
            against(
                lambda: suppress.overwrite(ids, scratch), lambda: theirs_too(ids, scores), few,  # noqa: B023
                "SuppressTokens(1000), fast.decode", 1 / 100, batch=batch,
            )
        )  # fmt: skip
        rows.append(
            against(
                lambda: suppress(ids, scores), scores.clone, few, "SuppressTokens(1000), a copy alone", None,  # noqa: B023
                batch=batch,
            )
        )  # fmt: skip
    return rows


# UTF-8


class PerRow(transformers.LogitsProcessor):  # type: ignore[misc]
    """Checks every row in Python: what one writes who needs valid UTF-8."""

    def __init__(self) -> None:
        mask = fast.Utf8(BYTES)
        self._rows = {state: ~(mask.mask(torch.zeros(1, 256), torch.tensor([state]))[0] == 0) for state in range(8)}
        self._state = mask._reading._read  # the state of the last bytes, a row at a time

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at bytes that are not allowed, row by row."""
        masked = scores.clone()
        for row in range(len(scores)):
            masked[row].masked_fill_(self._rows[self._state(input_ids[row, -3:].tolist())], -torch.inf)
        return masked


def utf8(rounds: int, batches: list[int], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """`Utf8` against the per-row processor, that of `utf8-tokenizer` (bytes alone), and a mask over 131,072."""
    rows = []
    text = "Caffè né, 東京 and 😀 – naïve text, again and again. ".encode() * 4
    mask, naive = fast.Utf8(BYTES), PerRow()
    peer = _peer()
    for batch in batches:
        ids = torch.stack([torch.tensor(list(text[shift : shift + 64])) for shift in range(batch)])
        scores = torch.randn(batch, 256)
        assert torch.equal(mask(ids, scores), naive(ids, scores))
        arms: dict[str, Arm] = {"a row at a time": lambda: naive(ids, scores)}  # noqa: B023
        if peer is not None:
            arms["utf8-tokenizer"] = lambda: peer(ids, scores.clone())  # noqa: B023 - it writes into the scores
        for name, other in arms.items():
            reach = 0.1 if batch == 32 and name == "a row at a time" else None
            ours: Arm = lambda: mask(ids, scores)  # noqa: B023, E731
            rows.append(against(ours, other, rounds, f"Utf8, bytes, {name}", reach, batch=batch))
            rows[-1]["ours_us_wanted"] = 12.0
    wide = fast.Utf8(vocabulary)
    for batch in batches:
        ids = torch.randint(1000, vocabulary.size, (batch, 64), generator=torch.Generator().manual_seed(0))
        scores = torch.randn(batch, vocabulary.size)
        allowed = wide(ids, scores) > -torch.inf
        rows.append(
            against(
                lambda: wide(ids, scores), lambda: scores.masked_fill(~allowed, -torch.inf),  # noqa: B023
                rounds, "Utf8, 131,072, masked_fill alone", None, batch=batch,
            )
        )  # fmt: skip
    return rows


def _peer() -> Any:
    try:
        from utf8_tokenizer.logits_processor import UTF8ValidationLogitsProcessor
    except ImportError:
        print("utf8-tokenizer is not installed: left out")
        return None
    return UTF8ValidationLogitsProcessor()


# Stop strings


def tokenizer_of(vocabulary: Vocabulary) -> Any:
    """A byte-level tokenizer of transformers with these tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    shown = bytes_to_unicode()
    words = ["".join(shown[byte] for byte in token) or f"<special {n}>" for n, token in enumerate(vocabulary.tokens)]
    tokenizer = Tokenizer(models.BPE(dict(zip(words, range(len(words)), strict=True)), []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def stop_strings(rounds: int, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Construction and a step, at 131,072."""
    rows = []
    tokenizer = tokenizer_of(vocabulary)
    copies = Vocabulary(vocabulary.tokens, vocabulary.special_ids, vocabulary.eos_ids)
    first = timed_ns(lambda: fast.StopStrings(["</tool_call>"], copies), 1)
    print(f"the first StopStrings of a vocabulary, which lays out its bytes: {first / 1e6:.1f} ms")
    for strings in STOPS:
        costs = np.array(
            [
                [
                    timed_ns(lambda: transformers.StopStringCriteria(tokenizer, strings), 1),  # noqa: B023
                    timed_ns(lambda: fast.StopStrings(strings, vocabulary), 1),  # noqa: B023
                ]
                for _ in range(max(rounds // 20, 3))
            ]
        )
        facts = {"strings": len(strings), "bytes": sum(map(len, strings)), "first_ms": first / 1e6}
        rows.append(row_of(costs, "StopStrings, construction", None, **facts))
        ours, other = fast.StopStrings(strings, vocabulary), transformers.StopStringCriteria(tokenizer, strings)
        for batch in (1, 32):
            ids = torch.randint(1000, vocabulary.size, (batch, 64), generator=torch.Generator().manual_seed(0))
            same = torch.equal(ours(ids, None), other(ids, None))
            rows.append(
                against(
                    lambda: ours(ids, None), lambda: other(ids, None), rounds, "StopStrings, a step", None,  # noqa: B023
                    batch=batch, strings=len(strings), same=same,
                )
            )  # fmt: skip
    return rows


# The four cells


def four_cells(rounds: int) -> list[dict[str, Any]]:
    """A call of 32 bytes from embeddings, batch 3, without both, with the naive pair, and with the drop-ins.

    The criteria are asked, but no row ends: so all cells make the same number of forwards. The empty pair does nothing:
    what is left of a pair's cost beside it is that of the pair itself.
    """
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    inputs = torch.randn(3, 4, 256, generator=torch.Generator().manual_seed(1))

    class Asks(transformers.StoppingCriteria):  # type: ignore[misc]
        def __init__(self, criterion: Any) -> None:
            self.criterion = criterion
            self.no = torch.zeros(3, dtype=torch.bool)

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            """It is asked, and the answer is no."""
            self.criterion(input_ids, scores, **kwargs)
            return self.no

    class Empty(transformers.LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:  # noqa: ARG002
            """Nothing."""
            return scores

    mask, naive, word, decodes = fast.Utf8(BYTES), Utf8InPython(), fast.WordStop(BYTES), WordInPython()
    lists: dict[str, dict[str, Any]] = {
        "without both": {},
        "empty pair": {
            "logits_processor": [Empty()], "stopping_criteria": [Asks(lambda *_args, **_kwargs: None)],
        },
        "naive: processor and criterion": {"logits_processor": [naive], "stopping_criteria": [Asks(decodes)]},
        "naive: processor": {"logits_processor": [naive]},
        "naive: criterion": {"stopping_criteria": [Asks(decodes)]},
        "drop-ins: processor and criterion": {"logits_processor": [mask], "stopping_criteria": [Asks(word)]},
        "drop-ins under fast.decode": {
            "logits_processor": [mask],
            "stopping_criteria": [Asks(word)],
            "custom_generate": fast.decode,
        },
        "drop-ins: processor": {"logits_processor": [mask]},
        "drop-ins: criterion": {"stopping_criteria": [Asks(word)]},
    }  # fmt: skip

    def call(parts: dict[str, Any]) -> torch.Tensor:
        tokens: torch.Tensor = model.generate(inputs_embeds=inputs, max_new_tokens=32, do_sample=False, **parts)
        return tokens

    tokens = {name: call(parts) for name, parts in lists.items()}
    same = torch.equal(tokens["drop-ins: processor and criterion"], tokens["naive: processor and criterion"])
    names = list(lists)
    costs = np.zeros((rounds, len(names)))
    for number in range(rounds):
        for place in range(len(names)):
            arm = (place + number) % len(names)
            call(lists[names[arm]])  # the first call after a switch is dropped
            costs[number, arm] = timed_ns(lambda: call(lists[names[arm]]), 1)  # noqa: B023
    changes = stats.paired_changes(costs)
    rows = []
    for arm, name in enumerate(names):
        change = changes.get(arm)
        rows.append(
            {
                "what": f"four cells: {name}", "ms": float(np.median(costs[:, arm]) / 1e6),
                "overhead": None if change is None else change.estimate,
                "overhead_low": None if change is None else change.ci_low,
                "overhead_high": None if change is None else change.ci_high,
                "same_tokens_as_naive": same, "rounds": rounds,
                "reach": 0.05 if name in ("drop-ins: processor and criterion", "drop-ins under fast.decode") else None,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "utf8-tokenizer", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """Run, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--date", required=True, help="written into the result, such as 2026-01-31")
    parser.add_argument("--quick", action="store_true", help="few rounds, and nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, batches = (9, [1]) if options.quick else (60, [1, 3, 32])
    tekken = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    vocabulary = Vocabulary.from_tekken(Tekkenizer.from_file(tekken))
    gc.disable()
    results = [
        *utf8(rounds, batches, vocabulary),
        *stop_strings(rounds, vocabulary),
        *sampling(rounds, batches),
        *four_cells(max(rounds // 2, 9)),
    ]
    missed = [
        row
        for row in results
        if row.get("reach") is not None and (row.get("ratio", row.get("overhead")) or 0) > row["reach"]
    ]
    for row in missed:
        print(f"not reached: {row}")
    if not options.quick:
        found = {"date": options.date, "machine": identity(describe()), "versions": _versions(), "results": results}
        RESULT.write_text(json.dumps(found, indent=1, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
