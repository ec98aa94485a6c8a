"""Two runs are the same where config, data, model, chat frame and version are, and nowhere else."""

import json
from copy import deepcopy
from dataclasses import replace
from functools import reduce
from operator import getitem

import pytest

import mlens
from mlens.config import check_config
from mlens.errors import UserError
from mlens.identity import identify, read_identity, write_identity
from mlens.prompt.frame import ChatFrame
from tests.helpers.runs import IDENTITY, composed

OTHERS = (
    replace(IDENTITY, data="other data"),
    replace(IDENTITY, version="2"),
    replace(IDENTITY, model="a model"),
    replace(IDENTITY, model="another model"),
    replace(IDENTITY, chat_frame=ChatFrame("USER\n", "\nASSISTANT\n")),
    replace(IDENTITY, chat_frame=ChatFrame("USER\n", "\n")),
)


def test_the_fingerprint_is_of_what_the_result_depends_on():
    settings = check_config(composed())

    def of(key, value):
        changed = deepcopy(settings.config)
        *nodes, name = key.split(".")
        reduce(getitem, nodes, changed)[name] = value
        return IDENTITY.fingerprint(replace(settings, config=changed))

    free = {
        "output_dir": "x",
        "resume": True,
        "tracker": "none",
        "wandb.name": "x",
        "trainer.loader_workers": 3,
        "data.path": "x",
    }
    assert {of(*change) for change in free.items()} == {IDENTITY.fingerprint(settings)}
    bound = {"seed": 1, "split.seed": 1, "evaluation.seed": 1, "trainer.max_epochs": 2, "prompt.trim": "exact"}
    bound |= {"trainer.history_loss_weight": 0.5, "trainer.users_per_step": 4, "history._target_": "x"}
    bound |= {"trainer.loss": "expected"}
    chosen = [check_config(composed(override)) for override in ("history=none", "model=tiny_base")]
    prints = [IDENTITY.fingerprint(settings), *(other.fingerprint(settings) for other in OTHERS)]
    prints += [*(of(*change) for change in bound.items()), *map(IDENTITY.fingerprint, chosen)]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("identity", [IDENTITY, *OTHERS])
def test_a_run_keeps_its_identity(identity, tmp_path):
    write_identity(tmp_path, identity)
    assert read_identity(tmp_path) == identity


def test_a_resumed_run_needs_the_data_and_the_model_that_it_began_with(tmp_path):
    settings = check_config(composed())

    def begun_as(**fields):
        write_identity(tmp_path, replace(IDENTITY, **fields))
        return identify(settings, "data", lambda: None, tmp_path)

    assert begun_as() == replace(IDENTITY, version=mlens.__version__)
    with pytest.raises(UserError, match=r"the data aren't those that the run in \S+ began with"):
        begun_as(data="other")
    with pytest.raises(UserError, match=r"the model isn't the one that the run in \S+ began with"):
        begun_as(model="other")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"data": "x"}', '{"chat_frame": ["a"]}', json.dumps({"a": 1})])
def test_an_identity_that_is_none_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(UserError, match=r"identity\.json(:| can't be read)"):
        read_identity(tmp_path)


def test_a_run_that_noted_none_is_not_resumed(tmp_path):
    assert read_identity(tmp_path) is None
    with pytest.raises(UserError, match=r"identity\.json is missing"):
        identify(check_config(composed()), "data", lambda: None, tmp_path)
