"""How many examples Hypothesis draws where each takes milliseconds."""

from hypothesis import settings


def examples(number: int) -> int:
    """`number` in a random search, a third of them where the same ones are drawn each time (`tests/conftest.py`).

    Those that are drawn each time have passed before: they are the first of what `make nightly` searches through.
    """
    return number // 3 if settings.default.derandomize else number
