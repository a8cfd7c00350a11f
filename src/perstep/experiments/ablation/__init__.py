"""What taking processors and criteria away from generate saves (law "arms do the same work": one trace is replayed)."""

from perstep.experiments.ablation.api import Ablation, ablate

__all__ = ["Ablation", "ablate"]
