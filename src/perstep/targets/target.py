"""What is measured, whatever runs it: a model with its decode loop, and everything that experiments ask of it.

An experiment knows `Target` alone. Each backend has one file with a subclass (`reference/target.py`,
`transformers/target.py`); what only some backends can do has a default here that says so. No clock is read here: a
pass gets a recorder, and lays its marks there.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from perstep._json import Json
from perstep._words import plural
from perstep.errors import InputError
from perstep.measure import Clock, Recorder, Trace
from perstep.measure.device_work import TraceWork
from perstep.targets.prompts import drawn_rows, heldout_rows, same_rows
from perstep.targets.reference.sample import GREEDY, Sampler
from perstep.theory import Backend as Theory

if TYPE_CHECKING:
    from perstep.targets.transformers.cuda import DeviceRecorder
    from perstep.targets.transformers.experts import Routers
    from perstep.targets.transformers.images import ImagePrompt
    from perstep.targets.transformers.syncs import Syncs

Ids = NDArray[np.int64]
Backend = Literal["numpy", "torch"]
EitherModel = Any
"""A `Reference` where the backend is numpy, a transformers model where it is torch."""
Argument = Any
"""A further argument of the model's own call, such as images: its type goes by its name."""
Logits = Any
"""What a step of a backend gives; `CachedSteps.logits` makes an array of it."""
AnyRecorder = Any
"""A `Recorder`, or one that counts syncs or times a device's stream in its place."""
BUILT_IN = "mini"
"""The name of the model that comes with the package."""

PLAIN = "plain"
"""The detail of a pass that takes the duration of each step alone."""
STAGES = "stages"
"""The detail of a pass that tells the stages of a step apart: `forward` (and `vision` before it), what comes after."""


@dataclass(frozen=True)
class Work:
    """What a pass does.

    Attributes:
        prompt_BT: what is given to the model; with an encoder, to that.
        trace: the tokens to replay.
        sampler: how the model chooses them.
        extra: further arguments of its call (images).
        vision_tokens: tokens of the prompt, a row, that stand for images.
    """

    prompt_BT: Ids
    trace: Trace
    sampler: Sampler = GREEDY
    extra: Mapping[str, Argument] = field(default_factory=dict)
    vision_tokens: int = 0

    @property
    def new_tokens(self) -> int:
        """Tokens that a pass generates."""
        return int(self.trace.chosen_BN.shape[1])

    @property
    def positions(self) -> int:
        """Positions that the cache holds at the end of a pass."""
        return int(self.prompt_BT.shape[1]) + self.new_tokens - 1

    @property
    def text_tokens(self) -> int:
        """Tokens of the prompt, a row, that are text."""
        return int(self.prompt_BT.shape[1]) - self.vision_tokens

    def shortened(self, new_tokens: int) -> "Work":
        """The same work, ended after this number of tokens."""
        return replace(self, trace=replace(self.trace, chosen_BN=self.trace.chosen_BN[:, :new_tokens]))


@dataclass(frozen=True)
class CacheKind:
    """A kind of KV cache.

    Attributes:
        name: as `--cache` takes it, or `built-in`.
        grows: whether it takes memory as it is filled; else all of it beforehand.
        theory: how theory counts a step with it.
        theory_without: the same for a step without a cache.
    """

    name: str
    grows: bool
    theory: Theory
    theory_without: Theory


@dataclass(frozen=True)
class Buffer:
    """One live array of a cache: its address and its bytes."""

    address: int
    num_bytes: int


class CachedSteps(ABC):
    """Single decode steps with a cache whose cursor can be put back, and without one.

    Both run the same model code; without a cache everything up to the new token is computed again. The context does
    not move: a step appends a token, `rewind` forgets it. The prompt has max(contexts) + 1 tokens in every row; the
    last is the one that is decoded.

    Attributes:
        capacity: positions allocated beforehand; None for a cache that grows.
    """

    capacity: int | None

    @abstractmethod
    def fill(self, contexts: Sequence[int]) -> None:
        """Prefill, so that `rewind` can go to each of these contexts."""

    @abstractmethod
    def rewind(self, context: int) -> None:
        """Let the cache hold the first `context` tokens of the prompt."""

    @abstractmethod
    def step_with(self, context: int) -> Logits:
        """Decode the token after `context` held ones and choose the next; the logits [B, V]."""

    @abstractmethod
    def step_without(self, context: int) -> Logits:
        """The same without a cache: one forward over `context` + 1 tokens."""

    @abstractmethod
    def logits(self, result: Logits) -> NDArray[np.float32]:
        """What a step gave, as an array [B, V]."""

    @abstractmethod
    def buffers(self) -> list[Buffer]:
        """The live arrays of the cache that was rewound last."""

    @abstractmethod
    def used_bytes(self) -> int:
        """The bytes of the positions it holds, read from those arrays."""

    def held_at(self, context: int) -> Ids:
        """Where the positions of a context lie: [ranges, 2] first address and the one after the last."""
        return np.array([[b.address, b.address + b.num_bytes] for b in self.buffers()], np.int64)

    def on_new_pages(self) -> None:
        """Give the cache pages that nobody has written yet, where it fills its buffers when it is made."""


@dataclass(eq=False)
class Target(ABC):
    """A model that was found and loaded.

    Attributes:
        name: as `shown_name` has it: `mini`, the folder's name, the hub id, or the architecture's name, with the layers
            that were kept of it.
        model: in evaluation mode, on its device.
        random_weights: whether the weights are random (law "random weights are a statement").
        facts: its shapes for a manifest; `total_layers` among them where layers were left out.
        source: the folder or hub id that it was loaded from, or `mini`; None for an architecture with random weights.
        backend: as `--backend` names it.
        library: whose matrix products it runs.
        boundaries: part -> what lies inside it.
        discarded: what comes before a recorded pass, in words.
        cache: what the passes have, in words.
        details: how far a pass can look into the forward, besides PLAIN and STAGES; the usual one first.
    """

    name: str
    model: EitherModel
    random_weights: bool
    facts: dict[str, Json]
    source: str | None = None

    backend: ClassVar[Backend]
    library: ClassVar[Literal["numpy", "torch"]]
    boundaries: ClassVar[Mapping[str, str]]
    discarded: ClassVar[str]
    cache: ClassVar[str]
    details: ClassVar[Sequence[str]] = ()

    # What it is

    @property
    def config(self) -> dict[str, Json]:
        """Its config.json as a dictionary, for a manifest and `theory.read_config`; empty where there is none."""
        return {}

    @property
    @abstractmethod
    def config_hash(self) -> str:
        """SHA-256 of its configuration."""

    @property
    def theory(self) -> Theory:
        """How theory counts its steps, where it can read `config`."""
        raise NotImplementedError

    @property
    def unknown_arithmetic(self) -> str:
        """Why theory cannot count the operations of its layers, whatever `config` says; empty where it can."""
        return ""

    @property
    def device(self) -> str:
        """Where it runs, as torch spells it."""
        return str(self.facts.get("device", "cpu"))

    @property
    def num_blocks(self) -> int:
        """How many decoder blocks it has."""
        return int(self.facts["num_layers"])

    @property
    def positions(self) -> int | None:
        """The most positions that its context has; None where nothing limits it."""
        most: int | None = self.facts.get("max_positions")
        return most

    # What it is fed

    def encode(self, text: str) -> list[int]:
        """The token ids of a text.

        Raises:
            InputError: the model has no tokenizer.
        """
        raise InputError(f"{self.name} has no tokenizer; give --prompt-tokens in place of text")

    def prompt(self, *, text: str | None, num_tokens: int, batch: int, seed: int) -> Ids:
        """Token ids to begin with, [batch, T].

        Args:
            text: encoded with the model's own tokenizer and given to every row. Without one `mini` gets sentences of
                its held-out set, and any other model ids drawn at random.
            num_tokens: T, where there is no text.
            batch: rows.
            seed: of the ids.

        Raises:
            InputError: the text encodes to no token, or the model has no tokenizer for it.
        """
        if text is not None:
            return same_rows(self.encode(text) if text else [], batch)
        if self.source == BUILT_IN:
            return heldout_rows(num_tokens, batch, seed)
        return drawn_rows(self.facts["vocab"], num_tokens, batch, seed, self.special_ids())

    def special_ids(self) -> Sequence[int]:
        """The token ids that mean something else than text."""
        return ()

    def check_fits(self, prompt_tokens: int, new_tokens: int) -> None:
        """See that a prompt and its continuation fit into the model's context.

        Raises:
            InputError: they do not, with what would.
        """
        most = self.positions
        if most is None or prompt_tokens + new_tokens - 1 <= most:
            return
        if prompt_tokens > most:
            raise InputError(
                f"a prompt of {plural(prompt_tokens, 'token')} is longer than the model's context of {most}"
            )
        raise InputError(
            f"a prompt of {prompt_tokens} and {plural(new_tokens, 'new token')} overflow the model's context of {most};"
            f" at most {plural(most - prompt_tokens + 1, 'new token fits', 'new tokens fit')}: --new-tokens "
            f"{most - prompt_tokens + 1}"
        )

    def check_memory(self, prompt_tokens: int, new_tokens: int, batch: int) -> None:
        """See that a call is likely to fit into memory.

        Raises:
            InputError: it does not, by a lower bound.
        """

    def scores_bytes(self, tokens: int, batch: int) -> int:
        """Of all heads in one layer at once, where a forward over these positions stores them."""
        return 0

    # Passes over a trace

    @abstractmethod
    def record(
        self,
        prompt_BT: Ids,
        new_tokens: int,
        sampler: Sampler = GREEDY,
        *,
        extra: Mapping[str, Argument] | None = None,
        vision_tokens: int = 0,
    ) -> Work:
        """What the model generates by itself, for all arms to replay.

        Args:
            prompt_BT: token ids, [batch, T].
            new_tokens: to generate; end tokens do not end it.
            sampler: how they are chosen.
            extra: further arguments of the call.
            vision_tokens: places of images in a row of the prompt.

        Raises:
            InputError: the model cannot generate so.
        """

    @abstractmethod
    def replay(
        self, work: Work, recorder: "Recorder | DeviceRecorder", detail: str | None, turn: int | None = None
    ) -> int:
        """One pass over the trace, after a prefill and a decode step that are not recorded.

        Args:
            work: what `record` gave.
            recorder: takes the steps, kinds `prefill` and `decode`, or `prefill.plain` and `decode.plain` where the
                detail is PLAIN; what it held is forgotten.
            detail: PLAIN, STAGES, one of `details`, or None where there are none: every part.
            turn: 0 or 1: steps with the detail's marks and steps of the kinds `prefill.plain` and `decode.plain`
                take turns inside the pass, as `measure.is_marked` says; None gives every step the marks.

        Returns:
            Choices that differ from the trace.

        Raises:
            InvalidMeasurement: the call did not execute one forward a token.
        """

    def check_state(self, work: Work) -> None:
        """See that passes left the state as the trace leaves it (law "the state is as before").

        Raises:
            InvalidMeasurement: they did not.
        """

    def checked_detail(self, asked: str | None) -> str | None:
        """The detail to use where this one was asked for, None for the usual one.

        Raises:
            InputError: there is nothing to choose from.
        """
        if asked is not None and asked not in self.details:
            raise InputError(f"--detail goes with transformers models; {self.name} always shows every part")
        return asked or next(iter(self.details), None)

    def logits(self, ids_T: Ids) -> NDArray[np.float64]:
        """The logits after each of some tokens, [T, V], in one forward without a cache.

        Raises:
            InputError: it has no such forward.
        """
        raise InputError(f"{self.name} tells no logits, so its quality is not known; give --quality-tokens 0")

    # Single steps

    def cache_kind(self, asked: str | None) -> CacheKind:
        """The kind of cache that `--cache` names; the usual one for None.

        Raises:
            InputError: it has no such cache.
        """
        raise InputError(f"{self.name} has no KV cache that can be put back, so none can be measured")

    def cached_steps(self, ids_BT: Ids, kind: CacheKind) -> CachedSteps:
        """Single decode steps at contexts up to the prompt's length.

        Args:
            ids_BT: the prompt, with the token that is decoded last.
            kind: of the cache.

        Raises:
            InputError: the model's cache cannot be put back, or would not fit into memory.
        """
        raise NotImplementedError

    # What only some backends have

    def limit_threads(self, threads: int) -> None:
        """Let a library that has threads of its own run with this number."""

    def settings(self, sampler: Sampler, detail: str | None) -> dict[str, Json]:
        """What decides how its steps are made, as the conditions of a `ledger` run say it: `generate`, `notes` ..."""
        return {}

    def syncs(self, work: Work, detail: str | None) -> "Mapping[str, Syncs]":
        """Waits for the device by kind of step, counted in a pass that is not timed; nothing where none can be."""
        return {}

    def stage_clock(self, clock: Clock) -> Clock:
        """The clock that tells stages apart: the host's, read once a device has done what was queued before."""
        return clock

    def stream_recorder(self, clock: Clock) -> "DeviceRecorder | None":
        """Records time on a device's stream besides; None without a device."""
        return None

    def profile(self, work: Work, detail: str | None) -> tuple[TraceWork, int] | None:
        """What a device does in one warm pass, and choices that differ; None without a device.

        Raises:
            InputError: the profiler sees no kernels here.
        """
        return None

    @property
    def takes_images(self) -> bool:
        """Whether it is a vision-language model."""
        return False

    def with_images(self, text_BT: Ids, num_images: int, image_size: int | None, *, seed: int) -> "ImagePrompt":
        """A prompt with this number of images in front of its text, in every row.

        Raises:
            InputError: it takes none.
        """
        raise InputError(f"{self.name} is a text model: it takes no images")

    def find_routers(self) -> "Routers":
        """The routers of a mixture of experts.

        Raises:
            InputError: it is a dense model, or its routers cannot be changed.
        """
        raise InputError(f"{self.name} is a dense model: give a mixture-of-experts model, such as --arch olmoe-1b-7b")


def shown_name(name: str, kept: int | None, total: int | None) -> str:
    """A model's name wherever it is shown, so that what was measured of a few layers is not said of all.

    Args:
        name: of the whole model.
        kept: layers that were kept; None for all.
        total: layers that it has.
    """
    return name if kept is None or total is None or kept == total else f"{name}, {kept} of {plural(total, 'layer')}"
