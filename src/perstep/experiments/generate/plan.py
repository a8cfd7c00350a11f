"""The options of `perstep generate`, and the work that they describe."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError, PerstepError
from perstep.experiments.ablation.compiling import Compiling
from perstep.experiments.ablation.factories import Component, components, import_factories
from perstep.experiments.ablation.session import Call, Work
from perstep.experiments.generate.bytes import CONFIG, TEXT, Utf8InPython, WordInPython, byte_rows, word_traces
from perstep.experiments.models import ModelOptions
from perstep.measure import Effort
from perstep.targets import Sampler, Target
from perstep.targets.transformers import GenerateTrace, record, require, silent
from perstep.targets.transformers.target import generate_options

if TYPE_CHECKING:
    pass

_OURS = re.compile(r"[/\\](site-packages|perstep|torch|transformers)[/\\]")

WORDS = 32
BATCH = 3
PROMPT_TOKENS = 8
NEW_TOKENS = 24
WORDS_BUDGET_S = 70.0
"""A round of the preset makes 128 calls; in the usual half minute there are too few rounds for intervals."""


@dataclass(frozen=True, kw_only=True)
class Plan(ModelOptions):
    """The options of `perstep generate`."""

    model: Annotated[str | None, Parameter(name=["-m", "--model"])] = None
    """`mini`; a folder with a stored model; or a hub id, the only thing fetched from a network.
    [default: a small Llama over bytes, with random weights]"""

    processor: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    """A logits processor as name=module:factory; the factory makes a new one for each call. May be repeated.
    [default, for the byte model: utf8, each byte asked in Python]"""

    criterion: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = ()
    """A stopping criterion as name=module:factory.
    [default, for the byte model: word, the text decoded at each step]"""

    preset: Literal["words"] | None = None
    """`words`: 32 words of a text in a batch of 3, each a short generate call that begins with an embedding;
    measures for a minute by default."""

    prompt_tokens: Annotated[int | None, Parameter(name=["-p", "--prompt-tokens"])] = None
    """Length of the prompt in tokens. [default: 8]"""

    prompt: str | None = None
    """A text to begin with; with --preset words, or the byte model, the text whose words are used."""

    new_tokens: Annotated[int | None, Parameter(name=["-n", "--new-tokens"])] = None
    """Tokens to generate in each call: one prefill and N - 1 decode steps. [default: 24, fewer where steps are long]"""

    batch: Annotated[int, Parameter(name=["-b", "--batch"])] = BATCH
    """Sequences decoded side by side."""

    temperature: float = 0.0
    """0 chooses the most probable token; above 0 tokens are sampled."""

    top_k: int = 0
    """Sample from the k most probable tokens; 0 for all."""

    top_p: float = 1.0
    """Sample from the most probable tokens whose probabilities reach this sum."""

    compile: Annotated[bool, Parameter(negative="")] = False
    """Compile the forward (static cache) and show each cell's first pass, compilation included, beside warm ones."""

    compile_backend: str = "inductor"
    """What torch.compile compiles with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Sampler(self.temperature, self.top_k, self.top_p, self.seed)  # refuses what is out of range

    def effort(self) -> Effort:
        """The options as an effort; the preset takes a minute where nothing else was asked for."""
        usual = super().effort()
        chosen = self.fast or self.rigorous or self.rounds is not None or self.budget is not None
        return usual if chosen or self.preset is None else replace(usual, budget_s=WORDS_BUDGET_S)

    @property
    def own_model(self) -> bool:
        """Whether the byte model is measured."""
        return self.model is None and self.arch is None


def check(plan: Plan) -> None:
    """See that the options fit together, before anything is loaded.

    Raises:
        InputError: they do not.
    """
    require()
    if plan.backend == "numpy":
        raise InputError("generate measures transformers models: leave out --backend numpy")
    if plan.layers is not None and plan.own_model:
        raise InputError("--layers goes with --arch")
    if plan.preset is not None:
        _check_preset(plan)
    elif not plan.own_model and plan.prompt is not None and plan.prompt_tokens is not None:
        raise InputError("--prompt and --prompt-tokens exclude each other; give one of them")
    if not plan.own_model and not (plan.processor or plan.criterion):
        raise InputError(
            "there is nothing to take away: give --processor or --criterion as name=module:factory (the default pair "
            "belongs to the byte model, which is measured without --model and --arch)"
        )
    if plan.compile_backend != "inductor" and not plan.compile:
        raise InputError(f"--compile-backend {plan.compile_backend} goes with --compile")


def _check_preset(plan: Plan) -> None:
    if not plan.own_model:
        raise InputError("--preset words brings its own model: leave out --model and --arch")
    for option, value in (("--new-tokens", plan.new_tokens), ("--prompt-tokens", plan.prompt_tokens)):
        if value is not None:
            raise InputError(f"{option} does not go with --preset words: a call continues until its words have ended")


def find_parts(plan: Plan) -> tuple[Component, ...]:
    """What is taken away: as given, or the byte model's pair.

    Raises:
        InputError: a factory cannot be imported, or does not make a new part each time.
    """
    if not (plan.processor or plan.criterion):
        return components({"utf8": Utf8InPython}, {"word": WordInPython})
    return components(import_factories(plan.processor, "--processor"), import_factories(plan.criterion, "--criterion"))


def open_model(plan: Plan) -> Target:
    """The model, run by transformers.

    Raises:
        InputError: nothing can be loaded.
    """
    asked = replace(plan, backend="torch")
    return replace(asked, arch=str(CONFIG)).open() if plan.own_model else asked.open()


def find_work(plan: Plan, target: Target, parts: tuple[Component, ...], compiling: Compiling | None) -> Work:
    """The calls that every cell makes, with what they replay.

    Raises:
        InputError: the prompt cannot be made, or the call cannot be replayed.
    """
    common = generate_options(target.model, Sampler(plan.temperature, plan.top_k, plan.top_p))
    if compiling is not None:
        common |= compiling.arguments()
    if plan.preset == "words":
        work = _words(plan, target, common)
        with silent(), _failure_in_a_line():
            target.model.generate(**work.calls[0].arguments, **common, **_made(parts), max_new_tokens=1)
        return work
    import torch

    ids = torch.as_tensor(_prompt(plan, target), device=target.model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    new_tokens = plan.new_tokens or NEW_TOKENS
    _check_room(target, ids.shape[1], new_tokens)
    with silent(), _failure_in_a_line():
        trace = record(
            target.model,
            inputs,
            new_tokens,
            seed=plan.seed,
            **_made(parts),
            **common,
        )
    return Work([Call(inputs, trace)], common, recorded=True, may_shorten=plan.new_tokens is None and not plan.compile)


def _made(parts: tuple[Component, ...]) -> dict[str, Json]:
    """New processors and criteria, as generate takes them."""
    return {
        "logits_processor": [part.make() for part in parts if part.kind == "processor"],
        "stopping_criteria": [part.make() for part in parts if part.kind == "criterion"],
    }


@contextmanager
def _failure_in_a_line() -> Iterator[None]:
    """Tell in a line where the first call of generate fails: in a part of somebody's, most likely."""
    try:
        yield
    except PerstepError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if not _OURS.search(frame.filename)]
        where = f" at {Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else ""
        lines = str(error).splitlines() or [""]
        raise InputError(f"generate fails with these parts{where}: {type(error).__name__}: {lines[0]}") from error


def _prompt(plan: Plan, target: Target) -> NDArray[np.int64]:
    length = plan.prompt_tokens or PROMPT_TOKENS
    if plan.own_model:
        return byte_rows(TEXT if plan.prompt is None else plan.prompt, plan.batch, length)
    return target.prompt(text=plan.prompt, num_tokens=length, batch=plan.batch, seed=plan.seed)


def _check_room(target: Target, prompt_tokens: int, new_tokens: int) -> None:
    most = target.facts["max_positions"]
    if most is not None and not target.model.config.is_encoder_decoder and prompt_tokens + new_tokens > most:
        raise InputError(
            f"{prompt_tokens} + {plural(new_tokens, 'token does', 'tokens do')} not fit: {target.name} has "
            f"{plural(most, 'position')}"
        )


def _words(plan: Plan, target: Target, common: dict[str, Json]) -> Work:
    """A call a word, from an embedding; what is replayed is the text itself, the same for every model."""
    import torch

    traces = word_traces(TEXT if plan.prompt is None else plan.prompt, plan.batch, WORDS)
    rng = np.random.default_rng([plan.seed, 2])
    room = max(trace.shape[1] for trace in traces)
    _check_room(target, 1, room)
    calls = []
    for trace_BN in traces:
        drawn = rng.standard_normal((plan.batch, 1, target.facts["hidden"]), np.float32)
        embedding = torch.as_tensor(drawn, dtype=target.model.dtype, device=target.model.device)
        none = np.zeros((plan.batch, 0), np.int64)
        calls.append(Call({"inputs_embeds": embedding}, GenerateTrace(none, trace_BN, seed=plan.seed), room))
    return Work(calls, common, recorded=False)
