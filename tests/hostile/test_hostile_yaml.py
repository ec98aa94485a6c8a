"""A run's config that unfolds to any size, or is large or deep, is refused before that, by whatever reads it."""

import time
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mlens.comparison.run_files import read_config
from mlens.compose import run_config
from mlens.engine.ranks import Ranks
from mlens.errors import UserError
from mlens.runs.listing import BROKEN, list_runs
from mlens.saved_config import MAX_BYTES, read_saved_config
from mlens.training.folder import find_folder, make_folder
from tests.helpers.outcomes import bounded, is_clear
from tests.helpers.runs import CONF, checked, composed, hydra_config, only_identity

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "laughs": LAUGHS,
    "an anchor alone": "a: &a 1\n",
    "an anchored text": "a: &a x\nb: *a\n",
    "merged": "a: &a {b: 1}\nc:\n  <<: *a\n",
    "itself": "a: &a [*a]\n",
    "deep": "a: " + "[" * 5000 + "]" * 5000,
    "long": "a: [" + "1," * 30_000 + "1]\n",
    "large": "a: " + "x" * MAX_BYTES,
    "large and broken": "a: [" + " " * 10**7,
    "an object": "a: !!python/object/apply:os.system [x]\n",
    "no mapping": "- 1\n",
}


@pytest.fixture
def begun(tmp_path):
    """A run that has begun, and counts as finished for what asks for a finished one."""
    settings = checked(f"output_dir={tmp_path}/run", "resume=true")
    ranks = Ranks(0, 1, torch.device("cpu"))
    folder = tmp_path / "run"
    started = checked(f"output_dir={folder}")
    with make_folder(ranks, find_folder(ranks, started), only_identity(started), hydra_config()):
        pass
    return ranks, settings, folder


def read_by(name, begun):
    ranks, settings, folder = begun
    file = folder / ".hydra" / "config.yaml"
    if name == "runs":
        (listed,) = list_runs([folder])
        assert listed.state == BROKEN
        raise UserError(listed.note)
    if name == "run_config":
        (folder / "summary.json").write_text("{}")
        run_config(folder, [], ())
    {"resume": lambda: find_folder(ranks, settings), "report": lambda: read_config(file)}[name]()


READERS = ("report", "resume", "runs", "run_config")


def every_case_with_one_reader_in_turn():
    """The other pairs are slow: all readers read the file by one function."""
    for number, case in enumerate(HOSTILE):
        for at, reader in enumerate(READERS):
            yield pytest.param(case, reader, marks=[] if number % len(READERS) == at else pytest.mark.slow)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("case", "reader"), every_case_with_one_reader_in_turn())
def test_a_hostile_config_is_one_line_at_once(case, reader, begun):
    (begun[2] / ".hydra" / "config.yaml").write_text(HOSTILE[case])
    started = time.process_time()
    with bounded(), pytest.raises(UserError) as told:
        read_by(reader, begun)
    assert is_clear(told.value, begun[2])
    assert time.process_time() - started < 10


def test_every_config_that_a_run_saves_is_read_as_it_was_saved(tmp_path):
    file = tmp_path / "config.yaml"
    sizes = []
    for overrides in (
        ("model=tiny_base", "history=random", "peft=lora", "ablation=profile_and_history_and_context"),
        ("debug=fast", "deepspeed=zero3_offload", "+experiment=token_matched"),
        ("data=csv", "data.path=x", "prompt=chat", "trainer=lora", "data.rating_scale=[1,2,3]"),
    ):
        config = composed(*overrides)
        text = OmegaConf.to_yaml(config, resolve=True)
        file.write_text(text)
        assert read_saved_config(file) == OmegaConf.to_container(config, resolve=True)
        sizes.append(len(text))
    assert 10 * max(sizes) < MAX_BYTES


@settings(max_examples=8)
@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner)))
def test_a_saved_config_has_no_anchors(value):
    """Not even where one node stands in several places."""
    shared = [value, {"x": value}]
    config = OmegaConf.create({"a": shared, "b": shared, "c": "${a}", "d": {"e": "${b}", "f": shared}})
    text = OmegaConf.to_yaml(config, resolve=True)
    events = yaml.parse(text, yaml.SafeLoader)
    assert not any(getattr(event, "anchor", None) for event in events)


def test_a_configs_own_words_are_no_anchors(tmp_path):
    content = {"prompt": {"task": "a &b *c <<: ${x}", "question": "评分: &x"}}
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(content)))
    assert read_saved_config(Path(tmp_path / "config.yaml")) == content


def test_no_other_place_reads_yaml_of_a_run():
    sources = [file for folder in ("mlens", "hydra_plugins") for file in (CONF.parent / folder).rglob("*.py")]
    readers = [
        file.name for file in sources if "OmegaConf.load" in file.read_text() or "yaml.safe_load" in file.read_text()
    ]
    assert readers == ["overrides.py"]  # of conf/, which comes with mlens
