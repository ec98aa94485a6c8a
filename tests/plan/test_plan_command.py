"""mlens plan: which jobs it plans, for what, what it says, and what it refuses."""

from dataclasses import replace

import pytest
from rich.console import Console
from transformers import AutoConfig

from mlens.cli.plan import print_plan
from mlens.config import check_config
from mlens.engine.settings import checkpoint_bytes
from mlens.errors import UserError
from mlens.model.flops import forward_flops
from mlens.model.settings import PretrainedModel
from mlens.packing.lengths import measure_lengths
from mlens.plan.advice import advise, alternatives, changes
from mlens.plan.configs import PUBLISHED
from mlens.plan.hardware import RESERVE, Hardware, resolve_machine
from mlens.plan.job_plan import plan, prepare
from mlens.plan.jobs import plan_request
from mlens.plan.plan_table import print_plans
from mlens.training.loop import total_steps
from tests.helpers.runs import CONF, ROOT, command, composed

FAST = ["debug=fast", "trainer.validate_every_steps=null"]
GPU = ["hardware.device=cuda", "hardware.ranks=1", "hardware.memory_gib=10", "hardware.tflops=100"]


def test_one_command_is_one_job():
    wanted = plan_request(["history=random", "history.ratio=0.3"], multirun=False)
    assert [overrides for _, overrides in wanted.jobs] == [["history=random", "history.ratio=0.3"]]
    assert wanted.hardware == Hardware(utilisation=0.3)


def test_a_sweep_is_all_its_jobs():
    wanted = plan_request(["history=none,random", "seed=0,1", "prompt.max_tokens=512"], multirun=True)
    assert [name for name, _ in wanted.jobs] == [f"history-{h}+seed-{s}" for h in ("none", "random") for s in (0, 1)]
    assert all("prompt.max_tokens=512" in overrides for _, overrides in wanted.jobs)


def test_an_experiment_that_sweeps_needs_no_multirun():
    wanted = plan_request(["+experiment=five_way", "hydra.launcher.max_parallel=2"], multirun=False)
    histories = ("none", "all_previous", "random", "fixed_ratio", "fixed_count")
    assert [name for name, _ in wanted.jobs] == [f"history-{history}" for history in histories]
    assert wanted.jobs[0][1] == ["history=none", "+experiment=five_way"]
    for _, overrides in wanted.jobs:
        check_config(composed(*overrides))


def test_hardware_is_a_choice_with_its_own_keys():
    wanted = plan_request(["hardware=8xH100", "hardware.ranks=4", "seed=1"], multirun=False)
    assert wanted.hardware == Hardware("cuda", 4, 79, 989, 0.3)
    assert wanted.jobs[0][1] == ["seed=1"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("file", sorted((CONF / "hardware").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_choice_of_hardware_sets_every_field(file):
    given = plan_request([f"hardware={file.stem}"], multirun=False).hardware
    assert vars(given).keys() == Hardware.__dataclass_fields__.keys()
    assert (None in vars(given).values()) == (file.stem == "this_machine")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "overrides, named",
    [
        (["history=none,random"], "--multirun"),
        (["hardware=9xB52"], "hardware=9xB52"),
        (["hardware.ranks=0"], "hardware.ranks"),
        (["+hardware.foo=1"], "hardware.foo"),
        (["hardware.utilisation=1.5"], "hardware.utilisation"),
        (["hardware.tflops=-1"], "hardware.tflops"),
        (["hardware.device=tpu"], "hardware.device"),
        (["history=everything"], "history=everything"),
        (["history=random", "history.ratio=7"], "history.ratio"),
        (["model=hf"], "model.path"),
    ],
)
def test_what_cannot_be_planned_is_refused(overrides, named):
    with pytest.raises(UserError, match=named):
        print_plan(overrides, multirun=False)


def test_stated_hardware_is_taken_at_its_word():
    machine = resolve_machine(Hardware("cuda", 8, 79, 989, 0.5), "bfloat16")
    assert machine.rate == 8 * 989e12 * 0.5 and machine.cuda
    assert machine.memory == int(79 * 2**30 * (1 - RESERVE))


def test_the_rate_of_this_machine_is_measured():
    machine = resolve_machine(Hardware("cpu", ranks=2, utilisation=1.0), "float32")
    assert 1e8 < machine.rate < 1e14 and "measured here" in machine.description


@pytest.fixture(scope="module")
def job():
    return prepare([*FAST, "data.max_users=10"])


def machine_of(gib: float, ranks: int = 1):
    return resolve_machine(Hardware("cuda", ranks, gib, 100.0, 0.5), "float32")


def test_a_plan_says_what_training_says_of_itself(job):
    planned = plan(job, machine_of(10), process=0)
    train = job.datasets["train"]
    assert planned.lengths["train"] == measure_lengths(train)
    assert planned.steps == total_steps(job.settings.trainer, len(train)) == 4
    assert planned.epoch_steps == -(-len(train) // 8)
    parameters = planned.counted.parameters
    assert planned.disk.checkpoint == checkpoint_bytes(parameters, parameters, 4, 8) == 16 * parameters
    assert planned.disk.checkpoints == 2 * planned.disk.checkpoint  # a validation at the end, and nothing before it
    assert planned.fits and planned.validations == 1
    trained = planned.epoch_seconds * 4 / planned.epoch_steps
    tested = forward_flops(planned.counted.sizes, planned.evaluations["test"].passes) / machine_of(10).rate
    assert planned.run_seconds == pytest.approx(trained + planned.validation_seconds + tested)


@pytest.mark.slow
def test_advice_is_the_first_change_that_fits(job):
    planned = plan(job, machine_of(10), 0)
    just_too_small = machine_of((planned.memory.total - 1) / 2**30 / (1 - RESERVE))
    tight = plan(job, just_too_small, 0)
    assert planned.fits and not tight.fits
    assert advise(job, tight, just_too_small, 0).startswith("with model.gradient_checkpointing=true it takes 0.7 GiB")


@pytest.mark.slow
def test_what_is_advised_can_be_given_as_it_stands():
    """Each change as overrides of the same command gives the settings that were counted."""
    given = ["model=qwen3_8b", "model.gradient_checkpointing=false", "deepspeed=zero2", "prompt.max_tokens=512"]
    given.append("packing.row_tokens=2048")
    settings = check_config(composed(*given))
    advised = list(changes(settings))
    keys = ["model.gradient_checkpointing", *["packing.row_tokens"] * 2, *["deepspeed"] * 3, "peft"]
    assert [change.key for change in advised] == keys
    others = list(alternatives(settings))
    assert [change.text.split()[0] for change in others] == [
        *("trainer.optimizer=adamw_8bit", "peft=lora", "peft=dora", "peft=qlora")
    ]
    for change in [*advised, *others]:
        taken, counted = check_config(composed(*given, *change.text.split())), change.apply(settings)
        for node in ("model", "packing", "deepspeed", "peft"):
            assert getattr(taken, node) == getattr(counted, node), change.text
    assert [change.apply(settings).trainer.optimizer for change in others] == ["adamw_8bit", *["adamw"] * 3]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("peft=qlora trainer=lora", ["zero2_offload"]),
        ("peft=dora trainer=lora deepspeed=zero1", ["zero2", "zero2_offload"]),
        ("trainer.optimizer=adamw_8bit", ["zero3"]),
    ],
)
def test_no_change_contradicts_the_settings(given, names):
    settings = check_config(composed("model=qwen3_8b", *given.split()))
    assert [change.text for change in changes(settings) if change.key == "deepspeed"] == [
        f"deepspeed={name}" for name in names
    ]


@pytest.mark.slow
def test_what_contradicts_an_alternative_is_changed_with_it():
    given = ["model=qwen3_14b", "deepspeed=zero3_offload"]
    found = {change.text: change.apply for change in alternatives(check_config(composed(*given)))}
    assert [*found] == [
        "peft=lora trainer=lora",
        "peft=dora trainer=lora deepspeed=zero2",
        "peft=qlora trainer=lora deepspeed=zero2",
    ]
    settings = check_config(composed(*given, *["peft=qlora", "trainer=lora", "deepspeed=zero2"]))
    assert not list(alternatives(settings))
    (only,) = alternatives(check_config(composed("model=qwen3_30b_a3b")))
    assert only.text == "peft=qlora trainer=lora deepspeed=zero2"


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["1xRTX4090", "1xA10", "1xL4"])
def test_a_card_of_24_gb_is_told_what_fits_it(job, hardware):
    name = "Qwen/Qwen3-8B"
    settings = replace(job.settings, model=PretrainedModel(name))
    large = replace(job, settings=settings, config=AutoConfig.for_model(**PUBLISHED[name]))
    machine = resolve_machine(plan_request([f"hardware={hardware}"], multirun=False).hardware, "bfloat16")
    planned = plan(large, machine, 0)
    advice = advise(large, planned, machine, 0)
    assert not planned.fits
    assert "peft=lora trainer=lora" in advice and "peft=qlora trainer=lora" in advice


@pytest.mark.slow
def test_where_nothing_helps_it_says_so(job):
    machine = machine_of(0.01)
    assert "choose a smaller model" in advise(job, plan(job, machine, 0), machine, 0)


def test_the_table_has_a_column_a_job_and_names_what_does_not_fit(capsys):
    more = ("prompt.order=newest_first", "data.max_users=10", "data.min_item_ratings=2")
    print_plan([*FAST, "history=none,fixed_count", *more, *GPU], multirun=True)
    printed = capsys.readouterr().out
    assert printed.count("data.min_item_ratings=2: dropped ") == 1
    header = next(line for line in printed.splitlines() if "history-none" in line)
    assert "history-fixed_count" in header
    for part in ("weights", "gradients", "optimizer", "activations", "logits"):
        assert f"GiB a rank: {part}" in printed
    assert "median, 90%, 99%, max" in printed and "as stated" in printed and "DOES NOT FIT  " not in printed
    assert [line for line in printed.splitlines() if line.startswith("NOTE")] == [
        f"NOTE  history-{name}: prompt.order=newest_first: targets share no histories, each prompt is computed in full"
        for name in ("none", "fixed_count")
    ]


def test_a_full_disk_is_reported_before(job, capsys):
    planned = plan(job, machine_of(10), 0)
    tight = replace(planned, disk=replace(planned.disk, free=planned.disk.total - 1))
    print_plans(Console(width=200), {"[bold]one": planned, "other": tight}, machine_of(10))
    printed = capsys.readouterr().out
    assert "[bold]one" in printed  # text, not markup
    assert "DOES NOT FIT  other: checkpoints" in printed and "DOES NOT FIT  [bold]one" not in printed


@pytest.mark.slow
def test_a_tokenizer_alone_is_enough_for_a_published_model():
    folder = ROOT.parent / "shared" / "qwen3-tokenizer"
    if not (folder / "tokenizer.json").is_file() or (folder / "config.json").is_file():
        pytest.skip("needs a folder that holds the Qwen3 tokenizer alone")
    prepared = prepare([*FAST[1:], "data.max_users=5", "model=qwen3_8b", f"model.path={folder}"])
    assert prepared.sizes_from == "as published for Qwen/Qwen3-8B" and prepared.config.hidden_size == 4096
    with pytest.raises(UserError, match="config"):
        prepare(["data.max_users=5", "model=hf", f"model.path={folder}"])


def test_help_teaches_without_anything_heavy():
    result = command("-X", "importtime", "-m", "mlens", "plan", "--help")
    assert result.returncode == 0 and "hardware=8xH100" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not {"torch", "transformers", "hydra"} & imported
