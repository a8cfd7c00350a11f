"""The software in use: Python, operating system, package versions, thread pools, git state.

Versions come from the installed metadata and thread pools from libraries that
are already loaded: looking never imports a package.
"""

from __future__ import annotations

import platform
import sys
from typing import Literal

import msgspec

from perstep._version import __version__
from perstep.machine._sources import UNKNOWN, MaybeInt, Source, Unknown

PACKAGES = (
    "numpy", "scipy", "torch", "transformers", "tokenizers", "safetensors", "accelerate", "triton", "msgspec",
    "outlines-core", "llguidance", "xgrammar", "mistral-common", "matplotlib", "psutil", "threadpoolctl",
    "ray",
)  # fmt: skip
NOT_INSTALLED = "not installed"
# What decides how many threads a library starts and where they run.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY",
    "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS", "MKL_DYNAMIC",
    "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM",
)  # fmt: skip


class ThreadPool(msgspec.Struct, frozen=True, kw_only=True):
    """One loaded library that keeps threads, such as a BLAS or an OpenMP runtime."""

    api: str
    library: str
    version: str
    threads: int
    kernels: str = UNKNOWN


class Software(msgspec.Struct, frozen=True, kw_only=True):
    """Python, operating system and packages. `thread_variables` holds those that are set."""

    python: str
    implementation: str
    compiler: str
    gil: Literal["on", "off"]
    os: str = UNKNOWN
    kernel: str = UNKNOWN
    architecture: str = UNKNOWN
    perstep: str = __version__
    packages: dict[str, str] = {}
    thread_pools: tuple[ThreadPool, ...] | Unknown = UNKNOWN
    torch_threads: MaybeInt = UNKNOWN
    thread_variables: dict[str, str] = {}


class Git(msgspec.Struct, frozen=True, kw_only=True):
    """The commit of the working folder's repository; `dirty` ignores untracked files."""

    commit: str = UNKNOWN
    dirty: bool | Unknown = UNKNOWN


def read_software(source: Source) -> Software:
    """The software of `source`; Python's own facts are those of the running interpreter."""
    return Software(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        compiler=platform.python_compiler(),
        gil="on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off",
        os=_os_name(source),
        kernel=source.uname.release or UNKNOWN,
        architecture=source.uname.machine or UNKNOWN,
        packages={name: package_version(name) for name in PACKAGES},
        thread_pools=_thread_pools(source),
        torch_threads=_torch_threads(source),
        thread_variables={name: source.environ[name] for name in THREAD_VARIABLES if name in source.environ},
    )


def package_version(name: str) -> str:
    """The version of an installed package from its metadata, or `not installed`."""
    import importlib.metadata

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def read_git(source: Source) -> Git:
    """The git state of the working folder; `unknown` outside a repository or without git."""
    git = ["git", "--no-optional-locks", "-C", str(source.cwd)]
    commit = (source.run([*git, "rev-parse", "HEAD"]) or "").strip()
    if not commit:
        return Git()
    changes = source.run([*git, "status", "--porcelain", "--untracked-files=no"])
    return Git(commit=commit, dirty=UNKNOWN if changes is None else bool(changes.strip()))


def _os_name(source: Source) -> str:
    for line in (source.text("etc/os-release") or source.text("usr/lib/os-release") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "PRETTY_NAME" and value:
            return value.strip().strip("\"'")
    return source.uname.system or UNKNOWN


def _thread_pools(source: Source) -> tuple[ThreadPool, ...] | Unknown:
    if "numpy" not in source.modules:  # its BLAS is not loaded yet, so there is nothing to ask
        return UNKNOWN
    from threadpoolctl import threadpool_info

    pools = [
        ThreadPool(
            api=pool["user_api"],
            library=pool["internal_api"],
            version=pool.get("version") or UNKNOWN,
            threads=pool["num_threads"],
            kernels=pool.get("architecture") or UNKNOWN,
        )
        for pool in threadpool_info()
    ]
    return tuple(sorted(pools, key=lambda pool: (pool.api, pool.library, pool.version)))


def _torch_threads(source: Source) -> MaybeInt:
    get_num_threads = getattr(source.modules.get("torch"), "get_num_threads", None)
    return int(get_num_threads()) if get_num_threads else UNKNOWN
