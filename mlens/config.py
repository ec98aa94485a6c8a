"""Check the composed Hydra config strictly: every node is parsed with its dataclass.

Hydra rejects an override of an unknown key, but accepts any key that is added (`+history.foo=1`), and runs no
`__post_init__`. Here an unknown key or an invalid value is refused by name, before anything is loaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pkgutil import resolve_name
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from mlens.comparison.settings import Comparison
from mlens.data.split import Split
from mlens.engine.settings import DeepSpeed
from mlens.errors import UserError
from mlens.evaluation.settings import Evaluation
from mlens.prompt.settings import NEWEST_FIRST, Ablation, Style
from mlens.text import first_line
from mlens.tracking.settings import Wandb, enabled_trackers, require_trackers
from mlens.training.settings import Trainer

# Nodes with a fixed dataclass, and nodes whose `_target_` names their dataclass.
FIXED_SCHEMAS = {
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
# Of the former, those whose `_target_` names a function, and not the dataclass.
FACTORIES = {"deepspeed": "mlens.engine.engine.make_engine"}
# The keys that may refer to environment variables.
PATHS = ("output_dir", "data.path", "data.movies_path", "model.path")


@dataclass(frozen=True)
class Root:
    """The keys at the top level of the config.

    output_dir: the run's folder; null: a new one under outputs/, in a sweep under multirun/.
    resume: true resumes the run in output_dir, and refuses a folder without one; auto resumes an unfinished run, starts
        a new run where there is none, and exits at once where the run is finished.
    seed: of the order of targets, of the random histories in training, and of a randomly initialised model.
    tracker: where metrics are logged besides metrics.jsonl: a tracker's name, a list of them, or none. Configs saved by
        older versions don't have it.
    """

    output_dir: str | None
    resume: bool | str
    seed: int
    tracker: Any = "wandb"

    def __post_init__(self) -> None:
        if self.resume not in (True, False, "auto"):
            raise UserError(f"resume must be true, false or auto, not {self.resume}")
        if self.resume == "auto" and self.output_dir is None:
            raise UserError("resume=auto needs the run's folder: give output_dir=FOLDER")
        require_trackers(self.tracker)


@dataclass(frozen=True)
class Settings:
    """The checked config: each node as an object of its dataclass.

    config: all nodes as nested plain data with resolved references, to be saved, hashed and tracked.
    """

    output_dir: str | None
    resume: bool | str
    seed: int
    tracker: str | list[str]
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

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names of the trackers that the run logs to."""
        return enabled_trackers(self.tracker, self.wandb)

    def seed_of(self, stage: str) -> int:
        """Return the seed of a stage's random histories: that of evaluation is the same in all runs of a comparison."""
        return self.seed if stage == "train" else self.evaluation.seed


def check_config(config: DictConfig) -> Settings:
    """Parse every node with its dataclass.

    Raises UserError, which names node and key, for an unknown key, an invalid value, or a value other than a path that
    is taken from the environment.
    """
    _refuse_environment(config)
    known = {*FIXED_SCHEMAS, *CHOSEN, "dataset", *Root.__dataclass_fields__}
    unknown = [str(key) for key in config if key not in known]
    if unknown:
        raise UserError(f"unknown key {unknown[0]}: the config's keys are {', '.join(sorted(known))}")
    missing = [key for key in sorted(known) if key not in config and not hasattr(Root, key)]
    if missing:
        raise UserError(f"{missing[0]} is missing: the config needs it")
    plain = {str(key): _value(config, str(key)) for key in config}
    root = parse_node("", Root, {key: plain[key] for key in Root.__dataclass_fields__ if key in plain})
    nodes = {name: parse_node(name, schema, _without_target(plain, name)) for name, schema in FIXED_SCHEMAS.items()}
    for name, schema in FIXED_SCHEMAS.items():
        _require_target(name, config, FACTORIES.get(name, f"{schema.__module__}.{schema.__name__}"))
    for name in CHOSEN:
        node = _without_target(plain, name)
        nodes[name] = parse_node(name, resolve_class(name, config[name].get("_target_")), node)
    for key in _without_target(plain, "dataset"):
        raise UserError(f"dataset.{key}: unknown key; dataset holds _target_ alone")
    settings = Settings(**vars(root), **nodes, config=plain)
    _check_together(settings)
    return settings


def _refuse_environment(config: DictConfig) -> None:
    """Raise UserError for a key other than PATHS that refers to an environment variable.

    The config is saved with its values, tracked and shown in reports, so that a run can be repeated; environment
    variables may hold secrets. Called before anything is resolved, since an error message quotes the value.
    """
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


def _without_target(plain: dict, name: str) -> dict:
    node = plain[name]
    if not isinstance(node, dict):
        raise UserError(f"{name} must be a choice of conf/{name}/, not {node!r}")
    return {key: value for key, value in node.items() if key != "_target_"}


def _require_target(name: str, config: DictConfig, known: str) -> None:
    """Raise UserError for another target than `known`, for whose arguments the values were checked."""
    target = config[name].get("_target_", known)
    if target != known:
        raise UserError(f"{name}._target_ must be {known}, not {target}")


def resolve_class(name: str, target: object) -> type:
    """Import the dataclass that `_target_` of the node `name` names. Raises UserError where it isn't a dataclass."""
    try:
        found = resolve_name(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{name}._target_={target} can't be imported: {first_line(error)}") from error
    if not (isinstance(found, type) and is_dataclass(found)):
        raise UserError(f"{name}._target_={target} is no dataclass: choose one of conf/{name}/")
    return found


def parse_node(name: str, schema: type, node: dict) -> Any:
    """Parse a node strictly.

    name: of the node; empty for the top level
    schema: its dataclass
    node: its keys and values

    Raises UserError, which names the key, for a missing or unknown key or an invalid value.
    """
    where = f"{name}." if name else ""
    for key, value in flatten(node).items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise UserError(f"{where}{key} must fit into 64 bits")
    defaults = _defaults(schema)
    try:
        _refuse_single_values(where, defaults, node)
        return OmegaConf.to_object(OmegaConf.merge(defaults, node))
    except UserError:
        raise
    except OmegaConfBaseException as error:
        key = f"{where}{error.full_key or ''}".removesuffix(".")
        if isinstance(error, ConfigKeyError) and isinstance(error.parent_node, DictConfig):
            raise UserError(f"{key}: unknown key. {_keys_of(key.rpartition('.')[0], error.parent_node)}") from error
        raise UserError(f"{key}: {first_line(error)}") from error


def _refuse_single_values(where: str, defaults: DictConfig, node: dict) -> None:
    """Raise UserError for a value where the dataclass has another dataclass: OmegaConf's error doesn't name the key."""
    for key, value in node.items():
        inner = None if OmegaConf.is_missing(defaults, key) else defaults.get(key)
        if isinstance(inner, DictConfig) and value is not None:
            if not isinstance(value, dict):
                raise UserError(f"{where}{key}={value}: it takes no value. {_keys_of(f'{where}{key}', inner)}")
            _refuse_single_values(f"{where}{key}.", inner, value)


def _keys_of(name: str, node: DictConfig) -> str:
    return f"The keys of {name} are {', '.join(str(key) for key in node)}" if len(node) else f"{name} has no keys here"


@cache
def _defaults(schema: type) -> DictConfig:
    defaults = OmegaConf.structured(schema)
    _make_writable(defaults)
    return defaults


def _make_writable(node: Any) -> None:
    """Make the node of a frozen dataclass, which OmegaConf makes read-only, accept a merge."""
    if isinstance(node, DictConfig):
        OmegaConf.set_readonly(node, False)
        for key in node:
            if not OmegaConf.is_missing(node, key):
                _make_writable(node[key])


def _check_together(settings: Settings) -> None:
    """Raise UserError for settings of several nodes that contradict one another."""
    row_tokens = getattr(settings.packing, "row_tokens", None)
    if row_tokens is not None and row_tokens < settings.prompt.max_tokens:
        raise UserError(
            f"packing.row_tokens={row_tokens} is less than prompt.max_tokens={settings.prompt.max_tokens}, so that a "
            "prompt may not fit into a row: raise packing.row_tokens or lower prompt.max_tokens"
        )
    trainer = settings.trainer
    if trainer.history_loss_weight and settings.prompt.order == NEWEST_FIRST:
        raise UserError(
            "trainer.history_loss_weight needs prompt.order=time: newest first, a rating in the history would be "
            "predicted from newer ones. Set trainer.history_loss_weight=0"
        )
    if settings.comparison.equal == "time" and (trainer.max_minutes is None or trainer.max_steps is not None):
        raise UserError(
            "comparison.equal=time needs trainer.max_minutes (how long each job trains) and trainer.max_steps=null"
        )
    zero = settings.deepspeed.zero_optimization
    for name in ("dora", "load_in_4bit"):
        if getattr(settings.peft, name, False) and zero.stage == 3:
            raise UserError(
                f"peft.{name}=true needs the weights unsharded, which ZeRO stage 3 shards: choose deepspeed=zero2 (or "
                "zero0, zero1), or peft=lora"
            )
    if trainer.optimizer == "adamw_8bit" and zero.offload_optimizer.device != "none":
        raise UserError(
            "trainer.optimizer=adamw_8bit can't be offloaded: choose deepspeed=zero2 or zero3, or "
            "trainer.optimizer=adamw"
        )
    packed = row_tokens is not None
    if packed != (settings.model.attention == "rows"):
        raise UserError(
            f"model.attention={settings.model.attention} doesn't match packing: "
            "packing=rows needs model.attention=rows, packing=reference needs another attention, such as sdpa"
        )


def flatten(node: dict, prefix: str = "") -> dict:
    """Flatten nested keys to dotted keys.

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
