"""What changes in a program: the arguments of a call, ready to be copied, and a unified diff. No file is written to.

The call is found in the syntax tree by the place that Python keeps of it. Lists are changed item by item where the call
writes them itself, by their elements where it names them; what is built elsewhere is left to the person.
"""

import ast
import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perstep.fixing.capture import REMOVED, Captured
from perstep.fixing.offer import CRITERIA, LOOP, PROCESSORS, Code, Offer, around
from perstep.fixing.samples import Written
from perstep.fixing.text import Text, with_imports
from perstep.targets.transformers import is_installed


@dataclass(frozen=True)
class _Items:
    """What comes before the items of a list, what follows them, and what stands at the place of some."""

    first: list[str]
    last: list[str]
    replaced: dict[int, str] = field(default_factory=dict)

    def all(self, written: list[str]) -> list[str]:
        """The items of a list from now on, of which these are written."""
        return [*self.first, *(self.replaced.get(index, one) for index, one in enumerate(written)), *self.last]


@dataclass(frozen=True)
class Edit:
    """The offers that are to be written into one generate call."""

    call: Captured
    offers: list[Offer] = field(default_factory=list)

    def lists(self) -> dict[str, "_Items"]:
        """Argument -> what changes in its list."""
        kinds = dict.fromkeys(offer.kind for offer in self.offers if offer.kind in (PROCESSORS, CRITERIA))
        by_kind = {}
        for kind in kinds:
            first, last = ([source for _, source in some] for some in around(self.offers, kind))
            by_kind[kind] = _Items(first, last)
        for offer in self.offers:
            if offer.kind in by_kind and offer.index is not None:
                by_kind[offer.kind].replaced[offer.index] = offer.source
        return by_kind

    def settings(self) -> dict[str, object]:
        """Arguments that change, or are REMOVED."""
        settings: dict[str, object] = {}
        for offer in sorted(self.offers, key=lambda one: one.kind == LOOP):  # the loop last
            settings |= {LOOP: Code(offer.made[0][1])} if offer.kind == LOOP else offer.settings
        return settings

    def before(self, model: str) -> list[str]:
        """Lines that stand before the call, which is made on `model`."""
        return [line.replace("{model}", model) for offer in self.offers for line in offer.before]


def write(edit: Edit, chosen: list[int], *, sampled: bool = False) -> Written:
    """What to write into the source of one call.

    Args:
        edit: the call and its offers.
        chosen: their places among what was tried.
        sampled: its tokens are drawn, so that another decode loop draws others.
    """
    written = Written(site=edit.call.site, chosen=chosen)
    if not edit.offers:
        return written
    change = _found(edit)
    if isinstance(change, str):
        written.by_hand, written.lines = change, _in_words(edit)
    else:
        written.lines = [f"{line}  # before the call" for line in change.before]
        written.lines += [f"{source}," for source in change.lines.values()]
    if sampled:
        loops = [f"{offer.source}," for offer in edit.offers if offer.kind == LOOP]
        written.lines = [f"{one}  # other draws, same distribution" if one in loops else one for one in written.lines]
    needed = " ".join(written.lines)
    written.imports = [f"import {name}" for name in ("perstep", "transformers") if f"{name}." in needed]
    return written


def diff(edits: Sequence[Edit]) -> tuple[str, str]:
    """The unified diff that makes the edits, of every file that can be changed, and where it is to be applied.

    Returns:
        The diff, empty where no file can be changed. The folder, empty where that is the current one: neither `patch`
        nor `git apply` goes outside the folder that it stands in, so files elsewhere are named from the one that holds
        them all.
    """
    files: dict[Path, list[Edit]] = {}
    for edit in edits:
        if edit.offers and not isinstance(_found(edit), str):
            files.setdefault(edit.call.file.resolve(), []).append(edit)
    folder = Path.cwd().resolve()
    if not all(path.is_relative_to(folder) for path in files):
        folder = Path(os.path.commonpath([path.parent for path in files]))
    diffs = []
    for path, own in files.items():
        before = after = _read(path)
        for edit in sorted(own, key=lambda one: -one.call.line):  # from the end: places before stay true
            change = _found(edit, after)
            if not isinstance(change, str):
                after = change.text.result()
        diffs.append(_unified(before, with_imports(after), path.relative_to(folder).as_posix()))
    return "".join(diffs), "" if folder == Path.cwd().resolve() else str(folder)


def _read(path: Path) -> str:
    return path.read_bytes().decode()  # line ends stay what they are


def _unified(before: str, after: str, name: str) -> str:
    old, new = (
        source.splitlines(keepends=True) if "\r" not in source else _lines(source) for source in (before, after)
    )
    end = "\t" if " " in name else ""  # as GNU diff ends such a name: patch would end it at the blank
    lines = difflib.unified_diff(old, new, f"a/{name}{end}", f"b/{name}{end}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(source: str) -> list[str]:
    return [line + "\n" for line in source.split("\n")[:-1]] + ([source.split("\n")[-1]] if source[-1:] != "\n" else [])


@dataclass
class _Change:
    """A changed source, and the arguments that changed in it as they are written from now on, by name."""

    text: Text
    lines: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)


def _found(edit: Edit, source: str | None = None) -> "_Change | str":
    """The change of a source (of the file if None), or why it cannot be made."""
    call = edit.call
    if is_installed(str(call.file)):
        return f"the call is in an installed package, {call.file}"
    try:
        source = _read(call.file) if source is None else source
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):
        return f"the source of {call.file} cannot be read"
    node = _node(tree, call)
    if node is None:
        return "the call is not written as model.generate(...) at this line"
    change = _changed(edit, node, Text(source))
    if isinstance(change, str):
        return change
    return _before(edit, tree, node, change) or change


def _node(tree: ast.AST, call: Captured) -> ast.Call | None:
    """The call in the syntax tree: by its place, else the innermost one of something named generate on its line."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if call.span is not None:
        calls = [one for one in calls if (one.lineno, one.end_lineno, one.col_offset, one.end_col_offset) == call.span]
    calls = [one for one in calls if one.lineno <= call.line <= (one.end_lineno or one.lineno)]
    named = calls if call.pipeline else [one for one in calls if _name(one.func) == "generate"]
    return min(named, key=lambda one: (one.end_lineno or 0) - one.lineno, default=None)


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _changed(edit: Edit, node: ast.Call, text: Text) -> "_Change | str":
    keywords = {one.arg: one for one in node.keywords if one.arg}
    starred = [one.value for one in node.keywords if one.arg is None]
    rest = text.of(starred[0]) if len(starred) == 1 and _is_plain(starred[0]) else ""
    change = _Change(text)
    inside: dict[str, str] = {}  # what has to change in **kwargs
    for argument, changed in edit.lists().items():
        count = len(edit.call.lists[argument])
        if argument in keywords:
            written = _change_argument(text, keywords[argument].value, changed, count)
            if written is None:
                return f"{argument} is built elsewhere"
            change.lines[argument] = f"{argument}={written}"
        elif not count:
            change.lines[argument] = f"{argument}={_list(changed.all([]))}"
            text.add_argument(node, change.lines[argument])
        elif rest:
            inside[argument] = _list(changed.all([f"{rest}[{argument!r}][{index}]" for index in range(count)]))
        else:
            return f"{argument} is built elsewhere"
    where = _change_settings(edit, node, text, change, keywords, rest if starred else None)
    if isinstance(where, str):
        return where
    inside |= where
    if inside:
        new = f"{{**{rest}, {', '.join(f'{name!r}: {value}' for name, value in inside.items())}}}"
        text.replace(starred[0], new)
        change.lines["**"] = f"**{new}"
    return change


def _before(edit: Edit, tree: ast.AST, node: ast.Call, change: "_Change") -> str:
    """Put lines before the statement that the call is in; why that cannot be done, or empty."""
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    change.before = edit.before("model" if owner is None else change.text.of(owner))
    if not change.before:
        return ""
    around = [one for one in ast.walk(tree) if isinstance(one, ast.stmt) and node in ast.walk(one)]
    statement = max(around, key=lambda one: (one.lineno, one.col_offset))
    indent = change.text.indent(statement)
    if indent is None or (owner is None and any("{model}" in line for one in edit.offers for line in one.before)):
        return "lines are needed before the call, and it is not written as a statement of its own on its line"
    change.text.before(statement, "".join(f"{line}\n{indent}" for line in change.before))
    try:
        ast.parse(change.text.result())
    except SyntaxError:  # before an `elif`, say
        return "lines are needed before the call, and none can stand there"
    return ""


def _change_settings(
    edit: Edit, node: ast.Call, text: Text, change: "_Change", keywords: Mapping[str, ast.keyword], rest: str | None
) -> dict[str, str] | str:
    """Change the settings that drop-ins replace; those inside `**rest` are returned, or why it cannot be done.

    Args:
        rest: how `**kwargs` is written, empty where that cannot be told, None where there is none.
    """
    inside: dict[str, str] = {}
    for name, setting in edit.settings().items():
        new = "None" if setting is REMOVED else repr(setting)
        if name in keywords:
            text.replace(keywords[name].value, new)
            change.lines[name] = f"{name}={new}"
        elif name in edit.call.arguments[1] and not edit.call.pipeline and rest is not None:
            if not rest:
                return f"{name} is built elsewhere"
            inside[name] = new
        elif setting is not REMOVED:
            change.lines[name] = f"{name}={new}"
            text.add_argument(node, change.lines[name])
    return inside


def _change_argument(text: Text, value: ast.expr, changed: _Items, count: int) -> str | None:
    """Change a list where it is written; how it then reads, or None where it is built elsewhere."""
    items = _items(value)
    if items is not None and len(items.elts) == count:
        written = [text.of(one) for one in items.elts]
        _change_items(text, items, changed)
    elif _is_plain(value):
        written = [f"{text.of(value)}[{index}]" for index in range(count)]
        text.replace(value, _list(changed.all(written)))
    else:
        return None
    return _list(changed.all(written))


def _list(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


def _change_items(text: Text, items: ast.List, changed: _Items) -> None:
    if not items.elts:
        text.replace(items, _list(changed.all([])))
        return
    for index, node in enumerate(items.elts):
        if index in changed.replaced:
            text.replace(node, changed.replaced[index])
    if changed.first:
        text.before(items.elts[0], f"{', '.join(changed.first)}, ")
    if changed.last:
        text.after(items.elts[-1], f", {', '.join(changed.last)}")


def _items(value: ast.expr) -> ast.List | None:
    """The list that an argument is written as, in `LogitsProcessorList([...])` too; None if it is not."""
    if isinstance(value, ast.Call) and len(value.args) == 1 and not value.keywords:
        value = value.args[0]
    starred = isinstance(value, ast.List) and any(isinstance(one, ast.Starred) for one in value.elts)
    return value if isinstance(value, ast.List) and not starred else None


def _is_plain(value: ast.expr) -> bool:
    """Whether an expression may be written twice: a name, or an attribute of one."""
    return isinstance(value, ast.Name) or (isinstance(value, ast.Attribute) and _is_plain(value.value))


def _in_words(edit: Edit) -> list[str]:
    """What to write where the source cannot be changed from here: each drop-in under the name of what it replaces."""
    said = [f"{line}  # before the call" for line in edit.before("model")]
    for argument, changed in edit.lists().items():
        said += [line for source in changed.first for line in (f"# {argument}, before all others:", source)]
        for index, source in changed.replaced.items():
            said += [f"# {argument}[{index}], in place of {type(edit.call.lists[argument][index]).__name__}:", source]
        said += [line for source in changed.last for line in (f"# {argument}, at the end:", source)]
    return said + [f"{name}={'None' if value is REMOVED else repr(value)}," for name, value in edit.settings().items()]
