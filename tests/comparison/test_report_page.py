"""The report as a page: what comes first, figures and their texts, colours, widths, and what a browser draws."""

import re
import shutil
from html.parser import HTMLParser
from math import fsum, sqrt
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlens.comparison import digits, figures, plots
from mlens.comparison.figures import Dot, PlotRow
from mlens.comparison.finished_runs import find_runs, make_arms
from mlens.comparison.pairing import pair
from mlens.comparison.report import report
from mlens.comparison.results import HIGHER_IS_BETTER, compare, verdict
from mlens.comparison.statistics import Difference
from tests.helpers.made_up_runs import HOSTILE, leave_out_figures, make_run, make_sweep

SVG = "{http://www.w3.org/2000/svg}"
# Pixels: of a point of an SVG, of a window, and of the page's margins in it.
POINT, WINDOW, MARGINS = 96 / 72, 1280, 32
ARMS = ("all_previous", "fixed_count 10", "none")


class Page(HTMLParser):
    """A page: its tags in order, each with its attributes and the classes of the elements around it; links; texts of
    headings and of cells of tables, the latter with their classes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.headings, self.cells = [], [], [], []
        self.open, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        around = [name for _, classes in self.open for name in classes]
        self.tags.append((tag, known, around))
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "link", "br"):
            self.open.append((tag, (known.get("class") or "").split()))
        if tag in ("h1", "h2", "td"):
            self.text = []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)

    def handle_endtag(self, tag):
        name, classes = self.open.pop()
        assert name == tag
        if tag in ("h1", "h2"):
            self.headings.append("".join(self.text))
        if tag == "td":
            self.cells.append((classes, " ".join(self.text)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The path of a report with all its figures."""
    folder = tmp_path_factory.mktemp("page")
    return report([make_sweep(folder, seeds=2)], folder).html


@pytest.fixture(scope="module")
def html(written):
    return written.read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture(scope="module")
def plotted(html):
    """The figures of the page in order, parsed as XML."""
    return [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", html, re.DOTALL)]


def test_the_first_screen_has_the_answer_and_the_arms_among_the_baselines(written, html, page, plotted):
    body = html[html.index("<body>") :]
    marks = ("<h1>", 'class="answer"', "overview", "<svg", "<h2", "<table")
    assert sorted(marks, key=body.index) == list(marks)
    first = body[: body.index("<h2")]
    assert [svg.find(f"{SVG}title").text for svg in plotted[: first.count("<svg")]] == [*plots.OVERVIEW]
    arms = pl.read_csv(written.with_name("results.csv")).sort("rmse")["arm"].to_list()
    rows = [*arms, "user mean so far", "movie mean", "global mean"]
    for svg in plotted[:3]:
        assert [text.text for text in svg.iter(f"{SVG}text") if text.text in rows] == rows
    assert page.headings == [
        "3 strategies compared",
        "Is the comparison fair?",
        "Results on test",
        "Baselines on the same targets",
        "Differences between arms",
        "Training, and where the errors are",
        "The same target under each strategy",
        "The worst predictions",
        "How it was run",
    ]


def test_notes_are_announced_above_the_first_plot(tmp_path, monkeypatch):
    leave_out_figures(monkeypatch)
    runs = [make_run(tmp_path / "a", "all_previous"), make_run(tmp_path / "b", settings={"trainer.learning_rate": 0.5})]
    html = report(runs, tmp_path).html.read_text()
    announced = html.index('<a href="#notes">1 NOTE: read it before you compare</a>')
    assert announced < html.index("<svg") < html.index('id="notes"') < html.index("NOTE: besides the history")
    assert "before you compare" not in report(runs[:1], tmp_path).html.read_text()


def test_the_page_is_self_contained_and_titles_are_text(html, page):
    tags = [tag for tag, *_ in page.tags]
    assert "script" not in tags and tags.count("svg") == 10
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"url\((?!#|\"#|'#)", html)
    assert HOSTILE not in html and "&lt;/script&gt;" in html and "$x_1$" in html


def test_figures_have_selectable_text_and_a_description_with_their_figures(plotted):
    for svg in plotted:
        assert svg.get("role") == "img" and svg[0].tag == f"{SVG}title" and svg[1].tag == f"{SVG}desc"
        shown = " ".join(text.text for text in svg.iter(f"{SVG}text"))
        assert all(arm in shown and arm in svg[1].text for arm in ARMS)
        assert len(re.findall(r"\d\.\d{4}", svg[1].text)) >= len(ARMS)


def test_text_and_lines_have_the_colours_of_the_page(html, plotted):
    for svg in plotted:
        styles = " ".join(element.get("style", "") for element in svg.iter())
        found = set(re.findall("#[0-9a-f]{6}", styles))
        assert found <= {colour.lower() for colour in (*figures.COLOURS[:-1], figures.GREEN, figures.VERMILION)}
        assert "currentColor" in styles
    assert "@media screen and (prefers-color-scheme: dark)" in html and "@media print" in html
    light, dark = (set(re.findall("(--[a-z]+):", block)) for block in re.findall(r":root {(.*?)}", html, re.DOTALL))
    assert light == dark == set(re.findall(r"var\((--[a-z]+)\)", html))


def test_nothing_is_wider_than_its_container(html, page, plotted):
    assert all("wide" in around for tag, _, around in page.tags if tag == "table")
    widths = [float(svg.get("width").removesuffix("pt")) * POINT for svg in plotted]
    assert fsum(widths[:3]) + 2 * 15 <= WINDOW - MARGINS
    assert "figure svg { max-width: 100%" in html


def test_cells_are_coloured_where_their_interval_excludes_zero(page):
    cells = [(classes, text) for classes, text in page.cells if re.match(r"[+-]\d.*\bp\b", text, re.DOTALL)]
    assert len(cells) == 3 * len(ARMS) * (len(ARMS) - 1)
    seen = set()
    for number, (classes, text) in enumerate(cells):
        low, high = map(float, re.search(r"([+-]\S+) to ([+-]\S+)", text).groups())
        assert bool(classes) == (low > 0 or high < 0), text
        if classes:
            higher = number >= 2 * len(cells) // 3  # AUC
            assert classes == ["better" if (high < 0) != higher else "worse"] and classes[0] in text
        seen |= {*classes} or {""}
    assert seen == {"better", "worse", ""}


ENDS = st.floats(-2, 2) | st.sampled_from([0.0, 1e-9, -1e-9, 0.004, -0.004])


def made_up_difference(value, low, high, error):
    return Difference(value, low, high, low, high, 0.5, 1.0, True, error, 0.1, 0.2, 0.3)


@given(one=ENDS, other=ENDS, error=st.floats(0, 0.3), metric=st.sampled_from(["rmse", "taste", "auc"]))
def test_what_is_coloured_excludes_zero_as_printed(one, other, error, metric):
    low, high = sorted((one, other))
    assume(low < high)
    value = (low + high) / 2
    found = verdict(made_up_difference(value, low, high, error), metric)
    printed = [float(end) for end in digits.interval(low, high, error, "+").split(" to ")]
    assert bool(found) == (printed[0] > 0 or printed[1] < 0)
    if found:
        assert found == ("better" if (value > 0) == (metric in HIGHER_IS_BETTER) else "worse")
        turned = verdict(made_up_difference(-value, -high, -low, error), metric)
        assert {found, turned} == {"better", "worse"}


def test_the_plot_of_differences_follows_the_same_rule(tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(figures, "intervals", lambda title, shown, *_, **__: rows.extend(shown) or "<svg></svg>")
    plots.of_differences(results_of(make_sweep(tmp_path)))
    assert [row.dot.value for row in rows] == sorted(row.dot.value for row in rows) and len(rows) == 3
    looks = {row.label: row.look for row in rows}
    assert looks == {
        "all_previous - none": figures.BETTER,
        "fixed_count 10 - none": figures.BETTER,
        "all_previous - fixed_count 10": figures.UNCERTAIN,
    }
    # Also in black and white.
    assert len({look.marker for look in (figures.BETTER, figures.WORSE, figures.UNCERTAIN)}) == 3


def results_of(folder):
    paired, _ = pair(make_arms(find_runs([folder])))
    return compare(paired)


def test_with_many_pairs_only_those_of_the_best_arm_are_drawn(tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(figures, "intervals", lambda title, shown, *_, **__: rows.extend(shown) or "<svg></svg>")
    monkeypatch.setattr(plots, "MOST_PAIRS", 2)
    assert "table below" in plots.of_differences(results_of(make_sweep(tmp_path))).note
    assert [row.label for row in rows] == ["all_previous - none", "all_previous - fixed_count 10"]


@pytest.mark.parametrize("validations", [1, 2])
def test_a_curve_has_more_than_one_point(tmp_path, monkeypatch, validations):
    drawn = []
    leave_out_figures(monkeypatch)
    monkeypatch.setattr(figures, "curves", lambda title, lines, *_, **__: drawn.append((title, lines)) or "<svg></svg>")
    make_sweep(tmp_path)
    for file in tmp_path.glob("*/training_logs/metrics.jsonl"):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:validations]))
    # The model of one arm is as confident everywhere.
    file = tmp_path / "none_0" / "predictions" / "test.parquet"
    frame = pl.read_parquet(file)
    names = [name for name in frame.columns if name.startswith("p_")]
    file.unlink()
    frame.with_columns(pl.lit(0.95 if name == names[0] else 0.0125).alias(name) for name in names).write_parquet(file)
    titles = [plot.title for plot in plots.details(results_of(tmp_path))]
    assert all(len(line.x) == len(line.y) > 1 for _, lines in drawn for line in lines)
    assert ("Validation RMSE by epochs" in titles) == (validations > 1)
    assert {title: len(lines) for title, lines in drawn}["Calibration"] == 2


def test_epochs_have_integer_ticks():
    curve = figures.Curve("a", [1, 2, 3, 4], [0.95, 0.9, 0.85, 0.8], 0)
    svg = ElementTree.fromstring(figures.curves("t", [curve], "x", "y"))
    shown = [text.text for text in svg.iter(f"{SVG}text")]
    assert shown[: shown.index("x")] == ["1", "2", "3", "4"]


def test_errors_by_history_length_have_the_errors_of_their_targets(tmp_path):
    make_sweep(tmp_path, seeds=2)
    for file in tmp_path.glob("*/predictions/test.parquet"):
        # From 0 to 26 earlier ratings; of one user more.
        one, others = pl.col("t") + 30, (pl.col("t") - 20) * 3 + pl.col("user") % 6
        moved = pl.when(pl.col("user") == 1).then(one).otherwise(others)
        pl.read_parquet(file).with_columns(t=moved).write_parquet(file)
    results = results_of(tmp_path)
    edges = {"0-9": (0, 9), "10-19": (10, 19), "20-49": (20, 49), "50-99": (50, 99)}
    shown = plots.by_earlier_ratings(results)
    for number, of_arm in zip(results.order, shown, strict=True):
        assert {*of_arm} == {*edges}
        for name, (low, high) in edges.items():
            of_runs = []
            for run in results.paired.arms[number].runs:
                rows = pl.read_parquet(run.folder / "predictions" / "test.parquet").iter_rows(named=True)
                squares = [(row["expected"] - row["rating"]) ** 2 for row in rows if low <= row["t"] <= high]
                of_runs.append(sqrt(fsum(squares) / len(squares)))
            dot = of_arm[name]
            assert dot.value == pytest.approx(fsum(of_runs) / len(of_runs))
            assert (dot.low is None) == (name == "50-99")
            assert dot.low is None or dot.low < dot.value < dot.high


def test_arms_are_told_apart_by_colour_and_by_marker():
    looks = [figures.look_of_arm(number) for number in range(35)]
    assert len(set(looks)) == 35 and len({look.marker for look in looks[:5]}) == 5
    assert not {figures.GREEN, figures.VERMILION} & {look.colour for look in looks}


def test_a_baseline_far_from_the_arms_is_an_arrow():
    arm = PlotRow("arm", Dot(0.7, 0.68, 0.72), figures.look_of_arm(0))
    rows = [arm, PlotRow("near", Dot(0.73), figures.BASELINE), PlotRow("far", Dot(1.4), figures.BASELINE)]
    svg = figures.intervals("t", rows, "x", 0.73, 5.0, printed=".4f")
    assert svg.count("→") == 1 and ">1.4000<" in svg and "far: 1.4000" in svg
    assert "→" not in figures.intervals("t", rows[:2], "x", 0.73, 5.0)


@given(label=st.text("ab =_.7七", min_size=1, max_size=200))
def test_a_wrapped_label_keeps_what_fits(label):
    lines = figures.wrapped(label, 20).split("\n")
    assert all(len(line) <= 20 for line in lines) or not label.strip()
    if len(label) <= figures.LONGEST:
        assert re.sub(r"\s", "", "".join(lines)) == re.sub(r"\s", "", label)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_plot_within_the_page(written, tmp_path, scheme):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    messages = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WINDOW, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on(
            "request",
            lambda request: messages.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
        )
        page.goto(written.as_uri())
        boxes = page.eval_on_selector_all(
            "figure svg",
            "all => all.map(s => [s.getBBox().width, s.getBBox().height, s.querySelectorAll('path, use').length])",
        )
        bottoms = page.eval_on_selector_all(".overview svg", "all => all.map(s => s.getBoundingClientRect().bottom)")
        widths = {}
        for width in (1400, WINDOW, 900, 420):
            page.set_viewport_size({"width": width, "height": 900})
            widths[width] = page.evaluate("document.documentElement.scrollWidth")
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        browser.close()
    assert messages == []
    assert len(boxes) == 10 and all(width > 100 and height > 50 and marks > 5 for width, height, marks in boxes)
    assert max(bottoms) < 900
    assert all(shown <= width for width, shown in widths.items())
    assert (tmp_path / "report.png").stat().st_size > 50_000
