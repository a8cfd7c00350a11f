"""The options of `perstep mask`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from cyclopts import Parameter

from perstep.errors import InputError
from perstep.experiments.options import Counts, RunOptions, Seconds, format_counts
from perstep.measure import Effort

DEFAULT_TOKENS = 32
FEWEST_TOKENS = (16, 8, 4)
"""Shorter texts, where their length is left open."""


@dataclass(frozen=True, kw_only=True)
class Plan(RunOptions):
    """The options of `perstep mask`."""

    least: ClassVar[dict[str, int]] = RunOptions.least | {"new_tokens": 2}

    schema: Path | None = None
    """File with the JSON schema. [default: the conjugation schema that mini was trained on]"""

    engine: str | None = None
    """What computes the masks, a list: naive, naive-memo, table, table-lazy, auto, llguidance, outlines,
    xgrammar. [default: those installed, without naive-memo]"""

    vocab: str | None = None
    """Vocabularies, a list: mini (its own 512 tokens; `own` for another model's), and sizes up to 131072 of the real
    one. [default: mini,4096,32768,131072; --fast mini,4096; without the grammar extra mini alone]"""

    model: Annotated[str, Parameter(name=["-m", "--model"])] = "mini"
    """`mini`, the built-in model, or a folder with config.json and safetensors of a Llama-family model."""

    device: str = "cpu"
    """Where the step runs: cpu (perstep's own decoder), or cuda (the same model by transformers; masks on tensors)."""

    new_tokens: Annotated[int | None, Parameter(name=["-n", "--new-tokens"])] = None
    """Tokens of valid objects that every arm replays: one prefill and N - 1 decode steps. [default: 32, or fewer where
    steps are long]"""

    batch: Annotated[Counts, Parameter(name=["-b", "--batch"], show_default=format_counts)] = (1,)
    """Sequences decoded side by side, each under a mask of its own; a list."""

    complexity: Annotated[Counts, Parameter(show_default=format_counts)] = (1,)
    """Factors for the number of fields and the length of enums in the schema; a list."""

    whitespace: str = "fixed"
    """Between JSON tokens: `fixed` as json.dumps writes, `flexible`, or a regex (not every engine knows one)."""

    max_depth: int | None = None
    """How deep a recursive schema may nest; engines that are finite automata need it."""

    budget: Seconds | None = None
    """Begin no new round after this time, e.g. 30s; building engines is inside, and may take half of it. [default: 2m;
    --fast 8s; --rigorous 10m]"""

    def effort(self) -> Effort:
        """The options as an effort; masks at large vocabularies need more time than a ledger of one model.

        Raises:
            InputError: `fast` and `rigorous` together, or an option out of its range.
        """
        usual = super().effort()
        budget_s = 8.0 if self.fast else 600.0 if self.rigorous else 120.0
        if self.budget is not None or self.rounds is not None:
            budget_s = usual.budget_s
        return Effort(budget_s=budget_s, precision=usual.precision, max_rounds=usual.max_rounds)

    @property
    def lengths(self) -> list[int]:
        """How many tokens may be replayed, the most first: what was asked for, or the usual number and fewer."""
        return [DEFAULT_TOKENS, *FEWEST_TOKENS] if self.new_tokens is None else [self.new_tokens]

    def rounds_wanted(self) -> int:
        """As many as a verdict needs; a quick look is content with what an interval needs."""
        return self.rounds or (10 if self.fast else 20)

    def check(self) -> None:
        """See that lists are not empty.

        Raises:
            InputError: one is.
        """
        for name in ("batch", "complexity"):
            if not getattr(self, name):
                raise InputError(f"--{name} is empty; give one number or more")
