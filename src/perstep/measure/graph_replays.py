"""Which parts the kernels of a replayed graph belong to, from what the same region launched under ranges.

A replay is one call on the host and many kernels on the device, so no range tells them apart. Where the same kernels,
in the same order and with the same names, were launched one by one under ranges before (warm-up steps, or other steps
of the trace), they belong to the parts that they belonged to there. Where the sequence does not occur, or occurs with
different parts, nothing is said.
"""

from collections.abc import Iterable, Sequence

SHORTEST = 8
"""A replay of fewer kernels is not told apart: so few may stand in the same order where another region ran."""


class Seen:
    """Sequences of kernels whose parts are known.

    Args:
        sequences: each a run of launches in the order of the host, as (name of the kernel, part); part None where no
            range held the launch.
    """

    def __init__(self, sequences: Iterable[Sequence[tuple[str, str | None]]]) -> None:
        self._letters: dict[str, str] = {}
        listed = list(sequences)
        self._parts = [[part for _, part in sequence] for sequence in listed]
        self._texts = ["".join(self._letter(name) for name, _ in sequence) for sequence in listed]

    def parts_of(self, names: Sequence[str]) -> list[str | None] | None:
        """The part of each kernel of a replay; None where it is short, not seen, or not always seen in the same parts.

        Args:
            names: of the replay's kernels, in the order in which they ran.
        """
        if len(names) < SHORTEST or any(name not in self._letters for name in names):
            return None
        text = "".join(self._letters[name] for name in names)
        match: list[str | None] | None = None
        for sequence, parts in zip(self._texts, self._parts, strict=True):
            at = sequence.find(text)
            while at >= 0:
                here = parts[at : at + len(text)]
                if match is not None and match != here:
                    return None
                match = here
                at = sequence.find(text, at + 1)
        return match

    def _letter(self, name: str) -> str:
        """A character for each name, so that a sequence is found as a word in a text is."""
        # From the private planes on: no surrogates, and room for a million names.
        return self._letters.setdefault(name, chr(0x10000 + len(self._letters)))
