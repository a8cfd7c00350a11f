"""The built-in Llama-family decoder in NumPy: `load`, `prefill`, `decode_one_token`, `sample`, `stop`."""

from perstep.targets.reference.cache import CacheFull, KVCache
from perstep.targets.reference.config import Config
from perstep.targets.reference.generate import generate
from perstep.targets.reference.load import load
from perstep.targets.reference.model import Reference, decode_one_token, forward, prefill
from perstep.targets.reference.parts import BOUNDARIES, Mark, no_mark
from perstep.targets.reference.sample import GREEDY, Sampler, allowed, gumbel_noise, sample, stop

__all__ = [
    "BOUNDARIES",
    "GREEDY",
    "CacheFull",
    "Config",
    "KVCache",
    "Mark",
    "Reference",
    "Sampler",
    "allowed",
    "decode_one_token",
    "forward",
    "generate",
    "gumbel_noise",
    "load",
    "no_mark",
    "prefill",
    "sample",
    "stop",
]
