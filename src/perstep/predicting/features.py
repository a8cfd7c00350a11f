"""What theory says of each part of a step, in time on a machine: what the coefficients of a fit multiply.

Every feature is in nanoseconds at this machine's ceilings, so coefficients have no unit and go with a step to a machine
with other ceilings. Each is a work that a library does, counted from shapes.
"""

from perstep.experiments.ledger.bounds import FUSED
from perstep.predicting.cells import DEVICE, Speed
from perstep.predicting.subject import Subject
from perstep.theory import PARTS, Rates, expected_experts, step_bound

COEFFICIENTS = {
    "roofline": "times the larger of its bytes and its products, at the ceilings",
    "packing": "times the copies of weights before products of several rows",
    "calls": "times the overhead of the calls that theory counts",
    "per_step": "further calls in a step",
    "per_layer": "further calls in a layer",
    "per_expert": "calls for each expert that a layer runs",
    "per_logit": "passes over the logits at the rate of vectors",
}
"""What is fitted, in words; none is negative, because none of this work can take less than no time."""

ONCE = frozenset({"embed", "lm_head", "inputs", "logits", "sample", "stop", "sync"})
"""Parts that occur once a step, whatever the number of layers."""
OF_LOGITS = frozenset({"logits", "sample"})
"""Parts that pass over the logits."""

Features = dict[str, float]
"""Coefficient -> nanoseconds that it multiplies."""


def features(subject: Subject, speed: Speed, parts: list[str]) -> dict[str, Features]:
    """Of each of a ledger's parts, the host's and a device's.

    A part of theory that does not occur in this model (rotation in GPT-2) has no features, so it takes no time.

    Args:
        subject: the step.
        speed: of the machine.
        parts: their names in cells.

    Raises:
        InputError: the rates lack the dtype, or the model has fewer positions.
    """
    sides = {"": speed.host} | ({} if speed.device is None else {DEVICE: speed.device})
    result: dict[str, Features] = {}
    for before, rates in sides.items():
        names = [part for part in parts if part.startswith(DEVICE) == bool(before)]
        by_part = _of_side(subject, rates, [part.removeprefix(before) for part in names])
        result |= {f"{before}{part}": each for part, each in by_part.items()}
    return result


def _of_side(subject: Subject, rates: Rates, parts: list[str]) -> dict[str, Features]:
    cost = subject.cost()
    bound = step_bound(cost, rates)
    called = rates.level_for(cost.layer_bytes).call_ns
    call_ns = rates.call_overhead_ns if called is None else called
    logits = subject.batch * subject.shape.vocab
    logits_ns = logits / rates.vector_flops * 1e9 if rates.vector_flops else 0.0
    by_part: dict[str, Features] = {}
    for part in parts:
        names = FUSED.get(part, (part,))
        bounds = [bound.parts[name] for name in names if name in bound.parts]
        if not bounds and any(name in PARTS for name in names):
            by_part[part] = {}
            continue
        by_part[part] = {
            "roofline": sum(max(one.compute_ns, one.bandwidth_ns) for one in bounds),
            "packing": sum(one.packing_ns for one in bounds),
            "calls": sum(one.call_overhead_ns for one in bounds),
            "per_step": call_ns,
            "per_layer": 0.0 if part.partition("/")[0] in ONCE else subject.shape.num_layers * call_ns,
            "per_expert": experts_run(subject) * call_ns if "mlp" in names else 0.0,
            "per_logit": logits_ns if part.partition("/")[0] in OF_LOGITS else 0.0,
        }
    return by_part


def experts_run(subject: Subject) -> float:
    """How many experts run in a step, over all layers."""
    mlps = [layer.mlp for layer in subject.shape.layers if layer.mlp.experts]
    return sum(expected_experts(mlp.experts, mlp.active, subject.batch) for mlp in mlps)


def roofline_step_ns(subject: Subject, speed: Speed) -> float:
    """The step by theory at the ceilings, with nothing fitted: the baseline that a fit has to beat.

    The longer of the host's and the device's, where there is one.
    """
    sides = [speed.host] if speed.device is None else [speed.host, speed.device]
    return max(step_bound(subject.cost(), rates).bound_ns for rates in sides)
