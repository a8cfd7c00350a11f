"""The page of a run as text: complete without a script, closed to everything from outside, and not too large."""

import json
import re
import zipfile
from base64 import b64encode
from colorsys import rgb_to_hls
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from perstep.experiments import pipeline, registry
from perstep.measure import Ledger, LedgerSamples, build_ledger
from perstep.report.page import (
    Bar,
    Bars,
    Content,
    DeviceLane,
    LedgerView,
    Page,
    Roofline,
    Spot,
    render_page,
    table_html,
)
from perstep.report.page.curves import log_ticks, round_ticks
from perstep.report.page.markup import code, sentence
from perstep.report.page.rounds import BINS, MOST_POINTS, PLAIN, STEP, rounds_of
from perstep.report.panels import Panel, Series
from perstep.report.plot import _LINES, _SHADES, _contrast, page_shades
from perstep.report.table import Column, Table

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
EVIL = "</script><script>document.title='taken'</script><img src=x onerror=alert(1)>\"' onmouseover='"
VOID = {"meta", "link", "hr", "br", "wbr", "input"}


def unspaced(text: str) -> str:
    """A text without spaces, which a page may widen, and without the signs of code."""
    return re.sub(r"[\s`]", "", text)


class Reader(HTMLParser):
    """The elements of a page, its texts, and what is not closed where it was opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.letters = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """An element ends."""
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        """A text."""
        self.inside.setdefault(self.open[-1] if self.open else "", []).append(data)
        if not {"script", "style"} & set(self.open):
            self.letters += unspaced(data)

    @property
    def words(self) -> str:
        """What a person can read, with single spaces."""
        texts = [text for tag, held in self.inside.items() if tag not in ("script", "style") for text in held]
        return " ".join(" ".join(texts).split())


def ledger_samples(rounds: int, part: str = "mlp") -> LedgerSamples:
    """Steps of 10 µs or a little more: a part of 6 µs, one of 3 µs, a residual of 1 µs."""
    rng = np.random.default_rng(1)
    shape = (rounds, 2, 1)
    parts = {part: 6_000 + rng.integers(0, 90, shape), "sample": 3_000 + rng.integers(0, 50, shape)}
    residual = np.full(shape, 1_000)
    step = sum(parts.values()) + residual
    return LedgerSamples(step - 200, step, parts, residual, dict.fromkeys(parts, 1.0))


def page_of(*figures: Any, finding: str = "a step takes 10 µs", **others: Any) -> Page:
    """A page with figures."""
    facts: dict[str, Any] = {"tables": [], "facts": {}, "holds": [], "version": "0", "kind": "ledger"} | others
    return Page(title="a run", subject="of a test", content=Content(finding, figures), **facts)


def ledger_view(samples: LedgerSamples, **others: Any) -> LedgerView:
    """A ledger with its rounds."""
    return LedgerView("a step", build_ledger("decode", samples, mark_ns=10.0), samples=samples, **others)


@pytest.fixture(scope="module", params=registry.EXPERIMENTS)
def stored(request: pytest.FixtureRequest) -> tuple[str, str]:
    """An experiment and the page of its stored run, which `tests/test_golden.py` keeps equal to what is made."""
    return request.param, (GOLDEN / request.param / "report.html").read_text(encoding="utf-8")


def test_a_page_is_whole(stored: tuple[str, str]) -> None:
    """Every element is closed where it was opened, ids are unique, and every control and drawing has a name."""
    read = Reader(stored[1])
    assert read.wrong == []
    assert read.open == []
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    drawings = [attributes for tag, attributes in read.elements if tag == "svg"]
    assert all("aria-label" in each or each.get("aria-hidden") == "true" for each in drawings)


def test_everything_is_on_the_page_without_a_script(stored: tuple[str, str]) -> None:
    """Every title, heading, cell and note of every table of the run, and the warnings, can be read."""
    name, page = stored
    letters = Reader(page).letters
    report = pipeline.look(GOLDEN / name)
    for table in report.tables:
        cells = [cell for row in table.rows for cell in row if not re.fullmatch("[█▏▎▍▌▋▊▉ ]*", cell)]
        for text in [table.title, *table.header, *table.notes, *cells]:
            assert unspaced(text) in letters
    assert all(unspaced(warning) in letters for warning in report.manifest.warnings)


def test_nothing_is_fetched_and_only_our_own_script_runs(stored: tuple[str, str]) -> None:
    """No element names an address, no attribute is a script or a style; the policy has the hashes of both."""
    read = Reader(stored[1])
    for tag, attributes in read.elements:
        assert not {"src", "srcset", "style", "action", "data"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#") or attributes["href"] == "data:,", tag
    [policy] = [a["content"] or "" for t, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    [style] = read.inside["style"]
    _, script = read.inside["script"]
    hashes = [f"'sha256-{b64encode(sha256(one.encode()).digest()).decode()}'" for one in (script, style)]
    assert policy == f"default-src 'none'; script-src {hashes[0]}; style-src {hashes[1]}; img-src data:"
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|localStorage|eval\(", script)


def test_a_page_is_small(stored: tuple[str, str]) -> None:
    """At most 200 kB beside the data of the run: what a script reads and the tables and drawings made of it."""
    page = stored[1]
    [data] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    json.loads(data)
    assert len(page.encode()) - len(data.encode()) <= 200_000


def test_names_from_elsewhere_are_text() -> None:
    """A part, a title, a warning and a row that are markup show as they are written, and run nothing."""
    samples = ledger_samples(30, EVIL)
    bars = Bars(EVIL, EVIL, [Bar(EVIL, 1.0, 0.5, 2.0, EVIL)], note=EVIL)
    curve = Panel(EVIL, EVIL, EVIL, [Series(EVIL, [1.0, 2.0], [1.0, 2.0], labels=[EVIL])])
    roof = Roofline(EVIL, 1e9, {EVIL: 1e9}, [Spot(EVIL, 1.0, 1e8, EVIL)], EVIL)
    view = ledger_view(samples, about={EVIL: EVIL}, order=[EVIL])
    page = page_of(
        view, bars, curve, roof, finding=EVIL, stops=[EVIL], warnings=[EVIL], facts={EVIL: {EVIL: EVIL}}, holds=[EVIL]
    )
    made = render_page(page).decode()
    read = Reader(made)
    assert (read.wrong, read.open) == ([], [])
    assert [tag for tag, _ in read.elements if tag in ("script", "img")] == ["script", "script"]
    assert not [a for _, a in read.elements if {"onerror", "onmouseover"} & a.keys()]
    assert " ".join(EVIL.split()) in read.words
    [data] = re.findall(r'id="data">(.*?)</script>', made)
    assert EVIL in json.loads(data)["figures"][0]["rounds"]


def test_no_line_ends_inside_a_number_an_interval_or_a_name() -> None:
    """Numbers keep their units, intervals and names of runs stay whole, long names break behind their signs."""
    said = sentence("3 rounds: 123 µs [118 µs, 128 µs] in 0007-ledger <b>")
    assert said == (
        '3\xa0rounds: 123\xa0µs [118\xa0µs,\xa0128\xa0µs] in <span class="whole">0007-ledger</span> &lt;b&gt;'
    )
    assert sentence("of 12 samples") == "of 12 samples"
    assert code("logits/Mine") == '<span class="whole">logits/<wbr>Mine</span>'
    assert code("between forwards: custom_generate=perstep.fast.decode").endswith(
        "generate=<wbr>perstep.<wbr>fast.<wbr>decode"
    )


def test_code_in_a_sentence_is_code() -> None:
    """In notes, warnings, captions and what lies inside a part; escaped, and only between two backticks."""
    assert sentence("`<b>` and --top-k") == '<code>&lt;b&gt;</code> and <span class="whole">--top-k</span>'
    assert sentence("one ` alone") == "one ` alone"
    page = page_of(
        Bars("of `captions`", "ms", [Bar("a", 1.0)], note="of `figures`"),
        warnings=["of `warnings`"],
        tables=[Table("t", [Column("c", str)], ["a"], notes=["of `notes`"])],
        facts={"Command": {"": "sh -c 'echo `date`'"}, "Work": {"arms": "echo `date`"}},
        inside={"attn": f"apart from `{EVIL}`"},
    )
    read = Reader(render_page(page).decode())
    assert read.inside["code"] == ["warnings", "captions", "figures", "notes", EVIL]
    assert read.inside["div"][-1] == " 'echo `date`'"
    assert read.inside["dd"] == ["echo `date`", "apart from "]


def test_a_number_in_a_cell_keeps_its_unit() -> None:
    """78.0 % of it: no line ends before the per cent sign."""
    table = Table("t", [Column("part", str), Column("share", lambda _: "78.0 % of it", words=True)], ["a"])
    assert '<td class="text">78.0\xa0% of it</td>' in table_html(table)


def test_colours_of_curves_can_be_seen_on_light_and_dark_pages_in_their_hue() -> None:
    """By WCAG 3 : 1 at least for what is drawn; grey has no hue."""
    light, dark = page_shades().split("@media screen and (prefers-color-scheme:dark)")
    for page, rules in (("#ffffff", light), ("#12161c", dark)):
        curves = dict(re.findall(r"--([pl]\d+):(#\w{6})", rules))
        assert len(curves) == len(_SHADES) + len(_LINES)
        assert min(_contrast(colour, page) for colour in curves.values()) >= 3.0
        for place, own in enumerate(_SHADES):
            drawn, hue = _hue_of(curves[f"p{place}"]), _hue_of(own)
            assert hue is None or abs(drawn - hue) < 0.02, own


def _hue_of(colour: str) -> float | None:
    hue, _, saturation = rgb_to_hls(*(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)))
    return hue if saturation > 0.05 else None


def test_equal_runs_have_equal_pages() -> None:
    """Byte for byte; another number makes another page."""
    view = ledger_view(ledger_samples(30))
    assert render_page(page_of(view)) == render_page(page_of(view))
    assert render_page(page_of(view)) != render_page(page_of(view, finding="a step takes 11 µs"))


def test_a_hundred_thousand_steps_fit_into_a_page() -> None:
    """At most 1.5 MB, because rounds are put into groups; with `raw` each has its own number."""
    samples = ledger_samples(100_000)
    view = ledger_view(samples)
    assert len(render_page(page_of(view))) <= 1_500_000
    raw = re.search(r'id="data">(.*?)</script>', render_page(page_of(view), raw=True).decode())
    assert raw is not None
    assert len(json.loads(raw[1])["figures"][0]["rounds"]["mlp"]["ns"]) == 100_000


def test_rounds_are_the_means_of_their_steps() -> None:
    """Of each part, the residual and both kinds of step; the distribution counts every step once."""
    samples = ledger_samples(30)
    found = rounds_of(samples)
    assert list(found) == ["mlp", "sample", "residual", STEP, PLAIN]
    assert found["mlp"]["ns"] == [round(value) for value in samples.parts["mlp"].mean(axis=(1, 2)).tolist()]
    for name, one in found.items():
        assert one["rounds"] == 30
        assert one["below"] + sum(one["counts"]) + one["above"] == one["steps"] == 60, name
        assert len(one["counts"]) == BINS


def test_groups_of_rounds_have_their_median_and_their_ends() -> None:
    """A rise over 4,000 rounds stays a rise in 400 groups, and no round lies outside of its group's ends."""
    rising = np.arange(4_000).reshape(-1, 1, 1) + 1_000
    zero = np.zeros_like(rising)
    found = rounds_of(LedgerSamples(rising, rising, {"mlp": rising}, zero, {"mlp": 1.0}))["mlp"]
    assert len(found["ns"]) == MOST_POINTS
    assert (found["low"][0], found["high"][0]) == (1_000, 1_009)
    assert found["ns"][0] in (1_004, 1_005)
    assert (found["low"][-1], found["high"][-1]) == (4_990, 4_999)


def test_a_bar_is_as_long_as_its_time() -> None:
    """The largest part fills the plot, a part of half its time half of it; a bound has its tick where it belongs."""
    page = render_page(page_of(ledger_view(ledger_samples(30)))).decode()
    widths = dict(re.findall(r'data-part="(mlp|sample)" data-hint[^>]*><th.*?<rect x="0" y="4" width="([\d.]+)"', page))
    assert float(widths["sample"]) / float(widths["mlp"]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("low", "high", "ticks"), [(0.0, 127.0, [0, 50, 100]), (0.0, 0.4, [0, 0.1, 0.2, 0.3, 0.4]), (3.0, 3.0, [3])]
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    """About six, none outside."""
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_a_logarithmic_axis_of_few_decades_has_halves_and_doubles() -> None:
    """One of many has powers of ten alone; where even the doubles are fewer than three, all nine."""
    assert log_ticks(0.0, 1.0) == pytest.approx([1, 2, 5, 10])
    assert log_ticks(-1.8, -1.38) == pytest.approx([0.02, 0.03, 0.04])
    assert log_ticks(-3.0, 3.0) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100, 1000])


def test_an_invalid_ledger_says_so_in_its_figure() -> None:
    """Whoever sees the bars sees that they are invalid."""
    view = ledger_view(ledger_samples(30))
    invalid: Ledger = msgspec.structs.replace(view.ledger, invalid="the marks took half of it")
    page = render_page(page_of(LedgerView("a step", invalid), stops=["The run is invalid."])).decode()
    assert "INVALID: the marks took half of it" in Reader(page).words
    assert "Do not quote these numbers" in Reader(page).words


def test_vendored_files_are_those_of_the_checksums() -> None:
    """Each is listed and is what it was; so is its licence."""
    vendor = files("perstep.data").joinpath("vendor")
    lines = vendor.joinpath("checksums.txt").read_text(encoding="utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split() for line in lines if not line.startswith("#"))}
    held = {path.name: sha256(path.read_bytes()).hexdigest() for path in vendor.iterdir() if path.is_file()}
    held.pop("checksums.txt")
    assert held == listed


def test_a_built_wheel_has_the_program_and_the_licences(tmp_path: Path) -> None:
    """The metadata names both licences, and every file of them and of the page is in the wheel."""
    wheels = pytest.importorskip("hatchling.builders.wheel")
    folder = tmp_path / "suite [4]"  # hatchling takes brackets for a pattern: hatch_build.py names the licences
    folder.symlink_to(ROOT)
    [made] = wheels.WheelBuilder(str(folder)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(made) as wheel:
        names = wheel.namelist()
        [metadata] = [wheel.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
    assert "License-Expression: Apache-2.0 AND MIT" in metadata.splitlines()
    licences = ["LICENSE", *(f"src/perstep/data/vendor/{name}.LICENSE" for name in ("uPlot", "preact"))]
    assert all(any(name.endswith(f"/licenses/{licence}") for name in names) for licence in licences)
    own = [
        "data/vendor/uPlot.iife.min.js",
        "data/vendor/preact.min.umd.js",
        "report/page/page.js",
        "report/page/page.css",
    ]
    assert not [name for name in own if f"perstep/{name}" not in names]


def device_view() -> LedgerView:
    """A ledger whose `sample` waits twice a step, beside a device that is busy for 4 of its 10 µs."""
    view = ledger_view(ledger_samples(30))
    waits = msgspec.structs.replace(view.ledger.parts["sample"], syncs_per_step=2.0, uploads_per_step=1.0)
    ledger = msgspec.structs.replace(view.ledger, parts={**view.ledger.parts, "sample": waits})
    kernels = {"mlp": [("gemv", 3_500.0), ("silu", 300.0)]}
    lane = DeviceLane({"mlp": 3_800.0, "sample": 200.0}, 6_000.0, 10_000.0, "Kernels of profiled steps.", kernels)
    return LedgerView("a step on a device", ledger, samples=view.samples, device=lane)


def test_a_device_has_a_lane_its_gaps_and_its_kernels() -> None:
    """Beside each part of the host its busy time; what is idle is a segment; a part that waits has a mark."""
    page = render_page(page_of(device_view())).decode()
    read = Reader(page)
    assert (read.wrong, read.open) == ([], [])
    lanes = [a["data-part"] for tag, a in read.elements if tag == "g" and "data-part" in a]
    assert lanes == ["mlp", "sample", "residual", "mlp", "sample", "idle"]
    assert [a for tag, a in read.elements if tag == "path" and a.get("class") == "sync"] != []
    hints = {str(a["data-part"]): str(a["data-hint"]) for tag, a in read.elements if tag == "tr" and "data-hint" in a}
    assert "device busy 3.80 µs" in hints["mlp"]
    assert "2 host syncs a step" in hints["sample"]
    assert "1 host upload a step" in hints["sample"]
    [data] = re.findall(r'id="data">(.*?)</script>', page)
    assert json.loads(data)["figures"][0]["kernels"]["mlp"] == [["gemv", 3500.0], ["silu", 300.0]]
    assert "two clocks" in read.words
