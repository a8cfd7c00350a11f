"""Which of the models that are called in a loop separates its steps."""

import pytest

from perstep.targets.loops._roles import Role, Roles

SIZES = {"target": 100, "draft": 10, "vision": 50, "small": 20, "a": 5, "b": 5, "head": 30}


def mains(*called: str, elsewhere: str = "") -> list[str]:
    """The main model at each call; a name with `!` is called in another loop."""
    roles, numbers, main, found = Roles(), {name: i for i, name in enumerate(SIZES)}, "", []
    for name in called:
        model = name.removesuffix("!")
        role = roles.of(numbers[model], SIZES[model], here=not name.endswith("!"))
        assert (role is Role.MAIN) == (main == model)
        main = model if role is Role.BECOMES_MAIN else main
        found.append(main)
    return found


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("target target", "target target"),
        # A draft that comes first yields to the larger one, and stays its part.
        ("draft target draft draft target draft draft target", "draft" + " target" * 7),
        # A vision tower, larger than the model that decodes: once a text, then it is not called again.
        ("vision small small small vision small small", "vision small small small small small small"),
        # A model that is no module itself: its largest layer stands for it.
        ("a b head a b head a b head", "a b head head head head head head head"),
        # Another loop, somewhere else.
        ("target target target draft! draft draft", "target target target draft draft draft"),
        # A larger model in the same code, after a loop of its own.
        ("draft draft draft target target", "draft draft draft target target"),
    ],
)
def test_of_models_that_take_turns_the_largest_is_the_main_one(called: str, expected: str) -> None:
    """The others are parts of its steps."""
    assert mains(*called.split()) == expected.split()


def test_a_smaller_model_that_is_called_on_and_on_has_a_loop_of_its_own() -> None:
    """A draft proposes fewer tokens than that."""
    found = mains(*["target"] * 3, *["draft"] * 20)
    assert found[:3] == ["target"] * 3
    assert found[-1] == "draft"
