"""conf/data: each file is its source's dataclass, field by field."""

import dataclasses
import importlib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "data").glob("*.yaml"))


def source_class(target):
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_a_config_is_its_dataclass(config):
    node = OmegaConf.load(config)
    cls = source_class(node.pop("_target_"))
    fields = dataclasses.fields(cls)
    assert list(node) == [field.name for field in fields]
    merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), node))
    assert isinstance(merged, cls)
    defaults = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    assert {name: getattr(merged, name) for name in defaults} == defaults


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_the_first_line_is_a_command(config):
    first = config.read_text().splitlines()[0]
    assert first.startswith("# python train.py")
    assert config.stem == "sample" or f" data={config.stem} " in first


def test_lists_from_the_command_line_reach_the_reader():
    from mlens.data.csv_ratings import CsvRatings

    node = OmegaConf.merge(OmegaConf.structured(CsvRatings), OmegaConf.from_dotlist(["rating_scale=[1,2.5]"]))
    assert OmegaConf.to_object(node).rating_scale == [1.0, 2.5]
