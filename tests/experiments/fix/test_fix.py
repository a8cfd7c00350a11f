"""`perstep fix`: drop-ins are offered where they do the same, tried on the captured call, and written as a diff."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import perstep
from perstep.errors import InputError
from perstep.experiments.fix import Captured, Captures, Edit, diff, find_fixes, lines, tables
from perstep.experiments.fix.behaviour import find_vocabulary, offers
from perstep.experiments.fix.capture import REMOVED
from perstep.experiments.fix.observe import observe
from perstep.experiments.fix.patch import _with_imports

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

EXAMPLE = Path(__file__).parents[3] / "examples" / "slow_generate.py"
BYTES = [bytes([byte]) for byte in range(256)]


class EveryToken(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids bytes that are no ASCII, asking each of them at every step."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf from 0x80 on."""
        return scores.masked_fill(torch.tensor([token >= 0x80 for token in range(256)]), -torch.inf)


class SometimesLouder(transformers.LogitsProcessor):  # type: ignore[misc]
    """Changes values: no mask."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Twice the scores."""
        return scores * 2


class OnlyAbove(transformers.LogitsProcessor):  # type: ignore[misc]
    """Forbids three tokens."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """-inf at 5, 7 and 9."""
        forbidden = torch.zeros(256, dtype=torch.bool)
        forbidden[[5, 7, 9]] = True
        return scores.masked_fill(forbidden, -torch.inf)


class Decodes(transformers.StoppingCriteria):  # type: ignore[misc]
    """Stops at an x, decoding everything."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row ends with it."""
        return torch.tensor([bytes(row).endswith(b"x") for row in input_ids.tolist()])


class Whim(transformers.StoppingCriteria):  # type: ignore[misc]
    """Says nothing that a drop-in says, though its code names a text."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether the last token is even and no x."""
        return torch.tensor([row[-1] % 2 == 0 and row[-1] != ord("x") for row in input_ids.tolist()])


class Deceives(transformers.StoppingCriteria):  # type: ignore[misc]
    """Looks as if it stopped at an x as long as the text is ASCII."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row ends with an x, or with a byte that is no ASCII."""
        return torch.tensor([bytes(row).endswith(b"x") or row[-1] >= 0x80 for row in input_ids.tolist()])


def model() -> Any:
    """A tiny Llama over bytes."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        eos_token_id=None, pad_token_id=0, initializer_range=0.4,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def captured(vocab: Any = BYTES, **kwargs: Any) -> Captured:
    """One call, caught from a line that can see `vocab`."""
    llama = model()
    ids = torch.arange(97, 107).reshape(2, 5)
    with Captures() as captures:
        llama.generate(ids, **{"max_new_tokens": 12, "do_sample": False, **kwargs})
    (call,) = captures.calls.values()
    assert call.names["vocab"] is vocab
    return call


def offered(call: Captured) -> dict[str, str]:
    """What is offered for each part."""
    return {one.part: one.source for one in offers(call, observe(call), find_vocabulary(call))}


def test_a_call_made_again_gives_its_tokens_greedy_or_sampled() -> None:
    """Seed for seed, with processors that count their steps."""

    class Counts(transformers.LogitsProcessor):  # type: ignore[misc]
        step = 0

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            self.step += 1
            return scores.roll(self.step, dims=1)

    for sample in (False, True):
        call = captured(logits_processor=[Counts()], do_sample=sample)
        assert torch.equal(call.again(), call.result)
        assert torch.equal(call.again(), call.result)


def test_a_class_of_ones_own_is_offered_what_agrees_with_all_it_did() -> None:
    """A mask that stays the same, a criterion that looks for a text; nothing for what changes values."""
    call = captured(logits_processor=[OnlyAbove(), SometimesLouder()], stopping_criteria=[Decodes()])
    assert offered(call) == {
        "logits/OnlyAbove": "perstep.fast.SuppressTokens([5, 7, 9])",
        "stop/Decodes": "perstep.fast.StopStrings([b'x'], BYTES)",
    }


def test_nothing_is_offered_for_a_long_list_an_unknown_rule_or_without_a_vocabulary() -> None:
    """128 ids are no line to write; a verdict that differs on one probe is another rule."""
    assert offered(captured(logits_processor=[EveryToken()], stopping_criteria=[Whim()])) == {}
    deceived = captured(logits_processor=[EveryToken()], stopping_criteria=[Deceives()])
    assert offered(deceived) == {}
    call = captured(stopping_criteria=[Decodes()])
    call.names = {}
    assert offered(call) == {}


def test_classes_of_transformers_are_recognised_with_their_settings() -> None:
    """What generate builds from settings moves into the list, and the settings go."""
    call = captured(do_sample=True, temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.3, suppress_tokens=[3])
    assert offered(call) == {
        "logits/RepetitionPenaltyLogitsProcessor": "perstep.fast.RepetitionPenalty(1.3)",
        "logits/SuppressTokensLogitsProcessor": "perstep.fast.SuppressTokens([3])",
        "logits/TopPLogitsWarper": (
            "transformers.TemperatureLogitsWarper(0.7), perstep.fast.TopK(20), perstep.fast.TopP(0.9)"
        ),
    }
    made = find_fixes(call, None, budget_s=0.05)
    assert all(tried.same_tokens for tried in made.findings.tried)
    assert made.edit.settings == {
        "repetition_penalty": 1.0, "suppress_tokens": REMOVED, "temperature": 1.0, "top_k": 0, "top_p": 1.0,
    }  # fmt: skip
    assert "suppress_tokens: leave it out" in lines(made)
    own = captured(logits_processor=[transformers.TopPLogitsWarper(0.8)], do_sample=True, top_k=0)
    assert offered(own) == {"logits/TopPLogitsWarper": "perstep.fast.TopP(0.8)"}


def test_what_is_found_is_measured_and_shown() -> None:
    """Both drop-ins together and each alone, against the call as it is; the table says why they are the same."""
    call = captured(logits_processor=[OnlyAbove()], stopping_criteria=[Decodes()])
    fix = find_fixes(call, None, budget_s=0.2)
    assert [tried.part for tried in fix.findings.tried] == ["logits/OnlyAbove", "stop/Decodes"]
    assert all(tried.result is not None and tried.same_tokens for tried in fix.findings.tried)
    assert fix.findings.together is not None
    (table,) = tables(fix.findings)
    assert [row[3] for row in table.rows] == [tried.drop_in for tried in fix.findings.tried]
    assert any("forbade the same tokens in all 24 recorded rows" in note for note in table.notes)
    assert lines(fix) == [
        "logits_processor[0], OnlyAbove: perstep.fast.SuppressTokens([5, 7, 9])",
        "stopping_criteria[0], Decodes: perstep.fast.StopStrings([b'x'], BYTES)",
    ]


def test_a_call_that_cannot_be_made_again_is_left_alone() -> None:
    """Its own cache, or tokens that another try does not give."""
    llama = model()
    with Captures() as captures:
        cache = transformers.DynamicCache(config=llama.config)
        llama.generate(torch.arange(3, 9)[None], max_new_tokens=3, past_key_values=cache, do_sample=False)
    (call,) = captures.calls.values()
    assert "past_key_values cannot be used a second time" in find_fixes(call, None, budget_s=0.1).findings.refused

    class Random(transformers.LogitsProcessor):  # type: ignore[misc]
        generator = torch.Generator().manual_seed(0)  # of the class: not copied

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            return torch.rand(scores.shape, generator=self.generator)

    found = find_fixes(captured(logits_processor=[Random()]), None, budget_s=0.1).findings
    assert "it depends on something that was not kept" in found.refused
    assert "Nothing was tried" in tables(found)[0].notes[0]


def test_suggestions_come_from_names_and_are_bounded_by_the_part() -> None:
    """The largest first; classes of transformers are certain; the gain is at most the part."""
    llama = model()
    with perstep.watch(llama) as w:
        llama.generate(
            torch.arange(3, 13).reshape(2, 5), max_new_tokens=30, do_sample=True, top_p=0.9,
            logits_processor=[EveryToken()],
        )  # fmt: skip
    ledger = w.ledger()
    found = {one.part: one for one in perstep.suggest(ledger)}
    assert found["logits/TopPLogitsWarper"].drop_in == "perstep.fast.TopP"
    assert found["logits/TopPLogitsWarper"].certain
    assert not found["logits/EveryToken"].certain
    for one in found.values():
        assert one.most_ns == ledger.parts[one.part].ns
        assert one.most_speedup == pytest.approx(1 / (1 - one.share))
    assert [one.most_ns for one in found.values()] == sorted((one.most_ns for one in found.values()), reverse=True)
    with pytest.raises(InputError, match="invalid"):
        perstep.suggest(msgspec.structs.replace(ledger, invalid="marks"))


SOURCE = '''"""A script."""
from __future__ import annotations
import torch

def main():
    # é
    model.generate(ids, top_p=0.9, logits_processor=P([A(1, "é"), B()]),
        suppress_tokens=[3],
        do_sample=True)
'''


def test_a_diff_changes_the_call_and_nothing_else(tmp_path: Path) -> None:
    """Items of a list, new items, settings that change or go, and the imports that are needed."""
    path = tmp_path / "job.py"
    path.write_text(SOURCE)
    edit = Edit(
        7,
        {"logits_processor": 2, "stopping_criteria": 0},
        replaced={"logits_processor": {1: "perstep.fast.Utf8(V)"}},
        added={"logits_processor": ["transformers.T(0.7)"], "stopping_criteria": ["perstep.fast.WordStop(V)"]},
        settings={"top_p": 1.0, "suppress_tokens": REMOVED, "top_k": 0, "min_p": REMOVED},
    )
    made = diff(path, [edit])
    assert made is not None
    (tmp_path / "change.diff").write_text(made.replace(tmp_path.as_posix().lstrip("/") + "/", ""))
    subprocess.run(["patch", "-p1", "-s", "-i", "change.diff"], cwd=tmp_path, check=True)
    assert (
        path.read_text()
        == '''"""A script."""
from __future__ import annotations
import perstep
import transformers
import torch

def main():
    # é
    model.generate(ids, top_p=1.0, logits_processor=P([A(1, "é"), perstep.fast.Utf8(V), transformers.T(0.7)]),
        suppress_tokens=None,
        do_sample=True, stopping_criteria=[perstep.fast.WordStop(V)], top_k=0)
'''
    )


@pytest.mark.parametrize(
    "call",
    ["model.generate(ids, **kwargs)", "model.generate(ids, logits_processor=mine)", "run(ids)",
     "model.generate(ids, logits_processor=[*mine])", "model.generate(ids, logits_processor=[A()])"],
)  # fmt: skip
def test_a_call_that_is_put_together_elsewhere_has_no_diff(tmp_path: Path, call: str) -> None:
    """The list is not there, or is not the one that was seen."""
    path = tmp_path / "job.py"
    path.write_text(call)
    assert diff(path, [Edit(1, {"logits_processor": 2}, replaced={"logits_processor": {0: "x"}})]) is None


def test_imports_stand_where_they_may() -> None:
    """Before the first import, after the docstring and after those of __future__; not twice."""
    assert _with_imports("import perstep\nperstep.x\n") == "import perstep\nperstep.x\n"
    assert _with_imports("from __future__ import annotations\nperstep.x\n").startswith(
        "from __future__ import annotations\nimport perstep\n"
    )


def test_the_example_becomes_fast_by_the_lines_it_prints(process: Callable[..., Any], tmp_path: Path) -> None:
    """In a process of its own: the same text after the diff is applied, and nothing written before."""
    script = tmp_path / "slow_generate.py"
    script.write_text(EXAMPLE.read_text())
    before = script.read_text()
    said = process("fix", "--apply", "--budget", "2s", "slow_generate.py", cwd=tmp_path)
    assert said.code == 0, said
    assert "logits/OnlyUtf8" in said.err
    assert "perstep.fast.Utf8(VOCABULARY)" in said.err
    assert script.read_text() == before
    told, change = said.out.split("--- a/", 1)
    assert told == "generated 96 tokens for 2 prompts\n"
    (tmp_path / "change.diff").write_text("--- a/" + change)
    subprocess.run(["patch", "-p1", "-s", "-i", "change.diff"], cwd=tmp_path, check=True)
    changed = script.read_text()
    assert "[NoRepeats(), perstep.fast.Utf8(VOCABULARY)]" in changed
    assert "[perstep.fast.StopStrings([b'\\n'], VOCABULARY)]" in changed
    for name, source in (("old", before), ("new", changed)):
        source = source.replace("    print(", "    print(tokens.tolist())\n    print(")
        (tmp_path / f"{name}.py").write_text(source)
    outputs = [
        subprocess.run([sys.executable, f"{name}.py"], cwd=tmp_path, check=True, capture_output=True).stdout
        for name in ("old", "new")
    ]
    assert outputs[0] == outputs[1]


def test_bad_input_is_one_line(cli: Callable[..., Any]) -> None:
    """No such script, no such budget."""
    said = cli("fix", "nowhere.py")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "no script 'nowhere.py'" in said.err
    said = cli("fix", "--budget", "soon", EXAMPLE)
    assert said.code == 2
    assert "--budget soon" in said.err
