"""The checks of `gpu_check.py` for `fast.decode` with its step in one captured graph (`--only decode_graph`).

Arms take turns in one run, every other round the other way round; a figure is the median of the ratios inside rounds.
`Decode(captured=True)` raises nothing where it cannot capture, so a check that was not captured fails with the reason.
"""

import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gpu_check_device import Facts, Found, Shared

Arm = Callable[[], Any]
PROMPT = 64
ROUNDS = 7


def _timed_s(arm: Arm, shared: Shared) -> float:
    shared.synchronize()
    began = time.perf_counter()
    arm()
    shared.synchronize()
    return time.perf_counter() - began


def _ratios(arms: dict[str, Arm], shared: Shared, tokens: int, rounds: int) -> Facts:
    """The first arm over each other one, round by round, and each arm's milliseconds a token."""
    for arm in arms.values():
        arm()
    took: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            took[name].append(_timed_s(arms[name], shared))
    first, *others = took
    facts: Facts = {f"ms_{name}": statistics.median(each) / tokens * 1e3 for name, each in took.items()}
    for name in others:
        ratios = sorted(one / other for one, other in zip(took[first], took[name], strict=True))
        facts[f"over_{name}"] = statistics.median(ratios)
        facts[f"over_{name}_range"] = [ratios[0], ratios[-1]]
    return facts


def _model(shared: Shared, arch: str, **changes: Any) -> Any:
    from perstep.targets.transformers import build

    model = build(arch, dtype=shared.dtype, device=shared.device, **changes)
    model.generation_config.eos_token_id = None
    return model


def _call(shared: Shared, model: Any, batch: int, new: int, **fixed: Any) -> Callable[..., Any]:
    import torch

    ids = torch.arange(3, 3 + PROMPT, device=shared.device).remainder(model.config.vocab_size).repeat(batch, 1)
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "max_new_tokens": new}

    def call(**more: Any) -> Any:
        return model.generate(ids, **{**options, "eos_token_id": None, **fixed, **more})

    return call


def _decode() -> Any:
    from perstep import fast

    return fast.Decode(captured=True)


def _captured(decode: Any, shared: Shared, way: str = "captured") -> None:
    if decode.last.way != way or decode.last.replayed != (shared.device != "cpu"):
        raise RuntimeError(f"not captured: {decode.last.why or decode.last.way}")


def _against_generate(
    shared: Shared, arch: str, batch: int, goal: float, *, new: int = 48, rounds: int = ROUNDS, **changes: Any
) -> Found:
    model = _model(shared, arch, **changes)
    call, decode = _call(shared, model, batch, new), _decode()
    ours = call(custom_generate=decode)
    _captured(decode, shared)
    built_s, plain = decode.last.built_s, call()
    facts = _ratios({"captured": lambda: call(custom_generate=decode), "generate": call}, shared, new, rounds)
    same = int((ours == plain)[0, PROMPT:].long().cumprod(0).sum())
    facts |= {"built_s": built_s, "slots": decode.last.slots, "first_tokens_equal": same, "of": new}
    facts["kernels"] = _busy(shared, lambda: call(custom_generate=decode), new)
    return Found(
        f"captured over generate at most {goal}", facts["over_generate"], facts["over_generate"] <= goal, facts
    )


def _busy(shared: Shared, call: Arm, new: int) -> Facts:
    """What the kernels of a call take, prefill among them, beside the call's own time without a profiler."""
    if shared.device == "cpu":
        return {}
    from perstep.measure.device_work import attribute
    from perstep.targets.transformers.device_profile import KinetoProfiler

    call()
    wall_ms = min(_timed_s(call, shared) for _ in range(3)) * 1e3
    busy_ms = attribute(KinetoProfiler("cuda").rows(call)).counts.total_ns / 1e6
    return {"wall_ms": wall_ms, "busy_ms": busy_ms, "over_busy": wall_ms / busy_ms, "steps": new - 1}


def large(shared: Shared) -> Found:
    """The large model, one sequence, against generate."""
    return _against_generate(shared, shared.large, 1, 0.24)


def large_batch(shared: Shared) -> Found:
    """The same with 32."""
    return _against_generate(shared, shared.large, 32, 0.19)


def small(shared: Shared) -> Found:
    """The small model with a head of 131,072, one sequence."""
    return _against_generate(shared, shared.arch, 1, 0.14, vocab=shared.wide_head)


def compiled(shared: Shared) -> Found:
    """The large model against a static cache with torch.compile, warm."""
    model, new = _model(shared, shared.large), 48
    call, decode = _call(shared, model, 1, new), _decode()
    began = time.monotonic()
    arms: dict[str, Arm] = {
        "captured": lambda: call(custom_generate=decode),
        "compiled": lambda: call(cache_implementation="static"),
    }
    arms["compiled"]()
    arms["compiled"]()
    cold_s = time.monotonic() - began
    arms["captured"]()
    _captured(decode, shared)
    facts = _ratios(arms, shared, new, ROUNDS) | {"compile_s": cold_s, "built_s": decode.last.built_s}
    return Found(
        "captured over static + torch.compile at most 0.7", facts["over_compiled"], facts["over_compiled"] <= 0.7, facts
    )


def slots(shared: Shared) -> Found:
    """What attention over unused slots costs: 4,096 slots, as a call of 2,049 positions has them, over 2,049.

    A step reads all slots whatever they hold, so short calls show it.
    """
    from perstep import fast

    facts: Facts = {}
    for batch in (1, 32):
        call = _call(shared, _model(shared, shared.large), batch, 48)
        loops = {name: fast.Decode(captured=True, slots=many) for name, many in (("bucket", 4096), ("exact", 2049))}
        arms: dict[str, Arm] = {name: partial(call, custom_generate=loop) for name, loop in loops.items()}
        facts[f"batch {batch}"] = found = _ratios(arms, shared, 48, ROUNDS)
        for loop in loops.values():
            _captured(loop, shared)
        facts[f"over_exact {batch}"] = found["over_exact"]
        del call, arms
    figure = facts["over_exact 1"]
    return Found("with twice the slots a step takes at most 1.05, batch 1", figure, figure <= 1.05, facts)


def over_busy(shared: Shared) -> Found:
    """How much longer a call takes than its kernels: the large model at 1 and 32, the small one."""
    facts, worst = {}, 0.0
    for name, arch, batch, goal in (
        ("large 1", shared.large, 1, 1.10),
        ("large 32", shared.large, 32, 1.10),
        ("small 1", shared.arch, 1, 1.45),
    ):
        model = _model(shared, arch)
        call, decode = _call(shared, model, batch, 128), _decode()
        call(custom_generate=decode)
        _captured(decode, shared)
        facts[name] = found = _busy(shared, lambda call=call, decode=decode: call(custom_generate=decode), 128)  # type: ignore[misc]
        worst = max(worst, found.get("over_busy", 0.0) / goal)
        del model, call
    return Found(
        "time over the kernels' own at most 1.10, 1.10 and 1.45, as shares of these", worst, 0 < worst <= 1, facts
    )


def capture(shared: Shared) -> Found:
    """How long a step takes to build, with its trials and the capture, and how much memory it needs; four shapes."""
    import torch

    from perstep import fast
    from perstep.fast import graph_kept

    model, decode, built, extra = _model(shared, shared.large), _decode(), [], []
    for batch, new in ((1, 48), (8, 48), (1, 480), (32, 48)):
        before = torch.cuda.memory_reserved() if shared.device != "cpu" else 0
        _call(shared, model, batch, new)(custom_generate=decode)
        _captured(decode, shared)
        if shared.device != "cpu":
            torch.cuda.empty_cache()
            kept = next(reversed(graph_kept._shelves[model].steps.values()))
            extra.append((torch.cuda.memory_reserved() - before - kept.step.slots.nbytes) / 1e6)
        built.append(decode.last.built_s)
    kept_bytes = decode.last.kept_bytes
    facts = {
        "built_s": built, "extra_mb": extra, "kept_mb": kept_bytes / 1e6, "freed_mb": fast.release(model) / 1e6,
        "limit_mb": graph_kept.most_bytes(model.device) / 1e6,
    }  # fmt: skip
    reached = max(built) <= 0.3 and max(extra, default=0.0) <= 100 and facts["kept_mb"] <= facts["limit_mb"]
    return Found("a step is built in 0.3 s and takes 100 MB beside its slots", max(built), reached, facts)


def _inside(shared: Shared, goal: float, make: Callable[[Any], tuple[list[Any], list[Any]]], words: str) -> Found:
    """A captured step with something inside over the same without; as many tokens in both."""
    new, model = 48, _model(shared, shared.arch, vocab=shared.wide_head)
    processors, criteria = make(model)
    call, bare, filled = _call(shared, model, 1, new), _decode(), _decode()

    def ours() -> Any:
        return call(custom_generate=filled, logits_processor=processors, stopping_criteria=criteria)

    tokens = ours()
    _captured(filled, shared)
    if tokens.shape[1] != PROMPT + new:
        raise RuntimeError(f"the call ended after {tokens.shape[1] - PROMPT} tokens, so the arms differ in their work")
    facts = _ratios({"inside": ours, "bare": lambda: call(custom_generate=bare)}, shared, new, ROUNDS)
    return Found(words, facts["over_bare"], facts["over_bare"] <= goal, facts)


def drop_ins(shared: Shared) -> Found:
    """`Utf8`, `WordStop` and `TopP` inside; the word never ends, so that both arms do the same work."""
    from perstep import fast

    def make(model: Any) -> tuple[list[Any], list[Any]]:
        vocab = _vocabulary(model.config.vocab_size)
        return [fast.Utf8(vocab), fast.TopP(0.9)], [fast.WordStop(vocab, "\x07{200}")]

    return _inside(shared, 1.02, make, "Utf8, WordStop and TopP inside over the same graph without at most 1.02")


def mask(shared: Shared) -> Found:
    """`TokenMask` with the conjugation schema inside; behind its end only the end may follow, so calls are as long."""
    from perstep import fast

    def make(model: Any) -> tuple[list[Any], list[Any]]:
        return [fast.TokenMask(_table(model.config.vocab_size))], []

    return _inside(shared, 1.02, make, "TokenMask inside over the free graph at most 1.02")


def _vocabulary(size: int) -> Any:
    """Every byte, words of letters, and an end."""
    from perstep import automata

    drawn = random.Random(0)
    words = ["".join(drawn.choices("etaoinshrdlu", k=drawn.randint(2, 6))).encode() for _ in range(size - 257)]
    return automata.Vocabulary([bytes([byte]) for byte in range(256)] + words + [None], eos_ids=[size - 1])


def outside(shared: Shared) -> Found:
    """A drop-in's host time a call outside a graph, 1 and 32 rows, over transformers' own and xgrammar's."""
    import torch
    import transformers

    from perstep import fast
    from perstep.fast import _launch

    facts: Facts = {}
    pairs: dict[str, tuple[Any, Any]] = {
        "top-p": (fast.TopP(0.9), transformers.TopPLogitsWarper(0.9)),
        "top-k": (fast.TopK(50), transformers.TopKLogitsWarper(50)),
        "min-p": (fast.MinP(0.05), transformers.MinPLogitsWarper(0.05)),
        "penalty": (fast.RepetitionPenalty(1.1), transformers.RepetitionPenaltyLogitsProcessor(1.1)),
        "suppress": (fast.SuppressTokens(range(8)), transformers.SuppressTokensLogitsProcessor(list(range(8)))),
    }
    table = _table(shared.wide_head)
    worst = 0.0
    if shared.device != "cpu" and not _launch.takes(torch.zeros(1, 9, device=shared.device)):
        raise RuntimeError(f"the Triton kernels are not used: {_launch._failed or 'Triton is not installed'}")
    for rows in (1, 32):
        masks = (fast.TokenMask(table), _xgrammar(shared.wide_head, rows))
        scores = torch.randn(rows, shared.wide_head, device=shared.device)
        ids = torch.arange(PROMPT + CALLS, device=shared.device).repeat(rows, 1)
        texts = [ids[:, : PROMPT + number] for number in range(CALLS)]
        for name, (mine, theirs) in {**pairs, "mask": masks}.items():
            if theirs is None:
                facts[name] = "xgrammar is not installed"
                continue
            found = _ratios(
                {"ours": _often(mine, texts, scores), "theirs": _often(theirs, texts, scores)}, shared, CALLS, 9
            )
            facts[f"{name} {rows}"] = [found["ms_ours"] * 1e3, found["ms_theirs"] * 1e3, found["over_theirs"]]
            worst = max(worst, found["over_theirs"])
    if _launch._failed:
        raise RuntimeError(f"the Triton kernels failed: {_launch._failed}")
    return Found("each below transformers' and xgrammar's own", worst, worst < 1, facts)


def kernels(shared: Shared) -> Found:
    """The Triton kernels against torch's operations, bit by bit, called and replayed in a graph; their host time.

    The edge of a nucleus may lie apart where the sum before a token is within 1e-6 of p.
    """
    import torch

    from perstep import fast
    from perstep.fast import _launch

    facts: Facts = {"differing": []}
    table = _table(shared.wide_head)
    masks = {rows: fast.TokenMask([table] * rows) for rows in (1, 32)}
    for rows, dtype, kind in itertools.product(
        (1, 32), (torch.float32, torch.bfloat16, torch.float16), ("random", "peaked", "flat", "tied", "masked")
    ):
        scores = _kind_of_rows(kind, rows, shared).to(dtype)
        ids = torch.arange(300, device=shared.device).repeat(rows, 1) * 7
        top_p, penalty, mask = fast.TopP(0.9), fast.RepetitionPenalty(1.3), masks[rows]
        mask.reset()
        plain = {"top-p": top_p._sorted(scores)}
        with _without_kernels():
            plain["penalty"], plain["mask"] = penalty(ids, scores), mask(ids, scores)
            moved = mask(torch.cat([ids, ids[:, :1]], dim=1), scores)
        mask.reset()
        ours = {"top-p": top_p(ids, scores), "penalty": penalty(ids, scores), "mask": mask(ids, scores)}
        ours["mask, moved"], plain["mask, moved"] = mask(torch.cat([ids, ids[:, :1]], dim=1), scores), moved
        for name, found in ours.items():
            apart = found != plain[name]
            if name == "top-p":
                apart &= ~_at_the_edge(scores, 0.9)
            if bool(apart.any()):
                facts["differing"].append(f"{name} {kind} {rows} {dtype}: {int(apart.sum())}")
        if shared.device != "cpu":
            _replay_equals(lambda: top_p.graph_scores(scores, (), None), scores, facts["differing"])  # noqa: B023
    if shared.device != "cpu" and not _launch.takes(scores):
        raise RuntimeError(f"the kernels are not used: {_launch._failed or 'Triton is not installed'}")
    same = not facts["differing"]
    return Found("nothing differs from torch's operations", float(len(facts["differing"])), same, facts)


@contextmanager
def _without_kernels() -> Iterator[None]:
    from perstep.fast import _launch

    before, _launch.takes = _launch.takes, lambda _scores: False
    try:
        yield
    finally:
        _launch.takes = before


def _kind_of_rows(kind: str, rows: int, shared: Shared) -> Any:
    import torch

    torch.manual_seed(0)
    made = torch.randn(rows, shared.wide_head, device=shared.device)
    changed = {
        "peaked": made * 20, "flat": made * 0, "tied": (made * 2).round(),
        "masked": made.masked_fill(made < 1.3, -torch.inf),
    }  # fmt: skip
    return changed.get(kind, made)


def _at_the_edge(scores: Any, share: float) -> Any:
    """The tokens of each row before which there is a share of the mass, but for rounding, bool [rows, columns]."""
    import torch

    ordered, order = scores.double().softmax(-1).flip(1).sort(descending=True, stable=True)
    near = (ordered.cumsum(1) - ordered - share).abs() < 1e-6
    return torch.zeros_like(near).scatter_(1, order, near).flip(1)


def _replay_equals(work: Callable[[], Any], scores: Any, differing: list[str]) -> None:
    """See that a replay over other scores gives what a call gives."""
    import torch

    work()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    scores.copy_(scores.flip(1))
    graph.replay()
    if not torch.equal(captured, work()):
        differing.append("a replay")


CALLS = 20


def _often(processor: Any, texts: list[Any], scores: Any) -> Arm:
    return lambda: [processor(ids, scores) for ids in texts]


def _xgrammar(size: int, rows: int) -> Any:
    """What xgrammar's processor does in a step, without accepting tokens: fill on the host, copy, apply."""
    try:
        import xgrammar
    except ImportError:
        return None
    vocab = _vocabulary(size)
    info = xgrammar.TokenizerInfo(list(vocab.tokens), xgrammar.VocabType.RAW, stop_token_ids=list(vocab.eos_ids))
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(_schema()), any_whitespace=False)
    matchers = [xgrammar.GrammarMatcher(grammar) for _ in range(rows)]
    bits = xgrammar.allocate_token_bitmask(rows, size)

    def process(_ids: Any, scores: Any) -> Any:
        for row, matcher in enumerate(matchers):
            matcher.fill_next_token_bitmask(bits, row)
        xgrammar.apply_token_bitmask_inplace(scores, bits.to(scores.device, non_blocking=True))
        return scores

    return process


def _schema() -> Any:
    from importlib.resources import files

    return json.loads((files("perstep") / "data" / "conjugation_schema.json").read_text())


def _table(size: int) -> Any:
    from perstep import automata

    return automata.compile(automata.json_schema(_schema()), _vocabulary(size))


def tokens(shared: Shared) -> Found:
    """Padded rows that end apart, a sliding window, experts, draws, and two halves: the tokens of the plain loop."""
    import torch
    import transformers

    from perstep import fast

    shape = {
        "vocab_size": 270, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    kinds: dict[str, Any] = {
        "llama": {}, "gemma2": {"sliding_window": 16}, "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    }  # fmt: skip
    facts: Facts = {}
    for name, more in kinds.items():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(name, **shape, **more)
        model = transformers.AutoModelForCausalLM.from_config(config).eval().to(shared.device)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(4 if weight.ndim > 1 else 1)
        ids = torch.randint(3, 256, (3, 9), generator=torch.Generator().manual_seed(0)).to(shared.device)
        seen = torch.ones_like(ids)
        seen[1, :3] = 0
        for label, options in {
            "ends": {"eos_token_id": list(range(200, 206))},
            "draws": {"do_sample": True, "temperature": 1.7, "top_p": 0.8, "seed": 7},
            "halves": {"logits_processor": [_Counting()]},
        }.items():
            decode = _decode()
            plain, ours = (
                model.generate(
                    ids, attention_mask=seen, max_new_tokens=40,
                    **{"do_sample": False, "custom_generate": loop, "eos_token_id": None, **options},
                )
                for loop in (fast.Decode(captured=False), decode)
            )  # fmt: skip
            _captured(decode, shared, "split" if label == "halves" else "captured")
            facts[f"{name} {label}"] = bool(torch.equal(plain, ours))
    same = sum(facts.values())
    return Found("the tokens of the plain loop in every case", float(same), same == len(facts), facts)


class _Counting:
    """A processor that does nothing and does not say that it can be captured."""

    def __call__(self, _ids: Any, scores: Any) -> Any:
        return scores


def failure(shared: Shared) -> Found:
    """A model that waits for the device in its forward: the loop does the call, and the device works afterwards."""
    import torch

    model, decode = _model(shared, shared.arch, layers=2), _decode()
    call = _call(shared, model, 1, 8)
    plain = call()
    kind = type(model.model.layers[0].mlp)

    class Waiting(kind):  # type: ignore[misc,valid-type]
        def forward(self, x: Any) -> Any:
            return super().forward(x) * (1 if bool((x == x).all()) else 2)

    model.model.layers[0].mlp.__class__ = Waiting
    ours = call(custom_generate=decode)
    said, way = decode.last.why, decode.last.way
    drawn = torch.randn(4, device=shared.device)  # the generator is usable
    model.model.layers[0].mlp.__class__ = kind
    again = call(custom_generate=decode)
    good = bool(torch.equal(plain, ours) and torch.equal(plain, again) and torch.isfinite(drawn).all())
    good = good and (shared.device == "cpu" or ("could not be captured" in said and way != "captured"))
    return Found("named, done by the loop, and the device works", float(good), good, {"why": said, "way": way})
