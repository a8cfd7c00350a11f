"""Source lines as a run keeps them: no text of a program."""

from pathlib import Path

import pytest

from perstep.targets.loops import source_line

PROGRAM = '''\
x = 1
say('secret', x)  # secret to all
y = f"secret {x!r:>{4}} secret" f'{"secret"}' + str(x)
z = ("""secret
  'secret' secret""", x, """secret
secret""", x + 1)
b = rb"secret" if x else 'sec\\
ret'.lower()
'''
KEPT = ["x = 1", "say(…, x)", "y = … … + str(x)", "z = (…", "…, x, …", "…, x + 1)", "b = … if x else …", "….lower()"]


def test_a_line_has_neither_strings_nor_comments(tmp_path: Path) -> None:
    """However many lines a string has, and whatever is in it."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    assert [source_line(str(path), number) for number in range(1, 9)] == KEPT


@pytest.mark.parametrize(("text", "kept"), [("x = 1 + (", "x = 1 + ("), ("x = 'secret", "…"), ("", "")])
def test_what_is_no_python_shows_nothing(tmp_path: Path, text: str, kept: str) -> None:
    """Where strings cannot be told from the rest."""
    path = tmp_path / "program.py"
    path.write_text(text)
    assert source_line(str(path), 1) == kept


def test_a_file_that_is_not_there_has_no_lines() -> None:
    """As code that was made at run time."""
    assert source_line("<string>", 1) == ""
