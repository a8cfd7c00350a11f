"""Which criteria `fix` replaces by a drop-in, and which it leaves: each is asked, and a look-alike is told from it."""

import ast
import functools
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.models import tokenizer_of

from perstep.automata import Vocabulary
from perstep.fixing.criteria import Unlike, for_criterion
from perstep.fixing.held import held_by
from perstep.fixing.observe import Steps, verdicts_of
from perstep.fixing.probes import Speller

pytestmark = pytest.mark.hf
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
np = pytest.importorskip("numpy")

STOPS = ["\n\n", "###", "User:"]
LONGER = [b"\n\n", b"##", b"###", b"User", b"User:", b"ser", b": ", b":\n", b"#\n", b"the ", b"\n\n\n", b" a", b"er:x"]
SPECIAL = {"pad_token": "<pad>", "eos_token": "<end>"}

TOK = tokenizer_of([*(bytes([byte]) for byte in range(256)), *LONGER], **SPECIAL)
VOCABULARY = Vocabulary.from_tokenizer(TOK)
PROMPT = b"what the user said"


def steps_of(part: Any, rows: int = 2, prompt: bytes = PROMPT) -> Steps:
    """What a criterion says along a text in which nothing ends, as it is recorded in a call."""
    ids = torch.tensor([list(prompt + b"abcdefgh")] * rows)
    steps = Steps()
    for end in range(len(prompt) + 1, ids.shape[1] + 1):
        steps.ids.append(ids[:, :end])
        steps.after.append(verdicts_of(part(ids[:, :end], None), rows))
    return steps


def offer(part: Any, rows: int = 2) -> str:
    """The drop-in for a criterion, as it is written, or why there is none."""
    try:
        return for_criterion(part, steps_of(part, rows), VOCABULARY, "tok")[1]
    except Unlike as reason:
        return str(reason)


class Criterion(transformers.StoppingCriteria):  # type: ignore[misc]
    """A criterion of a user's own over the decoded text of each row."""

    def __init__(self, says: Callable[[str], bool], **held: Any) -> None:
        self.says, self.tok = says, TOK
        vars(self).update(held)

    def texts(self, ids: Any) -> list[str]:
        """The text of each row."""
        found: list[str] = self.tok.batch_decode(ids)
        return found

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row has ended."""
        return torch.tensor([self.says(text) for text in self.texts(input_ids)])


def any_of(stops: Any) -> Callable[[str], bool]:
    """Whether a text holds one of some."""
    return lambda text: any(stop in text for stop in stops)


class Held(Criterion):
    """Stops where the text holds one of its stop strings."""

    def __init__(self, stops: Any) -> None:
        self.stops, self.tok = stops, TOK

    def says(self, text: str) -> bool:  # type: ignore[override]
        """Whether it does."""
        return any(stop in text for stop in self.stops)


class Nested(Held):
    """Its stop strings lie in what it holds."""

    def says(self, text: str) -> bool:  # type: ignore[override]
        """Whether it does."""
        return any(stop in text for stop in (*self.stops["a"][0], *self.stops["b"]))


class OfItsModule(Held):
    """Its stop strings are the module's."""

    def says(self, text: str) -> bool:  # type: ignore[override]
        """Whether it does."""
        return _holds_one(text)


def _holds_one(text: str) -> bool:
    return any(stop in text for stop in STOPS)


class OfItsClass(Held):
    """Its stop strings are the class's, a constant of its code and a default."""

    first = ("\n\n",)

    def says(self, text: str, last: str = "User:") -> bool:  # type: ignore[override]
        """Whether it does."""
        return self.first[0] in text or "###" in text or last in text


@pytest.mark.parametrize(
    "part",
    [
        Held(STOPS),
        Held(tuple(STOPS)),
        Nested({"a": [("\n\n", "###")], "b": {"User:"}}),
        OfItsModule(None),
        OfItsClass(None),
        Criterion(any_of(STOPS)),
        Criterion(functools.partial(lambda stops, text: any(stop in text for stop in stops), STOPS)),
    ],
    ids=["list", "tuple", "nested", "global of a helper", "class, constant, default", "closure", "partial"],
)
def test_all_stop_strings_are_found_wherever_they_are_held(part: Any) -> None:
    """None of them was reached in the call; each was seen to stop it, and the line stops at each as well."""
    source = offer(part)
    found = re.fullmatch(r"perstep\.fast\.StopStrings\((\[.*\]), tok, anywhere=True\)", source)
    assert found is not None, source
    assert sorted(ast.literal_eval(found[1])) == sorted(STOPS)


def test_an_offer_says_how_much_was_seen_and_stops_where_the_criterion_does() -> None:
    """On texts that end with each, and on one whose prompt holds one."""
    part = Held(STOPS)
    stop, _, evidence = for_criterion(part, steps_of(part), VOCABULARY, "tok")
    found = re.fullmatch(
        r"the same 16 recorded verdicts \(0 of them stop\) and ([\d,]+) probes \(([\d,]+) of them stop\)", evidence
    )
    assert found is not None
    assert int(found[1].replace(",", "")) > 1000
    assert int(found[2].replace(",", "")) > 100
    for text in ("answer User:", "answer ###", "answer\n\n", "User: said it before", "answer"):
        ids = torch.tensor([list(text.encode())])
        assert stop(ids).tolist() == part(ids, None).tolist()


def test_a_stop_string_that_holds_another_adds_nothing_and_one_that_stops_nothing_is_left_out() -> None:
    """`###` has stopped before `### Note` is complete; a name and a message are no stop strings."""
    part = Criterion(any_of(["### Note", "###", "\n\n\n", "\n\n"]), name="said", message="stopped at a heading")
    assert offer(part) == "perstep.fast.StopStrings(['###', '\\n\\n'], tok, anywhere=True)"


def test_the_end_of_the_text_is_a_stop_string_where_every_token_is_a_byte() -> None:
    """Where tokens are longer the text may go on behind it in the same token."""
    part = Criterion(lambda text: text.endswith("###"))
    assert "perstep.fast.StopStrings(['###'], tok) is not the same: yours goes on at a token that ends '###'" in offer(
        part
    )

    class OfBytes(transformers.StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.tensor([bytes(row).endswith(b"###") for row in input_ids.tolist()])

    every_byte = Vocabulary([bytes([byte]) for byte in range(256)])
    assert for_criterion(OfBytes(), steps_of(OfBytes()), every_byte, "V")[1] == "perstep.fast.StopStrings([b'###'], V)"


def test_stop_strings_of_transformers_are_asked_as_well() -> None:
    """They look at what the last token completes. Names of special ids are text to them: then nothing is offered."""
    part = transformers.StopStringCriteria(TOK, STOPS)
    source = for_criterion(part, steps_of(part), VOCABULARY, "tok", list(part.stop_strings))[1]
    assert source == f"perstep.fast.StopStrings({list(part.stop_strings)!r}, tok)"
    named = transformers.StopStringCriteria(TOK, ["###", "<end>"])
    with pytest.raises(Unlike, match="yours stops "):
        for_criterion(named, steps_of(named), VOCABULARY, "tok", list(named.stop_strings))


class NewAlone(Criterion):
    """Reads what is behind the prompt."""

    def texts(self, ids: Any) -> list[str]:
        """Without the prompt."""
        return super().texts(ids[:, len(PROMPT) :])


class LastTokens(Criterion):
    """Reads the last three tokens."""

    def texts(self, ids: Any) -> list[str]:
        """Of these."""
        return super().texts(ids[:, -3:])


class WithoutSpecial(Criterion):
    """Reads over ids that have no text."""

    def texts(self, ids: Any) -> list[str]:
        """Without them."""
        found: list[str] = TOK.batch_decode(ids, skip_special_tokens=True)
        return found


class FirstRow(Criterion):
    """Looks at the first row and gives one verdict."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Of that row."""
        return self.says(self.tok.decode(input_ids[0]))


class Ids(transformers.StoppingCriteria):  # type: ignore[misc]
    """Compares the last ids with those of a text."""

    text = "###"

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether they are equal."""
        return torch.tensor([row[-1:] == [258] for row in input_ids.tolist()])


class Limit(Criterion):
    """Stops at a length as well."""

    limit = 700

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """At a stop string or from that length on."""
        return super().__call__(input_ids, scores) | (input_ids.shape[1] >= self.limit)


class NewLimit(Criterion):
    """Stops after so many calls as well."""

    calls, most = 0, 50

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """At a stop string or at the fiftieth call."""
        self.calls += 1
        return super().__call__(input_ids, scores) | (self.calls >= self.most)


class EverySecond(Criterion):
    """Looks at every second step."""

    calls = 0

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """False at every other step."""
        self.calls += 1
        return super().__call__(input_ids, scores) & (self.calls % 2 == 1)


class Remembers(Criterion):
    """Once it has stopped it is done."""

    done = False

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """True from the first stop on, of whatever call."""
        found = super().__call__(input_ids, scores)
        self.done = self.done or bool(found.all())
        return found | self.done


class OnlyOfTwo(Criterion):
    """Wants the rows of its call."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """With two rows, or nothing."""
        first, second = input_ids
        return super().__call__(torch.stack([first, second]), scores)


class Alarm(Criterion):
    """Stops when its time is over."""

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """At a stop string, or after a while."""
        return super().__call__(input_ids, scores) | (time.monotonic() > 1e12)


HASHES = any_of(["###"])
NOT_FOUND = "which no text that it stores explains"


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (NewAlone(HASHES), "is not the same: yours goes on at '###'"),
        (LastTokens(any_of(["User:"])), "is not the same: yours"),
        (WithoutSpecial(HASHES), "stops where '###' has an id without text inside"),
        (FirstRow(HASHES), "at once"),
        (Limit(HASHES), "yours stops"),
        (NewLimit(HASHES), "it keeps state from an earlier call"),
        (EverySecond(HASHES), "it keeps state from an earlier call"),
        (Remembers(HASHES), "it keeps state from an earlier call"),
        (OnlyOfTwo(HASHES), "ended with ValueError: too many values to unpack"),
        (Alarm(HASHES), "it reads a clock or draws at random (time)"),
        (Criterion(lambda text: "###" in text.strip()[-4:]), "yours"),
        (Criterion(lambda text: text.rstrip().endswith("User:")), "yours goes on at a token that ends 'User:'"),
        (Criterion(lambda text: "stop!" in text.lower()), "which is 'stop!' in other case"),
        (Criterion(lambda text: text.count("###") >= 2), NOT_FOUND),
        (Criterion(lambda text: "\n###" in "\n" + text.split("\n")[-1]), "is not the same: yours goes on"),
        (Criterion(lambda text: re.search("U.er:", text) is not None, like="User:"), "with 'x' in place of 's'"),
        (Criterion(lambda text: re.search("#{3}", text) is not None), NOT_FOUND),  # `###` is a token
        (Criterion(lambda text: chr(36) in text, name="x y"), NOT_FOUND),
        (Criterion(lambda text: text[-1:].isdigit()), NOT_FOUND),
        (Criterion(lambda text: False, stops=STOPS), "it never stopped a row, in 16 recorded verdicts and "),
        (Criterion(lambda text: "###" in text and len(text) < 300, most=300), "yours"),
        (Criterion(lambda text: "<end>" in text or "###" in text), "yours stops"),
        (Criterion(lambda text: any(stop in text for stop in STOPS) and "€" not in text), "' after '€'"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:40],
)
def test_what_is_nearly_a_stop_string_is_not_replaced_and_the_reason_is_said(part: Any, why: str) -> None:
    """Each depends on something that StopStrings does not, and was seen to."""
    reason = offer(part)
    assert why in reason, reason


CONTROL = "\x01-\x08\x0e-\x1f\x7f"
EVERY_BYTE = Vocabulary([bytes([byte]) for byte in range(256)])


class Words(transformers.StoppingCriteria):  # type: ignore[misc]
    """Stops where all that there is, decoded, is one control character, or a word and a blank."""

    def __init__(self, errors: str) -> None:
        self.errors = errors

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Whether each row does."""
        texts = [bytes(row).decode(errors=self.errors) for row in input_ids.tolist()]
        return torch.tensor([bool(re.fullmatch(rf"[{CONTROL}]|[^\s{CONTROL}]+\s", text)) for text in texts])


def test_the_end_of_a_word_is_offered_where_bytes_are_decoded_as_the_drop_in_reads_them() -> None:
    """From an empty prompt, as with `inputs_embeds`; not where invalid bytes are characters, or a prompt counts."""

    def tried(part: Any, prompt: bytes = b"") -> str:
        try:
            return " ".join(for_criterion(part, steps_of(part, prompt=prompt), EVERY_BYTE, "V")[1:])
        except Unlike as reason:
            return str(reason)

    offered = tried(Words("ignore"))
    assert offered.startswith("perstep.fast.WordStop(V) the same 16 recorded verdicts (0 of them stop) and "), offered
    for wrong in (tried(Words("replace")), tried(Words("ignore"), b"one two")):
        assert "no text that it stores explains" in wrong


def test_scores_that_a_call_hands_to_its_criteria_are_handed_to_them_in_trials() -> None:
    """With `output_scores` a criterion may look at them; then it depends on more than the text."""

    class Sure(Criterion):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            found = super().__call__(input_ids, scores)
            return found | bool(scores and scores[-1].max() > 1.0)

    for part, why in (
        (Sure(HASHES), "it stopped a row after"),
        (Held(["###"]), "StopStrings(['###'], tok, anywhere=True)"),
    ):
        steps = steps_of(part)
        steps.scores = (torch.zeros(2, 300),)
        try:
            said = for_criterion(part, steps, VOCABULARY, "tok")[1]
        except Unlike as reason:
            said = str(reason)
        assert why in said


def test_what_an_object_holds_is_looked_for_near_it_first_and_within_limits() -> None:
    """Patterns, slots and properties; no vocabulary, no module, no library's class; numbers that may be lengths."""

    class Slotted:
        __slots__ = ("word",)

        def __init__(self) -> None:
            self.word = "slot"

    class Mine(transformers.StoppingCriteria):  # type: ignore[misc]
        limit = 40

        def __init__(self) -> None:
            self.all = [Slotted(), re.compile("pat+ern"), b"bytes", "x" * 65, 2**40, {"key": (7,)}]
            self.words = [f"word {number}" for number in range(5000)]
            self.loop = self

        @property
        def name(self) -> str:
            return "of a property"

        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            """Not this text."""
            return torch.rand(1) if self.limit else "constant"

    held = held_by(Mine())
    assert {"slot", "pat+ern", b"bytes", "key", "of a property", "constant"} <= set(held.texts)
    assert not {"Not this text.", "x" * 65, "word 1"} & set(held.texts)
    assert {40, 7} <= set(held.numbers)
    assert max(held.numbers) < 2**40
    assert held.changing == "rand"


def test_a_text_is_spelled_in_several_ways_by_a_vocabulary_that_may_not_have_all_its_bytes() -> None:
    """The longest tokens, the shortest, and others; none where there is no way."""
    speller = Speller(Vocabulary([b"a", b"b", b"ab", b"ba", b"aba"]), np.random.default_rng(0))
    ways = speller.ways(b"ababa")
    assert ways[0] == [4, 3]
    assert [0, 1, 0, 1, 0] in ways
    assert speller.ways(b"abc") == []
    assert speller.spell(b"abc") == [0, 1]
    assert Speller(Vocabulary([b"ab", b"b"]), np.random.default_rng(0)).ways(b"abb") == [[0, 1]]
