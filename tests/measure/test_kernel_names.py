"""Kernels' names as engineers read them."""

import pytest

from perstep.measure.device_rows import Row
from perstep.measure.kernel_names import LONGEST, short_name

AT = "void at::native::"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (AT + "vectorized_elementwise_kernel<8, at::native::CUDAFunctor_add<c10::BFloat16>, int>(int)",
         "vectorized_elementwise_kernel<CUDAFunctor_add>"),
        (AT + "vectorized_elementwise_kernel<8, at::native::BinaryFunctor<c10::BFloat16, c10::BFloat16, c10::BFloat16, "
         "at::native::binary_internal::MulFunctor<float> >, std::array<char*, 3ul> >(int)",
         "vectorized_elementwise_kernel<MulFunctor>"),
        (AT + "reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float, float> > >(x)",
         "reduce_kernel<MeanOps>"),
        (AT + "(anonymous namespace)::CatArrayBatchedCopy<at::native::(anonymous namespace)::OpaqueType<2u> >(x)",
         "CatArrayBatchedCopy"),
        (AT + "vectorized_elementwise_kernel<4, at::native::rsqrt_kernel_cuda(at::TensorIteratorBase&)::{lambda}>",
         "vectorized_elementwise_kernel<rsqrt_kernel_cuda>"),
        ("nvjet_sm90_tst_8x64_64x16_4x1_v_bz_TNN", "nvjet_sm90_tst_8x64_64x16_4x1_v_bz_TNN"),
        ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0", "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0"),
        ("Memcpy DtoH (Device -> Pinned)", "Memcpy DtoH (Device -> Pinned)"),
        ("Memset (Device)", "Memset (Device)"),
        ("at::cuda::(anonymous namespace)::spin_kernel(long)", "spin_kernel"),
        ("Cijk_Ailk_Bljk_BBS_BH_Bias_HA_S_SAV_MT64x64x64", "Cijk_Ailk_Bljk_BBS_BH_Bias_HA_S_SAV_MT64x64x64"),
        ("x" * 200, "x" * (LONGEST - 1) + "…"),
    ],
)  # fmt: skip
def test_what_is_computed_stays(name: str, short: str) -> None:
    """Namespaces, types and arguments go."""
    assert short_name(name) == short


def test_the_names_of_a_real_trace(h200_rows: list[Row]) -> None:
    """Though they were cut at 80 characters: none is empty, none is long, none has a namespace."""
    shorts = {short_name(row.name) for row in h200_rows if not row.on_host}
    assert all(0 < len(short) <= LONGEST and "::" not in short for short in shorts)
    assert "CatArrayBatchedCopy" in shorts
