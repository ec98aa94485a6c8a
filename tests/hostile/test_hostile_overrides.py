"""Overrides of any kind: a checked config, or one line that names what is wrong."""

import os
from functools import cache

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mlens.config import check_config, flatten
from mlens.errors import UserError
from mlens.identity import Identity
from tests.helpers.runs import composed

VALUES = (
    *("0", "-1", "0.5", "1e308", "-1e308", "nan", "inf", "-inf", "5e-324", "9" * 30, "9" * 400, "10000000000000"),
    *("null", "true", "''", "text", "'\u202e'", "'a\tb'", "'${nowhere}'", "'${seed}'", "'${'", "'${oc.env:HOME}'"),
    *("[]", "[1]", "[nan]", "[1,null]", "{}", "{a:1}", "[[[[]]]]", "'../..'", "'<script>'", f"'{'x' * 5000}'"),
)


@cache
def base(*overrides):
    return composed(*overrides)


def keys():
    return sorted(flatten(OmegaConf.to_container(base(), resolve=False)))


def with_values(values, *overrides):
    """The config with these values where a command line would put them, without a new composition."""
    config = base(*overrides).copy()
    with open_dict(config):
        for key, value in values.items():
            OmegaConf.update(config, key, value, merge=False)
    return config


def refusal(key, value, *overrides):
    with pytest.raises(UserError) as caught:
        check_config(with_values({key: value}, *overrides))
    assert str(caught.value).isprintable()
    return str(caught.value)


@given(data=st.data())
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(data):
    changed = {data.draw(st.sampled_from(keys())): data.draw(st.sampled_from(VALUES)) for _ in range(2)}
    try:
        parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in changed.items()])
        config = with_values({override.key_or_group: override.value() for override in parsed})
    except (HydraException, OmegaConfBaseException):
        return  # told before the config is composed, and made one line by the entry point
    try:
        found = check_config(config)
    except UserError as error:
        assert str(error).isprintable()
        assert any(key.split(".")[0] in str(error) for key in changed)
        return
    assert found.seed == config.seed
    assert len(Identity("data", None, None, "1").fingerprint(found)) == 16


@pytest.mark.parametrize("key", ["seed", "split.seed", "data.max_users", "trainer.learning_rate", "data.noise"])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**400])
def test_a_number_that_no_machine_holds(key, number):
    assert refusal(key, number) == f"{key} must fit into 64 bits"


@pytest.mark.parametrize("node", ["split", "deepspeed", "ablation"])
@pytest.mark.parametrize("target", ["subprocess.Popen", "nowhere.Thing", 1])
def test_a_node_of_one_form_makes_nothing_else(node, target):
    assert refusal(f"{node}._target_", target).startswith(f"{node}._target_ must be mlens.")


@pytest.mark.parametrize("key", ["seed", "wandb.name", "prompt.task", "history._target_", "trainer.learning_rate"])
@pytest.mark.parametrize("value", ["${oc.env:HF_TOKEN}", "a ${ oc.env:HF_TOKEN } b", "${first:${oc.env:HF_TOKEN},1}"])
def test_what_stands_in_the_environment_is_not_taken_into_a_config_that_is_saved(key, value, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_marker")
    said = refusal(key, value)
    assert said.startswith(f"{key} refers to the environment") and "marker" not in said


def test_a_list_hides_no_reference_to_the_environment():
    said = refusal("peft.target_modules", ["${oc.env:HOME}"], "peft=lora")
    assert said.startswith("peft.target_modules refers to the environment")


def test_paths_may_come_from_the_environment():
    found = check_config(with_values({"output_dir": "${oc.env:HOME}/run"}))
    assert found.output_dir == f"{os.environ['HOME']}/run"
