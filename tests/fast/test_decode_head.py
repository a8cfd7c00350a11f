"""The LM head that `fast.decode` puts off: whose rows are used when, what rounding does, and that it comes back."""

import copy
import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from perstep import automata, fast  # noqa: E402
from perstep.fast import TokenMask  # noqa: E402

pytestmark = pytest.mark.hf


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(both: Any, dtype: Any, tiny_model: Any, prompts: Any, conjugations: Any) -> None:
    """Ties are common there; the whole head decides them as it does in generate."""
    model = copy.deepcopy(tiny_model()).to(dtype)
    make = lambda: [TokenMask(conjugations)]  # noqa: E731
    plain, ours = both(model, prompts(1), make=make)
    assert torch.equal(plain, ours)


def test_near_ties_are_decided_by_the_whole_head(
    both: Any, tiny_model: Any, prompts: Any, byte_vocabulary: Any
) -> None:
    """Two tokens with one weight: the first wins, as in generate, and the report says how often that was asked."""
    model = copy.deepcopy(tiny_model())
    table = automata.compile(automata.from_regex("[ab]{20}"), byte_vocabulary)
    with torch.no_grad():
        model.lm_head.weight[ord("b")] = model.lm_head.weight[ord("a")]
    plain, ours = both(model, prompts(1), make=lambda: [TokenMask(table)], max_new_tokens=18)
    assert torch.equal(plain, ours)
    assert fast.decode.last.near_ties == 17  # the first choice is the prefill's, whose head was whole


def test_weights_that_change_are_seen(both: Any, tiny_model: Any, prompts: Any, byte_vocabulary: Any) -> None:
    """Gathered rows of the head are kept between calls, and made anew once the head has been trained."""
    model = copy.deepcopy(tiny_model())
    table = automata.compile(automata.from_regex("[a-h]{20}"), byte_vocabulary)
    texts = []
    for _ in range(2):
        mask = TokenMask(table)
        plain, ours = both(model, prompts(1), make=lambda mask=mask: [mask], max_new_tokens=18)
        assert torch.equal(plain, ours)
        texts.append(ours)
        with torch.no_grad():
            model.lm_head.weight.mul_(-1)
    assert not torch.equal(*texts)


def test_a_head_that_does_more_is_left_alone(both: Any, tiny_model: Any, prompts: Any, conjugations: Any) -> None:
    """A model that changes logits by token id gives the same tokens, with its whole head."""
    model = copy.deepcopy(tiny_model())
    forward = model.forward

    def crooked(*args: Any, **kwargs: Any) -> Any:
        outputs = forward(*args, **kwargs)
        outputs.logits[..., 97:110] += 3.0
        return outputs

    model.forward = crooked
    try:
        plain, ours = both(model, prompts(2), make=lambda: [TokenMask(conjugations)])
    finally:
        del model.forward
    assert torch.equal(plain, ours)
    assert (fast.decode.last.way, fast.decode.last.restricted_heads) == ("masked", 0)


def test_the_head_is_put_back_after_an_error(tiny_model: Any, prompts: Any, conjugations: Any) -> None:
    """And another thread that uses the model meanwhile gets all of its logits."""
    model, shapes = tiny_model(), []

    class Fails(transformers.StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            if input_ids.shape[1] > 14:
                thread = threading.Thread(target=lambda: shapes.append(model(input_ids[:, :3]).logits.shape))
                thread.start()
                thread.join()
                raise RuntimeError("enough")
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with pytest.raises(RuntimeError, match="enough"):
        model.generate(
            **prompts(1), max_new_tokens=30, do_sample=False, logits_processor=[TokenMask(conjugations)],
            stopping_criteria=[Fails()], custom_generate=fast.decode,
        )  # fmt: skip
    assert shapes == [(1, 3, 270)]
    assert "forward" not in vars(model.lm_head)


def test_a_compiled_forward_keeps_its_head(both: Any, tiny_model: Any, prompts: Any, conjugations: Any) -> None:
    """An attribute that changes would make it compile again; the mask chooses from all of its logits."""
    model = copy.deepcopy(tiny_model())
    model.forward = torch.compile(model.forward, backend="eager")
    plain, ours = both(model, prompts(1), make=lambda: [TokenMask(conjugations)], max_new_tokens=12)
    assert torch.equal(plain, ours)
    assert (fast.decode.last.way, fast.decode.last.restricted_heads) == ("masked", 0)
    torch.compiler.reset()
