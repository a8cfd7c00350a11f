"""What the manifest of `experts` holds besides that of the other knobs."""

from perstep.experiments.knobs.samples import Conditions as OfKnobs


class Conditions(OfKnobs, kw_only=True):
    """How `experts` measured.

    Attributes:
        num_experts: among which a router chooses.
        own_top_k: experts a token of the unchanged model.
        own_implementation: of its experts, as transformers names it.
        quality_of: the text that quality was measured on, in words; None where none was measured.
    """

    num_experts: int
    own_top_k: int
    own_implementation: str
    quality_of: str | None
