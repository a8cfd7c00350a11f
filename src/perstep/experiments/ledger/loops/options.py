"""The option of `ledger --loop`, and which others go with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from perstep.errors import InputError
from perstep.experiments.ledger.plan import Plan
from perstep.experiments.ledger.trace.options import Options

LOOPS: Mapping[str, str] = {
    "generate": "transformers' own loop, with its dynamic cache",
    "fast.decode": "perstep.fast.decode, as it is by default on this device",
    "static+compile": "transformers' loop with a static cache and its forward compiled by torch.compile",
}
"""Name -> what it is."""


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """The options of `perstep ledger` about decode loops."""

    loop: Annotated[str | None, Parameter(name="--loop")] = None
    """Compare decode loops instead, the first of them the reference: generate, fast.decode, static+compile, as in
    --loop generate,fast.decode. Shows the first call apart, and after how many tokens it has paid for itself."""


def chosen(options: LoopOptions, plan: Plan) -> list[str]:
    """The loops to compare.

    Raises:
        InputError: unknown ones, fewer than two, or options that do not go with them.
    """
    names = [name.strip() for name in (options.loop or "").split(",") if name.strip()]
    for name in names:
        if name not in LOOPS:
            raise InputError(f"--loop {name}: the loops are {', '.join(LOOPS)}")
    if len(set(names)) < 2:
        raise InputError(f"--loop compares two loops or more: give some of {', '.join(LOOPS)}, as in {','.join(LOOPS)}")
    for option in ("detail", "device_detail"):
        if getattr(plan, option) is not None:
            name = option.replace("_", "-")
            raise InputError(f"--{name} does not go with --loop, which times whole calls: leave it out")
    if plan.temperature != 0:
        raise InputError("--temperature does not go with --loop, whose loops would draw differently: leave it out")
    if plan.new_tokens < 2:
        raise InputError(f"--new-tokens {plan.new_tokens}: a decode loop needs at least 2")
    return list(dict.fromkeys(names))


_WITHOUT_A_RUN = ("resume", "force", "keep_text", "baseline", "save_baseline", "tag", "strict")
"""Options of a stored run, which this is not."""


def check_run_to(to: Options) -> None:
    """Check that no option is given that only a stored run has.

    Raises:
        InputError: one is.
    """
    for name in _WITHOUT_A_RUN:
        if getattr(to, name):
            raise InputError(f"--{name.replace('_', '-')} does not go with --loop, which stores no run: leave it out")
