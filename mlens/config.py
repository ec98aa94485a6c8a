"""The composed Hydra config, checked strictly: every node goes through the dataclass of its own package.

Hydra refuses a wrong key that is overridden, but takes any key that is added (`+history.foo=1`), and runs no
`__post_init__`. Here an unknown key or a bad value is refused by name, before anything is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, is_dataclass
from pkgutil import resolve_name
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlens.comparison.settings import Comparison
from mlens.data.split import Split
from mlens.engine.settings import DeepSpeed
from mlens.errors import UserError
from mlens.evaluation.settings import Evaluation
from mlens.prompt.settings import Ablation, Style
from mlens.text import first_line
from mlens.training.settings import Trainer, Wandb

# Nodes of one form, and nodes whose `_target_` says which dataclass they are.
ONE_FORM = {
    "split": Split,
    "ablation": Ablation,
    "prompt": Style,
    "deepspeed": DeepSpeed,
    "trainer": Trainer,
    "evaluation": Evaluation,
    "comparison": Comparison,
    "wandb": Wandb,
}
CHOSEN = ("data", "history", "model", "peft", "packing")
# Of the former, those whose `_target_` isn't their form.
MADE_BY = {"deepspeed": "mlens.engine.engine.make_engine"}
# What may be taken from the environment.
PATHS = ("output_dir", "data.path", "data.movies_path", "model.path")


@dataclass(frozen=True)
class Root:
    """The config's own fields.

    output_dir: the run's folder (null: a new one under outputs/, in a sweep under multirun/).
    resume: true continues the run in output_dir, and refuses a folder without one; auto continues an unfinished run,
    starts one where there is none, and exits at once where it is finished.
    seed: of the order of targets, of the histories drawn in training and of a random model.
    """

    output_dir: str | None
    resume: bool | str
    seed: int

    def __post_init__(self) -> None:
        if self.resume not in (True, False, "auto"):
            raise UserError(f"resume must be true, false or auto, not {self.resume}")
        if self.resume == "auto" and self.output_dir is None:
            raise UserError("resume=auto needs the run's folder: give output_dir=FOLDER")


@dataclass(frozen=True)
class Settings:
    """The checked config: each node as the object that it describes.

    config: the whole config as nested plain data with its references resolved: what is saved, hashed and tracked.
    """

    output_dir: str | None
    resume: bool | str
    seed: int
    data: Any
    split: Split
    history: Any
    ablation: Ablation
    prompt: Style
    packing: Any
    model: Any
    peft: Any
    deepspeed: DeepSpeed
    trainer: Trainer
    evaluation: Evaluation
    comparison: Comparison
    wandb: Wandb
    config: dict = field(repr=False)

    def seed_of(self, stage: str) -> int:
        """The seed of a stage's drawn histories: evaluation's own is the same in all runs that are compared."""
        return self.seed if stage == "train" else self.evaluation.seed


def check(config: DictConfig) -> Settings:
    """Every node as its dataclass. Raises UserError that names the node and key for an unknown key, a bad value, or one
    that is taken from the environment and is no path."""
    _refuse_environment(config)
    known = {*ONE_FORM, *CHOSEN, "dataset", *Root.__dataclass_fields__}
    unknown = [str(key) for key in config if key not in known]
    if unknown:
        raise UserError(f"unknown key {unknown[0]}: the config's keys are {', '.join(sorted(known))}")
    missing = [key for key in sorted(known) if key not in config]
    if missing:
        raise UserError(f"{missing[0]} is missing: the config needs it")
    root = strictly("", Root, {key: _value(config, key) for key in Root.__dataclass_fields__})
    nodes = {name: strictly(name, form, _plain(config, name)) for name, form in ONE_FORM.items()}
    for name, form in ONE_FORM.items():
        _require_target(name, config, MADE_BY.get(name, f"{form.__module__}.{form.__name__}"))
    for name in CHOSEN:
        node = _plain(config, name)
        nodes[name] = strictly(name, chosen_class(name, config[name].get("_target_")), node)
    for key in _plain(config, "dataset"):
        raise UserError(f"dataset.{key}: unknown key; dataset holds _target_ alone")
    plain = cast(dict, OmegaConf.to_container(config, resolve=True))
    settings = Settings(**vars(root), **nodes, config=plain)
    _check_together(settings)
    return settings


def _refuse_environment(config: DictConfig) -> None:
    """The config is saved with its values, tracked and shown in reports, so that a run can be repeated; what stands in
    the environment (a token, a key) is meant for none of these. Before anything is resolved, since an error quotes the
    value."""
    for key, value in flatten(cast(dict, OmegaConf.to_container(config, resolve=False))).items():
        if key not in PATHS and re.search(r"\$\{\s*oc\.env\b", str(value)):
            raise UserError(
                f"{key} refers to the environment, whose values would be saved with the run: give the value itself "
                f"(only {', '.join(PATHS)} may be {'${oc.env:NAME}'})"
            )


def _value(config: DictConfig, name: str) -> Any:
    try:
        value = config[name]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or name}: {first_line(error)}") from error


def _plain(config: DictConfig, name: str) -> dict:
    node = _value(config, name)
    if not isinstance(node, dict):
        raise UserError(f"{name} must be a choice of conf/{name}/, not {node!r}")
    return {key: value for key, value in node.items() if key != "_target_"}


def _require_target(name: str, config: DictConfig, known: str) -> None:
    """Another target would be called with values that were checked for the known one, whatever it does."""
    target = config[name].get("_target_", known)
    if target != known:
        raise UserError(f"{name}._target_ must be {known}, not {target}")


def chosen_class(name: str, target: object) -> type:
    """The dataclass that `_target_` of the node `name` names. Raises UserError where it is none."""
    try:
        found = resolve_name(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{name}._target_={target} can't be imported: {first_line(error)}") from error
    if not (isinstance(found, type) and is_dataclass(found)):
        raise UserError(f"{name}._target_={target} is no dataclass: choose one of conf/{name}/")
    return found


def strictly(name: str, form: type, node: dict) -> Any:
    """The node `name` as its dataclass `form`. Raises UserError that names the key that it lacks or the bad value."""
    where = f"{name}." if name else ""
    for key, value in flatten(node).items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UserError(f"{where}{key} must be a number of 64 bits")
    try:
        schema = OmegaConf.structured(form)
        _make_writable(schema)
        return OmegaConf.to_object(OmegaConf.merge(schema, node))
    except UserError:
        raise
    except OmegaConfBaseException as error:
        raise UserError(f"{where}{error.full_key or ''}: {first_line(error)}".replace(".:", ":")) from error


def _make_writable(node: Any) -> None:
    """A frozen dataclass makes a read-only node, which nothing could be merged into."""
    if isinstance(node, DictConfig):
        OmegaConf.set_readonly(node, False)
        for key in node:
            if not OmegaConf.is_missing(node, key):
                _make_writable(node[key])


def _check_together(settings: Settings) -> None:
    """What only several nodes together can be wrong in."""
    row_tokens = getattr(settings.packing, "row_tokens", None)
    if row_tokens is not None and row_tokens < settings.prompt.max_tokens:
        raise UserError(
            f"packing.row_tokens={row_tokens} can't hold a prompt of prompt.max_tokens={settings.prompt.max_tokens}: "
            "raise the one or lower the other"
        )
    trainer = settings.trainer
    if settings.comparison.equal == "time" and (trainer.max_minutes is None or trainer.max_steps is not None):
        raise UserError(
            "comparison.equal=time needs trainer.max_minutes (how long each job trains) and trainer.max_steps=null"
        )
    packed = row_tokens is not None
    if packed != (settings.model.attention == "rows"):
        raise UserError(
            f"model.attention={settings.model.attention} doesn't go with these rows: "
            "packing=rows needs model.attention=rows, packing=reference needs another (sdpa)"
        )


def flatten(node: dict, prefix: str = "") -> dict:
    """Nested keys as dotted ones.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def is_below(key: str, names: tuple[str, ...]) -> bool:
    """Whether a dotted key is one of these names, or below one of them."""
    return any(key == name or key.startswith(f"{name}.") for name in names)
