"""`fast.decode` draws from `generate`'s distribution, and over the allowed ids what the full vocabulary would draw."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from perstep import automata, fast  # noqa: E402
from perstep.errors import InputError  # noqa: E402
from perstep.fast import Decode, TokenMask  # noqa: E402
from perstep.fast.noise import gumbel, row_keys  # noqa: E402
from perstep.targets.reference.sample import gumbel_noise  # noqa: E402

pytestmark = pytest.mark.hf
EOS = 263


class AddNoise(transformers.LogitsProcessor):
    """The full-vocabulary sampler as a processor: greedy choices behind it are draws."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores with keyed noise, float64."""
        ids = np.arange(scores.shape[1])
        noise = [gumbel_noise(self.seed, row, input_ids.shape[1], ids) for row in range(len(scores))]
        return scores.double() + torch.from_numpy(np.stack(noise))


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_noise_on_a_device_is_the_references(seed: int) -> None:
    """Equal bits behind the logarithms, for every row and id, at positions far out too."""
    keys = row_keys(seed, 3, torch.device("cpu"))
    for position in (0, 1, 100_000):
        noise = gumbel(keys, position, 1000).numpy()
        expected = np.stack([gumbel_noise(seed, row, position, np.arange(1000)) for row in range(3)])
        np.testing.assert_allclose(noise, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize(
    "warped", [{}, {"temperature": 0.6}, {"top_k": 5, "top_p": 0.8, "temperature": 1.7}, {"min_p": 0.1}]
)
@pytest.mark.parametrize("lazy", [False, True])
def test_draws_equal_the_full_vocabulary_samplers(
    warped: dict[str, Any], batch: int, lazy: bool, tiny_model: Any, prompts: Any, byte_vocabulary: Any
) -> None:
    """Token for token: our loop over allowed ids against transformers' processors and noise over all of them."""
    pattern = automata.from_regex(r"([a-z]{3,9}(=[0-9]{2}){1,3}; ?|\"[^\"]{2,8}\")*")
    table = automata.compile(pattern, byte_vocabulary, lazy=lazy)
    warpers = {
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    order = [name for name in warpers if name in warped]
    behind = [warpers[name](warped[name]) for name in order]
    model, inputs = tiny_model(), prompts(batch)
    length = 60 if batch == 1 else 25
    plain = model.generate(
        **inputs, max_new_tokens=length, do_sample=False, eos_token_id=EOS,
        logits_processor=[TokenMask(table), *behind, AddNoise(7)],
    )  # fmt: skip
    options = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, **warped}
    ours = model.generate(
        **inputs, max_new_tokens=length, do_sample=True, eos_token_id=EOS, **options,
        logits_processor=[TokenMask(table)], custom_generate=fast.decode, seed=7,
    )  # fmt: skip
    assert fast.decode.last.way == "masked"
    assert torch.equal(plain, ours)


@pytest.mark.parametrize("decode", [fast.decode, Decode(on_host=False)], ids=["host", "deferred"])
def test_unmasked_draws_equal_the_full_vocabulary_samplers(decode: Any, tiny_model: Any, prompts: Any) -> None:
    """Whichever loop draws."""
    plain = tiny_model().generate(
        **prompts(4), max_new_tokens=40, do_sample=False,
        logits_processor=[transformers.TopKLogitsWarper(20), AddNoise(11)],
    )  # fmt: skip
    ours = tiny_model().generate(
        **prompts(4), max_new_tokens=40, do_sample=True, top_k=20, custom_generate=decode, seed=11
    )
    assert torch.equal(plain, ours)


@pytest.mark.parametrize("decode", [fast.decode, Decode(on_host=False)], ids=["host", "deferred"])
@pytest.mark.parametrize("masked", [False, True])
def test_draws_have_generates_distribution(masked: bool, decode: Any, tiny_model: Any, byte_vocabulary: Any) -> None:
    """20,000 first tokens of one prompt against the softmax, by chi-square; the seed is fixed."""
    rows = 20_000
    table = automata.compile(automata.from_regex("[a-p]{9}"), byte_vocabulary)
    processors = [TokenMask(table)] if masked else []
    prompt = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        scores = tiny_model()(prompt).logits[:, -1].float() / 3
    for processor in processors:
        scores = processor(prompt, scores)
    expected = scores.softmax(-1)[0].double().numpy() * rows
    found = tiny_model().generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), num_return_sequences=rows, max_new_tokens=1,
        do_sample=True, temperature=3.0, top_k=0, logits_processor=processors, custom_generate=decode, seed=3,
    )  # fmt: skip
    counts = np.bincount(found[:, -1].numpy(), minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    pooled = np.append(counts[often], counts[~often].sum()), np.append(expected[often], expected[~often].sum())
    kept = pooled[1] > 0
    assert chisquare(pooled[0][kept], pooled[1][kept] * rows / pooled[1][kept].sum()).pvalue > 0.001


def test_the_seed_is_torchs_unless_given(tiny_model: Any, prompts: Any) -> None:
    """`torch.manual_seed` makes draws come again; rows draw apart from each other; another seed draws otherwise."""

    def draw(**options: Any) -> Any:
        inputs = {name: value.repeat(2, 1) for name, value in prompts(1, padded=False).items()}
        return tiny_model().generate(
            **inputs, max_new_tokens=30, do_sample=True, temperature=3.0, custom_generate=fast.decode, **options
        )

    torch.manual_seed(5)
    first, second = draw(), draw()
    torch.manual_seed(5)
    assert torch.equal(first, draw())
    assert not torch.equal(first, second)
    assert torch.equal(draw(seed=1), draw(seed=1))
    assert not torch.equal(draw(seed=1), draw(seed=2))
    assert not torch.equal(first[0], first[1])


def test_nothing_left_to_draw_is_an_error(tiny_model: Any, prompts: Any, byte_vocabulary: Any) -> None:
    """Processors that forbid what the mask allows: no token is drawn from nothing."""
    table = automata.compile(automata.from_regex("[ab]{5}"), byte_vocabulary)
    with pytest.raises(InputError, match="no token can be drawn in row 0 at position 9"):
        tiny_model().generate(
            **prompts(2), max_new_tokens=5, do_sample=True, suppress_tokens=[97, 98],
            logits_processor=[TokenMask(table)], custom_generate=fast.decode,
        )  # fmt: skip
