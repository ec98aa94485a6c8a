"""Every command that README.md, CONTRIBUTING.md and docs/ give: its programs take it, and run in small it works."""

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest
from accelerate.commands.launch import launch_command_parser as accelerates
from deepspeed.launcher.runner import parse_args as deepspeeds
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.distributed.run import get_args_parser as torchruns

from mlens.cli.show import read_words
from mlens.compose import compose_node, run_config
from mlens.config import PATHS, check_config
from mlens.data.sample import Sample
from mlens.data.sources import load_table
from mlens.errors import UserError
from mlens.evaluation.reevaluate import MAY_DIFFER
from mlens.plan.jobs import plan_request
from tests.helpers.documents import DOCUMENTS, block_commands, document_commands, extended_copy, make_targets, use_copy
from tests.helpers.runs import ROOT, checked, child_environment, command, composed, hydra_config

# What is like a command and none.
NO_COMMANDS = {
    "python train.py … --cfg job": "elided",
    "mlens probe model=… data=…": "elided",
    "torchrun --standalone --nproc_per_node=2 …": "elided",
    "torchrun --nproc_per_node=2 … --threads 1": "elided",
    "torchrun --nproc_per_node=8 --master_port=29500": "flags of another program, in a table",
    "python -m mlens COMMAND": "any of them",
    "mlens show RUN": "a way to write it",
    "torchrun --nproc_per_node=8 -m mlens train": "what stands for train.py",
    "accelerate launch": "a program's name",
    "python -O": "a way to start any program",
    "pip install py-spy": "another project's program",
}
# Their commands are checked with the slow tests.
FURTHER = ("docs/results.md", "docs/ci.md", "docs/troubleshooting.md")
# The document shows how it is refused.
REFUSED = "python train.py debug=fast history=random history.ratio=2"
# What a command lets the reader choose, chosen.
CHOSEN = {
    "DIR [DIR …] [--output FOLDER]": "DIR --output FOLDER",
    "[OVERRIDES]": "data.max_users=10",
    "model.path=OUT": "model.name=hub/model",
    "--config-dir DIR history=mine": "--config-dir DIR history=random",
}

# What isn't run in small.
NOT_RUN = {
    r"make demo": "takes minutes; its command is run in small",
    r"make test|python -m pytest": "tests don't run tests; those that a command selects are counted",
    r"smollm2\.py|model=hf model\.name=hub/model": "needs a package of 93 MB",
    r"make (check|format|docs)": "works in the environment that `make install` makes",
    r"make install|pip install": "installs into the environment of the tests",
    r"backend=slurm": "needs a queue; tests/launcher/test_launcher_slurm.py has one",
    r"--nnodes=2": "needs two machines",
    r"--hostfile": "needs as many machines; tests/test_launchers.py has one",
    r"\+experiment=optuna": "needs an extra; tests/launcher/test_launcher_searches.py runs it",
    r"sys\.exit\(s": "its exit code is the answer, and tested by itself",
    r"benchmarks/gpu": "needs a GPU",
    r"examples/vllm": "needs vLLM; tests/predict/test_vllm_example.py runs it with a stand-in",
    r"mlens push RUN REPO --private": "needs a hub; tests/runs/test_push.py has a stand-in",
    r"benchmarks/(arithmetic|growth|scale|scoring|startup|training)": "takes minutes, or long histories, in any size",
    r"\+experiment=words": "tests/docs/test_extending.py runs it",
    r"learning\.py mixing": "trains a base model first, which its options can't make smaller",
}
# What stands in a command, and what stands there when it is run in small, one after the other.
SMALLER = [
    # Other releases aren't at hand, and their readers have tests of their own.
    (r"data=ml_100k data\.path=\S+|data=ml_1m", "data=ml_latest_small data.path=DIR"),
    (r"'?tracker=(\[wandb,)?tensorboard\]?'?", "tracker=none"),  # an extra, which has tests of its own
    # So is bitsandbytes.
    (r"(train\.py.*) peft=qlora", r"\1 peft=lora"),
    (r"trainer\.optimizer=adamw_8bit", ""),
    (r"trainer\.max_steps=\d+", ""),
    (r"trainer\.validate_every_steps=\d+", ""),
    # The probe asks a pretrained model (here the one that a run left), and of more users and movies than DIR has.
    (r"mlens probe .*", "mlens probe --questions 5 model=hf model.path=RUN/model data=sample data.movies=2000"),
    (r"five_way model=qwen3_\w+", "five_way"),
    (r" model=qwen3_\w+", " model=tiny"),
    (r"(experiment=guide_qwen3.*)", r"\1 model=tiny"),
    # What an experiment sets stands above what debug=fast does.
    (r"(experiment=(guide_qwen3|demo).*)", r"\1 prompt.max_tokens=512 trainer.max_steps=4 trainer.targets_per_step=8"),
    (r"(\+experiment=demo)", r"\1 model.base.steps=2 hydra.sweeper.params.history=random"),
    (r"(--nproc_per_node=|--num_gpus |--num_processes )8", r"\g<1>2"),
    (r'(model=tiny_base|"?\+experiment=\S*five_way\S*)', r"\1 model.base.steps=2"),
    (r"(\+experiment=\S*five_way(?!.*params\.history).*)", r"\1 hydra.sweeper.params.history=random"),
    (r"'all_previous,random,same_genre'", "'random,same_genre'"),
    (r"(\+experiment=\S*ten_way(?!.*params\.history).*)", r"""\1 'hydra.sweeper.params.history="none,similar"'"""),
    (r"(_way,seeds(?!.*params\.seed).*)", r"""\1 'hydra.sweeper.params.seed="0,1"'"""),
    (r"seed='0,1,2,3,4'", "seed='0,1'"),
    (r"history=none,all_previous,random\S*", "history=none,random"),
    (r"history\.ratio=0\.1,0\.3,0\.5 seed=0,1,2", "history.ratio=0.1,0.5 seed=0"),
    (r"model\.base\.steps=[68]00", "model.base.steps=2"),
    # After the command's own overrides; a debug option of its own stays.
    (r"(((train\.py|mlens plan|mlens show user)(?!.*debug=)[^|]*?)( --cfg job)?)$", r"\2 debug=fast\4"),
    (r"debug=overfit_batch", r"debug=overfit_batch trainer.max_steps=2"),
    (r"--history FILE --movies FILE", "--history ratings.csv --movies movies.csv"),
    (r"mlens compare DIR", "mlens compare RUN"),
    (r"mlens push RUN REPO", "mlens push RUN somebody/ratings"),
    (r"mlens runs DIR --clean", "mlens runs FINISHED --clean --yes"),
    (r"output_dir=DIR resume=true", "output_dir=STOPPED resume=true"),
    (r"output_dir=DIR(/\w+)?", "output_dir=OUT"),
    (r'"\$SUMMARY"$', "RUN/summary.json"),
    (r"(SUMMARY=.*)", r'\1; cat "$SUMMARY"'),
    (r"(benchmarks/planning\.py)", r"\1 --ratings 20000 --users 200 --movies 20000"),
    (r"(benchmarks/report\.py)", r"\1 --targets 20000 --runs 2"),
    (r"(benchmarks/predicting\.py.*)", r"\1 --movies 20 --lines 40"),
    (r"(benchmarks/base\.py.*)", r"\1 --steps 2"),
    (
        r"data\.users=500 (.*) --seconds 60 (.*) --seeds 0 1 2 --users 100",
        r"data.users=40 \1 --seconds 1 \2 --seeds 0 --users 5",
    ),
]
# By the beginning of what is run, what its output shows then: the first that fits.
SHOWN = [
    (r".* --help", "Five commands"),
    (r".* --cfg job", r"history:\n(.*\n)*  ratio: 0\.3\n"),
    (r"SUMMARY=", r'"rmse": \d'),
    (r".* train\.py .*(--multirun|\+experiment=(?!guide_qwen3))", r"report\.html\n$"),
    (r"deepspeed ", r"/summary\.json\n"),  # its launcher has the last word
    (r".*train\.py", r"/summary\.json\n$"),
    (r"mlens plan", "tokens an epoch as read"),
    (r"mlens show", r"\[TASK\]"),
    (r"mlens probe", "title by id"),
    (r"mlens predict .*--output", r"^(best\.parquet|to_serve\.json)\n$"),
    (r"mlens predict", "expected"),
    (r"mlens runs .*--dry-run", "nothing was removed"),
    (r"mlens runs .*--clean", r"removed \d+\.\d [kM]B"),
    (r"mlens runs", r"\d of \d+ runs finished"),
    (r"mlens push .*--dry-run", "nothing was uploaded"),
    (r"mlens compare", r"FOLDER/report\.html\n$"),
    (r"(.* -m )?mlens evaluate", r"summary\.json\n$"),
    (r"python benchmarks/", "━━"),
    (r"python -c", r"\d\.\d"),
    (r"make", "make demo"),
]


def told(document: str) -> list[str]:
    """A document's commands, with what the reader chooses."""
    commands = document_commands(document)
    for words, choice in CHOSEN.items():
        commands = [text.replace(words, choice) for text in commands]
    return commands


# The guide's pages, and the Chinese page of each.
CHINESE = {
    document: document.replace("docs/guide", "docs/guide.zh")
    for document in DOCUMENTS
    if document.startswith(("docs/guide.md", "docs/guide/"))
}
TOLD = [(document, text) for document in DOCUMENTS for text in told(document) if text not in NO_COMMANDS]


def words_of(text: str) -> list[str]:
    """A command's words, without its environment and without what keeps its output."""
    text = re.sub(r"^SUMMARY=\$\((.*) \| tail -n 1\)$", r"\1", text)
    return shlex.split(re.sub(r"^([A-Z_]+=\w+ )*", "", text))


def program_of(text: str) -> str:
    """`train.py`, `mlens plan`, `make`, …"""
    words = words_of(text)
    if "mlens" in words:
        return f"mlens {words[words.index('mlens') + 1]}"
    if words[0] in ("python", "torchrun") and "-m" in words:
        return words[words.index("-m") + 1]
    return words[1] if words[0] == "python" else words[0]


def commands_of(*programs: str):
    """A test case for each command of these programs (patterns); the Chinese guide gives the same as the English."""
    told = [case for case in TOLD if case[0] not in CHINESE.values()]
    found = [case for case in told if any(re.fullmatch(program, program_of(case[1])) for program in programs)]
    slow = [pytest.mark.slow if case[0] in FURTHER else () for case in found]
    cases = [pytest.param(*case, marks=mark, id=": ".join(case)) for case, mark in zip(found, slow, strict=True)]
    return pytest.mark.parametrize(("document", "text"), cases)


def test_a_blocks_lines_are_commands():
    block = "$ make demo   # trains\nmake \\\n  test\n\npython -c 'import this\nprint(1)'\n"
    assert block_commands(block) == ["make demo", "make test", "python -c 'import this\nprint(1)'"]


def test_the_commands_are_of_these_programs():
    commands = "compare evaluate plan predict probe push runs show"
    benchmarks = (
        "arithmetic base gpu_checks growth learning planning predicting report scale scoring smollm2 startup threads "
        "tokens training"
    )
    assert {program_of(text) for _, text in TOLD} == {
        *("make", "pip", "train.py", "torchrun", "deepspeed", "accelerate", "pytest", "-c"),
        *(f"mlens {name}" for name in commands.split()),
        *(f"benchmarks/{name}.py" for name in benchmarks.split()),
        "examples/vllm_scoring.py",
    }
    without = {f"docs/guide/{page}.md" for page in ("outputs", "sharing", "splits", "strategies")}
    without |= {"docs/design.md", "docs/gallery.md", *(CHINESE[page] for page in without)}
    assert {*DOCUMENTS} - {document for document, _ in TOLD} <= without


def test_each_page_of_the_guide_has_a_chinese_page_that_tells_the_same_commands():
    for english, chinese in CHINESE.items():
        assert told(chinese) == told(english), chinese
    pages = {document for document in DOCUMENTS if document.startswith("docs/guide")}
    assert pages == {*CHINESE, *CHINESE.values()}


def test_no_command_is_left_out_but_those_named_here():
    everything = [text for document in DOCUMENTS for text in told(document)]
    assert {text for text in everything if "…" in text} == {
        text for text, why in NO_COMMANDS.items() if why == "elided"
    }
    assert {*NO_COMMANDS, REFUSED} <= {*everything}
    for listed in (NOT_RUN, dict(SMALLER)):
        assert [pattern for pattern in listed if not any(re.search(pattern, text) for text in everything)] == []


once = cache(checked)
composed_node = cache(lambda group, *overrides: compose_node(group, overrides))


@cache
def jobs_of(overrides: tuple[str, ...], multirun: bool = False) -> list[list[str]]:
    """The overrides of each job that train.py would start with these."""
    if multirun or any(re.match(r"\+experiment=|hardware", override) for override in overrides):
        return [job for _, job in plan_request(overrides, multirun).jobs]
    return [[*overrides]]


def check_first_job(overrides: list[str], multirun: bool = False) -> None:
    once(*jobs_of((*overrides,), multirun)[0])


def training(text: str) -> argparse.Namespace:
    """What Hydra makes of a command of train.py: its overrides, and those of its flags that documents give."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--help", action="store_true")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--cfg", choices=["job"])
    parser.add_argument("--config-dir")
    parser.add_argument("overrides", nargs="*")
    words = words_of(text)
    return parser.parse_intermixed_args(words[words.index("train.py") + 1 :])


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    return extended_copy(tmp_path_factory.mktemp("extension"))


@pytest.fixture
def extended(extension, monkeypatch):
    """The files of docs/extending.md can be chosen in this process."""
    use_copy(extension, monkeypatch)
    monkeypatch.setattr("mlens.plan.jobs.compose_node", lambda group, overrides: composed_node(group, *overrides))


@pytest.mark.sampled(11)
@commands_of("train.py", "torchrun", "deepspeed", "accelerate")
def test_a_training_command_is_taken_and_its_first_job_passes_the_strict_check(document, text, extended):
    launcher, *words = words_of(text)
    script = words.index("train.py")
    if launcher == "torchrun":
        assert torchruns().parse_args(words).training_script == "train.py"
    elif launcher == "deepspeed":
        assert deepspeeds(words).user_script == "train.py"
    elif launcher == "accelerate":
        assert words[0] == "launch" and accelerates().parse_args(words[1:]).training_script == "train.py"
    else:
        assert script == 0
    given = training(text)
    if text == REFUSED:
        with pytest.raises(UserError) as refusal:
            check_first_job(given.overrides)
        assert f"\nerror: {refusal.value}\n" in (ROOT / document).read_text(encoding="utf-8")
        return
    assert not any(override.startswith("hardware") for override in given.overrides)  # the plan's alone
    if "optuna" in text:  # chooses the values of the first job
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")
        check_config(composed(*given.overrides))
        return
    check_first_job(given.overrides, given.multirun)
    if "hydra.launcher." in text:
        composed(*given.overrides)
        instantiate(hydra_config().launcher)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", dict.fromkeys(text for _, text in TOLD if re.search(r"train\.py .*(--multirun|\+exp(?!.*optuna))", text))
)
def test_every_job_of_a_sweep_passes_the_strict_check(text, extended):
    given = training(text)
    for job in jobs_of((*given.overrides,), given.multirun):
        # Jobs may differ in their seed alone: a number, for which one of them stands.
        once(*(re.sub(r"^seed=\d+$", "seed=1", override) for override in job))


def parsed(text: str, monkeypatch) -> argparse.Namespace:
    """What the program's own parser makes of the command; the program ends there."""
    found = []

    def ending(parse):
        def parse_and_end(*given):
            found.append(parse(*given))
            sys.exit()

        return parse_and_end

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, ending(getattr(argparse.ArgumentParser, name)))
    program, words = program_of(text), words_of(text)
    monkeypatch.setattr(sys, "argv", words[words.index(program.split()[-1]) :])
    with pytest.raises(SystemExit):
        if program.endswith(".py"):
            monkeypatch.syspath_prepend(ROOT / "benchmarks")
            runpy.run_path(str(ROOT / program), run_name="__main__")
        else:
            import_module(f"mlens.cli.{program.split()[1]}").main()
    (options,) = found
    return options


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder that says of itself that it is a finished run's."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / ".hydra").mkdir()
    (folder / "summary.json").write_text("{}")
    OmegaConf.save(composed("debug=fast"), folder / ".hydra" / "config.yaml", resolve=True)
    return folder


@pytest.mark.sampled(7)
@commands_of(r"mlens \w+", "benchmarks/.*", "examples/.*")
def test_a_programs_parser_takes_its_command_and_the_overrides_pass_the_strict_check(
    document, text, finished, monkeypatch
):
    program, options = program_of(text), parsed(text.replace("RUN", str(finished)), monkeypatch)
    if program == "mlens show":
        _, run, overrides = read_words(options.words)
        check_config(run_config(run, overrides, PATHS)) if run else check_first_job(overrides)
    elif program == "mlens evaluate":
        check_config(run_config(options.run, options.overrides, MAY_DIFFER))
    elif "overrides" in options:
        check_first_job(options.overrides, getattr(options, "multirun", False))


@commands_of("pytest")
def test_a_test_command_names_files_that_exist(document, text):
    paths = [word for word in words_of(text) if word.startswith("tests/")]
    assert paths and all((ROOT / path).exists() for path in paths)


@pytest.mark.slow
@commands_of("pytest")
def test_a_test_command_selects_tests(document, text):
    done = command(*words_of(text)[1:], "--collect-only", "-q")
    assert done.returncode == 0, done.stdout
    assert re.search(r"^tests/.*::test_|^tests/.*: \d+$", done.stdout, re.MULTILINE)


@commands_of("make")
def test_a_target_is_in_the_makefile(document, text):
    assert {*words_of(text)[1:]} <= make_targets()


@commands_of("pip")
def test_an_extra_is_in_pyproject(document, text):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked_for = re.fullmatch(r"\.(\[(\w+)\])?", words_of(text)[-1])
    assert asked_for and asked_for[2] in {None, *extras}


@commands_of("-c")
def test_the_code_in_a_command_compiles(document, text):
    compile(words_of(text)[2], text, "exec")


@pytest.mark.parametrize(("rmse", "code"), [(0.9, 0), (1.1, 1)])
def test_the_check_against_the_global_mean_tells_better_from_worse(tmp_path, rmse, code):
    (check_it,) = [words_of(text)[1:3] for _, text in TOLD if "sys.exit(s" in text]
    baselines = {"test": {"full_history": {"global_mean": {"rmse": 1.0}}}}
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps({"metrics": {"test": {"rmse": rmse}}, "baselines": baselines}))
    assert command(*check_it, str(summary)).returncode == code


def in_small(text: str) -> str:
    for words, put in SMALLER:
        text = re.sub(words, put, text)
    return text


# Each once, though several documents tell it.
SMALL = {
    in_small(text): (document, text)
    for document, text in reversed(TOLD)
    if not any(re.search(p, text) for p in NOT_RUN)
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the repository in which DIR holds data in every form that the commands read, RUN a finished run and
    STOPPED an unfinished one, FINISHED one that may lose its checkpoints."""
    place = extended_copy(tmp_path_factory.mktemp("place"))
    for name in ("benchmarks", "tests/comparison"):
        shutil.copytree(ROOT / name, place / name)
    shutil.copy(ROOT / "Makefile", place)
    write_data(place)
    small = "debug=fast data=ml_latest_small data.path=DIR history=random output_dir=RUN"
    stopped = "debug=fast history=random trainer.max_steps=2 output_dir=STOPPED"
    for overrides in (small, stopped):
        done = run(f"python train.py {overrides}", place)
        assert done.returncode == 0, done.stderr
    (place / "STOPPED" / "summary.json").unlink()
    for copy in ("outputs/run", "FINISHED"):
        shutil.copytree(place / "RUN", place / copy)
    (place / "multirun").mkdir()
    return place


def write_data(place: Path) -> None:
    """Sample users and movies; a few of them beside DIR, to be rated."""
    table = load_table(Sample(users=12, movies=300, ratings_per_user=160))
    movies = table.movies.select(movieId="id", title="title", genres=pl.col("genres").str.replace_all(", ", "|"))
    columns = {"userId": table.user + 1, "rating": table.rating.astype(float), "timestamp": table.timestamp}
    ratings = pl.concat([pl.DataFrame(columns), movies[table.movie].select("movieId")], how="horizontal")
    few = ratings.filter(pl.col("userId") <= 2).group_by("userId", maintain_order=True).head(10)
    rated = movies.join(few, on="movieId", how="semi")
    (place / "DIR").mkdir()
    few.write_csv(place / "ratings.csv")
    pl.concat([rated, movies.join(rated, on="movieId", how="anti").head(10)]).write_csv(place / "movies.csv")
    movies.write_csv(place / "DIR" / "movies.csv")
    ratings.write_csv(place / "DIR" / "ratings.csv")
    pl.DataFrame({"userId": [1], "movieId": few["movieId"][:1], "tag": ["slow"], "timestamp": [1]}).write_csv(
        place / "DIR" / "tags.csv"
    )
    told = ratings.join(movies, on="movieId").rename({"userId": "user", "movieId": "movie"})
    told = told.with_columns(pl.col("user").cast(pl.String), pl.col("genres").str.split("|"))
    told.write_ndjson(place / "DIR" / "ratings.jsonl")
    ratings.join(movies, on="movieId", maintain_order="left").write_parquet(place / "DIR" / "ratings.parquet")
    write_catalogues(place / "DIR", told)
    users = [record_of(*user) for user in told.group_by("user", maintain_order=True)]
    (place / "DIR" / "users.json").write_text(json.dumps(users))


def write_catalogues(folder: Path, told: pl.DataFrame) -> None:
    """The same ratings, rounded up to whole stars, in the files of other catalogues."""
    user, movie, rating = pl.col("user"), pl.col("movie").cast(pl.String), pl.col("rating").ceil()
    shelves = pl.col("genres").list.eval(pl.struct(name=pl.element()))
    date = pl.from_epoch("timestamp").dt.strftime("%a %b %d %H:%M:%S +0000 %Y")
    amazon = {"user_id": user, "parent_asin": movie, "rating": rating, "timestamp": 1000 * pl.col("timestamp")}
    products = {"parent_asin": movie, "title": "title", "main_category": pl.lit("All"), "categories": "genres"}
    books = {"book_id": movie, "title": "title", "popular_shelves": shelves}
    frames = {
        "amazon/Books.jsonl": told.select(**amazon),
        "amazon/meta_Books.jsonl": told.unique("movie").select(**products),
        "goodreads/goodreads_interactions.json": told.select(
            user_id=user, book_id=movie, rating=rating, date_added=date
        ),
        "goodreads/goodreads_books.json": told.unique("movie").select(**books),
    }
    for name, frame in frames.items():
        (folder / name).parent.mkdir(exist_ok=True)
        frame.write_ndjson(folder / name)
    (folder / "BX").mkdir()
    author = {"Book-Author": pl.lit("A. Author"), "Year-Of-Publication": pl.lit("1999")}
    tables = {
        "BX-Book-Ratings.csv": told.select(**{"User-ID": user, "ISBN": movie, "Book-Rating": 2 * pl.col("rating")}),
        "BX-Books.csv": told.unique("movie").select(**{"ISBN": movie, "Book-Title": "title", **author}),
    }
    for name, frame in tables.items():
        frame.write_csv(folder / "BX" / name, separator=";", quote_style="always")


def record_of(key: tuple, ratings: pl.DataFrame) -> dict:
    """A user as docs/guide/data.md writes one in JSON."""
    data = [
        {
            "context": [],
            "continuation": str(rating["rating"]),
            "timestamp": rating["timestamp"],
            "continuation_prefix": f"{rating['title']} ({', '.join(rating['genres'])}): ",
        }
        for rating in ratings.iter_rows(named=True)
    ]
    task = {"description": "Rate it.", "task_behavior_collections": [{"type": "movie_rating", "data": data}]}
    return {"user_hash": key[0], "user": {"profile": {"name": key[0], "city": "Bern"}}, "task": task}


def run(text: str, place: Path) -> subprocess.CompletedProcess[str]:
    """The command in a shell, with the programs of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", text],
        cwd=place,
        env=child_environment(PATH=path, PYTHONPATH=str(place)),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.parametrize("text", SMALL, ids=[": ".join(case) for case in SMALL.values()])
def test_a_command_run_in_small_does_its_work(text, place):
    shutil.rmtree(place / "OUT", ignore_errors=True)
    done = run(text, place)
    _, as_told = SMALL[text]
    if as_told == REFUSED:
        assert done.returncode == 2 and done.stderr.startswith("error: history.ratio must be above 0")
        return
    assert done.returncode == 0, done.stderr
    shown = next(shown for beginning, shown in SHOWN if re.match(beginning, text))
    assert re.search(shown, done.stdout), done.stdout
