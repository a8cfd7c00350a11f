"""The Triton kernels give what the operations of torch beside them give. They run in Triton's interpreter, on a CPU.

    TRITON_INTERPRET=1 python -m pytest -n 0 tests/fast/test_kernels.py

Triton reads the variable when it is imported, so these tests have a process of their own (`make kernels`).
"""

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed: make kernels")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton's interpreter is off: make kernels", allow_module_level=True)
pytest.importorskip("transformers")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from perstep import automata, fast  # noqa: E402
from perstep.fast import _launch, sampling  # noqa: E402

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")]  # NumPy's
INF = float("inf")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 7), (32, 7), (3, 2048), (1, 50_257), (1, 131_072)]
ROUNDING = 1e-6
"""Of a sum of probabilities in float32, by which the edge of a nucleus may move (`TopP`)."""


def rows_of(kind: str, rows: int, columns: int, seed: int = 0) -> Any:
    """Logits, float32 [rows, columns]."""
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if kind == "peaked":
        made = made * 20
    elif kind == "flat":
        made = torch.full_like(made, -2.5)
    elif kind == "tied":
        made = (made * 2).round()
    elif kind == "masked":
        made = torch.where(torch.rand(made.shape, generator=torch.Generator().manual_seed(1)) < 0.9, -INF, made)
        made[:, columns // 2] = 1.0
    elif kind == "zeros":
        made = torch.where(made > 0, 0.0, -0.0)
    return made


KINDS = ["random", "peaked", "flat", "tied", "masked", "zeros"]


@pytest.fixture
def taken(monkeypatch: Any) -> None:
    """The drop-ins take a CPU for a device, and their kernels for usable."""
    monkeypatch.setattr(_launch, "takes", lambda scores: scores.dtype in _launch._DTYPES)
    monkeypatch.setattr(sampling, "on_host", lambda tensor: False)


def nucleus(row: Any, share: float) -> Any:
    """Which tokens of a row of logits are kept, by sorting them and adding up whole numbers, bool [columns]."""
    values = row.float().numpy()
    weights = (np.exp(values - values.max()) * np.float32(2**42)).astype(np.int64)
    order = np.lexsort((-np.arange(len(values)), -values))
    before = np.cumsum(weights[order]) - weights[order]
    kept = np.zeros(len(values), dtype=bool)
    kept[order] = before < np.ceil(np.float64(weights.sum()) * share)
    return torch.from_numpy(kept)


def disputed(row: Any, share: float) -> Any:
    """The tokens of a row before which there is `share` of the mass, but for rounding, bool [columns]."""
    ordered, order = row.double().softmax(-1).flip(0).sort(descending=True, stable=True)
    near = (ordered.cumsum(0) - ordered - share).abs() < ROUNDING
    return torch.zeros(len(row), dtype=torch.bool).scatter(0, order, near).flip(0)


def check_top_p(scores: Any, share: float, filter_value: float = -INF) -> None:
    """The kernel's nucleus is the exact one, and that of torch's operations up to rounding."""
    ours = _launch.top_p.__wrapped__(scores, share, filter_value)
    torchs = fast.TopP(share, filter_value)._sorted(scores)
    assert ours.dtype == scores.dtype
    for row, mine, other in zip(scores, ours, torchs, strict=True):
        kept = nucleus(row, share)
        filtered = torch.tensor(filter_value, dtype=row.dtype)
        assert torch.equal(mine, torch.where(kept, row, filtered))
        sure = ~disputed(row, share)
        assert torch.equal(mine[sure], other[sure])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_the_nucleus_is_the_exact_one(shape: tuple[int, int], kind: str) -> None:
    """Of any row, equal logits by their ids; blocks at the end of a row are partly filled."""
    check_top_p(rows_of(kind, *shape), 0.9)


@pytest.mark.parametrize("kind", ["random", "tied"])
def test_the_nucleus_of_131072(kind: str) -> None:
    """A row of 64 blocks."""
    check_top_p(rows_of(kind, *SHAPES[-1]), 0.9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [1e-7, 0.3, 0.6, 0.999999])
def test_the_nucleus_in_every_type_and_of_every_share(dtype: Any, kind: str, share: float) -> None:
    """Half precision has ties in every row, which lie in several blocks."""
    check_top_p(rows_of(kind, 2, 5000).to(dtype), share, -1e4)


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, 1.5, -3.0, 7.25, -INF, -30.0]), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
)
@settings(max_examples=60)
def test_the_nucleus_of_small_rows(values: list[float], share: float) -> None:
    """Ties, both zeros, gaps and -inf in any order."""
    check_top_p(torch.tensor([[*values, 2.0]]), share)


@pytest.mark.parametrize("value", [float("nan"), INF])
def test_a_row_without_probabilities_is_unchanged(value: float) -> None:
    """NaN, +inf, or nothing but -inf; the row beside it has its nucleus."""
    scores = torch.randn(3, 5000)
    scores[0, 4000] = value
    scores[1] = -INF
    ours = _launch.top_p.__wrapped__(scores, 0.5, -INF)
    torch.testing.assert_close(ours[:2], scores[:2], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours[2] > -INF, nucleus(scores[2], 0.5))


PENALTIES = [(32, 7, 5), (1, 131_072, 30), (2, 50_257, 3), (2, 5000, 2100)]


@pytest.mark.parametrize(("rows", "columns", "length"), PENALTIES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ignored", [0, 2, "each"])
def test_the_penalty_is_torchs(rows: int, columns: int, length: int, dtype: Any, ignored: Any) -> None:
    """Bit for bit: tokens once each, those beyond the logits never, columns with -inf, texts of several blocks."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, columns + 2, (rows, length), generator=generator)
    ids[:, -1], ids[:, 0] = columns - 1, ids[:, length // 2]
    scores = torch.randn(rows, columns, generator=generator).to(dtype) * 8
    scores[:, ids[0].clamp(max=columns - 1)[0]] = -INF
    numbers = [row % 3 for row in range(rows)] if ignored == "each" else ignored
    plain = fast.RepetitionPenalty(1.3, numbers)
    expected = plain(ids, scores)
    if dtype is torch.bfloat16:  # the interpreter cuts off what a GPU rounds (test_kernels_compile.py)
        expected = (plain(ids, scores.float()).view(torch.int32) & -0x10000).view(torch.float32).to(dtype)
    assert torch.equal(_penalised(plain, scores, ids), expected)
    wider = torch.cat([ids, ids], dim=1)[:, :length]  # rows that do not follow each other
    assert torch.equal(_penalised(plain, scores, wider), expected)


def _penalised(plain: Any, scores: Any, ids: Any) -> Any:
    return _launch.penalised.__wrapped__(scores, ids, plain._ignored, plain.penalty)


def test_where_torch_multiplies_by_the_inverse_the_kernel_does() -> None:
    """As on a GPU."""
    from perstep.fast import _kernels as kernels

    scores, ids, changed = torch.randn(1, 900).abs(), torch.arange(900)[None], torch.empty(1, 900)
    inverse = torch.ones(1) / 1.3
    kernels.penalise[(1, 1)](
        ids, torch.zeros(1, 1, dtype=torch.int64), inverse, scores, changed, 1.3, 900, 900, 0, 900, False
    )
    assert torch.equal(changed, scores * inverse)
    assert not torch.equal(changed, scores / 1.3)


def masks(vocabulary: Any, table: Any) -> Any:
    """A table for each of three rows."""
    words = automata.compile(automata.from_regex("([a-h]{2,5} )+"), vocabulary)
    return [table, words, table]


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("budget_bytes", [2**26, 0], ids=["booleans", "packed"])
@pytest.mark.parametrize(("dtype", "width"), [*((dtype, 265) for dtype in DTYPES), (torch.float32, 2500)])
def test_mask_and_state_are_torchs(
    byte_vocabulary: Any, conjugations: Any, budget_bytes: int, dtype: Any, width: int, monkeypatch: Any
) -> None:
    """Along texts that stay, leave, end and change places, a prompt without tokens, and a call after another."""
    draw, tables = np.random.default_rng(0), masks(byte_vocabulary, conjugations)
    ours, plain = (fast.TokenMask(tables, budget_bytes=budget_bytes) for _ in range(2))
    for prompt in (0, 3, 1030):  # hashed in two blocks
        ids = torch.from_numpy(draw.integers(0, 256, (3, prompt)))
        for step in range(14):
            scores = torch.randn(3, width).to(dtype)
            mine = ours(ids, scores)
            with monkeypatch.context() as patch:
                patch.setattr(_launch, "takes", lambda scores: False)
                other = plain(ids, scores)
            assert torch.equal(mine, other)
            assert torch.equal(ours.left_grammar, plain.left_grammar)
            if step == 8:
                ids = ids[[2, 1, 0]]  # as beam search does
            allowed = [torch.nonzero(row > -INF).ravel() for row in other]
            column = [int(row[draw.integers(len(row))]) for row in allowed]
            if step == 10:
                column = [width - 1, -1, 0]
            ids = torch.cat([ids, torch.tensor(column)[:, None]], dim=1)


@pytest.mark.usefixtures("taken")
def test_one_row_of_131072(monkeypatch: Any) -> None:
    """A vocabulary of that size, from state to state."""
    letters = [bytes([byte]) for byte in range(256)]
    vocabulary = automata.Vocabulary(
        [*letters, *[b"ab%d" % number for number in range(130_815)], None], eos_ids=[131_071]
    )
    table = automata.compile(automata.from_regex("(ab[0-9]{1,4})+"), vocabulary)
    mask, ids = fast.TokenMask(table), torch.tensor([[5]])
    state = table.start
    for token in (ord("a"), ord("b"), ord("7"), 300):
        kept = torch.nonzero(mask(ids, torch.zeros(1, 131_072))[0] == 0).ravel()
        assert kept.tolist() == table.allowed(state).tolist()
        state = table.next(state, token)
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


@pytest.mark.usefixtures("taken")
def test_generate_has_the_same_text(tiny_model: Any, prompts: Any, conjugations: Any, monkeypatch: Any) -> None:
    """All three in a call of generate that draws."""
    model = tiny_model()

    def text() -> Any:
        torch.manual_seed(3)
        processors = [fast.RepetitionPenalty(1.2, [0, 2, 5]), fast.TokenMask(conjugations), fast.TopP(0.8)]
        options = {"do_sample": True, "top_k": 0, "temperature": 2.0, "max_new_tokens": 12}
        return model.generate(**prompts(3), **options, logits_processor=processors)

    ours = text()
    monkeypatch.setattr(_launch, "takes", lambda scores: False)
    assert torch.equal(text(), ours)


class Operations(TorchDispatchMode):
    """Notes what is called with which shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.seen.append((str(func), getattr(made, "shape", None)))
        return made


def test_what_is_launched_depends_on_shapes_alone() -> None:
    """So a graph may hold it: the same allocations whatever the scores are, and no value is read."""

    def operations(kind: str) -> list[Any]:
        scores, ids = rows_of(kind, 2, 5000), torch.randint(0, 5000, (2, 30))
        with Operations() as noted:
            _launch.top_p.__wrapped__(scores, 0.7, -INF)
            _penalised(fast.RepetitionPenalty(1.3), scores, ids)
        return noted.seen

    seen = operations("random")
    assert seen
    assert not any("_local_scalar_dense" in name or "nonzero" in name for name, _ in seen)
    assert all(operations(kind) == seen for kind in KINDS)
