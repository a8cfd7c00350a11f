"""What is measured: models with their decode loops."""

from perstep.targets.opening import BUILT_IN, Opened, describe_target, make_prompt, open_model, open_target

__all__ = ["BUILT_IN", "Opened", "describe_target", "make_prompt", "open_model", "open_target"]
