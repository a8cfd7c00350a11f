"""Transformers models: their generate calls recorded step by step, and models to measure.

Importing this package imports neither torch nor transformers; its functions do, when called.
"""

from perstep.targets.transformers._frames import is_installed, line_of, user_frame
from perstep.targets.transformers._lists import part_names
from perstep.targets.transformers._loop import Call, Loop, Marks, is_recorded, one_forward, unobserved
from perstep.targets.transformers._modules import wrap_cache
from perstep.targets.transformers._schedule import Schedule
from perstep.targets.transformers._silence import silent
from perstep.targets.transformers._wrap import Function, Value, Wraps
from perstep.targets.transformers.batching import Batched, EveryBatching
from perstep.targets.transformers.blocks import Blocks, find_blocks, truncate
from perstep.targets.transformers.compilations import Compilation, Compilations, GraphBreak
from perstep.targets.transformers.cuda import CudaDevice, Device, DeviceRecorder, Event, device_of
from perstep.targets.transformers.every import EveryGenerate
from perstep.targets.transformers.experts import (
    IMPLEMENTATIONS,
    ExpertsPerToken,
    Routers,
    experts_implementation,
    find_routers,
)
from perstep.targets.transformers.facts import to_device
from perstep.targets.transformers.images import ImagePrompt, image_prompt, takes_images
from perstep.targets.transformers.instrument import (
    DETAILS,
    Detail,
    Instrument,
    anything_compiled,
    find_model,
    wrap_forward_of,
)
from perstep.targets.transformers.presets import RANDOM_WEIGHTS, build, load, presets
from perstep.targets.transformers.replay import GenerateTrace, Replay, Replayed, as_arguments, record
from perstep.targets.transformers.stages import StageInstrument
from perstep.targets.transformers.syncs import SyncRecorder, Syncs
from perstep.targets.transformers.version import require
from perstep.targets.transformers.words import BOUNDARIES

__all__ = [
    "BOUNDARIES",
    "DETAILS",
    "IMPLEMENTATIONS",
    "RANDOM_WEIGHTS",
    "Batched",
    "Blocks",
    "Call",
    "Compilation",
    "Compilations",
    "CudaDevice",
    "Detail",
    "Device",
    "DeviceRecorder",
    "Event",
    "EveryBatching",
    "EveryGenerate",
    "ExpertsPerToken",
    "Function",
    "GenerateTrace",
    "GraphBreak",
    "ImagePrompt",
    "Instrument",
    "Loop",
    "Marks",
    "Replay",
    "Replayed",
    "Routers",
    "Schedule",
    "StageInstrument",
    "SyncRecorder",
    "Syncs",
    "Value",
    "Wraps",
    "anything_compiled",
    "as_arguments",
    "build",
    "device_of",
    "experts_implementation",
    "find_blocks",
    "find_model",
    "find_routers",
    "image_prompt",
    "is_installed",
    "is_recorded",
    "line_of",
    "load",
    "one_forward",
    "part_names",
    "presets",
    "record",
    "require",
    "silent",
    "takes_images",
    "to_device",
    "truncate",
    "unobserved",
    "user_frame",
    "wrap_cache",
    "wrap_forward_of",
]
