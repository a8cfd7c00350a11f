"""`mask` on a device: the step runs on tensors, and what the device does stands beside the host's time."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.made_up_device import KERNEL_NS, MadeUpKernels, made_up_ceilings

from perstep.automata import Grammar, Vocabulary, pack_bits, prepare
from perstep.automata.engines.tables import TableEngine
from perstep.errors import InputError
from perstep.experiments import pipeline
from perstep.experiments.bounds import BEATEN
from perstep.experiments.device.limits import DevicePartBound
from perstep.experiments.mask import Plan
from perstep.experiments.mask.arms import NO_MASK
from perstep.experiments.mask.device import (
    BOUNDARIES_ON_DEVICE,
    ArmOnDevice,
    BitsOnDevice,
    DeviceDecoder,
    TableOnDevice,
    masker_there,
    placed,
)
from perstep.experiments.mask.device_bounds import mask_bound
from perstep.experiments.mask.roofline import AboutCell
from perstep.measure import FakeClock, no_mark
from perstep.targets.reference import Reference
from perstep.targets.reference.model import decode_one_token, prefill

from ...conftest import Cli

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "yy"]}}, "required": ["a"]}
LAUNCHING = ("aten::mm", "aten::addmm", "aten::index", "aten::masked_fill", "aten::argmax", "aten::mul")


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up device, which lies on the cpu; a forward takes the host 1 ms."""
    monkeypatch.setattr("perstep.experiments.mask.device.waiting_for", lambda _device: lambda: None)
    monkeypatch.setattr("perstep.experiments.mask.device.place_of", lambda _device: "cpu")
    monkeypatch.setattr("perstep.targets.transformers.device_check.refuse_if_no_room", lambda *_: None)
    made = MadeUpKernels(LAUNCHING)
    monkeypatch.setattr("perstep.targets.transformers.device_profile.KinetoProfiler", lambda _device: made)
    monkeypatch.setattr("perstep.experiments.mask.device.ceilings_at", made_up_ceilings)
    clock, forward = FakeClock(tick_ns=10), DeviceDecoder._forward

    def slow(self: DeviceDecoder, *args: Any) -> Any:
        clock.advance(1_000_000)
        return forward(self, *args)

    monkeypatch.setattr(DeviceDecoder, "_forward", slow)
    monkeypatch.setattr(pipeline, "HostClock", lambda: clock)


@pytest.fixture
def schema_file(tmp_path: Path) -> Path:
    """A schema of one field."""
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


def run(tiny_llama: Path, schema_file: Path, out: Path, **options: Any) -> pipeline.Report:
    """Ten rounds of eight tokens on the device."""
    asked = {"model": str(tiny_llama), "vocab": "own", "schema": schema_file, "device": "cuda", "new_tokens": 8}
    plan = Plan(**{**asked, "rounds": 10, **options})
    return pipeline.run("mask", plan, progress=lambda _share, _what: None, out=out)


@pytest.mark.usefixtures("on_device")
def test_a_step_on_a_device_has_its_kernels_beside_the_hosts_time(
    tiny_llama: Path, schema_file: Path, tmp_path: Path
) -> None:
    """Tables, rows of tables and packed bits choose what the definition leaves; busy time and launches by arm."""
    report = run(tiny_llama, schema_file, tmp_path / "run", engine="naive,table,table-lazy,outlines", batch=(2,))
    [cell] = report.findings.cells
    assert report.findings.invalid == ""
    arms = {arm.engine: arm for arm in cell.arms}
    assert list(arms) == [NO_MASK, "naive", "table", "table-lazy", "outlines"]
    assert all(arm.differing_choices == 0 for arm in arms.values())
    assert {"inputs", "forward", "lm_head", "sample", "stop", "sync"} <= set(arms[NO_MASK].ledger.parts)
    assert set(arms["table"].ledger.parts) == {*BOUNDARIES_ON_DEVICE}
    free, table = arms[NO_MASK].on_device, arms["table"].on_device
    assert free.parts["lm_head"] == KERNEL_NS
    assert "mask.apply" not in free.parts
    assert table.parts["mask.apply"] == KERNEL_NS  # masked_fill
    assert table.parts["mask.fill"] == 2 * KERNEL_NS  # the row of the state, and its tokens
    assert table.parts["mask.accept"] == 4 * KERNEL_NS  # two look-ups, the place of each by a product
    assert table.busy_ns == pytest.approx(free.busy_ns + 7 * KERNEL_NS)
    assert table.launches == pytest.approx(table.busy_ns / KERNEL_NS)
    bound = arms["table"].device_bound
    # 4 launches of at least 400 ns, 2 and 1: at 1,000 GB/s none of the parts moves as much in that time.
    assert {part: (one.bound_ns, one.binds) for part, one in bound.parts.items()} == {
        "mask.accept": (1600.0, "launches"),
        "mask.fill": (800.0, "launches"),
        "mask.apply": (400.0, "launches"),
    }
    V, B = cell.vocab_size, 2
    assert bound.bytes_moved["mask.fill"] == V + B * V  # a row of booleans, and one for each sequence
    assert bound.bytes_moved["mask.apply"] == B * V * (4 + 1 + 4)
    assert arms[NO_MASK].device_bound is msgspec.UNSET
    assert report.findings.roofline == []
    assert report.manifest.workload["device"] == "cuda"
    [shown, *_] = report.tables
    assert " on cuda, " in shown.title
    headings = {column.heading: column for column in shown.columns}
    assert {"device busy (ms/step)", "of the mask (µs)", "launches (/step)", "bound (µs)", "bound by"} <= set(headings)
    assert [headings["measured/bound"].cell(arm) for arm in cell.arms][2] == "2.50"
    assert "The bound of the mask is, part by part, the larger of its bytes" in " ".join(shown.notes)
    assert "Device busy is the time in which kernels run" in " ".join(shown.notes)
    readme = (report.folder / "README.md").read_text()
    assert "Not judged on cuda" in readme
    assert "Not measured on cuda" in readme
    before = {name: (report.folder / name).read_bytes() for name in report.manifest.files}
    pipeline.rebuild(report.folder)
    assert {name: (report.folder / name).read_bytes() for name in report.manifest.files} == before


def about(**changes: Any) -> AboutCell:
    """32 sequences over 131,072 tokens, of which 1,072 are allowed on average."""
    counted = {"vocab": "131072", "own": False, "vocab_size": 131_072, "batch": 32, "complexity": 1, "states": 9}
    means = {"allowed_mean": 1072.0, "allowed_median": 3.0, "lookups_per_fill": None, "texts_end": 0}
    return AboutCell(**{**counted, "hidden": 16, **means, **changes})


def seen(way: Any, **parts_ns: float) -> ArmOnDevice:
    """An arm whose parts of the mask launch one kernel each."""
    parts = {f"mask.{name}": ns for name, ns in parts_ns.items()}
    return ArmOnDevice(sum(parts.values()), len(parts), parts, dict.fromkeys(parts, 1.0), way)


def test_the_bound_of_many_logits_is_their_bytes() -> None:
    """At 1,000 GB/s: 37.7 µs to read and write the logits with a mask, 16.6 µs to write what is forbidden."""
    ceilings = made_up_ceilings()
    table = mask_bound(seen("table", fill=9_000.0, apply=40_000.0), about(), ceilings)
    assert table is not None
    assert table.parts["mask.apply"] == DevicePartBound(pytest.approx(32 * 131_072 * 9 / 1e3), "bandwidth")
    assert table.bound_ns == pytest.approx((32 * 131_072 * 9 + 33 * 131_072) / 1e3)
    assert table.binds == "bandwidth"
    in_place = mask_bound(seen("in place", apply=40_000.0), about(), ceilings)
    assert in_place is not None
    assert in_place.bound_ns == pytest.approx(32 * 130_000 * 4 / 1e3)
    uncounted = mask_bound(seen("in place", apply=40_000.0), about(allowed_mean=None), ceilings)
    assert uncounted is not None
    assert (uncounted.bound_ns, uncounted.binds) == (400.0, "launches")


def test_a_mask_that_is_faster_than_its_bound_has_none() -> None:
    """Nor has the sum of its parts; without a mask, launches or ceilings there is nothing to bound."""
    ceilings = made_up_ceilings()
    bound = mask_bound(seen("table", fill=9_000.0, apply=30_000.0), about(), ceilings)
    assert bound is not None
    assert (bound.bound_ns, bound.binds) == (None, BEATEN)
    assert bound.parts["mask.fill"].bound_ns == pytest.approx(33 * 131_072 / 1e3)
    assert mask_bound(seen("", apply=30_000.0), about(), ceilings) is None
    assert mask_bound(ArmOnDevice(0.0, 0.0, {}, {}, "table"), about(), ceilings) is None
    assert mask_bound(seen("table", apply=30_000.0), about(), None) is None


@pytest.mark.usefixtures("on_device")
def test_it_is_the_same_model_there(tiny_llama: Path) -> None:
    """The logits are those of the reference decoder to rounding, after a prompt and after further tokens."""
    there = placed(str(tiny_llama), "cuda")
    assert there is not None
    from perstep.targets import open_model

    model: Reference = open_model(str(tiny_llama), backend="numpy").model
    decoder = there.decoder(model)
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    cache = model.new_cache(2, 8)
    np.testing.assert_allclose(decoder.prefill(ids, no_mark).numpy(), prefill(model, ids, cache), rtol=1e-3, atol=1e-3)
    for fed in (np.array([11, 12]), np.array([13, 14])):
        got = decoder.decode(decoder.feed(fed, no_mark), no_mark)
        np.testing.assert_allclose(got.numpy(), decode_one_token(model, fed, cache), rtol=1e-3, atol=1e-3)
    assert decoder.held() == 5
    decoder.reset()
    assert decoder.held() == 0
    assert there.decoder(model).embedding_VD is decoder.embedding_VD  # a vocabulary is copied once


def bytes_vocabulary() -> Vocabulary:
    """Single bytes, a few words, and an end."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"true", b'"a": ', b'{"', None]
    return Vocabulary(tokens, eos_ids=[len(tokens) - 1])


@pytest.mark.parametrize("name", ["naive", "table", "table-lazy", "llguidance", "outlines"])
def test_every_engine_masks_a_tensor_to_what_may_come(name: str) -> None:
    """For rows in different states, and for texts that follow one another."""
    vocabulary = bytes_vocabulary()
    end = vocabulary.eos_ids[0]
    engine, definition = (prepare(each, vocabulary).build(Grammar(SCHEMA)) for each in (name, "table"))
    masker: Any = (
        TableOnDevice(engine.table, 2, vocabulary.size, torch.device("cpu"))
        if isinstance(engine, TableEngine) and name == "table"
        else BitsOnDevice([engine, engine.fork()], (end,), torch.device("cpu"))
    )
    texts = [[*b'{"a": "x"}', end, *b'{"a"'], [*b'{"a": "yy"}', end, *b'{"a']]
    masker.reset()
    for fed in zip(*texts, strict=True):
        ids = np.array(fed)
        masker.accept(ids, torch.from_numpy(ids))
    logits = torch.randn(2, vocabulary.size)
    before = logits.clone()
    masked = masker.apply(logits, masker.fill())
    for row, text in enumerate(texts):
        definition.reset()
        for token in text:
            assert definition.accept(token)
            if token == end:
                definition.reset()
        bits = np.unpackbits(definition.fill().view(np.uint8), bitorder="little", count=vocabulary.size) > 0
        finite = torch.isfinite(masked[row]).numpy()
        assert not (finite & ~bits).any()
        if name != "llguidance":  # it allows one way to cut forced text
            np.testing.assert_array_equal(finite, bits)
        torch.testing.assert_close(masked[row][finite], before[row][finite])


@pytest.mark.parametrize("size", [31, 32, 70])
def test_every_bit_of_a_word_is_its_token(size: int) -> None:
    """The sign of a word among them, and a last word that is not full."""
    allowed = np.random.default_rng(size).random((3, size)) < 0.5
    masker = BitsOnDevice([], (), torch.device("cpu"))
    masked = masker.apply(torch.zeros(3, size), [pack_bits(row) for row in allowed])
    np.testing.assert_array_equal(torch.isfinite(masked).numpy(), allowed)


@pytest.mark.usefixtures("on_device")
def test_an_engine_whose_masks_cannot_be_applied_there_is_left_out_in_one_sentence(
    tiny_llama: Path, schema_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that is not for this device costs the run that engine alone; where none is left there is no run."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("no kernel image\nand more")

    monkeypatch.setattr(BitsOnDevice, "apply", broken)
    report = run(tiny_llama, schema_file, tmp_path / "run", engine="table,outlines", rounds=2)
    assert [arm.engine for arm in report.findings.cells[0].arms] == [NO_MASK, "table"]
    [gone] = report.findings.left_out
    assert (gone.engine, gone.why) == (
        "outlines", "its masks cannot be applied on cpu: RuntimeError: no kernel image",
    )  # fmt: skip
    with pytest.raises(InputError, match="no engine can be measured on this schema; outlines: its masks cannot be"):
        run(tiny_llama, schema_file, tmp_path / "other", engine="outlines", rounds=2)
    assert not (tmp_path / "other").exists()


def test_no_mask_has_no_masker() -> None:
    """And nothing is tried for it."""
    assert masker_there([], (1,), None) is None  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(("device", "words"), [("cuda", "cannot be used here"), ("mps", "perstep does not see")])
def test_without_such_a_device_it_is_one_line(device: str, words: str, cli: Cli, tmp_path: Path) -> None:
    """Exit code 2, nothing written."""
    said = cli("mask", "--device", device, "--rounds", 1, "--out", tmp_path / "run")
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert words in said.err
    assert not (tmp_path / "run").exists()
