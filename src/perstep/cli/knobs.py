"""`perstep depth`, `experts`, `context` and `output`: latency against the four knobs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from perstep.cli.experiment import RunTo, run_experiment
from perstep.experiments.knobs.context.plan import Plan as ContextPlan
from perstep.experiments.knobs.depth.plan import Plan as DepthPlan
from perstep.experiments.knobs.experts.plan import Plan as ExpertsPlan
from perstep.experiments.knobs.output.plan import Plan as OutputPlan


@dataclass(frozen=True, kw_only=True)
class KnobRunTo(RunTo):
    """Where a measurement goes, with the folder's other name."""

    out: Annotated[Path | None, Parameter(name=["--out", "--output-dir"])] = None
    """Folder for the run. [default: the next number under .perstep/runs]"""


_TO = KnobRunTo()
_CONTEXT, _DEPTH, _EXPERTS, _OUTPUT = ContextPlan(), DepthPlan(), ExpertsPlan(), OutputPlan()


def depth(
    plan: Annotated[DepthPlan, Parameter(name="*")] = _DEPTH,
    to: Annotated[KnobRunTo, Parameter(name="*")] = _TO,
) -> int:
    """Latency and quality against the decoder blocks that run.

    The other blocks are skipped in place, and the cache stays consistent. All configurations replay the same tokens in
    balanced rounds; prefill and decode are timed inside one call.
    """
    return run_experiment("depth", plan, to)


def experts(
    plan: Annotated[ExpertsPlan, Parameter(name="*")] = _EXPERTS,
    to: Annotated[KnobRunTo, Parameter(name="*")] = _TO,
) -> int:
    """Latency and quality against the experts a token of a mixture-of-experts model.

    The routers' top-k is changed in place and restored, in each experts implementation; host syncs are counted. A
    dense model is refused, and so is a family on which top-k has no effect.
    """
    return run_experiment("experts", plan, to)


def context(
    plan: Annotated[ContextPlan, Parameter(name="*")] = _CONTEXT,
    to: Annotated[KnobRunTo, Parameter(name="*")] = _TO,
) -> int:
    """Latency against input tokens: text, and images in a vision-language model.

    Vision encoder, prefill and decode are timed inside one call; vision tokens are counted in the model's input.
    """
    return run_experiment("context", plan, to)


def output(
    plan: Annotated[OutputPlan, Parameter(name="*")] = _OUTPUT,
    to: Annotated[KnobRunTo, Parameter(name="*")] = _TO,
) -> int:
    """Latency against generated tokens, per token and per forward.

    N tokens are one prefill and N - 1 decode forwards; the table shows both averages, and the cost of each
    forward against its position.
    """
    return run_experiment("output", plan, to)
