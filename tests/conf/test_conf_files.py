"""Every file in conf/: it composes, its values are its dataclass's fields, and it starts with its command."""

import dataclasses
import os
import re
import shlex
from functools import cache, partial
from itertools import product
from pathlib import Path
from pkgutil import resolve_name

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from mlens.config import CHOSEN, FIXED_SCHEMAS, check_config
from mlens.model.settings import Lora, NoPeft
from tests.helpers.runs import CONF, checked, command, composed, train_command_here

FILES = sorted(CONF.rglob("*.yaml"))
# Hydra's own nodes aren't part of a run's config: the launcher's is checked where it is made.
HYDRAS = sorted((CONF / "hydra").rglob("*.yaml"))
# What a run is planned for is no node of it either.
HARDWARE = sorted((CONF / "hardware").glob("*.yaml"))
GROUPS = sorted(
    folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name not in ("hydra", "hardware")
)
OPTIONS = {group: sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in GROUPS}
LISTS = [file for file in FILES if file.parent.name in ("experiment", "debug")]
NODES = [file for file in FILES if file not in LISTS + HYDRAS + HARDWARE and file.parent != CONF]
# What users' scripts may rely on.
FIELDS = """
output_dir resume seed split.seed evaluation.seed data.path data.max_users data.min_user_ratings data.min_item_ratings
data.rating_scale split.val_ratio
split.test_ratio split.min_ratings split.eval_history split.ties split.max_train_targets_per_user prompt.max_tokens
prompt.history_tokens prompt.trim prompt.max_context packing.row_tokens packing.share model.path trainer.max_epochs
trainer.max_steps trainer.targets_per_step trainer.learning_rate trainer.optimizer trainer.early_stopping.patience
trainer.early_stopping.threshold trainer.checkpoint.every_steps trainer.history_loss_weight trainer.loss
evaluation.max_users evaluation.draws wandb.mode wandb.project wandb.name
"""


once = cache(composed)
check_once = cache(checked)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that looks like a saved model's."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


@cache
def default_choices() -> dict:
    composed()
    return dict(HydraConfig.get().runtime.choices)


def name_of(file: Path) -> str:
    return str(file.relative_to(CONF))


def commands(file: Path) -> list[str]:
    """The commands in the comment that a file starts with."""
    lines = file.read_text().splitlines()
    if lines[0].startswith("# @package"):
        lines = lines[1:]
    begin = r"# (mlens plan|(python|torchrun .*)\s?train\.py)"
    return [line.removeprefix("# ") for line in lines[:2] if re.match(begin, line)]


def form_of(group: str, node) -> type:
    return FIXED_SCHEMAS[group] if group in FIXED_SCHEMAS else resolve_name(node["_target_"])


def fields_of(form: type) -> dict:
    """The dataclass's fields as nested names."""
    nested = {}
    for field in dataclasses.fields(form):
        is_node = isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory)
        nested[field.name] = fields_of(field.default_factory) if is_node else None
    return nested


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_file_starts_with_a_command(file):
    assert commands(file)


@pytest.fixture
def jobs_of(saved, monkeypatch):
    """jobs_of(file) -> the overrides of each job of its command."""
    monkeypatch.setenv("HOME", "/home/me")

    def jobs_of(file):
        words = shlex.split(os.path.expandvars(commands(file)[0].partition("   ")[0]))
        overrides = [word for word in words[words.index("train.py") + 1 :] if not word.startswith("--")]
        overrides = [re.sub("model.path=.*", f"model.path={saved}", word) for word in overrides]
        if "--multirun" not in words:
            return [overrides]
        return [*product(*([f"{key}={value}" for value in values.split(",")] for key, values in split(overrides)))]

    return jobs_of


def choosing(file, jobs):
    """Those of the jobs that choose the file, or leave it chosen."""
    group, option = file.parent.name, file.stem
    groups = [{key.lstrip("+"): value for key, value in split(job)} for job in jobs]
    return [
        job for job, own in zip(jobs, groups, strict=True) if own.get(group, default_choices().get(group)) == option
    ]


@pytest.mark.parametrize("file", NODES + LISTS, ids=name_of)
def test_the_command_of_a_file_chooses_it(file, jobs_of):
    assert choosing(file, jobs_of(file))


@pytest.fixture
def together(jobs_of):
    """together(file) -> overrides that choose the file, and others whose commands agree with its own."""
    configs: list[dict[str, str]] = []
    of_file = {}
    for file in NODES:
        job = {**dict(split(choosing(file, jobs_of(file))[0])), file.parent.name: file.stem}
        agreeing = (config for config in configs if all(config.get(key, job[key]) == job[key] for key in job))
        of_file[file] = next(agreeing, {})
        if not of_file[file]:
            configs.append(of_file[file])
        of_file[file].update(job)
    return lambda file: tuple(f"{key}={value}" for key, value in of_file[file].items())


@pytest.mark.sampled(17)
@pytest.mark.parametrize("file", NODES, ids=name_of)
def test_a_file_passes_the_strict_check(file, together):
    check_once(*together(file))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("file", [*LISTS, *(pytest.param(file, marks=pytest.mark.slow) for file in NODES)], ids=name_of)
def test_the_jobs_of_a_files_command_pass_the_strict_check(file, jobs_of):
    if file.stem == "optuna":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra optuna")
    for job in jobs_of(file):
        check_config(once(*job))


def split(overrides) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (word.partition("=") for word in overrides)]


@pytest.mark.slow
@pytest.mark.parametrize("history", OPTIONS["history"])
def test_every_history_ablation_and_deepspeed_compose(history):
    for ablation, deepspeed in product(OPTIONS["ablation"], OPTIONS["deepspeed"]):
        config = composed(f"history={history}", f"ablation={ablation}", f"deepspeed={deepspeed}")
        settings = check_config(config)
        assert settings.deepspeed.zero_optimization.stage == int(deepspeed[4])
        shown = (settings.ablation.profile, settings.ablation.history, settings.ablation.context)
        assert shown == ("profile" in ablation, "history" in ablation, "context" in ablation)
        assert config.history == once(f"history={history}").history
        assert config.ablation == once(f"ablation={ablation}").ablation
        assert config.deepspeed == once(f"deepspeed={deepspeed}").deepspeed


@pytest.mark.parametrize("file", [file for file in NODES if file.parent.name != "deepspeed"], ids=name_of)
def test_a_choice_sets_every_field_of_its_dataclass_and_no_other(file, together):
    group = file.parent.name
    node = once(*together(file))[group]

    def nested(node):
        return {key: nested(value) if OmegaConf.is_dict(value) else None for key, value in node.items()}

    keys, fields = nested(node), fields_of(form_of(group, node))
    keys.pop("_target_", None)
    if name_of(file) == "model/tiny.yaml":
        del fields["base"]  # what tiny_base adds to it
    assert keys == fields


def test_a_qwen3_model_is_hf_with_its_own_name_and_revision():
    files = sorted((CONF / "model").glob("qwen3_*.yaml"))
    assert len(files) == 6
    for file in files:
        node = OmegaConf.load(file)
        assert set(node) == {"defaults", "name", "revision"} and "hf" in node.defaults


@pytest.mark.sampled(2)
@pytest.mark.parametrize("option", OPTIONS["deepspeed"])
def test_a_deepspeed_choice_sets_only_fields_that_exist(option):
    # Its nulls are left out of the files: they stand for DeepSpeed's own defaults.
    node = once(f"deepspeed={option}").deepspeed
    known = fields_of(FIXED_SCHEMAS["deepspeed"])
    assert set(node) - {"_target_"} <= set(known)
    assert set(node.zero_optimization) <= set(known["zero_optimization"])


def test_every_group_is_a_node_of_the_config():
    assert {*GROUPS} - {"experiment", "debug"} == {*FIXED_SCHEMAS, *CHOSEN}


@pytest.mark.parametrize("field", FIELDS.split())
def test_a_field_that_scripts_rely_on_exists(field):
    parent, _, key = field.rpartition(".")
    config = once("data=ml_1m", "model=qwen3_0_6b")
    assert key in (OmegaConf.select(config, parent) if parent else config)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "history, fields",
    [
        ("random", {"ratio", "draw", "redraw"}),
        ("fixed_ratio", {"ratio"}),
        ("fixed_count", {"count", "stride"}),
        ("decay", {"count", "tau", "redraw"}),
        ("same_genre", {"count"}),
        ("none", set()),
        ("similar", {"count", "by"}),
        ("recent_similar", {"recent", "similar", "by"}),
        ("spread", {"count", "weight", "by"}),
    ],
)
def test_a_strategy_has_its_own_fields(history, fields):
    assert set(once(f"history={history}").history) - {"_target_"} == fields


def test_the_defaults_are_the_guides():
    settings = check_config(once())
    assert (
        default_choices()
        | {
            "history": "all_previous",
            "ablation": "history_only",
            "prompt": "simple",
            "deepspeed": "zero2",
            "data": "sample",
            "model": "tiny",
            "split": "temporal",
        }
        == default_choices()
    )
    assert settings.prompt.max_tokens == 2048 and settings.split.val_ratio == 0.1 and settings.split.min_ratings == 5
    assert settings.trainer.max_epochs == 50
    assert (settings.trainer.early_stopping.patience, settings.trainer.early_stopping.threshold) == (3, 0.001)
    assert (settings.wandb.project, settings.wandb.mode) == ("Qwen3-MovieLens", "offline")


def test_a_ready_strategy_is_the_strategy_with_its_parameter():
    for ready, full in {
        "random_50": ("history=random", "history.ratio=0.5"),
        "random_30": ("history=random", "history.ratio=0.3"),
        "count_10": ("history=fixed_count", "history.count=10"),
        "count_20": ("history=fixed_count", "history.count=20"),
        "uniform_10": ("history=decay", "history.tau=1e9"),
    }.items():
        assert once(f"history={ready}").history == once(*full).history


def test_the_guides_qwen3_settings():
    settings = check_config(once("+experiment=guide_qwen3"))
    trainer = settings.trainer
    assert settings.model.name == "Qwen/Qwen3-8B" and settings.model.dtype == "bfloat16"
    assert (trainer.targets_per_step, trainer.learning_rate) == (512, 1e-5)
    assert (trainer.weight_decay, trainer.warmup_steps, trainer.optimizer) == (0.1, 100, "adamw")
    assert settings.prompt.max_tokens == 2048 and settings.deepspeed.zero_optimization.stage == 2


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "model, stage, peft, rate",
    [
        ("qwen3_0_6b", 2, NoPeft, 2e-5),
        ("qwen3_1_7b", 2, NoPeft, 2e-5),
        ("qwen3_4b", 2, NoPeft, 1e-5),
        ("qwen3_8b", 2, NoPeft, 1e-5),
        ("qwen3_14b", 3, NoPeft, 1e-5),
        ("qwen3_30b_a3b", 3, Lora, 1e-4),
    ],
)
def test_a_model_brings_settings_that_fit_it(model, stage, peft, rate):
    assert model_settings(model) == (stage, peft, rate)


def model_settings(model, *overrides):
    settings = check_config(once(f"model={model}", *overrides))
    zero = settings.deepspeed.zero_optimization.stage
    return zero, type(settings.peft), settings.trainer.learning_rate


@pytest.mark.parametrize(
    "model, stage, peft", [pytest.param("qwen3_4b", 2, NoPeft, marks=pytest.mark.slow), ("qwen3_30b_a3b", 3, Lora)]
)
def test_what_the_command_says_wins_over_what_a_model_brings(model, stage, peft):
    chosen = partial(model_settings, model)
    assert chosen("deepspeed=zero1", "peft=none", "trainer=from_scratch") == (1, NoPeft, 0.02)
    assert chosen("peft=lora", "trainer=lora", "deepspeed=zero3_offload") == (3, Lora, 1e-4)
    assert chosen("trainer.learning_rate=3e-4") == (stage, peft, 3e-4)
    guide = check_config(once("+experiment=guide_qwen3", f"model={model}"))
    assert guide.trainer == check_config(once("+experiment=guide_qwen3")).trainer
    assert guide.deepspeed == check_config(once()).deepspeed


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "experiment, strategies",
    [
        ("five_way", "none,all_previous,random,fixed_ratio,fixed_count"),
        ("demo", "none,all_previous,random,fixed_ratio,fixed_count"),
        ("guide", "none,all_previous,random_50,random_30,count_10"),
        ("recommended", "random_50,count_20,none"),
        ("relevance", "none,fixed_count,uniform_10,similar,recent_similar"),
        (
            "ten_way",
            "none,all_previous,random,fixed_ratio,fixed_count,decay,same_genre,similar,recent_similar,spread",
        ),
    ],
)
def test_an_experiment_sweeps_its_strategies(experiment, strategies):
    composed(f"+experiment={experiment}")
    assert HydraConfig.get().mode.name == "MULTIRUN"
    assert dict(HydraConfig.get().sweeper.params) == {"history": strategies}


def test_cfg_job_prints_the_whole_config():
    result = train_command_here("--cfg", "job", "history=fixed_count", "history.count=7")
    assert result.returncode == 0, result.stderr
    printed = OmegaConf.create(result.stdout)
    assert printed.history.count == 7
    assert printed == composed("history=fixed_count", "history.count=7")


def imported_by(*arguments: str) -> set[str]:
    """What train.py with these arguments imports."""
    result = command("-X", "importtime", "train.py", *arguments)
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}


HEAVY = {"torch", "transformers", "deepspeed", "wandb"}


def test_cfg_imports_nothing_heavy():
    imported = imported_by("--cfg", "job")
    assert "mlens.launch" in imported and not HEAVY & imported


def test_a_wrong_value_is_refused_before_anything_heavy_is_imported():
    imported = imported_by("history=random", "history.ratio=7")
    assert "mlens.history.strategy" in imported and not HEAVY & imported


def test_help_names_every_group_with_its_options_and_five_commands():
    result = train_command_here("--help")
    assert result.returncode == 0
    for group in GROUPS:
        options = ", ".join(OPTIONS[group])
        assert f"{group}: {options}" in result.stdout
    shown = [line for line in result.stdout.splitlines() if re.match(r"\s+(python|torchrun .*) train\.py", line)]
    assert len(shown) == 5
