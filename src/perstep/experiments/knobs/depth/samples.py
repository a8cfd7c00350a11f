"""What the manifest of `depth` holds besides that of the other knobs."""

from perstep.experiments.knobs.samples import Conditions as OfKnobs


class Conditions(OfKnobs, kw_only=True):
    """How `depth` measured.

    Attributes:
        strategy: which blocks are active, in a word.
        quality_of: the text that quality was measured on, in words; None where none was measured.
        importance: the blocks in falling importance; None with another strategy.
    """

    strategy: str
    quality_of: str | None
    importance: list[int] | None
