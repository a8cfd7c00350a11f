"""A page as one file: what is shown, the program that makes it lively, and nothing from elsewhere.

Without a script it is complete: sentences, drawings and tables. The program is perstep's own with two vendored
libraries (`data/vendor`), named by their hashes in the page's policy; no other script runs, and nothing is fetched.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files

import msgspec

from perstep.report.format import bar
from perstep.report.page.content import Bars, Drawn, LedgerView, Page
from perstep.report.page.curves import colour_of
from perstep.report.page.drawing import figure, round_noun
from perstep.report.page.markup import (
    Markup,
    code,
    element,
    hidden,
    hiding,
    join,
    quantity,
    sentence,
    sentences,
    verbatim,
)
from perstep.report.page.rounds import Packed, rounds_of, rounds_of_two
from perstep.report.panels import Panel
from perstep.report.plot import page_shades
from perstep.report.table import Column, Table

REPORT = "report.html"
"""The file of a run's page."""
_VENDORED = {"uPlot": "uPlot.iife.min.js", "preact": "preact.min.umd.js"}
_NOTHING_SENT = "no file is fetched when it is opened, and nothing is sent"
_KEYS = (
    ("/", "filter parts and rows"),
    ("↑ ↓", "the next part, when one is in focus"),
    ("Enter", "the rounds of the part in focus; a click does the same"),
    ("Esc", "close it, or clear the filter"),
    ("?", "this help"),
)


def render_page(page: Page, *, raw: bool = False, hide: Callable[[str], str] | None = None) -> bytes:
    """The page; equal content gives equal bytes.

    Args:
        page: what is shown.
        raw: every round by itself, however many there are.
        hide: takes what is private out of every text, before it is escaped; None hides nothing.
    """
    with hiding(hide):
        return _rendered(page, raw=raw)


def _rendered(page: Page, *, raw: bool) -> bytes:
    data = hidden({"figures": _all_data(page.content.figures, raw=raw)})
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy()),
        element("title", page.title),
        element("link", rel="icon", href="data:,"),
        Markup(f"<style>{_style()}</style>"),
    )
    body = element(
        "body",
        element("div", *_content(page), class_="page"),
        element("div", id="hint", class_="hint only-live", role="tooltip", hidden=True),
        Markup(f'<script type="application/json" id="data">{_as_json(data)}</script>'),
        Markup(f"<script>{_script()}</script>"),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n".encode()


def _content(page: Page) -> list[Markup]:
    names = {"1": "Finding", "2": "Numbers"} | ({"3": "How it was measured"} if page.facts or page.inside else {})
    views = [_first_view(page), _second_view(page), *([_third_view(page)] if "3" in names else [])]
    links = [
        element("a", f"{number} {name}", href=f"#view-{number}", data_view=number) for number, name in names.items()
    ]
    search = element(
        "span",
        element("span", "", id="count", class_="note", role="status"),
        element("input", id="filter", type="search", placeholder="filter  /", aria_label="Filter parts and rows"),
        element("button", "? help", id="help-button", type="button"),
        class_="right only-live",
    )
    return [
        element("a", "Skip to the finding", href="#view-1", class_="skip"),
        element(
            "header",
            element("p", f"perstep {page.kind}", class_="kicker"),
            element("h1", sentence(page.content.finding)),
            element("p", page.subject, class_="subject"),
        ),
        element("nav", *links, search, aria_label="Views"),
        element("main", *views),
        _footer(page),
        _help(names),
    ]


def _view(number: str, *content: Markup) -> Markup:
    return element("section", *content, id=f"view-{number}", class_="view", data_view=number)


def _first_view(page: Page) -> Markup:
    alerts = [
        _alert("Do not quote these numbers", page.stops, "alert stop"),
        _alert("Before a number is quoted", page.warnings, "alert"),
    ]
    figures = [figure(number, shown) for number, shown in enumerate(page.content.figures)]
    drawn = element("div", *figures, class_="figures")
    return _view("1", *alerts, drawn, element("div", id="detail"))


def _alert(heading: str, said: Sequence[str], kind: str) -> Markup:
    if not said:
        return Markup("")
    return element("div", element("strong", heading), sentences(said), class_=kind)


def _second_view(page: Page) -> Markup:
    return _view("2", element("h2", "Numbers"), *(table_html(table) for table in page.tables))


def table_html(table: Table) -> Markup:
    """A table with its title and notes; a share is a bar."""
    shown = table.shown
    head = element(
        "tr",
        *(
            element("th", c.heading, scope="col", class_=None if c.words else "number") if c.heading else element("td")
            for c in shown
        ),
    )
    rows = [
        element("tr", *(_cell(column, row, first=column is shown[0]) for column in shown),
                class_="rule" if place in table.rule_before else None)
        for place, row in enumerate(table.records)
    ]  # fmt: skip
    grid = element("table", element("thead", head), element("tbody", *rows), class_="data", data_title=table.title)
    scrolled = element("div", grid, class_="scrolled", tabindex=0, role="group", aria_label=table.title)
    return join([element("h3", table.title), scrolled, sentences(table.notes, "notes")])


def _cell(column: Column[object], row: object, *, first: bool) -> Markup:
    if first:
        name = column.cell(row)
        return element("th", name.strip(), scope="row", class_="inner" if name.startswith(" ") else None)
    value = column.value(row)
    if column.form is bar and isinstance(value, float):
        shape = element("rect", x=0, y=0, width=100 * max(0.0, min(value, 1.0)), height=12, class_="amount")
        drawn = element("svg", shape, viewbox="0 0 100 12", ratio="none", class_="bar", aria_hidden="true")
        return element("td", drawn, class_="share")
    return element("td", quantity(column.cell(row)), class_="text" if column.words else "number")


def _third_view(page: Page) -> Markup:
    sections = [element("h2", "How it was measured")]
    for heading, facts in page.facts.items():
        sections.append(element("h3", heading))
        if list(facts) == [""]:
            sections.append(element("div", verbatim(facts[""]), class_="command"))
            continue
        sections.append(_described(facts, verbatim))
    if page.inside:
        sections += [element("h3", "What lies inside each part"), _described(page.inside, sentence)]
    return _view("3", *sections)


def _described(facts: Mapping[str, str], form: Callable[[str], Markup]) -> Markup:
    pairs = ((element("dt", code(name)), element("dd", form(fact))) for name, fact in facts.items())
    return element("dl", *(one for pair in pairs for one in pair))


def _footer(page: Page) -> Markup:
    contents = sentences((*page.holds, _NOTHING_SENT))
    return element(
        "footer", element("p", "This page contains:"), contents, element("p", f"Made by perstep {page.version}.")
    )


def _help(views: Mapping[str, str]) -> Markup:
    keys = [(" ".join(views), ", ".join(views.values()).lower()), *_KEYS]
    rows = [element("tr", element("td", element("kbd", key)), element("td", words)) for key, words in keys]
    closing = element("form", element("button", "close"), method="dialog")
    heading = element("h2", "Keys", id="help-title")
    return element(
        "dialog", heading, element("table", element("tbody", *rows)), closing, id="help", aria_labelledby="help-title"
    )


def _all_data(figures: Sequence[Drawn], *, raw: bool) -> list[Packed]:
    """What the script needs of each figure; rounds that two figures share stand with the first of them."""
    shared = [shown.rounds if isinstance(shown, Bars) else None for shown in figures]
    first = [next((n for n, one in enumerate(shared[:place]) if one is rounds), None) if rounds else None
             for place, rounds in enumerate(shared)]  # fmt: skip
    return [
        _data(shown, raw=raw) if same is None else {"same": same} for shown, same in zip(figures, first, strict=True)
    ]


def _data(shown: Drawn, *, raw: bool) -> Packed:
    """What the script needs of a figure beyond what stands in it."""
    if isinstance(shown, LedgerView):
        return {
            "noun": round_noun(shown.ledger),
            "rounds": {} if shown.samples is None else rounds_of(shown.samples, raw=raw),
            "order": list(shown.order),
            "about": {name: shown.about[name] for name in shown.ledger.parts if name in shown.about},
            "kernels": dict(shown.device.kernels) if shown.device is not None else {},
        }  # fmt: skip
    if isinstance(shown, Bars) and shown.rounds is not None:
        return {"rounds": rounds_of_two(shown.rounds, raw=raw)}
    return _panel_data(shown) if isinstance(shown, Panel) else {}


def _panel_data(panel: Panel) -> Packed:
    def series(place: int) -> Packed:
        one = panel.series[place]
        columns = {name: list(getattr(one, name)) for name in ("low", "high", "left", "right", "labels")}
        return {
            "name": one.name, "kind": one.kind, "x": list(one.x), "y": list(one.y),
            "colour": colour_of(one, place), **{name: ends for name, ends in columns.items() if ends},
        }  # fmt: skip

    names = ("x_label", "y_label", "log_x", "log_y", "from_zero")
    return {**{name: getattr(panel, name) for name in names}, "series": list(map(series, range(len(panel.series))))}


def _as_json(data: Mapping[str, object]) -> str:
    """Compact JSON that ends no element and begins none, whatever a name contains."""
    text = msgspec.json.encode(data).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _policy() -> str:
    return f"default-src 'none'; script-src {_hash(_script())}; style-src {_hash(_style())}; img-src data:"


def _hash(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


@cache
def _style() -> str:
    own = files("perstep.report.page").joinpath("page.css").read_text(encoding="utf-8")
    vendored = files("perstep.data").joinpath("vendor", "uPlot.min.css").read_text(encoding="utf-8")
    return f"{vendored.strip()}\n{page_shades()}\n{own.strip()}"


@cache
def _script() -> str:
    vendor = files("perstep.data").joinpath("vendor")
    programs = []
    for name, file in _VENDORED.items():
        licence, library = (
            vendor.joinpath(one).read_text(encoding="utf-8").strip() for one in (f"{name}.LICENSE", file)
        )
        program = "\n".join(line for line in library.split("\n") if not line.startswith("//# sourceMappingURL="))
        programs.append(f"/*! {name}\n{licence}\n*/\n{program.strip()}")
    own = files("perstep.report.page").joinpath("page.js").read_text(encoding="utf-8").strip()
    return "\n;\n".join([*programs, own])
