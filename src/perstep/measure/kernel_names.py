"""Names of kernels as engineers read them: the template and what it applies, without namespaces and arguments.

`void at::native::vectorized_elementwise_kernel<8, at::native::BinaryFunctor<c10::BFloat16, ..., MulFunctor<float>>>`
is `vectorized_elementwise_kernel<MulFunctor>`. Names that a library has made short by itself stay as they are.
"""

import re

LONGEST = 64
"""Characters of a short name."""

_ANONYMOUS = re.compile(r"\(anonymous namespace\)::|at_cuda_detail::")
_WHAT = re.compile(r"\b(\w*(?:Functor|Ops|_kernel_cuda|_kernel_impl)\w*|\w+Op\b)")
_AROUND = re.compile(
    r"(Binary|Unary|AUnary|BUnary)Functor\w*|gpu_kernel_impl\w*|func_wrapper_t|ReduceOp|CUDAFunctor$|\w*Ops_base"
)
"""What stands around the functor that does the work, and says nothing itself."""


def short_name(name: str) -> str:
    """A kernel's name without what nobody reads; the names of copies and fills are left alone.

    Args:
        name: as the profiler gives it, perhaps cut.

    >>> short_name("void at::native::vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<float> >(int)")
    'vectorized_elementwise_kernel<CUDAFunctor_add>'
    >>> short_name("Memcpy DtoH (Device -> Pinned)")
    'Memcpy DtoH (Device -> Pinned)'
    """
    if name.startswith(("Memcpy", "Memset")):
        return name
    plain = _ANONYMOUS.sub("", name).removeprefix("void ").strip()
    head, has_template, template = plain.partition("<")
    base = head.partition("(")[0].split("::")[-1].strip() or plain
    what = _what(template) if has_template else ""
    return _cut(f"{base}<{what}>" if what else base)


def _what(template: str) -> str:
    """The innermost name in a template's arguments that says what is computed, or nothing."""
    said = [name for name in _WHAT.findall(template) if not _AROUND.fullmatch(name)]
    return said[0] if said else ""


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
