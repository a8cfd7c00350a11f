"""Pages in a real browser, headless: what a person does with them, by mouse and by keyboard.

Skipped where there is no Chromium, or no playwright that drives it. axe-core, which looks for what keeps people out, is
`npm install --no-save axe-core` in the root of the repository.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report.test_page import EVIL, GOLDEN, ROOT, ledger_samples, ledger_view, page_of

from perstep.experiments import registry
from perstep.report.page import Bar, Bars, TwoRuns, render_page
from perstep.report.table import Column, Table

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
AXE = Path(os.environ.get("AXE_CORE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))

HEADINGS = """() => {
  const gaps = [], sizes = [];
  for (const row of document.querySelectorAll('.data thead tr')) {
    const boxes = [...row.querySelectorAll('th')].map((th) => {
      const range = document.createRange();
      range.selectNodeContents(th);
      return range.getBoundingClientRect();
    });
    boxes.slice(1).forEach((box, place) => gaps.push(box.left - boxes[place].right));
  }
  for (const cell of document.querySelectorAll('.data th, .data td')) sizes.push(getComputedStyle(cell).fontSize);
  return [gaps, sizes];
}"""
"""Pixels between the words of neighbouring headings, and the sizes of all type in the cells of tables."""

OTHERS = [name for name in registry.EXPERIMENTS if name != "ledger"]


def nightly(*others: str) -> list[Any]:
    """The experiments but for the ledger and these, by night."""
    return [pytest.param(name, marks=pytest.mark.nightly) for name in OTHERS if name not in others]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests of this file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=found, args=root)
        yield launched
        launched.close()


class Tab:
    """A page in the browser with what it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, fragment: str = "", **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1180, "height": 900}, **options})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{path.as_uri()}{fragment}")

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def stored(name: str) -> Path:
    """The page of a stored run."""
    return GOLDEN / name / "report.html"


@pytest.fixture
def ledger(browser: Any) -> Iterator[Tab]:
    """The page of the stored ledger."""
    with Tab(browser, stored("ledger")) as tab:
        yield tab


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_a_page_opens_without_a_complaint(browser: Any, name: str) -> None:
    """No error, no warning of the policy, no request but for itself, in every view, light, dark and 380 pixels wide."""
    with Tab(browser, stored(name)) as tab:
        for scheme, width in (("light", 1180), ("dark", 380)):
            tab.page.emulate_media(color_scheme=scheme)
            tab.page.set_viewport_size({"width": width, "height": 900})
            for view in "123":
                tab.page.keyboard.press(view)
                shown = "[...document.querySelectorAll('.view')].filter((view) => view.offsetHeight).length"
                assert tab.page.evaluate(shown) == 1
                assert tab.page.evaluate("document.documentElement.scrollWidth") <= width, (view, width)
        assert tab.said == []
        assert [url for url in tab.asked if not url.startswith("data:")] == [stored(name).as_uri()]


def test_a_click_opens_the_rounds_of_a_part(ledger: Tab) -> None:
    """With distribution, drift and order of the arms; a second click, and Escape, close them and the focus returns."""
    row = ledger.page.locator('#figure-0 tr[data-part="norm"]')
    row.locator(".plot").click()
    detail = ledger.page.locator(".detail")
    assert detail.locator("h2").inner_text() == "norm"
    assert detail.locator(".histogram rect").count() == 40
    assert detail.locator("canvas").count() == 1
    assert "1: marked plain plain marked" in detail.locator("details").text_content()
    assert "call overhead" in detail.inner_text()
    row.locator(".plot").click()
    assert detail.count() == 0
    row.locator("button").press("Enter")
    assert detail.count() == 1
    ledger.page.keyboard.press("Escape")
    assert detail.count() == 0
    assert ledger.page.evaluate("document.activeElement.closest('tr').dataset.part") == "norm"


def test_hover_says_estimate_interval_bound_and_rounds(ledger: Tab) -> None:
    """Of a bar, and of its segment in the lane of the step; away from them the hint goes."""
    hint = ledger.page.locator("#hint")
    for place in ('#figure-0 tr[data-part="norm"] .plot', '#figure-0 g[data-part="norm"] rect'):
        ledger.page.locator(place).hover()
        said = hint.inner_text()
        assert "18.0 µs a step, 14.2 %" in said
        assert "95 % interval [15.6 µs, 20.8 µs]" in said
        assert "bound 13.5 µs (call overhead)" in said
        assert "n = 24 rounds" in said
        ledger.page.locator("h1").hover()
        assert hint.is_hidden()


def test_a_link_opens_the_same_view(browser: Any, ledger: Tab) -> None:
    """View, part and filter stand behind the `#`; the browser's way back leads through them."""
    ledger.page.locator('#figure-0 tr[data-part="mlp"] .plot').click()
    ledger.page.keyboard.press("Escape")
    ledger.page.locator('#figure-0 tr[data-part="mlp"] .plot').click()
    ledger.page.locator("#filter").fill("ML")
    fragment = ledger.page.evaluate("location.hash")
    with Tab(browser, stored("ledger"), fragment) as other:
        assert other.page.locator(".detail h2").inner_text() == "mlp"
        assert other.page.locator("#figure-0 tbody tr:visible").count() == 1
        other.page.keyboard.press("2")
        assert other.page.locator("#view-2").is_visible()
        other.page.go_back()
        assert other.page.locator("#view-1").is_visible()
    with Tab(browser, stored("ledger"), "#view=9&figure=77&part=nothing") as wrong:
        assert wrong.page.locator("#view-1").is_visible()
        assert wrong.said == []


def test_the_keyboard_alone_is_enough(ledger: Tab) -> None:
    """Tab reaches the rows, arrows move among them, `/` filters, `?` helps, Escape leaves."""
    page = ledger.page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"
    page.keyboard.type("attn")
    assert page.locator("#figure-0 tbody tr:visible").count() == 6
    assert page.locator("#count").inner_text().endswith("rows")
    page.keyboard.press("Escape")
    assert page.locator("#figure-0 tbody tr:visible").count() == 14
    page.locator('#figure-0 tr[data-part="embed"] button').focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('tr').dataset.part") == "norm"
    page.keyboard.press("Tab")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_a_curve_says_what_is_under_the_pointer(browser: Any) -> None:
    """The measured value and the fitted one, each by its name."""
    with Tab(browser, stored("depth")) as tab:
        assert tab.page.locator(".curves canvas").count() == 3
        over = tab.page.locator(".u-over").first
        box = over.bounding_box()
        tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        said = tab.page.locator("#hint").inner_text()
        assert said.startswith("active blocks: 2")
        assert "measured: 0.2" in said
        assert tab.page.locator(".curve").first.is_hidden()


def test_without_a_script_everything_stands_below_one_another(browser: Any) -> None:
    """All views, drawings in place of charts, and no control that would do nothing."""
    with Tab(browser, stored("depth"), java_script_enabled=False) as tab:
        assert tab.page.locator(".view:visible").count() == 3
        assert tab.page.locator(".curve").first.is_visible()
        assert tab.page.locator("#filter").is_hidden()


def test_paper_has_everything_in_light_colours(browser: Any, tmp_path: Path) -> None:
    """All views, drawings in place of charts, dark ink even from a dark screen; and a PDF is made."""
    with Tab(browser, stored("depth"), color_scheme="dark") as tab:
        made = tab.page.pdf()
        assert made.startswith(b"%PDF")
        tab.page.emulate_media(media="print")
        assert tab.page.locator(".view:visible").count() == 3
        assert tab.page.locator(".curve").first.is_visible()
        assert tab.page.locator(".chart").first.is_hidden()
        assert tab.page.evaluate("getComputedStyle(document.body).color") == "rgb(23, 32, 43)"


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_nothing_is_cut_off_on_paper(browser: Any, name: str) -> None:
    """On A4 between margins of 14 mm, 688 pixels, no table and no drawing is wider than the sheet."""
    with Tab(browser, stored(name), viewport={"width": 688, "height": 900}) as tab:
        tab.page.emulate_media(media="print")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 688


def test_paper_has_the_open_part_without_what_needs_a_screen(browser: Any) -> None:
    """Its distribution is printed; a chart, a closed list and the button that closes are not."""
    with Tab(browser, stored("ledger"), "#figure=0&part=mlp", color_scheme="dark") as tab:
        tab.page.emulate_media(media="print")
        detail = tab.page.locator(".detail")
        assert detail.locator(".histogram").is_visible()
        for gone in ("canvas", "details", "button", "h3:text('Drift')"):
            assert detail.locator(gone).first.is_hidden(), gone


def test_a_short_name_of_a_part_is_on_one_line(browser: Any) -> None:
    """Whatever joints it has; in print too."""
    with Tab(browser, stored("watch"), viewport={"width": 688, "height": 900}) as tab:
        for media in ("screen", "print"):
            tab.page.emulate_media(media=media)
            name = tab.page.locator("#figure-0 tr[data-part='logits/TopPLogitsWarper'] .whole")
            tops = name.evaluate("name => [...name.getClientRects()].map((box) => box.top)")
            assert len(set(tops)) == 1, media


def test_a_filter_finds_a_number_with_its_unit(ledger: Tab) -> None:
    """Though the page keeps them on one line: mlp in the bars and in the table."""
    ledger.page.locator("#filter").fill("123 µs")
    assert ledger.page.locator("#count").inner_text().startswith("0 of")
    ledger.page.locator("#filter").fill("32.3 %")
    assert ledger.page.locator("#count").inner_text().startswith("2 of")


def test_names_run_nothing(browser: Any, tmp_path: Path) -> None:
    """A part that is a script is shown as text: in the bars, in the hint, in its rounds."""
    path = tmp_path / "evil.html"
    view = ledger_view(ledger_samples(30, EVIL), about={EVIL: EVIL}, order=[EVIL] * 30)
    path.write_bytes(render_page(page_of(view, finding=EVIL)))
    with Tab(browser, path) as tab:
        tab.page.locator("#figure-0 tr[data-part] .plot").first.click()
        tab.page.locator("#figure-0 tr[data-part] .plot").nth(1).hover()
        assert tab.page.locator(".detail h2").inner_text() == EVIL
        assert tab.page.title() == "a run"
        assert tab.page.locator("img").count() == 0
        assert tab.said == []


def test_a_hundred_thousand_steps_open_at_once(browser: Any, tmp_path: Path) -> None:
    """The page is there and answers; how long that took is printed and not asserted: a test machine may be busy."""
    path = tmp_path / "large.html"
    path.write_bytes(render_page(page_of(ledger_view(ledger_samples(100_000)))))
    began = time.perf_counter()
    with Tab(browser, path) as tab:
        tab.page.locator('tr[data-part="mlp"] .plot').click()
        assert tab.page.locator(".detail canvas").count() == 1
        opened = tab.page.evaluate("performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart")
        assert "100,000 rounds in 400 groups" in tab.page.locator(".detail").inner_text()
    print(f"100,000 steps: loaded in {opened} ms, {time.perf_counter() - began:.2f} s with the driver")


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not installed: npm install --no-save axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["ledger", *nightly()])
def test_nobody_is_kept_out(browser: Any, name: str, scheme: str) -> None:
    """axe-core finds nothing serious in any view: contrast, names, roles, order."""
    with Tab(browser, stored(name), color_scheme=scheme, bypass_csp=True) as tab:
        tab.page.evaluate(AXE.read_text(encoding="utf-8"))
        for view in "123":
            tab.page.keyboard.press(view)
            if view == "1" and name == "ledger":
                tab.page.locator('#figure-0 tr[data-part="norm"] .plot').click()
            found = tab.page.evaluate("axe.run()")
            serious = [
                f"{one['id']}: {node['html'][:120]}"
                for one in found["violations"]
                if one["impact"] in ("serious", "critical")
                for node in one["nodes"][:3]
            ]
            assert serious == [], view


BROKEN = """() => {
  const broken = [];
  for (const cell of document.querySelectorAll(".data td, .data th, h1, figcaption")) {
    const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    for (let node; (node = walk.nextNode());) {
      for (const word of node.data.matchAll(/[a-zA-Z]{2,12}/g)) {
        const range = document.createRange();
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        if (new Set([...range.getClientRects()].map((box) => Math.round(box.top))).size > 1) broken.push(word[0]);
      }
    }
  }
  return broken;
}"""
"""Words of up to 12 letters that stand on two lines."""


@pytest.mark.parametrize("name", ["ledger", "fix", *nightly("fix")])
def test_no_word_is_broken_on_a_telephone(browser: Any, name: str) -> None:
    """Tables and headings in a window of 380 pixels; nothing is wider than it, the rounds of a part neither."""
    with Tab(browser, stored(name), viewport={"width": 380, "height": 900}) as tab:
        for row in tab.page.locator(".figure tr[data-part] .plot").all()[:1]:
            row.click()
        for view in "12":
            tab.page.keyboard.press(view)
            assert tab.page.evaluate(BROKEN) == [], view
            assert tab.page.evaluate("document.documentElement.scrollWidth") <= 380


@pytest.mark.parametrize("name", ["ledger", "depth", *nightly("depth")])
def test_paper_is_not_shrunk(browser: Any, name: str) -> None:
    """Nothing is wider than a sheet of A4 less its margins, so the type keeps its size."""
    with Tab(browser, stored(name), viewport={"width": 688, "height": 1000}) as tab:
        tab.page.emulate_media(media="print")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 688


def test_headings_of_columns_stand_apart_on_paper(browser: Any) -> None:
    """Between the words of two headings lie four pixels or more, and no heading is larger than the numbers below it."""
    with Tab(browser, stored("mask"), viewport={"width": 688, "height": 1000}) as tab:
        tab.page.emulate_media(media="print")
        gaps, sizes = tab.page.evaluate(HEADINGS)
        assert min(gaps) >= 4
        assert len(set(sizes)) == 1


def test_what_ran_in_a_part_is_indented_below_it(browser: Any, tmp_path: Path) -> None:
    """As in a terminal, where spaces stand before the name of a kernel or operator."""
    path = tmp_path / "indented.html"
    column = Column("part", str)
    path.write_bytes(render_page(page_of(tables=[Table("parts", [column], ["attn", "  kernel"])])))
    with Tab(browser, path) as tab:
        tab.page.keyboard.press("2")
        left = "[...document.querySelectorAll('.data tbody th')].map((th) => { const range = document.createRange();"
        left += " range.selectNodeContents(th); return range.getBoundingClientRect().left; })"
        part, kernel = tab.page.evaluate(left)
        assert kernel > part + 4


@pytest.mark.parametrize("name", ["ledger", "mask"])
def test_parts_on_a_roofline_do_not_hide_one_another(browser: Any, name: str) -> None:
    """Each is a disc of its own size where it stands, the larger below; no name covers another or the disc of one."""
    with Tab(browser, stored(name)) as tab:
        spots = tab.page.locator(".roofline g").all()
        discs = [spot.locator("circle") for spot in spots]
        places = [[float(disc.get_attribute(of) or 0) for of in ("cx", "cy", "r")] for disc in discs]
        for place, (x, y, radius) in enumerate(places):
            for left, top, other in places[place + 1 :]:
                assert abs(left - x) > 3 or abs(top - y) > 3 or other < radius
        names = [spot.locator("text").bounding_box() for spot in spots]
        boxes = [disc.bounding_box() for disc in discs]
        assert len(names) >= 4
        for place, one in enumerate(names):
            for other in [*names[:place], *names[place + 1 :], *boxes]:
                across = min(one["x"] + one["width"], other["x"] + other["width"]) - max(one["x"], other["x"])
                down = min(one["y"] + one["height"], other["y"] + other["height"]) - max(one["y"], other["y"])
                assert across < 2 or down < 8, (place, one, other)  # boxes have 4 pixels above and below


def test_two_runs_are_drawn_over_one_another(browser: Any, tmp_path: Path) -> None:
    """The rounds of a part of both: bars and an outline, two lines, each run by its name; both figures open them."""
    samples = ledger_samples(30), ledger_samples(20)
    both = TwoRuns(("new", "old"), {"mlp": (samples[0].parts["mlp"], samples[1].parts["mlp"])})
    figures = [Bars(title, "%", [Bar("mlp", 1.0)], rounds=both) for title in ("changes", "times")]
    path = tmp_path / "both.html"
    path.write_bytes(render_page(page_of(*figures)))
    with Tab(browser, path) as tab:
        for figure in (0, 1):
            tab.page.locator(f"#figure-{figure} tr .plot").click()
            detail = tab.page.locator(".detail")
            assert (detail.locator("rect").count(), detail.locator("path.other").count()) == (40, 2)
            assert "new (bars): 60 steps" in detail.inner_text()
            assert "old (outline): 40 steps" in detail.inner_text()
            box = detail.locator(".u-over").bounding_box()
            tab.page.mouse.move(box["x"] + 5, box["y"] + 30)
            said = tab.page.locator("#hint").inner_text().split("\n")
            assert [line.split(" ")[0] for line in said] == ["round", "new:", "old:"]
        assert tab.said == []
