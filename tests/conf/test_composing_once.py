"""The shortcut by which tests compose: it gives what Hydra composes."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mlens.compose import compose_config, compose_hydra
from mlens.launch import register_resolvers
from tests.helpers.runs import CONF


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "overrides",
    [
        ["debug=fast", "history=random", "history.ratio=0.25", "trainer.early_stopping=null", "seed=3"],
        ["+experiment=ten_way", "data=csv", "data.path=/x", "data.rating_scale=[1,2]", "hydra.launcher.max_parallel=2"],
        ["model=qwen3_8b", "peft=qlora", "model.gradient_checkpointing=false", "+wandb.tags=[a]", "output_dir=x"],
    ],
)
def test_it_is_what_hydra_composes(overrides):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        by_hydra = compose("config", overrides, return_hydra_config=True)
    hydra = compose_hydra(overrides)
    for name in ("mode", "sweeper", "launcher", "searchpath", "overrides"):
        assert hydra[name] == by_hydra.hydra[name]
    assert hydra.runtime.choices == by_hydra.hydra.runtime.choices
    config = OmegaConf.masked_copy(by_hydra, [key for key in by_hydra if key != "hydra"])
    assert compose_config(overrides) == config and list(compose_config(overrides)) == list(config)
