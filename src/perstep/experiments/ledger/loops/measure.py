"""Decode loops as arms of one run: each one's first call, then balanced rounds of warm ones.

What a loop has to do once (capture a graph, compile a forward) is its first call less a warm one, less the same of the
reference: what every first call pays is nobody's own.
"""

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

import msgspec

from perstep.errors import InputError
from perstep.experiments.compare.api import compare
from perstep.experiments.ledger.plan import Plan
from perstep.measure import Clock, Progress
from perstep.report.change import TimeChange
from perstep.targets import Target

if TYPE_CHECKING:
    import torch

    from perstep.targets.transformers.protocols import Model

DEFAULT_PROMPT_TOKENS = 64
_LONGEST_S, _PRECISION = 3600.0, 0.005  # where a number of rounds is given, and neither counts


class LoopArm(msgspec.Struct, frozen=True, kw_only=True):
    """One decode loop.

    Attributes:
        name: as in `LOOPS`.
        way: of `fast.decode`, how it did the calls; elsewhere empty.
        why: of `fast.decode`, why that was not one captured graph, where it should have been.
        first_ns: the first call.
        call: a warm call, and its change against the reference's.
        ns_per_token: a warm call over the new tokens, the prefill included.
        once_ns: what it does once: its first call less a warm one, less the same of the reference; None for that.
        pays_after: new tokens after which it has won back what it does once; None where it wins nothing.
        pays_low: the same at the better end of the change's interval; None where there is no interval.
        pays_high: at the worse end; None where it might never.
        slots: of `fast.decode`, that the cache of its captured step has; elsewhere 0.
        same_tokens: how many of the new tokens, from the first, are the reference's in every row.
    """

    name: str
    way: str
    why: str
    first_ns: int
    call: TimeChange
    ns_per_token: float
    once_ns: float | None
    pays_after: int | None
    pays_low: int | None
    pays_high: int | None
    slots: int
    same_tokens: int


class LoopFindings(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        model: its name.
        prompt_tokens: of a call.
        new_tokens: of a call.
        batch: rows.
        device: where.
        rounds: of warm calls.
        arms: the reference first.
        left_out: loops that could not run, and why.
        busy: why there is no verdict, or empty.
        notes: what a reader must know.
    """

    model: str
    prompt_tokens: int
    new_tokens: int
    batch: int
    device: str
    rounds: int
    arms: list[LoopArm]
    left_out: dict[str, str]
    busy: str
    notes: list[str]


def measure_loops(names: list[str], plan: Plan, progress: Progress, clock: Clock) -> LoopFindings:
    """Run the loops.

    Raises:
        InputError: not a transformers model, a prompt that does not fit, or fewer than two loops that can run.
    """
    progress(0.0, "load")
    target = plan.open()
    if target.backend != "torch":
        raise InputError("--loop is about loops of transformers models: give --arch, -m FOLDER or --backend torch")
    calls = _Calls(target, plan, names, clock)
    progress(0.0, "first calls")
    firsts, left_out = _first_calls(calls, clock)
    if len(firsts) < 2:
        raise InputError(f"fewer than two loops can run: {'; '.join(f'{n}: {why}' for n, why in left_out.items())}")
    effort = plan.effort()
    result = compare(
        {name: calls.arms[name] for name in firsts}, rounds=effort.max_rounds, clock=clock, progress=progress,
        seed=plan.seed, budget_s=min(effort.budget_s, _LONGEST_S), precision=effort.precision or _PRECISION,
    )  # fmt: skip
    reference = result.reference
    shown = [
        _arm(name, calls, firsts, {key: arm.wall for key, arm in result.arms.items()}, reference) for name in firsts
    ]
    return LoopFindings(
        model=target.name, prompt_tokens=calls.prompt_tokens, new_tokens=plan.new_tokens, batch=plan.batch,
        device=plan.device, rounds=result.rounds, arms=shown, left_out=left_out, busy=result.busy, notes=result.notes,
    )  # fmt: skip


class _Calls:
    """The calls of each loop: greedy, of a fixed length."""

    def __init__(self, target: Target, plan: Plan, names: list[str], clock: Clock) -> None:
        import torch

        from perstep.fast import Decode

        text = plan.prompt
        self.prompt_tokens = (
            len(target.encode(text)) if text is not None else plan.prompt_tokens or DEFAULT_PROMPT_TOKENS
        )
        target.check_fits(self.prompt_tokens, plan.new_tokens)
        target.check_memory(self.prompt_tokens, plan.new_tokens, plan.batch)
        prompt_BT = target.prompt(text=text, num_tokens=self.prompt_tokens, batch=plan.batch, seed=plan.seed)
        self._model: Model = target.model
        self._ids = torch.as_tensor(prompt_BT).to(self._model.device)
        self._new, self.decode, self.clock = plan.new_tokens, Decode(), clock
        self.arms: dict[str, Callable[[], torch.Tensor]] = {name: self._arm(name) for name in names}

    def _arm(self, name: str) -> "Callable[[], torch.Tensor]":
        options: dict[str, object] = {}
        if name == "fast.decode":
            options = {"custom_generate": self.decode}
        elif name == "static+compile":
            options = {"cache_implementation": "static", "compile_config": _compiled_anywhere()}

        def call() -> "torch.Tensor":
            import torch

            ids: torch.Tensor = self._model.generate(
                self._ids, attention_mask=torch.ones_like(self._ids), do_sample=False, max_new_tokens=self._new,
                eos_token_id=None, pad_token_id=0, **options,
            )  # fmt: skip
            if ids.is_cuda:
                torch.cuda.synchronize()
            return ids[:, self._ids.shape[1] :].cpu()

        return call


def _compiled_anywhere() -> object:
    """What makes transformers compile: by itself it does so on accelerators alone."""
    from transformers import CompileConfig

    config = CompileConfig()
    config._compile_all_devices = True
    return config


def _first_calls(calls: _Calls, clock: Clock) -> "tuple[dict[str, tuple[int, torch.Tensor]], dict[str, str]]":
    """Each loop's first call and its tokens, and why the others have none."""
    firsts, left_out = {}, {}
    for name, call in calls.arms.items():
        began = clock.now()
        try:
            tokens = call()
        except Exception as error:  # a compiler that is missing, or cannot compile this model
            left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            continue
        firsts[name] = clock.now() - began, tokens
    return firsts, left_out


def _arm(
    name: str,
    calls: _Calls,
    firsts: "dict[str, tuple[int, torch.Tensor]]",
    walls: dict[str, TimeChange],
    reference: str,
) -> LoopArm:
    first_ns, tokens = firsts[name]
    wall, base, num = walls[name], walls[reference], tokens.shape[1]
    once = None if name == reference else first_ns - wall.ns - (firsts[reference][0] - base.ns)
    last = calls.decode.last if name == "fast.decode" else None
    equal = (tokens == firsts[reference][1]).all(dim=0).long().cumprod(0)

    def after(change: float | None) -> int | None:
        return None if once is None or change is None else pays_after(once, base.ns / num, change)

    return LoopArm(
        name=name, way=last.way if last else "", why=last.why if last else "", first_ns=first_ns, call=wall,
        ns_per_token=wall.ns / num, once_ns=once, pays_after=after(wall.change), pays_low=after(wall.ci_low),
        pays_high=after(wall.ci_high), slots=last.slots if last else 0, same_tokens=int(equal.sum()),
    )  # fmt: skip


def pays_after(once_ns: float, reference_ns_per_token: float, change: float) -> int | None:
    """New tokens after which a loop has won back what it does once; None where it is not faster.

    Args:
        once_ns: what it does once, beyond what the reference does.
        reference_ns_per_token: of the reference, warm.
        change: of its time per token against that, -0.5 for half.
    """
    if change >= 0:
        return None
    return max(0, ceil(once_ns / (-change * reference_ns_per_token)))
