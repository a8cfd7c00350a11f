"""The vocabularies that are measured: the model's own, and a real one cut to size.

A smaller vocabulary is the first V tokens of mistral-common's 131,072 that keep every byte and the end token, in their
old order. The model's head, and with it the embedding, gets as many rows: the model's own where the vocabulary is,
drawn at random elsewhere (law "random weights are a statement": the cost of the product does not depend on them).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np

from perstep._words import plural
from perstep.automata import Vocabulary
from perstep.errors import InputError, how_to_install
from perstep.experiments.options import parse_counts
from perstep.targets import BUILT_IN
from perstep.targets.reference import Reference
from perstep.targets.reference.memory import refuse_if_too_large

REAL_FILE = "tekken_240911.json"
REAL_SIZE = 131_072


@dataclass(frozen=True)
class Named:
    """A vocabulary by the name it was asked for with: that of the model, or its size.

    Attributes:
        name: `mini`, `own` for another model's, or a number.
        vocabulary: the tokens.
        own: whether they are the model's own.
    """

    name: str
    vocabulary: Vocabulary
    own: bool


def own_name(model: str) -> str:
    """What the model's own vocabulary is called on the command line."""
    return BUILT_IN if model == BUILT_IN else "own"


def has_real() -> bool:
    """Whether the real vocabulary is installed."""
    return find_spec("mistral_common") is not None


def parse_vocab(text: str, own: str) -> tuple[str, ...]:
    """`mini,4096,512-2048*2` as names: the model's own first, then sizes in ascending order.

    Args:
        text: as written.
        own: the word for the model's own vocabulary.

    Raises:
        InputError: something else, or a size where the real vocabulary is not installed.
    """
    words = [word.strip() for word in text.split(",")]
    numbers = [word for word in words if word != own]
    try:
        sizes = parse_counts(",".join(numbers)) if numbers else ()
    except ValueError as error:
        raise InputError(f"--vocab {text!r}: write {own}, sizes such as 4096,131072, or both ({error})") from error
    if sizes and not has_real():
        raise InputError(f"--vocab {sizes[0]} needs the real vocabulary of mistral-common; {how_to_install('grammar')}")
    return (*([own] if own in words else []), *map(str, sizes))


class Vocabularies:
    """Makes vocabularies by name; the real one is read once, when first asked for."""

    def __init__(self, model: Reference, own: str) -> None:
        self._model, self._own = model, own
        self._real: Vocabulary | None = None

    def named(self, name: str) -> Named:
        """The vocabulary of this name.

        Raises:
            InputError: no vocabulary can be cut to this size, or the model's tokenizer has no end token.
        """
        own = name == self._own
        return Named(name, self.own() if own else self.of_size(int(name)), own)

    def own(self) -> Vocabulary:
        """The model's own tokens."""
        from tokenizers import Tokenizer

        config, path = self._model.config, self._model.tokenizer.path
        if not path.is_file():
            raise InputError(f"{path.parent} has no tokenizer.json, so the bytes of its tokens are not known")
        if not config.eos_ids:
            raise InputError(f"{path.parent} names no end token, so a text could never end; give eos_token_id")
        return Vocabulary.from_tokenizer(Tokenizer.from_file(str(path)), size=config.vocab, eos_ids=config.eos_ids)

    def of_size(self, size: int) -> Vocabulary:
        """The first tokens of the real vocabulary; all of them for its whole size."""
        if self._real is None:
            self._real = _read_real()
        return self._real if size == self._real.size else self._real.first(size)[0]


def _read_real() -> Vocabulary:
    import mistral_common
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    folder = Path(mistral_common.__file__).parent / "data"
    return Vocabulary.from_tekken(Tekkenizer.from_file(folder / REAL_FILE))


def widened(model: Reference, named: Named, seed: int) -> Reference:
    """The model with a head over this vocabulary: its own where it is the model's, random rows elsewhere.

    Random rows have the spread of the model's own, are shared by embedding and head, and are as wide.

    Raises:
        InputError: they do not fit into memory.
    """
    if named.own:
        return model
    size, hidden = named.vocabulary.size, model.config.hidden
    refuse_if_too_large(f"an embedding of {size:,} x {hidden}", 4 * size * hidden)
    rng = np.random.default_rng([seed, 2, size])
    rows_VD = rng.standard_normal((size, hidden), dtype=np.float32) * np.float32(model.embedding_VD.std())
    config = replace(model.config, vocab=size, tied=True, eos_ids=named.vocabulary.eos_ids)
    return replace(model, config=config, embedding_VD=rows_VD, head_DV=rows_VD.T)


class Cutter:
    """Cuts bytes into tokens: the longest one at each place. Where tokens are equal, the first."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._id_of: dict[bytes, int] = {}
        for token, data in enumerate(vocabulary.tokens):
            if data:
                self._id_of.setdefault(data, token)
        self._longest = max(map(len, self._id_of))

    def cut(self, data: bytes) -> list[int]:
        """The token ids of `data`.

        Raises:
            InputError: a byte has no token.
        """
        ids, at = [], 0
        while at < len(data):
            end = next((e for e in range(min(len(data), at + self._longest), at, -1) if data[at:e] in self._id_of), at)
            if end == at:
                raise InputError(f"the vocabulary cannot spell the byte 0x{data[at]:02X}, which a text needs")
            ids.append(self._id_of[data[at:end]])
            at = end
        return ids


class AboutVocabulary(msgspec.Struct, kw_only=True):
    """What a manifest says of a vocabulary.

    Attributes:
        name: of the vocabulary.
        size: tokens.
        sha256: of all tokens.
        special_ids: how many ids stand for no text.
        duplicates: how many tokens have the text of another.
        made: how, in words.
    """

    name: str
    size: int
    sha256: str
    special_ids: int
    duplicates: int
    made: str


def describe_vocabulary(named: Named) -> AboutVocabulary:
    """What a manifest says of a vocabulary."""
    vocabulary = named.vocabulary
    origin = "the model's own tokenizer, its own head" if named.own else _how_made(vocabulary.size)
    return AboutVocabulary(
        name=named.name,
        size=vocabulary.size,
        sha256=vocabulary.hash,
        special_ids=len(vocabulary.special_ids),
        duplicates=len(vocabulary.duplicates),
        made=origin,
    )


def _how_made(size: int) -> str:
    head = f"a head {size:,} wide with random rows"
    if size == REAL_SIZE:
        return f"all tokens of mistral-common's {REAL_FILE}, {head}"
    return (
        f"the first {plural(size, 'token')} of mistral-common's {REAL_FILE} that keep every byte and the end token, "
        f"{head}"
    )


def spell(vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    """Tokens as text, for a message."""
    return vocabulary.spell(tokens).decode("utf-8", "replace")
