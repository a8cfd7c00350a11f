"""From words of a command line to a plan, whoever gives them: a person, or a file of a sweep.

Nothing heavy is imported here before an experiment is named: `perstep --help` imports this module.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, get_args

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, UnusedCliTokensError

from perstep.errors import InputError
from perstep.experiments.registry import find

AnyPlan = Any
"""The plan of some experiment: each has a dataclass of its own."""


def refuse_fractions(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Cyclopts rounds `-n 8.7` to 9.

    Raises:
        InputError: a count has a fraction.
    """
    for argument in arguments:
        whole = argument.hint is int or int in get_args(argument.hint)
        for token in argument.tokens if whole else ():
            with suppress(ValueError):  # no number at all: cyclopts says so
                if not float(token.value).is_integer():
                    raise InputError(f"{token.keyword or argument.name} {token.value}: it must be a whole number")


def plan_from(experiment: str, words: Sequence[str]) -> AnyPlan:
    """The plan that an experiment's command would make of these words.

    Raises:
        InputError: there is no such experiment or it has no plan, or a word is no option of it or has a wrong value.
    """
    kind = getattr(find(experiment), "Plan", None)
    if kind is None:
        raise InputError(f"`{experiment}` measures a script, and has no plan to repeat; give another experiment")

    def take(plan: AnyPlan) -> AnyPlan:
        return plan

    take.__annotations__ = {"plan": Annotated[kind, Parameter(name="*")]}
    take.__defaults__ = (kind(),)
    # Without --help and --version, which print and make no plan.
    app = App(name=experiment, default_command=take, result_action="return_value", config=refuse_fractions,
              help_flags=(), version_flags=())  # fmt: skip
    try:
        return app(list(words), exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        surplus = " ".join(error.unused_tokens or ())
        raise InputError(f"{surplus!r} is no option of `perstep {experiment}`; its --help lists them") from error
    except CycloptsError as error:
        raise InputError(f"`perstep {experiment}`: {' '.join(str(error).split())}") from error
