"""What comes back when processors and criteria are taken away from generate, on one replayed trace (law 3)."""

from perstep.experiments.ablation.api import Ablation, ablate

__all__ = ["Ablation", "ablate"]
