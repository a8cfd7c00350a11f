"""Host syncs, counted and attributed to the part that caused them."""

import warnings

import pytest

from perstep.measure import RESIDUAL
from perstep.targets.transformers import Instrument, SyncRecorder
from perstep.targets.transformers.syncs import DRIVER_SYNC, DYNAMIC_SHAPE, HOST_COPY, SCALAR_READ, UPLOAD

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def count(model, ids, recorder=None, detail="phases", **kwargs):
    """Count the syncs of a call, and see that counting changes no token."""
    options = {"max_new_tokens": 5, "do_sample": False, **kwargs}
    torch.manual_seed(2)
    expected = model.generate(ids, **options)
    torch.manual_seed(2)
    recorder = recorder or SyncRecorder()
    with recorder, Instrument(model, recorder, detail):
        assert torch.equal(model.generate(ids, **options), expected)
    return recorder.syncs("decode")


def test_a_greedy_step_waits_once_for_the_answer_whether_to_stop(llama, ids):
    """The known count: one scalar read a token."""
    syncs = count(llama, ids)
    assert (syncs.steps, syncs.per_step) == (4, 1.0)
    assert syncs.parts == {"sync": {SCALAR_READ: 4}}
    assert syncs.part_per_step("sync") == 1.0
    assert syncs.part_per_step("forward") == 0.0


def test_padding_costs_a_second_sync_in_the_building_of_the_mask(llama, ids):
    """The known count: whether a mask is all ones is asked in every step."""
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    syncs = count(llama, ids, attention_mask=mask, detail="modules")
    assert syncs.per_step == 2.0
    assert syncs.parts["attn.mask.build"] == {SCALAR_READ: 4}


def test_every_kind_of_read_in_a_processor_is_counted_and_placed(llama, ids):
    """Four scalar reads, four copies and two operators of unknown shape, at eight lines of this file."""

    def reads(input_ids, scores):
        for position in range(3):
            float(input_ids[0, position])
        if input_ids.sum() > 10**9:
            raise AssertionError
        input_ids.tolist()
        input_ids.cpu()
        input_ids.to("cpu")
        input_ids.numpy()
        torch.nonzero(input_ids)
        scores[scores > 1e9]
        return scores

    syncs = count(llama, ids, logits_processor=[reads])
    assert syncs.parts["logits/reads"] == {SCALAR_READ: 16, HOST_COPY: 16, DYNAMIC_SHAPE: 8}
    assert syncs.part_per_step("logits/reads") == 10.0
    places = {place for part, _, place in syncs.sites if part == "logits/reads"}
    assert all(place.startswith("transformers/test_syncs.py:") for place in places)
    assert len(places) == 8


def once_on_the_host(input_ids, scores):
    """One copy to the host; reads of the copy, and of what is made from it, wait for nothing."""
    copy = input_ids.cpu()
    for row in copy:
        row.tolist()
    assert int(copy[0, -1]) + 0 * copy.max().item() >= 0
    assert copy.tolist() == input_ids.to("cpu", torch.int64).tolist()
    return scores


OWN_TABLE = torch.arange(10)


def reads_its_own_table(input_ids, scores):
    """A tensor that never was on a device, and one made on the host."""
    int(OWN_TABLE[3])
    torch.arange(4).tolist()
    torch.tensor([5])[0].item()
    return scores


def copies_for_numpy(input_ids, scores):
    """The usual way to an array."""
    input_ids.cpu().numpy()
    return scores


def sends_a_mask(input_ids, scores):
    """A list of ids becomes a tensor on the device, and so do three host tensors; one need not be waited for.

    Of an empty list nothing is sent.
    """
    torch.tensor([], device=scores.device)
    ids = torch.tensor([1, 2, 3] * 50, device=scores.device)
    mask = torch.full_like(scores, -1e9)
    mask[:, ids] = 0
    mask[:, :2] += torch.zeros(2).to(scores.device)
    mask[:, :2] += input_ids[0, :1].cpu().to(device=scores.device) * 0
    input_ids.new_tensor([3])
    torch.zeros(2).to(scores.device, non_blocking=True)
    ids.to(scores.device)
    return scores + mask * 0


def reads_what_it_made(input_ids, scores):
    """What is made on the device, or from what lies there, is read from there."""
    torch.zeros(3, device=scores.device).tolist()
    torch.zeros(1).to(scores.device).item()
    scores.new_zeros(1).item()
    return scores


def asks_which_tokens_there_are(input_ids, scores):
    """`one_hot` makes its tensor from nothing and fills it on the device; it reads both ends of the ids itself."""
    present = torch.nn.functional.one_hot(input_ids, num_classes=scores.shape[-1]).sum((0, 1)).nonzero()
    for token in present[:2]:
        bool(token[0] == 3)
    return scores


@pytest.mark.parametrize(
    ("processor", "counted"),
    [
        (asks_which_tokens_there_are, {SCALAR_READ: 16, DYNAMIC_SHAPE: 4}),
        (once_on_the_host, {HOST_COPY: 8}),
        (reads_its_own_table, {}),
        (copies_for_numpy, {HOST_COPY: 4}),
        (sends_a_mask, {HOST_COPY: 4, UPLOAD: 16}),
        (reads_what_it_made, {HOST_COPY: 4, SCALAR_READ: 8, UPLOAD: 4}),
    ],
)
def test_on_a_cpu_what_would_lie_on_the_host_is_read_for_nothing(llama, ids, processor, counted):
    """As on a device: the copy costs one sync however often it is read; what is sent to the device is an upload."""
    syncs = count(llama, ids, logits_processor=[processor])
    assert syncs.parts.get(f"logits/{processor.__name__}", {}) == counted
    assert syncs.part_per_step("sync") == 1
    assert syncs.per_step == 1 + (sum(counted.values()) - counted.get(UPLOAD, 0)) / 4


def test_a_text_streamer_costs_one_copy(llama, ids):
    """With the question whether to stop that is 2 a step: it reads the copy that it is handed."""

    class Letters:
        """A tokenizer of one letter."""

        def decode(self, token_ids, **options):
            """As many letters as ids."""
            return "x" * len(token_ids)

    syncs = count(llama, ids[:1], streamer=transformers.TextStreamer(Letters()))
    assert syncs.per_step == 2


def test_a_streamer_copies_each_token(llama, ids):
    """The copy is part of the stop check."""

    class Streamer:
        """Takes tokens and does nothing."""

        def put(self, value):
            """Take tokens."""

        def end(self):
            """The end."""

    syncs = count(llama, ids[:1], streamer=Streamer())
    assert syncs.parts["sync"] == {SCALAR_READ: 4, HOST_COPY: 4}


def test_what_kernels_read_inside_themselves_does_not_count(tiny, ids):
    """On a CPU grouped matrix products and sampling read scalars inside their kernels; a device does not."""
    assert count(tiny("olmoe"), ids).per_step == 1.0
    assert count(tiny("llama"), ids, do_sample=True, top_k=5, top_p=0.9).per_step == 1.0


def test_outside_of_steps_nothing_is_counted(llama, ids):
    """And without steps there is no number, rather than zero."""
    recorder = SyncRecorder()
    with recorder:
        assert torch.ones(1).item() == 1
    assert recorder.kinds == []
    assert recorder.syncs("decode").per_step is None
    assert recorder.syncs("decode").part_per_step("forward") is None


class FakeCuda:
    """The part of `torch.cuda` that is asked."""

    def __init__(self):
        self.mode = 0

    def get_sync_debug_mode(self):
        """The mode."""
        return self.mode

    def set_sync_debug_mode(self, mode):
        """Set the mode."""
        self.mode = mode


def test_on_cuda_what_the_driver_reports_is_heard_and_attributed(llama, ids):
    """CUDA warns of each synchronising operation; here a processor warns in its place."""
    cuda = FakeCuda()

    def syncs_twice(input_ids, scores):
        assert cuda.mode == "warn"
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        return scores

    recorder = SyncRecorder("cuda", cuda)
    with recorder, Instrument(llama, recorder):
        llama.generate(ids, max_new_tokens=5, do_sample=False, logits_processor=[syncs_twice])
    counted = recorder.syncs("decode")
    assert cuda.mode == 0
    assert counted.parts == {"logits/syncs_twice": {DRIVER_SYNC: 8}}
    assert (counted.per_step, counted.part_per_step("logits/syncs_twice")) == (2.0, 2.0)


def test_what_the_driver_reports_of_an_upload_is_no_second_sync():
    """The copy of a list to the device waits, of which CUDA warns; here the copy warns in its place."""
    recorder = SyncRecorder("cuda", FakeCuda())
    with recorder:
        recorder.begin()
        recorder.upload(lambda: warnings.warn("called a synchronizing CUDA operation", stacklevel=1) or torch.ones(1))
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        recorder.end()
    counted = recorder.syncs("decode")
    assert counted.parts == {RESIDUAL: {UPLOAD: 1, DRIVER_SYNC: 1}}
    assert counted.per_step == 1


def test_warnings_of_others_go_where_they_would_have_gone(llama, ids):
    """Only the driver's are kept from being shown."""

    def warns(input_ids, scores):
        warnings.warn("something else", UserWarning, stacklevel=1)
        return scores

    recorder = SyncRecorder("cuda", FakeCuda())
    with pytest.warns(UserWarning, match="something else"), recorder, Instrument(llama, recorder):
        llama.generate(ids, max_new_tokens=3, do_sample=False, logits_processor=[warns])


def test_the_debug_mode_is_put_back_after_an_exception():
    """It belongs to the whole process."""
    cuda = FakeCuda()
    with pytest.raises(RuntimeError, match="planted"), SyncRecorder("cuda", cuda):
        raise RuntimeError("planted")
    assert cuda.mode == 0
