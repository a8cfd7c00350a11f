"""The Triton kernels compile for GPUs, without one: to a binary of each, in each of its variants.

Not in Triton's interpreter, so these tests have a process of their own (`make kernels`).
"""

import os
import re
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed: make kernels")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter is on: make kernels", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget

from perstep.fast import _kernels as kernels
from perstep.fast import _launch

pytestmark = pytest.mark.hf
DTYPES = ["fp32", "bf16", "fp16"]
TARGETS = [80, 90]


def compiled(kernel: Any, types: str, target: int, **constants: Any) -> Any:
    """What Triton makes of a kernel whose arguments, in order, have these types."""
    names = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(names, types.split(), strict=True)) | dict.fromkeys(constants, "constexpr")
    ordered = {name: signature[name] for name in kernel.arg_names}
    source = triton.compiler.ASTSource(fn=kernel, signature=ordered, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=_launch.OPTIONS)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_weights(target: int, dtype: str, level: int) -> None:
    """Every digit; sums go to memory by one addition of 64 bits each."""
    made = compiled(kernels.add_weights, f"*{dtype} *{dtype} *i64 i64 i32", target, LEVEL=level)
    assert made.asm["cubin"]
    assert "add.u64" in made.asm["ptx"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nucleus(target: int, dtype: str) -> None:
    """And nothing of a thread lies in memory."""
    made = compiled(kernels.keep_nucleus, f"*{dtype} *{dtype} *i64 *{dtype} i64 fp32 i32", target)
    assert made.asm["cubin"]
    assert ".local" not in made.asm["ptx"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("divides", [False, True])
def test_penalty(target: int, dtype: str, divides: bool) -> None:
    """The copy is finished before anything is written over it."""
    types = f"*i64 *i64 *fp32 *{dtype} *{dtype} fp32 i32 i32 i32 i32"
    made = compiled(kernels.penalise, types, target, DIVIDES=divides)
    assert made.asm["cubin"]
    assert "bar.sync" in made.asm["ptx"]
    assert dtype == "fp32" or re.search(r"cvt\.rn\.(bf|f)16", made.asm["ptx"])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("followed", "packed", "batch"), [(True, True, 32), (True, False, 1), (False, False, 1)])
def test_mask(target: int, dtype: str, followed: bool, packed: bool, batch: int) -> None:
    """The first step and later ones, booleans and packed bits."""
    rows = "*i32" if packed else "*u8"
    types = f"*i64 *i64 *i64 *i64 *i64 *i64 *i32 *i32 *i32 {rows} *{dtype} *i64 *{dtype} i32 i32 i32 i32 i32 i32 i32"
    made = compiled(kernels.advance_and_mask, types, target, FOLLOWED=followed, PACKED=packed, BATCH=batch)
    assert made.asm["cubin"]
