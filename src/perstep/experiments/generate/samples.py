"""What the manifest of `generate` holds besides that of any ablation."""

from perstep.experiments.ablation.samples import Conditions as OfAblation
from perstep.experiments.conditions import GeneratedWorkload


class Conditions(OfAblation, kw_only=True):
    """How `generate` measured.

    Attributes:
        tf32: whether matrix products may use it.
        cudnn_benchmark: whether cuDNN tries its algorithms.
        attn_implementation: as transformers names it.
        dtype: of the weights.
    """

    tf32: bool
    cudnn_benchmark: bool
    attn_implementation: str
    dtype: str


class Workload(GeneratedWorkload, kw_only=True):
    """The work of `generate`.

    Attributes:
        parts: names.
        preset: under which the parts are known; None where they are the user's.
        new_tokens: of each call.
        compiled: the compiler's backend; None without one.
    """

    parts: list[str]
    preset: str | None
    new_tokens: list[int]
    compiled: str | None
