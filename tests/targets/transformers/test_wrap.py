"""Wrapping attributes and taking the wrappers away again."""

import copy
import inspect
import pickle
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstep.targets.transformers._wrap import _LAYERS, Wraps


class Greeter:
    """Something to wrap."""

    def __init__(self, name: str = "you") -> None:
        self.name = name

    def greet(self, word: str = "hello") -> str:
        """A method."""
        return f"{word} {self.name}"

    @staticmethod
    def shout(word: str) -> str:
        """A static method."""
        return word.upper()


def marked(sign: str):
    """Make a wrapper that puts a sign around the answer."""
    return lambda original: lambda *args, **kwargs: sign + original(*args, **kwargs) + sign


def test_a_method_of_one_instance_is_wrapped_and_the_class_is_not():
    """Other instances do not notice, and afterwards the instance has no attribute more."""
    one, other, wraps = Greeter(), Greeter(), Wraps()
    wraps.method(one, "greet", marked("*"))
    assert (one.greet("hi"), other.greet("hi")) == ("*hi you*", "hi you")
    wraps.restore()
    assert vars(one) == {"name": "you"}
    assert one.greet() == "hello you"


def test_what_an_instance_held_under_the_name_comes_back():
    """The very object, not an equal one."""
    greeter, wraps = Greeter(), Wraps()
    own = lambda word: f"mine {word}"  # noqa: E731
    greeter.greet = own
    wraps.method(greeter, "greet", marked("*"))
    assert greeter.greet("hi") == "*mine hi*"
    wraps.restore()
    assert greeter.greet is own


def test_a_static_method_is_called_without_the_instance():
    """Some models make their masks in one."""
    greeter, wraps = Greeter(), Wraps()
    wraps.method(greeter, "shout", marked("*"))
    assert greeter.shout("hi") == "*HI*"
    wraps.restore()
    assert "shout" not in vars(greeter)


def test_a_wrapper_shows_the_signature_of_what_it_covers():
    """Transformers reads it to decide which arguments a forward takes."""
    greeter, wraps = Greeter(), Wraps()
    before = inspect.signature(greeter.greet)
    wraps.method(greeter, "greet", marked("*"))
    assert inspect.signature(greeter.greet) == before
    wraps.restore()
    greeter.greet = lambda word, *, loud=False: word
    before = inspect.signature(greeter.greet)
    wraps.method(greeter, "greet", marked("*"))
    assert inspect.signature(greeter.greet) == before
    wraps.restore()


class Slotted(Greeter):
    """One with a slot beside its dictionary."""

    __slots__ = ("place",)


class Counts(Greeter):
    """One that says itself what a copy is made from."""

    def __getstate__(self):
        return {**vars(self), "copies": vars(self).get("copies", 0) + 1}


@pytest.mark.parametrize("kind", [Greeter, Slotted, Counts])
@pytest.mark.parametrize("make", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])  # noqa: S301
def test_a_copy_made_meanwhile_has_no_wrappers(kind, make):
    """Neither of one set nor of two, whichever is taken away first; what the instance held before is copied."""
    one, first, second = kind("one"), Wraps(), Wraps()
    expected = dict(vars(make(one)))
    first.method(one, "greet", marked("*"))
    second.method(one, "greet", marked("+"))
    second.method(one, "shout", marked("+"))
    for wraps in (first, second, Wraps()):
        twin = make(one)
        assert vars(twin) == expected
        assert type(twin) is kind
        assert twin.greet() == "hello one"
        wraps.restore()
    assert vars(one) == {"name": "one"}
    assert not _LAYERS


def test_a_copy_has_what_the_instance_held_under_the_name():
    """As libraries put a forward of their own there."""
    one, wraps = Greeter(), Wraps()
    one.greet = str.upper
    wraps.method(one, "greet", marked("*"))
    assert copy.deepcopy(one).greet("x") == "X"
    wraps.restore()


def test_classes_modules_and_mappings_are_wrapped_and_restored():
    """An entry that a mapping did not have is gone again."""
    module = types.ModuleType("made_up")
    module.greet = greet = lambda: "hello"
    table: dict = {}
    wraps = Wraps()
    static = inspect.getattr_static(Greeter, "greet")
    wraps.function(Greeter, "greet", marked("*"))
    wraps.function(module, "greet", marked("*"))
    wraps.item(table, "greet", marked("*"), greet)
    assert (Greeter().greet(), module.greet(), table["greet"]()) == ("*hello you*", "*hello*", "*hello*")
    wraps.restore()
    assert inspect.getattr_static(Greeter, "greet") is static
    assert module.greet is greet
    assert table == {}


def test_what_somebody_puts_over_a_wrapper_is_left_alone():
    """It is not ours to take away."""
    greeter, wraps = Greeter(), Wraps()
    wraps.method(greeter, "greet", marked("*"))
    theirs = lambda: "theirs"  # noqa: E731
    greeter.greet = theirs
    wraps.restore()
    assert greeter.greet is theirs
    assert not _LAYERS


@given(st.permutations(range(5)))
def test_layers_may_be_taken_away_in_any_order(order):
    """Two threads may watch two models of one class, and end as they like."""
    greeter = Greeter()
    layers = [Wraps() for _ in range(5)]
    for index, wraps in enumerate(layers):
        wraps.method(greeter, "greet", marked(str(index)))
    assert greeter.greet("x") == "43210x you01234"
    for index in order:
        layers[index].restore()
    assert vars(greeter) == {"name": "you"}
    assert not _LAYERS


def test_values_are_put_back_and_classes_are_values():
    """An attribute that was not there is gone again."""

    class Loud(Greeter):
        """Another class."""

        def greet(self, word="hello"):
            return super().greet(word).upper()

    greeter = Greeter()
    with Wraps() as wraps:
        wraps.value(greeter, "name", "me")
        wraps.value(greeter, "other", 1)
        wraps.value(greeter, "__class__", Loud)
        assert (greeter.greet(), greeter.other) == ("HELLO ME", 1)
    assert type(greeter) is Greeter
    assert vars(greeter) == {"name": "you"}


def test_a_name_that_is_not_there_is_an_error_and_leaves_nothing_behind():
    """As when a version lacks a method."""
    greeter, wraps = Greeter(), Wraps()
    with pytest.raises(AttributeError):
        wraps.method(greeter, "no_such", marked("*"))
    with pytest.raises(KeyError):
        wraps.function(Greeter, "no_such", marked("*"))
    wraps.restore()
    assert vars(greeter) == {"name": "you"}
    assert not _LAYERS
