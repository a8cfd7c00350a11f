"""What `generate` finds: the findings of its ablation."""

from collections.abc import Sequence

from perstep.experiments.ablation.findings import AblationFindings
from perstep.experiments.ablation.findings import analyse as analyse_ablation
from perstep.experiments.ablation.samples import Sample
from perstep.runs import Manifest


def analyse(manifest: Manifest, samples: Sequence[Sample]) -> AblationFindings:
    """What the samples say: a pure function.

    Raises:
        InputError: there are no samples, or they do not hold the same cells and parts.
    """
    return analyse_ablation(manifest, samples)
