"""The options of `perstep ops`, checked: which layer, at which lengths, with which arms, and whether it fits.

All options are checked here before a weight is made; errors say what would be right. Nothing is measured.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from perstep._files import read_given
from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError
from perstep.experiments.arms import import_callable
from perstep.experiments.options import Counts, RunOptions, Seconds
from perstep.measure import Effort
from perstep.targets import shown_name
from perstep.targets.operators.layer import FULL_ATTENTION, PARTS
from perstep.targets.reference import Config
from perstep.targets.reference.config import config_hash, end_shapes, layer_shapes, parse_config
from perstep.targets.reference.memory import refuse_if_too_large

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
NUMPY_DTYPES = ("float32", "float64")
MASKS = ("rebuild", "cached", "fused", "flash")
KERNELS = ("fused", "flash")
"""Ways in which no mask exists: torch's own choice of a kernel, and its flash attention."""
BUDGET_S = 180.0
MASK_PARTS = ("attn.mask.build", "attn.mask.apply")
_OP = re.compile(r"(?P<function>[\w.]+:\w+)@(?P<shapes>.+)")


@dataclass(frozen=True, kw_only=True)
class Plan(RunOptions):
    """The options of `perstep ops`."""

    budget: Seconds | None = None
    """Begin no new round after this time, e.g. 30s. [default: 3m; --fast 10s; --rigorous 10m]"""

    arch: str = "llama-2-7b"
    """The layer's shapes: a name such as llama-2-7b, or a config.json of the Llama family. The weights are random."""

    layers: int = 1
    """How many layers a step has."""

    backend: Literal["numpy", "torch"] = "numpy"
    """Library that computes."""

    device: str = "cpu"
    """Where torch computes: cpu, or cuda."""

    dtype: str = "float32"
    """float32 or float64; with torch bfloat16 and float16 too."""

    seq: Annotated[Counts, Parameter(show_default=False)] = (1, 8, 32, 128, 512)
    """Numbers of new tokens, such as 1,8,32 or 8-512*2: 1 is a decode step, more a prefill or a chunk of one.
    [default: 1,8,32,128,512]"""

    past: int = 0
    """Positions that the cache holds before the new ones, so that there are more keys than queries."""

    arm: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ("mask=rebuild",)
    """What a whole step runs with: mask=rebuild, mask=cached or, in torch, mask=fused or mask=flash. Give it again for
    more arms; the first is the reference, whose parts are shown. [default: mask=rebuild]"""

    what_if: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    """PART=0, such as attn.mask.build=0: measure the step as if this part were free. May be given again."""

    op: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    """An operator of your own, timed alone: module:function@S,heads,head_dim gets an array of that shape, one more for
    each further @SHAPE. Sizes are numbers or S, L, hidden, heads, kv_heads, head_dim, intermediate, vocab."""

    def effort(self) -> Effort:
        """The options as an effort; a round at the document's shapes takes seconds, so there is more time for it.

        Raises:
            InputError: as `RunOptions.effort`.
        """
        effort = super().effort()
        if self.budget is not None or self.rounds is not None:
            return effort
        return replace(effort, budget_s=10.0 if self.fast else 600.0 if self.rigorous else BUDGET_S)


@dataclass(frozen=True)
class OwnOperator:
    """A user's operator: its name as it was written, the function, and the shapes of its arrays."""

    name: str
    function: Callable[..., object]
    shapes: tuple[tuple[str, ...], ...]

    def shapes_at(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        """The arrays' shapes at one length."""
        return [tuple(int(size) if size.isdigit() else sizes[size] for size in shape) for shape in self.shapes]


@dataclass(frozen=True)
class Work:
    """A checked plan.

    Attributes:
        name: of the architecture with the layers that were kept of it, as it is shown.
        total_layers: of the whole architecture.
        config: its shapes, with as many layers as were asked for.
        config_sha256: of the config.json.
        masks: how each arm gets its mask, the reference first.
        what_if: parts that are made free, each in an arm of its own.
        own: the user's operators.
    """

    name: str
    total_layers: int
    config: Config
    config_sha256: str
    masks: tuple[str, ...]
    what_if: tuple[str, ...]
    own: tuple[OwnOperator, ...]


def check(plan: Plan) -> Work:
    """Everything the plan says, checked.

    Raises:
        InputError: something in it is wrong or would not fit into memory.
    """
    if not plan.seq:
        raise InputError("--seq is empty; give one number or more")
    _check_dtype(plan)
    if plan.device != "cpu" and plan.backend != "torch":
        raise InputError(f"--device {plan.device}: NumPy computes on the cpu; give --backend torch")
    name, raw = _read_arch(plan.arch)
    whole = parse_config(raw)
    config = _layers_kept(name, whole, plan.layers)
    _check_positions(plan, config, name)
    masks = _masks(plan)
    own = tuple(_own(spec, sizes_at(config, max(plan.seq), plan.past)) for spec in plan.op)
    what_if = tuple(_what_if(spec, plan, masks[0]) for spec in plan.what_if)
    _distinct("--what-if", what_if)
    _distinct("--op", [operator.name for operator in own])
    shown = shown_name(name, plan.layers, whole.num_layers)
    work = Work(shown, whole.num_layers, config, config_hash(raw), masks, what_if, own)
    _check_memory(plan, work)
    return work


def sizes_at(config: Config, seq: int, past: int) -> dict[str, int]:
    """The sizes that a shape may be written in."""
    names = ("hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab")
    return {"S": seq, "L": past + seq, **{name: getattr(config, name) for name in names}}


def fused_is_possible(seq: int, past: int) -> bool:
    """Whether torch's causal flag means this mask: it aligns the first query with the first key."""
    return seq == 1 or past == 0


def _check_dtype(plan: Plan) -> None:
    if plan.dtype not in BYTES:
        raise InputError(f"--dtype {plan.dtype}: it must be one of {', '.join(BYTES)}")
    if plan.backend == "numpy" and plan.dtype not in NUMPY_DTYPES:
        raise InputError(f"--dtype {plan.dtype}: NumPy computes in {' or '.join(NUMPY_DTYPES)}; give --backend torch")
    if plan.backend == "torch":
        from perstep.targets.transformers import version

        version.require()


def _read_arch(arch: str) -> tuple[str, Mapping[str, Json]]:
    from perstep.targets.transformers import presets

    by_name = presets()
    if arch in by_name:
        return arch, by_name[arch]["config"]
    path = Path(arch)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"unknown architecture {arch!r}: choose from {', '.join(by_name)}, or give a config.json")
    try:
        raw = json.loads(read_given(file))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{file} is not a config.json: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{file} is not a config.json: it holds a {type(raw).__name__}")
    return file.resolve().parent.name if file.name == "config.json" else file.stem, raw


def _layers_kept(name: str, config: Config, layers: int) -> Config:
    if layers > config.num_layers:
        raise InputError(f"--layers {layers}: {name} has {plural(config.num_layers, 'layer')}")
    if config.out_bias or config.mlp_bias:
        raise InputError(f"{name} has biases in its output projection or MLP; ops measures layers without them")
    return replace(config, num_layers=layers)


def _check_positions(plan: Plan, config: Config, name: str) -> None:
    longest = max(plan.seq) + plan.past
    if longest > config.max_positions:
        raise InputError(
            f"--past {plan.past} and --seq {max(plan.seq)} make {plural(longest, 'position')}, {name} has"
            f" {config.max_positions}; give fewer, or a config.json with a larger max_position_embeddings"
        )


def _masks(plan: Plan) -> tuple[str, ...]:
    masks = []
    for arm in plan.arm:
        mask = arm.removeprefix("mask=")
        if mask not in MASKS or mask == arm:
            raise InputError(f"--arm {arm}: the arms are {', '.join(f'mask={name}' for name in MASKS)}")
        masks.append(mask)
    if not masks:
        raise InputError("no arm is left: give --arm mask=rebuild, or leave --arm out")
    _distinct("--arm", plan.arm)
    kernel = next((mask for mask in masks if mask in KERNELS), None)
    if kernel and plan.backend == "numpy":
        raise InputError(f"--arm mask={kernel}: NumPy has no fused attention; give --backend torch")
    chunks = [seq for seq in plan.seq if not fused_is_possible(seq, plan.past)]
    if kernel and chunks:
        raise InputError(
            f"--arm mask={kernel}: torch's causal flag aligns the first query with the first key, which is wrong for"
            f" {plural(chunks[0], 'query', 'queries')} after --past {plan.past}; give --past 0, or --seq 1"
        )
    return tuple(masks)


def _what_if(spec: str, plan: Plan, mask: str) -> str:
    part, _, value = spec.partition("=")
    parts = [name for name in PARTS.values() if (mask in KERNELS or name != "attn.core")]
    if mask in KERNELS:
        parts = [name for name in parts if name not in FULL_ATTENTION or name == "attn.core"]
    if value != "0" or part not in parts:
        raise InputError(f"--what-if {spec}: write PART=0 with one of the parts {', '.join(parts)}")
    if part in MASK_PARTS and max(plan.seq) == 1:
        raise InputError(f"--what-if {spec}: one new token needs no mask, so {part} does not occur at --seq 1")
    return part


def _own(spec: str, sizes: Mapping[str, int]) -> OwnOperator:
    match = _OP.fullmatch(spec)
    if match is None:
        raise InputError(f"--op {spec}: write module:function@SHAPE, such as mine:rope@S,heads,head_dim")
    shapes = tuple(tuple(size.strip() for size in shape.split(",")) for shape in match["shapes"].split("@"))
    for size in {size for shape in shapes for size in shape}:
        if not (size.isdigit() and int(size) > 0) and size not in sizes:
            raise InputError(
                f"--op {spec}: {size!r} is not a size; write a number above 0 or one of {', '.join(sizes)}"
            )
    return OwnOperator(match["function"], import_callable(match["function"]), shapes)


def _distinct(option: str, values: "tuple[str, ...] | list[str]") -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise InputError(f"{option} {twice[0]} is given twice")


def _check_memory(plan: Plan, work: Work) -> None:
    what = f"{work.name} in {plan.dtype} at --seq {max(plan.seq)} and --past {plan.past}"
    needed = needed_bytes(plan, work)
    refuse_if_too_large(what, needed)  # the weights are made by the host
    if plan.device != "cpu":
        from perstep.targets.transformers.device_check import check_device, refuse_if_no_room

        check_device(plan.device)
        refuse_if_no_room(what, needed, plan.device, "give fewer or shorter --seq, or --layers")


def needed_bytes(plan: Plan, work: Work) -> int:
    """An upper estimate of the bytes held at once: weights, caches, kept operands of each part, results in flight."""
    c, size = work.config, BYTES[plan.dtype]
    per_layer = sum(prod(shape) for shape in layer_shapes(c).values())
    weights = c.num_layers * per_layer + prod(end_shapes(c)["model.embed_tokens.weight"])
    if plan.backend == "torch" and plan.dtype != "float32":
        weights += weights * 4 // size  # made in float32 first
    kept = in_flight = 0
    for seq in plan.seq:
        length = plan.past + seq
        cache = 2 * c.num_layers * c.kv_heads * length * c.head_dim
        scores = c.heads * seq * length
        hidden = seq * (6 * c.hidden + 3 * (c.q_width + 2 * c.kv_width))
        own = sum(prod(shape) for operator in work.own for shape in operator.shapes_at(sizes_at(c, seq, plan.past)))
        free = len(work.what_if) * c.num_layers * max(scores, seq * (c.q_width + 2 * c.kv_width))
        kept += cache + 3 * scores + hidden + own + free
        in_flight = max(in_flight, 3 * scores + hidden + 5 * seq * c.intermediate)
    return (weights + kept + in_flight) * size
