"""A setting that can't be used is refused in one line that names it, before anything is trained or made."""

import re
from copy import deepcopy
from functools import cache

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mlens.config import check_config, flatten, parse_node
from mlens.errors import GRACE, UserError, exit_on_user_error
from mlens.training.settings import Trainer
from tests.helpers.runs import FAST, checked, composed, train, train_command_here, train_here

# What is wrong, and what the line must name.
WRONG = {
    "+history.foo=1": "history.foo: unknown key. history has no keys here",
    "++history.foo=1": "history.foo",
    "+deepspeed.fp16.enabled=true": "deepspeed.fp16",
    "++deepspeed.zero_optimization.foo=1": "deepspeed.zero_optimization.foo",
    "+trainer.early_stopping.foo=1": "The keys of trainer.early_stopping are patience, threshold",
    "trainer.early_stopping=3": "trainer.early_stopping=3: it takes no value",
    "++deepspeed.zero_optimization.offload_param=cpu": "offload_param=cpu: it takes no value",
    "+dataset.foo=1": "dataset.foo",
    "+foo=1": "foo",
    "~split": "split",
    "~seed": "seed",
    "history=random history.ratio=0": "history.ratio",
    "history=random history.ratio=1.5": "history.ratio",
    "history=random history.ratio=nan": "history.ratio",
    "history=random history.ratio=-0.5": "history.ratio",
    "history=fixed_ratio history.ratio=0": "history.ratio",
    "history=fixed_ratio history.ratio=1.5": "history.ratio",
    "history=fixed_ratio history.ratio=nan": "history.ratio",
    "history=random history.draw=sometimes": "history.draw",
    "history=random history.redraw=never": "history.redraw",
    "history=fixed_count history.count=0": "history.count",
    "history=fixed_count history.count=-3": "history.count",
    "history=fixed_count history.count=many": "history.count",
    "history=fixed_count history.count=2.5": "history.count",
    "history=fixed_count history.count=null": "history.count",
    "history=fixed_count history.stride=0": "history.stride",
    "history=same_genre history.count=0": "history.count",
    "history=decay history.tau=0": "history.tau",
    "history=decay history.tau=inf": "history.tau",
    "split.val_ratio=0.6 split.test_ratio=0.4": "split.val_ratio",
    "split.val_ratio=nan": "split.val_ratio",
    "split.ties=loose": "split.ties",
    "split.eval_history=none": "split.eval_history",
    "split=user split.eval_history=train": "split.eval_history",
    "split.method=lucky": "split.method",
    "data.max_users=0": "data.max_users",
    "data.min_user_ratings=0": "data.min_user_ratings",
    "data.min_item_ratings=0.5": "data.min_item_ratings",
    "prompt.trim=some": "prompt.trim",
    "prompt.dates=often": "prompt.dates",
    "prompt.order=random": "prompt.order",
    "prompt.order=newest_first trainer.history_loss_weight=0.5": "trainer.history_loss_weight",
    "prompt.max_tokens=0": "prompt.max_tokens",
    "packing.row_tokens=100": "packing.row_tokens",
    "packing.share=sometimes": "packing.share",
    "packing.share=null": "packing.share",
    "packing.pair_cost=-0.1": "packing.pair_cost",
    "packing.pair_cost=nan": "packing.pair_cost",
    "packing=reference": "model.attention",
    "model.attention=sdpa": "model.attention",
    "model.dtype=float16": "model.dtype",
    "model.heads=3 model.kv_heads=2": "model.heads",
    "model=hf": "model.path",
    "model=tiny_base model.base.lines=[24,1]": "model.base.lines",
    "model=tiny_base model.base.lines=24": "model.base.lines",
    "model=tiny_base model.base.target_share=1.1": "model.base.target_share",
    "model=tiny_base model.base.target_share=nan": "model.base.target_share",
    "model=tiny_base model.base.steps=0": "model.base.steps",
    "model=tiny_base model.base.ratings_per_step=0": "model.base.ratings_per_step",
    "model=tiny_base model.base.interleaved=0": "model.base.interleaved",
    "model=tiny_base model.base.row_tokens=0": "model.base.row_tokens",
    "model=tiny_base model.base.learning_rate=0": "model.base.learning_rate",
    "model=tiny_base model.base.adam_learning_rate=nan": "model.base.adam_learning_rate",
    "model=tiny_base model.base.weight_decay=-0.1": "model.base.weight_decay",
    "model=tiny_base model.base.weight_decay=nan": "model.base.weight_decay",
    "model=tiny_base model.base.seed=x": "model.base.seed",
    "model=tiny_base +model.base.foo=1": "model.base.foo",
    "trainer.optimizer=muon trainer.gradient_clipping=1": "trainer.gradient_clipping",
    "trainer.optimizer=sgd": "trainer.optimizer",
    "trainer.schedule=wavy": "trainer.schedule",
    "trainer.learning_rate=0": "trainer.learning_rate",
    "trainer.learning_rate=inf": "trainer.learning_rate",
    "trainer.targets_per_step=0": "trainer.targets_per_step",
    "trainer.max_steps=-1": "trainer.max_steps",
    "trainer.users_per_step=0": "trainer.users_per_step",
    "trainer.history_loss_weight=-0.1": "trainer.history_loss_weight",
    "trainer.history_loss_weight=nan": "trainer.history_loss_weight",
    "trainer.history_loss_weight=inf": "trainer.history_loss_weight",
    "trainer.loss=mse": "trainer.loss",
    "trainer.loss=expected trainer.history_loss_weight=0.5": "trainer.history_loss_weight",
    "trainer.loss=expected trainer.expected_loss_weight=1": "trainer.expected_loss_weight",
    "trainer.expected_loss_weight=1": "trainer.expected_loss_weight",
    "trainer.loss=ce+expected trainer.expected_loss_weight=0": "trainer.expected_loss_weight",
    "trainer.warmup_ratio=1.5": "trainer.warmup_ratio",
    "trainer.early_stopping.patience=0": "trainer.early_stopping.patience",
    "trainer.early_stopping.threshold=-1": "trainer.early_stopping.threshold",
    "trainer.checkpoint.every_steps=0": "trainer.checkpoint.every_steps",
    "evaluation.draws=0": "evaluation.draws",
    "evaluation.max_users=0": "evaluation.max_users",
    "deepspeed.zero_optimization.stage=4": "deepspeed.zero_optimization.stage",
    "deepspeed=zero0 +deepspeed.zero_optimization.offload_optimizer.device=cpu": "offload_optimizer",
    "deepspeed=zero2 +deepspeed.zero_optimization.offload_param.device=cpu": "offload_param",
    "peft=lora peft.r=0": "peft.r",
    "peft=dora deepspeed=zero3": "peft.dora",
    "peft=qlora deepspeed=zero3": "peft.load_in_4bit",
    "trainer.optimizer=adamw_8bit deepspeed=zero2_offload": "trainer.optimizer",
    "wandb.mode=loud": "wandb.mode",
    "tracker=loud": "tracker must be",
    "seed=x": "seed",
    "seed=null": "seed",
    "resume=maybe": "resume",
    "output_dir=[a]": "output_dir",
    "seed=${nowhere}": "seed",
    "history._target_=mlens.nowhere.Thing": "history._target_",
    "data._target_=os.getcwd": "data._target_",
}


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        checked(*overrides)
    return str(caught.value)


@cache
def choosing(*groups):
    return composed(*groups)


@pytest.mark.sampled(25)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_setting_is_refused_by_name_in_one_line(wrong):
    # Composing takes long: the values of keys that are there are set as Hydra sets them, in a config composed once.
    overrides = wrong.split()
    values = [override for override in overrides if re.match(r"[a-z_]+\.[a-z_.]+=", override)]
    config = deepcopy(choosing(*(override for override in overrides if override not in values)))
    for override in OverridesParser.create().parse_overrides(values):
        if OmegaConf.select(config, override.key_or_group, default=config) is config:
            pytest.fail(f"{override.key_or_group} is no key: Hydra refuses it")
        OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert WRONG[wrong] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing, named", [("config.json", "config.json"), ("tokenizer.json", "tokenizer")])
def test_a_model_folder_lacks_nothing(tmp_path, missing, named):
    for name in {"config.json", "tokenizer.json"} - {missing}:
        (tmp_path / name).write_text("{}")
    line = refusal("model=hf", f"model.path={tmp_path}")
    assert "model.path" in line and named in line


@pytest.mark.parametrize("key", [5, None])
def test_a_key_that_is_no_name_is_refused_at_any_depth(key):
    for node in ({key: 1}, {"early_stopping": {key: 1}}):
        with pytest.raises(UserError, match="trainer"):
            parse_node("trainer", Trainer, node)


def test_row_tokens_may_equal_the_longest_prompt():
    assert checked("packing.row_tokens=2048").packing.row_tokens == 2048


@pytest.fixture
def refused_run(tmp_path, monkeypatch, capsys):
    """refused_run(overrides) -> the line with which a run in this process ends; it leaves nothing behind."""

    def refused_run(*overrides):
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        with pytest.raises(SystemExit) as caught, exit_on_user_error():
            train_here(composed(*FAST, *overrides))
        assert caught.value.code == 2
        assert not list((tmp_path / "empty").iterdir())
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return refused_run


def test_a_missing_data_file(refused_run, tmp_path):
    path = tmp_path / "nowhere.csv"
    assert f"data.path={path}" in refused_run("data=csv", f"data.path={path}")


def test_a_source_that_must_have_a_path(refused_run):
    assert "data.path" in refused_run("data=behaviour_json")


def test_a_budget_that_a_bare_prompt_does_not_fit_into_names_the_target(refused_run):
    line = refused_run("prompt.max_tokens=10")
    assert "prompt.max_tokens=10" in line and "user" in line


@pytest.mark.parametrize("ablation, lacks", [("profile_only", "profile"), ("history_and_context", "context")])
def test_an_ablation_that_the_data_can_not_serve(refused_run, tmp_path, ablation, lacks):
    rows = [f"{user},{movie},4.0,{movie},Movie {movie}" for user in range(9) for movie in range(9)]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,movie,rating,timestamp,title", *rows]))
    line = refused_run(
        "data=csv", f"data.path={tmp_path}/ratings.csv", "data.genres_column=null", f"ablation={ablation}"
    )
    assert "ablation" in line and lacks in line


@pytest.mark.parametrize(
    "holds, says", [("summary.json", "finished"), (".hydra/config.yaml", "resume=true"), ("notes.txt", "other files")]
)
def test_a_folder_that_holds_something(refused_run, tmp_path, holds, says):
    file = tmp_path / "taken" / holds
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    line = refused_run(f"output_dir={tmp_path}/taken")
    assert str(tmp_path / "taken") in line and says in line
    assert [path for path in (tmp_path / "taken").rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "mine"


def test_resume_where_there_is_no_run(refused_run, tmp_path):
    line = refused_run(f"output_dir={tmp_path}/nothing", "resume=true")
    assert "resume=true" in line and not (tmp_path / "nothing").exists()


def test_resume_without_a_folder(refused_run):
    assert "output_dir" in refused_run("resume=true")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "wrong, named",
    [
        ("history=oldest", "history=oldest"),
        ("history.foo=1", "history.foo"),
        ("trainer=null", "group"),
        ("history.ratio=7 history=random", "history.ratio"),
        ("seed==1", "seed==1"),
        ("data.users=1,2", "--multirun"),
    ],
)
def test_the_command_ends_with_one_line_and_code_2(tmp_path, wrong, named):
    result = train_command_here(*wrong.split(), cwd=tmp_path)
    (line,) = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert line.startswith("error: ") and named in line
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        _ = 1 / 0


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["history=oldest"])
def test_two_ranks_say_it_once(tmp_path, wrong):
    result = train(*wrong.split(), ranks=2, cwd=tmp_path)
    assert result.returncode != 0
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert 'train.py", line' not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", ["history=random history.ratio=7", "data=ml_1m data.path=nowhere", "debug=fast prompt.max_tokens=10"]
)
def test_two_ranks_say_once_what_is_found_after_they_met(tmp_path, wrong):
    test_two_ranks_say_it_once(tmp_path, wrong)


def test_a_rank_leaves_rank_0_time_to_speak_and_speaks_where_that_did_not_fail(monkeypatch, capsys):
    silent = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("time.sleep", lambda seconds: silent.append((seconds, capsys.readouterr().err)))
    with pytest.raises(SystemExit), exit_on_user_error():
        raise UserError("only here")
    assert silent == [(GRACE[UserError], "")]
    assert capsys.readouterr().err == "error: only here\n"


def test_flatten_names_leaves_by_their_whole_path():
    flat = flatten(check_config(composed("history=random")).config)
    assert flat["trainer.early_stopping.patience"] == 3 and flat["history.ratio"] == 0.5
    assert not any(isinstance(value, dict) for value in flat.values())


def test_check_gives_every_node_as_its_object():
    settings = check_config(composed("history=fixed_count", "history.count=3"))
    assert settings.history.count == 3 and type(settings.history).__name__ == "FixedCount"
    assert (settings.seed_of("train"), settings.seed_of("val"), settings.seed_of("test")) == (0, 1234, 1234)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["kernels-community/flash-attn", "somebody/kernel:forward", "paged|sdpa", "Rows", ""])
@pytest.mark.parametrize("model", [("model=tiny",), ("model=qwen3_0_6b",)])
def test_an_attention_of_another_name_is_refused(name, model):
    """transformers takes it for a kernel to be fetched from a hub."""
    with pytest.raises(UserError, match=r"model\.attention must be rows, sdpa,"):
        checked(*model, f"model.attention='{name}'", "packing=reference")
