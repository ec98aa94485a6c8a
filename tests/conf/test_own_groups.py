"""Groups of one's own, in a folder outside: --config-dir of train.py and of the commands that compose a config."""

import pytest
import yaml

from mlens.cli import plan, probe, show
from mlens.compose import compose_config, config_dir_overrides
from mlens.config import check_config
from mlens.data.sample import Sample
from mlens.data.sources import load_table
from mlens.plan.jobs import plan_request
from tests.helpers.runs import command, summary_of, train_command_here

FILES = {
    "history/mine.yaml": "defaults: [random, _self_]\nratio: 0.25\n",
    "data/mine.yaml": "defaults: [csv, _self_]\npath: PLACE/ratings.csv\nmax_users: 9\n",
    "hardware/mine.yaml": "defaults: [1xH100, _self_]\nutilisation: 0.125\n",
    "experiment/mine.yaml": "# @package _global_\ndefaults: [override /data: mine]\n"
    "hydra: {mode: MULTIRUN, sweeper: {params: {history: 'none,mine'}}}\n",
}
OWN = ("data=mine", "history=mine")


@pytest.fixture
def conf(tmp_path):
    place = tmp_path / "a place, of one's own"
    for name, text in FILES.items():
        (place / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "conf" / name).write_text(text.replace("PLACE", str(place)))
    table = load_table(Sample(users=12, movies=60, ratings_per_user=20))
    rows = zip(table.user + 1, table.movie + 1, table.rating, table.timestamp, strict=True)
    lines = [f"{user},{movie},Film {movie} (1995),Drama,{rating},{time}" for user, movie, rating, time in rows]
    (place / "ratings.csv").write_text("\n".join(["user,movie,title,genres,rating,timestamp", *lines]) + "\n")
    return place / "conf"


def test_train_py_takes_them(conf, tmp_path):
    done = train_command_here(f"--config-dir={conf}", *OWN, "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)
    assert printed["history"]["ratio"] == 0.25
    assert (printed["data"]["path"], printed["data"]["max_users"]) == (f"{conf.parent}/ratings.csv", 9)


def test_a_folder_that_does_not_exist_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    done = train_command_here("--config-dir=elsewhere", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "elsewhere" in done.stderr
    for main in (plan.main, probe.main, show.main):
        monkeypatch.setattr("sys.argv", ["mlens", "user=1", "--config-dir", "elsewhere"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert capsys.readouterr().err == "error: --config-dir=elsewhere: there is no such folder\n"


def test_an_option_that_it_lacks_is_answered_with_those_that_it_has(conf, tmp_path):
    done = train_command_here(f"--config-dir={conf}", "history=mien", cwd=tmp_path)
    assert done.returncode == 2 and "Did you mean mine?" in done.stderr


def test_a_plan_takes_them_for_each_job_and_for_the_hardware(conf):
    own = config_dir_overrides(conf)
    request = plan_request(["+experiment=mine", "hardware=mine", *own], multirun=False)
    assert request.hardware.utilisation == 0.125
    assert [name for name, _ in request.jobs] == ["history-none", "history-mine"]
    settings = [check_config(compose_config(job)) for _, job in request.jobs]
    assert [type(each.history).__name__ for each in settings] == ["NoHistory", "Random"]
    assert settings[1].history.ratio == 0.25 and settings[1].data.max_users == 9


def test_show_takes_them_wherever_the_flag_stands(conf, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mlens show", "user=1", "--config-dir", str(conf), *OWN, "stage=test"])
    show.main()
    assert "[HISTORICAL_RATINGS]" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_and_an_installed_mlens_take_them(conf, tmp_path):
    fast = ("debug=fast", "trainer.max_steps=2", "evaluation.max_users=null")
    swept = command(
        "-m", "mlens", "train", "--config-dir", str(conf), "+experiment=mine", *fast, "output_dir=sweep", cwd=tmp_path
    )
    assert swept.returncode == 0, swept.stderr
    for job in ("history-none", "history-mine"):
        assert summary_of(tmp_path / "sweep" / job)["training"]["step"] == 2
    planned = command("-m", "mlens", "plan", "--config-dir", str(conf), "+experiment=mine", *fast, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "history-mine" in planned.stdout
