"""explore.html: what it marks as shown, its predictions, what is unknown, its size, and hostile titles as text."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mlens.comparison import explore as explored
from mlens.comparison import tracking
from mlens.comparison.explore import encode
from mlens.comparison.finished_runs import find_runs, make_arms
from mlens.comparison.pairing import pair
from mlens.comparison.report import print_report, report
from mlens.comparison.results import compare
from mlens.compose import run_config
from mlens.config import check_config
from mlens.errors import UserError
from mlens.evaluation.metrics import point_metrics
from mlens.files import write_json
from mlens.packing.dataset import history_hash
from mlens.pipeline import open_inputs
from mlens.tracking.settings import Wandb
from tests.helpers.made_up_runs import leave_out_figures, make_run
from tests.helpers.runs import composed

HOSTILE = "</script><img src=x onerror=\"document.title='run'\">&lt;b&gt;\u2028\u202e<!--<script>"
SHOWN = HOSTILE.replace("\u2028", " ").replace("\u202e", "<U+202E>")
USERS, EACH = 9, 14
ARMS = {
    "all_previous": ("history=all_previous",),
    "fixed_count": ("history=fixed_count", "history.count=3"),
    "random": ("history=random", "history.draw=per_target", "evaluation.draws=2"),
}


def make_explored_run(folder, error, *overrides):
    """Make a finished run with the histories of its config, and made-up predictions."""
    settings = check_config(composed("data=csv", "data.item=book", "model=tiny", "model.vocab_size=400", *overrides))
    inputs = open_inputs(settings)
    dataset, stage, table = inputs.dataset("test"), inputs.stages["test"], inputs.table
    rng, scale = np.random.default_rng(int(1000 * error)), np.array(table.scale)
    frames = []
    for draw in range(settings.evaluation.draws):
        histories = [dataset.with_epoch(draw).history(i) for i in range(len(stage))]
        probability = rng.dirichlet(np.ones(len(scale)), len(stage))
        columns = {
            "user": table.users["id"].gather(stage.user),
            "movie": table.movies["id"].gather(table.movie[stage.targets]),
            "t": stage.targets - table.user_offsets[stage.user],
            "rating": table.rating[stage.targets].astype(float),
            "expected": probability @ scale,
            "argmax": scale[probability.argmax(axis=1)],
            **{f"p_{value}": probability[:, i] for i, value in enumerate(table.scale)},
            "history_used": [len(history) for history in histories],
            "history_dropped": 0,
            "history_hash": [history_hash(history) for history in histories],
        }
        frames.append(pl.DataFrame(columns).with_columns(draw=pl.lit(draw)))
    make_run(folder, users=1, each=10)
    pl.concat(frames).write_parquet(folder / "predictions" / "test.parquet")
    (folder / "predictions" / "prompts.json").unlink()
    OmegaConf.save(OmegaConf.create(settings.config), folder / ".hydra" / "config.yaml")
    inputs.tokenizer.save_pretrained(folder / "model")
    summary = json.loads((folder / "summary.json").read_text())
    of_draws = [point_metrics(one["expected"].to_numpy(), one["rating"].to_numpy(), stage.user) for one in frames]
    means = {name: float(np.mean([one[name] for one in of_draws])) for name in of_draws[0]}
    summary["metrics"]["test"] |= means
    write_json(folder / "summary.json", summary | {"identity": {"data": table.content_hash(), "model": None}})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of three arms' runs on a CSV with hostile titles, and its cache."""
    folder = tmp_path_factory.mktemp("explored")
    rows = [
        (f"user {u}", 100 + (3 * u + m) % 40, 1 + (u + m) % 5, 10**9 + 86_400 * m)
        for u in range(USERS)
        for m in range(EACH + u)
    ]
    frame = pl.DataFrame(rows, schema=["user", "movie", "rating", "timestamp"], orient="row").with_columns(
        pl.col("rating").cast(pl.Float64),
        title=pl.concat_str(pl.lit(HOSTILE), pl.col("movie")),
        genres=pl.lit("<i>Drama</i>"),
    )
    frame.write_csv(folder / "ratings.csv")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLENS_CACHE", str(folder / "cache"))
        for number, (name, overrides) in enumerate(ARMS.items()):
            split = ("split.test_ratio=0.3", f"data.path={folder / 'ratings.csv'}")
            make_explored_run(folder / "runs" / name, 0.5 + number / 10, *split, *overrides)
    return folder


@pytest.fixture(scope="module")
def results(made):
    return results_of(made / "runs")


@pytest.fixture(scope="module")
def inputs_of():
    """The inputs of the arms that were opened, by label."""
    return {}


@pytest.fixture
def opened_once(inputs_of, runs, monkeypatch):
    """Let the inputs of the module's runs be read once: this takes most of the time."""
    read = explored._open

    def open_once(one, targets, trust):
        if one.arm.label not in inputs_of:
            read(one, targets, trust)
            inputs_of[one.arm.label] = one.inputs
        one.inputs = inputs_of[one.arm.label]

    monkeypatch.setattr(explored, "_open", open_once)


@pytest.fixture
def runs(made, monkeypatch):
    """The folder of the runs, with their cache."""
    monkeypatch.setenv("MLENS_CACHE", str(made / "cache"))
    return made / "runs"


def results_of(folder):
    return compare(pair(make_arms(find_runs([folder])))[0])


def data_of(html):
    """The data of a page."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def decoded(code):
    """The ratings that a code stands for: a list of gaps and runs, or bits in base64."""
    if isinstance(code, str):
        return [8 * at + bit for at, byte in enumerate(base64.b64decode(code)) for bit in range(8) if byte >> bit & 1]
    found, at = [], 0
    for gap, run in zip(code[::2], code[1::2], strict=True):
        found += range(at + gap, at + gap + run)
        at += gap + run
    return found


@given(
    bits=st.lists(st.booleans(), max_size=300)
    | st.builds(lambda n, m: [True] * n + [False] * m, st.integers(0, 999), st.integers(0, 99))
)
def test_a_code_has_the_ratings_that_it_was_made_of(bits):
    chosen = np.flatnonzero(bits)
    code = encode(chosen, len(bits))
    assert decoded(code) == chosen.tolist()
    assert len(json.dumps(code)) <= 4 * len(bits) / 6 + 6


def test_marks_and_predictions_are_those_of_each_arms_own_dataset(runs, results, opened_once):
    page = data_of(explored.explore(results, "t").html)
    assert (page["item"], page["categories"], page["dates"]) == ("book", "categories", True)
    assert page["users"] == len(page["list"]) == USERS and not any(arm["unknown"] for arm in page["arms"])
    assert len({arm["label"] for arm in page["arms"]}) == len(ARMS)
    marked = 0
    for number, arm in enumerate(page["arms"]):
        run = runs / arm["label"].split()[0]
        inputs = open_inputs(check_config(run_config(run, [], ())))
        stage, table = inputs.stages["test"], inputs.table
        datasets = [inputs.dataset("test").with_epoch(draw) for draw in range(arm["draws"])]
        targets = {(user["id"], target["t"]): target for user in page["list"] for target in user["targets"]}
        assert len(targets) == len(stage) and arm["draws"] == (2 if run.name == "random" else 1)
        frame = pl.read_parquet(run / "predictions" / "test.parquet")
        for i in range(len(stage)):
            user = int(stage.user[i])
            first, name = int(table.user_offsets[user]), table.users["id"][user]
            t = int(stage.targets[i]) - first
            target = targets[name, t]
            shown = [(dataset.history(i) - first).tolist() for dataset in datasets]
            assert [decoded(code) for code in target["arms"][number]["shown"]] == shown
            assert decoded(target["visible"]) == list(range(t))
            rows = frame.filter(user=name, t=t)
            expected = target["arms"][number]["expected"]
            assert expected == pytest.approx(rows["expected"].mean(), abs=0.006)
            for p, value in zip(target["arms"][number]["p"], table.scale, strict=True):
                assert p / 1000 == pytest.approx(rows[f"p_{value}"].mean(), abs=0.0006)
            marked += sum(map(len, shown))
        for user in page["list"]:
            rated = pl.read_csv(runs.parent / "ratings.csv").filter(user=user["id"])[: len(user["rating"])]
            assert [page["scale"][index] for index in user["rating"]] == rated["rating"].to_list()
            assert [86_400 * day for day in np.cumsum(user["day"])] == (rated["timestamp"] // 86_400 * 86_400).to_list()
            titles = [page["movies"][str(movie)][0] for movie in user["movie"]]
            assert titles == [SHOWN + str(movie) for movie in rated["movie"]]
    assert marked


def test_an_arm_with_other_histories_is_unknown_and_said_so(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "runs")
    file = tmp_path / "runs" / "fixed_count" / "predictions" / "test.parquet"
    frame = pl.read_parquet(file).with_columns(history_hash=pl.lit("of another version"))
    file.unlink()
    frame.write_parquet(file)
    shutil.rmtree(tmp_path / "runs" / "random" / "model")
    made = explored.explore(results_of(tmp_path / "runs"), "t")
    by_arm = {arm["label"].split()[0]: arm["unknown"] for arm in data_of(made.html)["arms"]}
    assert not by_arm["all_previous"] and "aren't those of the run" in by_arm["fixed_count"]
    assert "random/model, which has its tokenizer, is gone" in by_arm["random"] and len(made.unknown) == 2
    assert all("\n" not in line for line in made.unknown)


def test_without_the_data_there_is_a_report_and_no_page(runs, opened_once, tmp_path, monkeypatch, capsys):
    leave_out_figures(monkeypatch)
    written = report([runs], tmp_path)
    assert written.explore == tmp_path / "explore.html" and written.explore.is_file() and not written.unknown
    assert '<a href="explore.html">' in written.html.read_text()
    monkeypatch.undo()
    monkeypatch.setenv("MLENS_CACHE", str(tmp_path / "empty"))
    leave_out_figures(monkeypatch)
    written = report([runs], tmp_path)
    assert written.explore is None and not (tmp_path / "explore.html").exists()
    assert "explore.html" not in written.html.read_text()
    print_report(written)
    lines = [line for line in capsys.readouterr().out.splitlines() if "explore.html" in line]
    assert lines == [
        "no explore.html: its data aren't in the cache. `mlens show RUN user=ID` reads unchanged data again"
    ]


def test_the_copy_of_trackers_has_no_link_to_a_file_that_they_lack(runs, opened_once, tmp_path, monkeypatch):
    leave_out_figures(monkeypatch)
    written, logged = report([runs], tmp_path), []
    tracker = SimpleNamespace(log_report=lambda *given: logged.append(given), finish=lambda failed: None)
    monkeypatch.setattr(tracking, "open_trackers", lambda *_, **__: [tracker])
    tracking.track(written, ["wandb"], Wandb(), tmp_path)
    ((_, _, page, text),) = logged
    assert text == (tmp_path / "report.md").read_text()
    assert "<h1>" in page and "explore.html" in written.html.read_text() and "explore.html" not in page + text


def test_an_arm_of_a_foreign_strategy_is_unknown_unless_it_is_trusted(runs, tmp_path, monkeypatch):
    (tmp_path / "liked_strategy.py").write_text(
        "from dataclasses import dataclass\nfrom mlens.history.all_previous import AllPrevious\n\n"
        "@dataclass(frozen=True)\nclass Liked(AllPrevious):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = shutil.copytree(runs / "all_previous", tmp_path / "runs" / "run")
    file = run / ".hydra" / "config.yaml"
    file.write_text(file.read_text().replace("mlens.history.all_previous.AllPrevious", "liked_strategy.Liked"))
    results = results_of(tmp_path / "runs")
    with pytest.raises(UserError, match=r"liked_strategy\.Liked is not from mlens.*--trust"):
        explored.explore(results, "t")
    assert "liked_strategy" not in sys.modules
    assert not explored.explore(results, "t", trust=True).unknown


@pytest.mark.parametrize("key", ["", "../tables", "x" * 32, "0" * 31])
def test_what_is_no_key_opens_no_folder(runs, results, monkeypatch, key):
    for run in results.paired.runs:
        monkeypatch.setitem(run.summary["identity"], "data", key)
    monkeypatch.setattr(explored, "open_table", lambda _: pytest.fail("opened"))
    with pytest.raises(UserError, match="aren't in the cache"):
        explored.explore(results, "t")


def test_the_page_is_bounded_by_an_even_sample_of_its_users(results, opened_once, monkeypatch):
    complete = explored.explore(results, "t").html
    ids = [user["id"] for user in data_of(complete)["list"]]
    assert sorted(ids) == [f"user {n}" for n in range(USERS)] != ids
    bound = len(complete.encode()) + 6 * explored.REASON * len(ARMS) + 100
    sizes = []
    for bytes_less in (0, 3_000, 6_000, 9_000):
        monkeypatch.setattr(explored, "MAX_BYTES", bound - bytes_less)
        html = explored.explore(results, "t").html
        page = data_of(html)
        kept = [user["id"] for user in page["list"]]
        assert len(html.encode()) <= bound - bytes_less and kept == ids[: len(kept)] and page["users"] == USERS
        assert {*page["movies"]} == {str(movie) for user in page["list"] for movie in user["movie"]}
        sizes.append(len(kept))
    assert sizes[0] == USERS > sizes[1] > sizes[3] > 0
    monkeypatch.setattr(explored, "MAX_BYTES", bound)
    monkeypatch.setattr(explored, "MAX_USER_BYTES", 3_000)
    page = data_of(explored.explore(results, "t").html)
    assert page["leftOut"] == USERS - len(page["list"]) > 0


class Tags(HTMLParser):
    """The tags and comments of a page, and the content of its data block."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.data = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes).get("id")))

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def handle_data(self, data):
        self.data += data if self.tags and self.tags[-1] == ("script", "data") else ""


TEXTS = st.text() | st.lists(
    st.sampled_from(
        [
            "</script>",
            "<!--",
            "-->",
            "<script",
            "&lt;",
            "\u2028",
            "\u2029",
            "<img onerror=x>",
            "\\",
            '"',
            "'",
            "{{ 1 }}",
        ]
    )
).map("".join)


@given(texts=st.lists(TEXTS, max_size=4), title=TEXTS)
def test_texts_stay_texts(texts, title):
    plain = Tags(explored._html("t", explored._as_json([]), False))
    page = Tags(explored._html(title, explored._as_json(texts), False))
    assert page.tags == plain.tags
    assert json.loads(page.data) == texts


def test_the_page_loads_nothing_and_sets_no_html(results, opened_once):
    html = explored.explore(results, "t").html
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)[1]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "connect-src" not in policy
    script = html[html.rindex("<script>") + len("<script>") : html.rindex("</script>")]
    assert f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|fetch|XMLHttp|import\(", script)
    assert re.findall(r'(?:src|href)="(.*?)"', html) == ["data:,", "report.html"]
    assert "img" not in [tag for tag, _ in Tags(html).tags]
    light, dark = (set(re.findall("(--[a-z]+):", block)) for block in re.findall(r":root {(.*?)}", html, re.DOTALL))
    assert light == dark and set(re.findall(r"var\((--[a-z]+)\)", html)) == light | {"--arm"}


CLICKS = """
const before = byId("answer").textContent;
byId("next").dispatchEvent(new MouseEvent("click", { bubbles: true }));
const next = { user: byId("user").value, marks: marks(), answer: byId("answer").textContent };
byId("target").value = "0";
byId("target").dispatchEvent(new Event("change", { bubbles: true }));
const first = { hash: location.hash, marks: marks() };
byId("user").value = "nobody";
byId("user").dispatchEvent(new Event("change", { bubbles: true }));
function marks() {
  return [...document.querySelectorAll("#history tbody tr")].map((row) =>
    [Number(row.dataset.t), ...[...row.querySelectorAll(".mark")].map((cell) => cell.textContent)]);
}
const figures = [...document.querySelectorAll("svg")].map((svg) =>
  [svg.querySelectorAll("rect").length, svg.getAttribute("aria-label")]);
const found = { before, next, first, figures, refused: byId("answer").textContent, title: document.title,
  images: document.images.length, wide: document.documentElement.scrollWidth - innerWidth };
document.body.append(element("pre", JSON.stringify(found), { id: "found" }));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_shows_what_is_clicked(results, opened_once, tmp_path, width):
    html = explored.explore(results, "t").html
    page = data_of(html)
    allowed = base64.b64encode(hashlib.sha256(CLICKS.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{allowed}' ").replace(
        "</body>", f"<script>{CLICKS}</script></body>"
    )
    (tmp_path / "explore.html").write_text(html)
    user, after = page["list"][2], page["list"][3]
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    words += [f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom"]
    address = (
        f"{(tmp_path / 'explore.html').as_uri()}#user={user['id'].replace(' ', '+')}&target={user['targets'][0]['t']}"
    )
    done = subprocess.run(["chromium", *words, address], capture_output=True, text=True, timeout=60)
    text = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]
    for escape, sign in (("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", "\u00a0"), ("&amp;", "&")):
        text = text.replace(escape, sign)
    found = json.loads(text)

    def expected(user, target):
        rows = []
        for t in reversed(decoded(target["visible"])):
            times = [sum(t in decoded(code) for code in arm["shown"]) for arm in target["arms"]]
            texts = [f"{n}/2" if arm["draws"] == 2 else "●shown" for n, arm in zip(times, page["arms"], strict=True)]
            rows.append([t, *(text if n else "" for text, n in zip(texts, times, strict=True))])
        return rows

    assert found["before"].startswith(f"User {user['id']} rated this book ") and HOSTILE[:40] in found["before"]
    assert found["next"]["user"] == after["id"] and f"User {after['id']} rated" in found["next"]["answer"]
    assert found["next"]["marks"] == expected(after, after["targets"][-1])
    assert found["first"]["marks"] == expected(after, after["targets"][0])
    assert found["first"]["hash"] == f"#user={after['id'].replace(' ', '+')}&target={after['targets'][0]['t']}"
    assert [count for count, _ in found["figures"]] == [len(page["scale"])] * len(ARMS)
    assert all("expected" in label and "true rating" in label for _, label in found["figures"])
    assert found["refused"] == "User nobody isn't on this page: choose one of the list."
    assert (found["title"], found["images"]) == ("Explore: t", 0) and found["wide"] <= 0
