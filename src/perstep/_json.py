"""The type of what was read from JSON, for every room; reading and checking are where the fact is known."""

from typing import Any

Json = Any
"""Numbers, words, lists and objects of them: which of these, the reader's checks say."""
