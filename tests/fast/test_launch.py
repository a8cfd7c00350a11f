"""Where there are no kernels, or they cannot be compiled, the drop-ins do the same by torch's operations."""

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from perstep import fast  # noqa: E402
from perstep.fast import _launch  # noqa: E402

pytestmark = pytest.mark.hf


def test_a_tensor_in_the_hosts_memory_has_no_kernel() -> None:
    """Each answers None, whatever else it is given."""
    scores, ids = torch.randn(2, 9), torch.zeros(2, 3, dtype=torch.int64)
    assert not _launch.takes(scores)
    assert _launch.top_p(scores, 0.9, 0.0) is None
    assert _launch.penalised(scores, ids, ids[:, :1], 1.1) is None


def test_a_kernel_that_cannot_be_compiled_is_said_once_and_not_tried_again(monkeypatch: Any) -> None:
    """The scores are those of torch's operations; memory that is missing is no reason to go on."""
    tried: list[Any] = [RuntimeError("Failed to find C compiler.\nmore"), torch.OutOfMemoryError("no memory")]

    @_launch._or_none
    def never(scores: Any) -> Any:
        raise tried[0]

    monkeypatch.setattr(_launch, "takes", lambda scores: not _launch._failed)
    monkeypatch.setattr(_launch, "_failed", [])
    with pytest.warns(UserWarning, match=r"without its Triton kernels.*RuntimeError: Failed to find C compiler\.$"):
        assert never(torch.zeros(1, 2)) is None
    del tried[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert never(torch.zeros(1, 2)) is None
    monkeypatch.setattr(_launch, "_failed", [])
    with pytest.raises(torch.OutOfMemoryError):
        never(torch.zeros(1, 2))
    assert not _launch._failed


@pytest.mark.parametrize("columns", [9, 3000])
def test_the_drop_ins_take_what_a_launch_gives(columns: int, monkeypatch: Any, conjugations: Any) -> None:
    """And their own where it gives None: scores, and of a mask hash and states."""
    scores, ids = torch.randn(2, columns), torch.tensor([[1, 2], [3, 1]])
    penalty = fast.RepetitionPenalty(1.5)
    plain = penalty(ids, scores)
    monkeypatch.setattr(_launch, "takes", lambda scores: True)
    monkeypatch.setattr(_launch, "penalised", lambda *given: None)
    assert torch.equal(penalty(ids, scores), plain)
    monkeypatch.setattr(_launch, "penalised", lambda scores, ids, ignored, factor: scores + ids.sum() + factor)
    assert torch.equal(penalty(ids, scores), scores + 7 + 1.5)
    mask, wide = fast.TokenMask(conjugations), torch.zeros(2, 270)
    hashes, states = torch.tensor([5, 6]), torch.tensor([0, 4])
    monkeypatch.setattr(_launch, "advance_and_mask", lambda scores, *given: (scores + 1, hashes, states))
    assert torch.equal(mask(ids, wide), wide + 1)
    assert mask.left_grammar.tolist() == [True, False]
