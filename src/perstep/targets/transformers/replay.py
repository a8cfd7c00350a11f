"""Replay recorded token ids inside unchanged `model.generate(...)` calls (law "arms do the same work").

Every arm sees the same contexts and makes N steps, while what it would have chosen, and where it would have
stopped, is kept and compared with the trace: a forced token proves nothing. The model's own choice runs on
the scores as they are; afterwards, before the first stopping criterion looks, the newest column of the ids is
overwritten. The criteria then work on the trace, and their answer is kept but not obeyed. So no part's work is
altered, and forcing is a part of its own, `stop/Replay`. Only greedy search and sampling, one token a step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import get_ident
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from perstep._words import plural
from perstep.errors import InputError
from perstep.measure import Trace
from perstep.targets.interrupts import uninterrupted
from perstep.targets.transformers import version
from perstep.targets.transformers._wrap import Function, Value, Wraps
from perstep.targets.transformers.instrument import find_model
from perstep.targets.transformers.protocols import GenerationConfig, Model, sequences_of

if TYPE_CHECKING:
    import torch

_LENGTHS = ("max_new_tokens", "max_length")


@dataclass(frozen=True)
class GenerateTrace(Trace):
    """The recorded token ids of one generate call.

    `prompt_BT` are the ids that the call began with: [B, 0] after embeddings, the decoder's ids with an encoder.

    Attributes:
        seed: of torch's generators at the beginning of the call and of each replay, so that draws are the same.
    """

    seed: int = 0
    _columns: "dict[torch.device, tuple[torch.Tensor, ...]]" = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def columns(self, device: "torch.device") -> "tuple[torch.Tensor, ...]":
        """The tokens on a device, a tensor [B] for each of N steps; made once."""
        if device not in self._columns:
            import torch

            self._columns[device] = torch.as_tensor(self.chosen_BN.T.copy(), device=device).unbind(0)
        return self._columns[device]


@dataclass(frozen=True)
class Replayed:
    """What one replayed call did by itself.

    Attributes:
        trace_BN: the tokens it was given, int64 [B, N].
        chosen_BN: those it chose in the same contexts.
        stopped_BN: whether the criteria would have stopped a row there.
        forwards: forwards that the loop prepared (those a processor makes by itself are not among them).
    """

    trace_BN: NDArray[np.int64]
    chosen_BN: NDArray[np.int64]
    stopped_BN: NDArray[np.bool_]
    forwards: int

    @property
    def differing(self) -> int:
        """Choices that differ from the trace."""
        return int((self.chosen_BN != self.trace_BN).sum())


class Replay:
    """A context manager in which each generate call of a model replays a trace.

    It nests with an Instrument either way. Entered after it, `with Instrument(...), Replay(...)`, seeding lies
    outside the recorded call; entered before, in its `setup`. A streamer is handed the tokens that were chosen,
    not those that were forced. Calls made inside a replayed one, and in other threads, are left alone.

    Examples:
        >>> trace = record(model, ids, 32, do_sample=False)  # doctest: +SKIP
        >>> with Replay(model, trace) as replayed:  # doctest: +SKIP
        ...     model.generate(ids, max_new_tokens=32, do_sample=False)
        >>> replayed.calls[0].differing  # doctest: +SKIP
        0

    Args:
        model: what `find_model` takes.
        traces: one for all calls, or one each; after the last comes the first again.

    Raises:
        InputError: not a transformers model that generates, no trace, or a missing extra. In a call: it does not
            fit its trace (another batch, no room for N tokens), or its loop does not add one token a step.
    """

    def __init__(self, model: object, traces: GenerateTrace | Sequence[GenerateTrace]) -> None:
        version.require()
        self.model = find_model(model)
        self._traces = [traces] if isinstance(traces, GenerateTrace) else list(traces)
        if not self._traces:
            raise InputError("there is no trace to replay; record one")
        self._driver = _Driver(self.model)
        self._begun = 0

    @property
    def calls(self) -> list[Replayed]:
        """The calls so far. Reading it waits for the device and copies what was kept there."""
        return [call.replayed() for call in self._driver.calls]

    @property
    def forwards(self) -> int:
        """Forwards that the loops of all calls so far prepared."""
        return sum(call.forwards for call in self._driver.calls)

    def clear(self) -> None:
        """Forget the calls so far; the next one replays the first trace."""
        self._driver.calls.clear()
        self._begun = 0

    @uninterrupted(undo="_restore")
    def __enter__(self) -> Self:
        self._driver.install(self._next)
        return self

    @uninterrupted()
    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _restore(self) -> None:
        self._driver.restore()

    def _next(self) -> "_Call":
        trace = self._traces[self._begun % len(self._traces)]
        self._begun += 1
        return _Call(trace.chosen_BN.shape[1], trace.seed, trace)


def record(model: object, inputs: object, new_tokens: int, *, seed: int = 0, **generate_kwargs: Value) -> GenerateTrace:
    """Generate `new_tokens` tokens as the model chooses them, and keep them.

    Neither an end-of-sequence token nor another criterion ends it, so that N is N. torch's generators are
    left as they were.

    Args:
        model: what `find_model` takes.
        inputs: token ids [B, T], or a mapping with what generate takes (`input_ids`, `inputs_embeds` ...).
        new_tokens: at least 1.
        seed: of torch's generators.
        generate_kwargs: for generate, without a length.

    Raises:
        InputError: as `Replay`, or a length among the arguments.
    """
    version.require()
    if new_tokens < 1:
        raise InputError(f"new_tokens is {new_tokens}: it must be at least 1")
    for name in _LENGTHS:
        if name in generate_kwargs:
            raise InputError(f"{name} is given by new_tokens, leave it out")
    core = find_model(model)
    driver = _Driver(core)
    try:
        driver.install(lambda: _Call(new_tokens, seed, None))
        result = core.generate(**as_arguments(inputs), max_new_tokens=new_tokens, **generate_kwargs)
    finally:
        driver.restore()
    ids = sequences_of(result).cpu().numpy().astype(np.int64)
    position = driver.calls[0].position if driver.calls else 0
    if position != new_tokens:
        raise InputError(f"this generate call made {plural(position, 'token')} instead of {new_tokens}: no trace")
    return GenerateTrace(ids[:, :-new_tokens], ids[:, -new_tokens:], seed=seed)


@contextmanager
def generators_kept(model: "Model") -> Iterator[None]:
    """Leave torch's generators as they were (law "the state is as before"): calls that are thrown away draw as well."""
    import torch

    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def as_arguments(inputs: object) -> dict[str, Value]:
    """What generate takes, from token ids or a mapping such as a tokenizer gives."""
    return dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}


class _Call:
    """One call in progress, and the first of its stopping criteria: it keeps the choice and forces the trace's.

    What it keeps stays on the device until it is read, so that no step waits for it.
    """

    __name__ = "Replay"  # gives the part its name, stop/Replay

    def __init__(self, new_tokens: int, seed: int, trace: GenerateTrace | None) -> None:
        self.new_tokens = new_tokens
        self.seed = seed
        self.forwards = 0
        self.position = 0
        self._trace = trace
        self._limit: int | None = None
        self._width = 0
        self._columns: tuple[torch.Tensor, ...] | None = None
        self._chosen: list[torch.Tensor] = []
        self._stopped: list[torch.Tensor] = []

    def plan(self, generation_config: GenerationConfig) -> None:
        """See that the call can be replayed."""
        if (generation_config.num_beams or 1) > 1:
            raise InputError("beam search cannot be replayed: it revises its choices; leave num_beams out")
        self._limit = generation_config.max_length

    def __call__(self, input_ids: "torch.Tensor", _scores: object, **_kwargs: object) -> "torch.Tensor":
        """Overwrite the newest column of `input_ids` [B, T]; the answer is that nothing stops, bool [B]."""
        position = self.position
        if position == 0:
            self._begin(input_ids)
        if input_ids.shape[1] != self._width + position or position >= self.new_tokens:
            raise InputError("this loop does not add one token a step, so that it cannot be replayed")
        newest = input_ids[:, -1]
        self._chosen.append(newest.clone())
        if self._columns is not None:
            newest.copy_(self._columns[position])
        self.position = position + 1
        return self._no

    def hold(self, answer: "torch.Tensor") -> "torch.Tensor":
        """Keep the criteria's answer, bool [B], and give the one that makes N steps."""
        self._stopped.append(answer)
        return self._no if self.position < self.new_tokens else self._yes

    def replayed(self) -> Replayed:
        """What the call did by itself."""
        import torch

        position = self.position
        chosen = torch.stack(self._chosen, 1).cpu().numpy().astype(np.int64)
        trace = chosen if self._trace is None else self._trace.chosen_BN[:, :position]
        return Replayed(trace, chosen, torch.stack(self._stopped, 1).cpu().numpy(), self.forwards)

    def _begin(self, input_ids: "torch.Tensor") -> None:
        import torch

        rows, self._width = input_ids.shape
        room = self.new_tokens if self._limit is None else self._limit - self._width + 1
        if room < self.new_tokens:
            raise InputError(
                f"the call has room for {plural(room, 'new token')}, the trace holds {self.new_tokens}: give "
                f"max_new_tokens={self.new_tokens}"
            )
        if self._trace is not None:
            if rows != len(self._trace.chosen_BN):
                raise InputError(
                    f"the call has {plural(rows, 'row')}, the trace {len(self._trace.chosen_BN)}: give the same batch"
                )
            self._columns = self._trace.columns(input_ids.device)
        self._no = torch.zeros(rows, dtype=torch.bool, device=input_ids.device)
        self._yes = ~self._no


class _Driver:
    """The wrappers, and the call that is in progress."""

    def __init__(self, model: Model) -> None:
        self.calls: list[_Call] = []
        self._model = model
        self._wraps = Wraps()
        self._open: _Call | None = None
        self._thread: int | None = None
        self._depth = 0

    @uninterrupted(undo="restore")
    def install(self, make: "Callable[[], _Call]") -> None:
        """Wrap the model; `make` gives the `_Call` of each generate call."""
        self._open, self._thread, self._depth = None, None, 0
        try:
            self._wraps.method(self._model, "prepare_inputs_for_generation", self._inputs)
            self._wraps.method(self._model, "_get_stopping_criteria", self._criteria)
            self._wraps.method(self._model, "_get_candidate_generator", self._candidates)
            self._wraps.method(self._model, "generate", lambda original: self._generate(original, make))
        except BaseException:
            self.restore()
            raise

    @uninterrupted()
    def restore(self) -> None:
        """Take the wrappers away."""
        self._wraps.restore()

    def _here(self) -> _Call | None:
        """The call in progress, if it is the one that a wrapper sees now."""
        return self._open if self._depth == 1 and self._thread == get_ident() else None

    def _generate(self, original: Function, make: "Callable[[], _Call]") -> Function:
        def generate(model: Model, *args: object, **kwargs: object) -> object:
            if self._open is not None:
                return self._other(original, model, *args, **kwargs)
            import torch

            call = make()
            devices = [model.device] if model.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(call.seed)
                try:
                    self._open, self._thread, self._depth = call, get_ident(), 1
                    result = original(model, *args, **kwargs)
                finally:
                    self._open, self._thread, self._depth = None, None, 0
            self.calls.append(call)
            return result

        return generate

    def _other(self, original: Function, *args: object, **kwargs: object) -> object:
        """A call in another thread, or one made inside the replayed call."""
        if self._thread != get_ident():
            return original(*args, **kwargs)
        self._depth += 1
        try:
            return original(*args, **kwargs)
        finally:
            self._depth -= 1

    def _inputs(self, original: Function) -> Function:
        def prepare_inputs_for_generation(model: Model, *args: object, **kwargs: object) -> object:
            call = self._here()
            if call is not None:
                call.forwards += 1
            return original(model, *args, **kwargs)

        return prepare_inputs_for_generation

    def _criteria(self, original: Function) -> Function:
        def _get_stopping_criteria(model: Model, *args: Value, **kwargs: Value) -> object:
            criteria, call = original(model, *args, **kwargs), self._here()
            if call is None:
                return criteria
            call.plan(kwargs["generation_config"] if "generation_config" in kwargs else args[0])
            return _held(criteria, call)

        return _get_stopping_criteria

    def _candidates(self, original: Function) -> Function:
        def _get_candidate_generator(model: Model, *args: object, **kwargs: object) -> object:
            if self._here() is not None:
                raise InputError("assisted decoding cannot be replayed: its steps add several tokens; leave it out")
            return original(model, *args, **kwargs)

        return _get_candidate_generator


def _held(criteria: list[object], call: _Call) -> object:
    """The same criteria behind the one that forces, in a list whose answer is kept and not obeyed."""
    base: Value = type(criteria)

    class Held(base):  # type: ignore[misc]
        """The list as it was, whose answer makes N steps."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            return call.hold(super().__call__(*args, **kwargs))

    return Held([call, *criteria])
