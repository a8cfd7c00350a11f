"""The folder's own tokenizer.json, read at the first use; a folder without one still runs on token ids."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from perstep.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class FolderTokenizer:
    """Text to ids and back, as tokenizer.json says (its special tokens included when encoding)."""

    def __init__(self, folder: Path):
        self.path = folder / "tokenizer.json"

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        from tokenizers import Tokenizer  # only here: 20 ms that a run on ids does not pay

        if not self.path.is_file():
            raise InputError(
                f"{self.path.parent} has no tokenizer.json; give --prompt-tokens, or token ids, in place of text"
            )
        try:
            return Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"{self.path} is not a readable tokenizer: {error}") from error

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return str(self._tokenizer.decode(list(ids)))
