"""A compiled forward: how it is asked for, forgotten, and what the compiler did.

transformers compiles the decode forward by itself for a static cache; on a CPU it has to be allowed to. A call is cold
after the compiler has forgotten everything, with inductor's cache on disk off, so that it compiles as in a process
that never did.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from perstep._json import Json
from perstep.errors import InputError
from perstep.experiments.ablation.samples import ColdCell
from perstep.targets.target import EitherModel


@dataclass
class Compiling:
    """How the forward is compiled.

    Attributes:
        backend: of torch.compile: `inductor`, or `eager` (traced, nothing compiled).
    """

    backend: str = "inductor"
    _seen: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        import torch

        backends = ("eager", *torch.compiler.list_backends())
        if self.backend not in backends:
            raise InputError(f"no compile backend {self.backend!r}: choose from {', '.join(backends)}")

    def arguments(self) -> dict[str, Json]:
        """What generate takes."""
        from transformers import CompileConfig

        config = CompileConfig(backend=self.backend, mode="default" if self.backend == "inductor" else None)
        config._compile_all_devices = True
        return {"cache_implementation": "static", "compile_config": config}

    def forget(self, model: EitherModel) -> None:
        """Make the next call a first one: nothing compiled, no larger cache from an earlier call."""
        import torch

        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch._dynamo.utils.clear_compilation_metrics()
        for name in ("_compiled_call", "_last_compile_config", "_previous_max_cache_length"):
            if name in vars(model):
                delattr(model, name)

    @contextmanager
    def nothing_stored(self) -> Iterator[None]:
        """Inside, inductor neither reads nor writes its cache on disk."""
        from torch._inductor import config

        before = config.force_disable_caches
        config.force_disable_caches = True
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="dynamo_pgo force disabled")
                yield
        finally:
            config.force_disable_caches = before

    def cold(self, took_ns: int) -> ColdCell:
        """What was compiled since `forget`."""
        from torch._dynamo import utils

        again = sum(metrics.recompile_reason is not None for metrics in utils.get_compilation_metrics())
        counters = utils.counters
        return ColdCell(took_ns, counters["stats"]["unique_graphs"], counters["graph_break"].total(), again)

    def look(self) -> None:
        """Remember how much is compiled by now."""
        self._seen = self._frames()

    def compiled_since(self) -> int:
        """Frames compiled since `look`."""
        return self._frames() - self._seen

    def _frames(self) -> int:
        from torch._dynamo import utils

        return int(utils.counters["frames"]["ok"])
