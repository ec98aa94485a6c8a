"""What can't be read or isn't known in a command line is named, with what to type instead."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from mlens.compose import compose_config
from mlens.config import check_config
from mlens.errors import UserError
from mlens.launch import start
from mlens.overrides import FLAGS, _explain_key, as_typed, guess
from tests.helpers.runs import ROOT, train


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose_config(overrides)
    return str(caught.value)


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1))
def test_what_is_shown_can_be_typed_and_means_the_value(value):
    typed = as_typed("output_dir", value)
    (argument,) = shlex.split(typed)
    assert OverridesParser.create().parse_override(argument).value() == value


@pytest.mark.sampled(2)
@pytest.mark.parametrize("value", ["/x/lr=1e-4", "/x/电影.csv", "~/x", "a;b", "/x/run (2)", "/x/[1]"])
def test_a_value_that_hydra_can_not_read_is_shown_as_it_must_be_typed(value):
    line = refusal("history=none", f"output_dir={value}")
    assert line.startswith(f"output_dir={value} can't be read") and line.endswith(f"\"output_dir='{value}'\"")
    assert compose_config(shlex.split(line.rpartition("write it as ")[2])).output_dir == value


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["trainer.lr=1"],
            r"^trainer\.lr: .* mean trainer\.learning_rate\? The keys of trainer are ",
        ),
        (["history.n=3"], r"mean history\.count\?"),
        (["lr=3"], r"^lr: unknown key. Did you mean trainer\.learning_rate\?"),
        (["batch_size=8"], r"mean trainer\.targets_per_step\?"),
        (["histroy=none"], r"mean history\? The keys at the top level are output_dir, resume, seed, tracker, data"),
        (["history=randm"], r"^history=randm: .* mean random\? The options are all_previous, "),
        (["data.path=/x"], r"data=sample has no key path\. Options with it: data=.*csv, .*ml_latest_small"),
        (["history=none", "history.ratio=0.5"], r"history=none has no key ratio\. Options with it: .*random"),
        (["experiment=five_way"], r"write \+experiment=five_way$"),
        (["hydra.launcher.nproc=2"], r"hydra\.launcher\.nproc_per_node"),
        (["history=none,random"], r"^history=none,random has several values, for a sweep: add --multirun"),
        (["history=null"], r"^history=null chooses no option of the group history: choose one of all_previous, "),
        (["debug=null"], r"^debug=null chooses no option of the group debug: leave it out$"),
        (["hydra/launcher=basic_"], r"^hydra/launcher=basic_ can't start the jobs of a sweep: leave it out"),
        (["history.ratio"], r"^history\.ratio is no override: write KEY=VALUE"),
    ],
)
def test_a_key_or_option_that_is_not_there_is_answered_with_the_nearest(overrides, told):
    line = refusal(*overrides)
    assert re.search(told, line) and line.isprintable() and "struct" not in line


def test_in_a_sweep_ready_files_stand_for_the_key():
    """Each job lacks the others' keys; what is advised is composed for every strategy of it."""
    sweep = ["history=random,none,fixed_count", "history.ratio=0.3,0.5"]
    line = _explain_key("history.ratio", sweep)
    assert "fixed_count" in line and "history=none has no key" in line
    advised = re.search(r"write history=(\S+) without history\.ratio", line)[1].split(",")
    assert advised == ["random_30", "random_50", "none", "fixed_count"]
    assert [check_config(compose_config([f"history={name}"])).history.ratio for name in advised[:2]] == [0.3, 0.5]
    advice = _explain_key("history.ratio", [sweep[0], "history.ratio=0.4"])
    assert "make a file with the value in conf/history/" in advice


def ended(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr("sys.argv", ["train.py", *arguments])
    with pytest.raises(SystemExit) as exit_:
        start(lambda: pytest.fail("not refused"))
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.count("\n") == 1
    return said


def test_flags_of_the_guides_scripts_are_answered_with_the_overrides_that_replace_them(monkeypatch, capsys):
    flags = [
        *("--history_strategy", "random", "--history_ratio", "0.5", "--deepspeed", "ds_config_zero2.json"),
        *("--max_epochs=3", "--early_stopping_patience", "4", "--output_dir", "/tmp/x", "--prompt_style", "simple"),
    ]
    line = ended(monkeypatch, capsys, *flags)
    advised = re.search(r"write (.*) in place of", line)[1].split()
    settings = check_config(compose_config(advised))
    assert (settings.history.ratio, settings.trainer.max_epochs, settings.output_dir) == (0.5, 3, "/tmp/x")
    assert settings.trainer.early_stopping.patience == 4


VALUES = {"history": "none", "ablation": "history_only", "prompt": "simple", "deepspeed": "zero2", "data": "sample"}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_overrides_that_exist(flag):
    first = {"--history_ratio": ["history=random"], "--fixed_history_count": ["history=fixed_count"]}
    words = [word.replace("X", "1").replace("TARGETS", "1") for word in FLAGS[flag].split()]
    chosen = [f"{key}={VALUES.get(key, 'tiny' if value == 'OPTION' else value)}" for key, _, value in _split(words)]
    compose_config([*first.get(flag, ()), *chosen])


def _split(words):
    return [word.partition("=") for word in words]


def test_the_readmes_table_and_the_program_know_the_same_flags():
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `--")]
    shown = {flag for line in lines for flag in re.findall(r"--\w+", line.split("|")[1])}
    assert shown == set(FLAGS)


def test_what_has_no_effect_or_belongs_elsewhere_is_refused(monkeypatch, capsys):
    assert "write output_dir=/tmp/q" in ended(monkeypatch, capsys, "hydra.run.dir=/tmp/q")
    assert "torchrun --nproc_per_node=2 train.py" in ended(monkeypatch, capsys, "--nproc_per_node=2")


def test_a_name_is_guessed_where_one_is_alike():
    names = ["trainer.max_steps", "trainer.learning_rate", "history.count"]
    for word, meant in {"learning_rat": names[1], "max_step": names[0], "n": names[2]}.items():
        assert guess(word, names) == f" Did you mean {meant}?"
    assert guess("xyz", names) == ""


def test_a_command_ends_in_one_line(tmp_path):
    ended = train("trainer.lr=1", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
