"""What the manifest of `generate` holds besides that of any ablation."""

from perstep.experiments.ablation.samples import Conditions as OfAblation
from perstep.experiments.conditions import ModelWorkload


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


class Workload(ModelWorkload, kw_only=True):
    """The work of `generate`.

    Attributes:
        token_ids_sha256: of prompts and traces.
        model_config_sha256: of the model's configuration.
        parts: names.
        preset: under which the parts are known; None where they are the user's.
        batch: sequences.
        new_tokens: of each call.
        temperature: 0 chooses the most probable token.
        top_k: draws among so many tokens; 0 for all.
        top_p: draws among tokens that hold this probability together.
        compiled: the compiler's backend; None without one.
    """

    token_ids_sha256: str
    model_config_sha256: str
    parts: list[str]
    preset: str | None
    batch: int
    new_tokens: list[int]
    temperature: float
    top_k: int
    top_p: float
    compiled: str | None
