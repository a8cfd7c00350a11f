"""The options of `compare --live`."""

from dataclasses import dataclass

from perstep.experiments.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class Plan(RunOptions):
    """The options of `perstep compare --live`."""

    arms: tuple[str, ...] = ()
    """Commands, or Python callables as module:function; the first is the reference."""

    pythons: tuple[str, ...] = ()
    """Interpreters that all run the one script in `arms`; the first is the reference."""

    threshold: float = 0.01
    """Changes wholly inside ± this are `same`."""

    check: bool = False
    """Call every arm once before timing and refuse to compare if results differ."""
