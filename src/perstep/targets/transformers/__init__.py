"""Transformers models: their generate calls recorded step by step, and models to measure.

Importing this package imports neither torch nor transformers; its functions do, when called.
"""

from perstep.targets.transformers._loop import Call, Marks
from perstep.targets.transformers.cuda import CudaDevice, Device, DeviceRecorder, Event
from perstep.targets.transformers.every import EveryGenerate
from perstep.targets.transformers.facts import describe, to_device
from perstep.targets.transformers.instrument import DETAILS, Detail, Instrument, find_model
from perstep.targets.transformers.presets import RANDOM_WEIGHTS, build, load, presets
from perstep.targets.transformers.syncs import SyncRecorder, Syncs
from perstep.targets.transformers.version import require
from perstep.targets.transformers.words import BOUNDARIES

__all__ = [
    "BOUNDARIES",
    "DETAILS",
    "RANDOM_WEIGHTS",
    "Call",
    "CudaDevice",
    "Detail",
    "Device",
    "DeviceRecorder",
    "Event",
    "EveryGenerate",
    "Instrument",
    "Marks",
    "SyncRecorder",
    "Syncs",
    "build",
    "describe",
    "find_model",
    "load",
    "presets",
    "require",
    "to_device",
]
