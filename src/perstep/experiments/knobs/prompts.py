"""`--prompts FILE.jsonl`: several prompts in one run, an object a line with a `prompt` (text) or `ids` (token ids).

Each line is a workload of its own: it is recorded, replayed and estimated by itself, so that the positions of prompts
of different lengths are never averaged into one another (law "medians do not add"). Other keys of a line are passed
over.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perstep._files import read_given_text
from perstep._json import Json
from perstep.errors import InputError
from perstep.targets import Target

_RIGHT = 'a line is an object such as {"prompt": "a text"} or {"ids": [1, 2, 3]}'


@dataclass(frozen=True)
class Prompt:
    """One line of the file.

    Attributes:
        where: the file and the line, for messages.
        text: to encode with the model's tokenizer; None where there are ids.
        ids: of the tokens.
    """

    where: str
    text: str | None = None
    ids: tuple[int, ...] = ()

    def encode(self, target: Target, batch: int) -> NDArray[np.int64]:
        """The same token ids in every row, [batch, T].

        Raises:
            InputError: the model has no tokenizer, the text has no token, or an id is none of the vocabulary.
        """
        ids = list(self.ids) if self.text is None else self._tokens(target, self.text)
        vocab = target.facts["vocab"]
        wrong = next((i for i in ids if not 0 <= i < vocab), None)
        if wrong is not None:
            raise InputError(f"{self.where}: token id {wrong} is outside the vocabulary, 0 to {vocab - 1}")
        return np.tile(np.asarray(ids, np.int64), (batch, 1))

    def _tokens(self, target: Target, text: str) -> list[int]:
        if target.source is None:
            raise InputError(f"{self.where}: {target.name} has no tokenizer; give `ids` in place of `prompt`")
        try:
            ids = target.encode(text)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from error
        if not ids:
            raise InputError(f"{self.where}: the prompt has no token; give a text of at least one")
        return ids


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file; empty lines are passed over.

    Raises:
        InputError: the file cannot be read or has no prompt, or a line, which is named, is not as it must be.
    """
    try:
        content = read_given_text(path, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--prompts {path}: {reason}; give a JSONL file: {_RIGHT}") from error
    # Not splitlines: a JSON string may hold U+2028 as it is.
    lines = enumerate(content.split("\n"), start=1)
    prompts = [_prompt(f"--prompts {path}, line {number}", line) for number, line in lines if line.strip()]
    if not prompts:
        raise InputError(f"--prompts {path} is empty: {_RIGHT}")
    return prompts


def _prompt(where: str, line: str) -> Prompt:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON; {_RIGHT}") from error
    if not isinstance(record, dict) or ("prompt" in record) == ("ids" in record):
        what = "has both `prompt` and `ids`" if isinstance(record, dict) and "ids" in record else "has no `prompt`"
        raise InputError(f"{where} {what}; {_RIGHT}")
    if "ids" in record:
        if not _are_ids(record["ids"]):
            raise InputError(f"{where}: `ids` must be a list of at least one token id; {_RIGHT}")
        return Prompt(where, ids=tuple(record["ids"]))
    if not _is_text(record["prompt"]):
        raise InputError(f"{where}: `prompt` must be a text of at least one character; {_RIGHT}")
    return Prompt(where, text=record["prompt"])


def _are_ids(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _is_text(value: Json) -> bool:
    """A lone surrogate, which JSON can write, is no text: it has no UTF-8."""
    return isinstance(value, str) and bool(value) and not any("\ud800" <= char <= "\udfff" for char in value)
