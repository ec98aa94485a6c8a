"""The folder that a run exports: what it says of the model is true, and whoever made it can't make it run code."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from mlens.errors import UserError
from mlens.predict import Predictor, Prompter
from mlens.runs.push import find_upload
from mlens.training.exported import read_exported
from tests.helpers.predicting_runs import SHORT
from tests.helpers.runs import checked, child_environment, run_here, summary_of

HISTORY = [{"title": "Heat (1995)", "genres": "Action", "rating": 4.5}]
MOVIES = [{"title": "Ronin (1998)"}]


@pytest.fixture
def folder(all_previous, tmp_path):
    """A model's folder by itself, elsewhere."""
    return shutil.copytree(all_previous.folder / "model", tmp_path / "copied")


def change(folder, **fields):
    file = folder / "mlens.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_it_says_what_the_run_was_told(all_previous):
    settings, exported = checked(*SHORT, "history=all_previous"), read_exported(all_previous.folder)
    for name in ("history", "ablation", "prompt", "packing", "seed"):
        assert getattr(exported, name) == getattr(settings, name), name
    assert (exported.evaluation.seed, exported.evaluation.draws) == (settings.evaluation.seed, 1)
    assert exported.scale == all_previous.table.scale


def test_the_folder_alone_predicts_the_same(all_previous, folder):
    assert Predictor.from_run(folder).predict(HISTORY, MOVIES).equals(all_previous.predictor.predict(HISTORY, MOVIES))


def test_a_strategy_from_elsewhere_is_not_even_imported_unless_it_is_trusted(folder, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text(
        "from mlens.history.fixed_count import FixedCount\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Two(FixedCount):\n    count: int = 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    change(folder, history={"_target_": "stranger.Two"})
    with pytest.raises(UserError, match=r"mlens.json: history._target_=stranger.Two is not from mlens.history"):
        Prompter.from_run(folder)
    assert "stranger" not in sys.modules
    prompter = Prompter.from_run(folder, trust=True)
    rated = [{"title": f"Film {i}", "rating": 3} for i in range(5)]
    assert prompter.prompts(prompter.request(rated, MOVIES))["prompt"][0].count("Film") == 2


REFUSED = {
    "another module by way of ours": ({"history": {"_target_": "mlens.history.fit.math.floor"}}, "is no dataclass"),
    "a class that is none of ours": (
        {"history": {"_target_": "mlens.history.strategy.Stage"}},
        "is not an option of history",
    ),
    "a setting that isn't one": (
        {"history": {"_target_": "mlens.history.fixed_count.FixedCount", "count": 0}},
        "history.count must be at least 1",
    ),
    "an unknown one": ({"history": {"_target_": "mlens.history.none.NoHistory", "x": 1}}, "history.x"),
    "rows of elsewhere": ({"packing": {"_target_": "subprocess.Popen"}}, "packing._target_=subprocess.Popen"),
    "a value of the environment": (
        {"prompt": {"task": "${oc.env:HOME}", "question": "?"}},
        "refers to another value",
    ),
    "a scale": ({"scale": [5, 1]}, "rating_scale must be two or more"),
    "words in a scale": ({"scale": [1, "2"]}, r"scale\[1\] must be a number, not '2'"),
    "a later form": ({"form": 4, "mlens": "9.0"}, "has format 4, written by mlens 9.0"),
    "a wrong kind": ({"prompt": []}, "prompt must be an object, not a list"),
    "more": ({"more": 1}, "more: unknown key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_settings_file_that_is_wrong_is_told_in_one_line(folder, case):
    fields, message = REFUSED[case]
    change(folder, **fields)
    with pytest.raises(UserError, match=message) as told:
        read_exported(folder)
    assert "mlens.json" in str(told.value)


def test_other_files_in_its_place(folder):
    for text in ("{", "[1]", "[" * 100000, '"x"'):
        (folder / "mlens.json").write_text(text)
        with pytest.raises(UserError, match=r"mlens\.json"):
            read_exported(folder)
    (folder / "mlens.json").unlink()
    with pytest.raises(UserError, match="holds no trained model"):
        read_exported(folder)


def test_a_base_models_own_code_stays_where_it_is(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="names no base model"):
        read_exported(folder)
    base = {"_target_": "mlens.model.settings.PretrainedModel", "name": "somebody/model"}
    change(folder, base=base | {"trust_remote_code": True})
    with pytest.raises(UserError, match=r"base\.trust_remote_code runs code"):
        read_exported(folder)
    change(folder, base=base)
    assert read_exported(folder).model.name == "somebody/model"


def test_every_file_can_be_uploaded(all_previous):
    """The list of what is uploaded names what is written, by whatever version of transformers."""
    found = find_upload(all_previous.folder)
    assert (found.skipped, found.notes) == ((), ())


def test_the_card(all_previous):
    card, summary = ModelCard.load(all_previous.folder / "model" / "README.md"), summary_of(all_previous.folder)
    assert card.data.library_name == "transformers" and "mlens" in card.data.tags
    assert (card.data.license, card.data.datasets) == ("other", ["mlens-sample"])
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: summary["metrics"]["test"][name] for name in ("rmse", "mae", "taste", "auc")}
    assert {(result.dataset_type, result.dataset_split) for result in card.data.eval_results} == {
        ("mlens-sample", "test")
    }
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.text.splitlines() if line[:1] == "|"]
    stages = list(summary["metrics"])
    for name in ("rmse", "mae", "nll", "illegal_mass"):
        assert [f"`{name}`", *(f"{summary['metrics'][stage][name]:.4f}" for stage in stages)] in cells
    for name in summary["baselines"]["test"]["full_history"]:
        of = [summary["baselines"][stage][column][name] for stage in stages for column in summary["baselines"][stage]]
        assert [f"`{name}`", *(f"{errors['rmse']:.4f}" for errors in of)] in cells
    command = " ".join(["python train.py", *SHORT, "history=all_previous", "output_dir=PATH"])
    assert f"```\n{command}\n```" in card.text
    assert str(all_previous.folder) not in card.text
    assert summary["fingerprint"] in card.text and "made up" in card.text and "strategy: AllPrevious" in card.text


@pytest.mark.slow
def test_a_run_with_dates_and_the_newest_first_says_so_and_its_cards_example_works(tmp_path, capsys):
    run_here(tmp_path / "run", *SHORT, "prompt.dates=true", "prompt.order=newest_first")
    assert "prompt.order=newest_first: targets share no histories" in capsys.readouterr().err
    prompt = read_exported(tmp_path / "run").prompt
    assert (prompt.dates, prompt.order) == (True, "newest_first")
    card = ModelCard.load(tmp_path / "run" / "model" / "README.md")
    (example,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    found: dict = {}
    exec(example.replace("Predictor.from_run", "found = Predictor.from_run").replace("DIR", f"{tmp_path}/run"), found)
    assert found["found"]["title"].to_list() == ["Ronin (1998)"]


def test_an_older_model_has_no_dates_and_prompts_in_time_order(folder):
    content = json.loads((folder / "mlens.json").read_text())
    older = {name: value for name, value in content["prompt"].items() if name not in ("dates", "order")}
    change(folder, prompt=older)
    assert (read_exported(folder).prompt.dates, read_exported(folder).prompt.order) == (False, "time")


def loads(module: str, *without: str) -> None:
    code = f"import sys, {module}; assert not {{*{without!r}}} & {{*sys.modules}}"
    done = subprocess.run([sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_takes_no_torch():
    loads("mlens.cli.predict", "torch", "transformers", "polars")


@pytest.mark.slow
def test_asking_takes_no_deepspeed():
    loads("mlens.predict.predictor", "deepspeed")
