"""Explain what Hydra refuses in a command line, and what to type instead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException

from mlens.hydra_private import missing_option, unknown_key
from mlens.text import first_line

# In a checkout a link to conf/; in an installed mlens its files.
CONF = Path(__file__).parent / "conf"
# The flags of earlier scripts, and the override that replaces each; X stands for the flag's value.
FLAGS = {
    "--history_strategy": "history=X",
    "--history_ratio": "history.ratio=X",
    "--fixed_history_count": "history.count=X",
    "--ablation_config": "ablation=X",
    "--prompt_style": "prompt=X",
    "--deepspeed": "deepspeed=X",
    "--config": "data=OPTION model=OPTION",
    "--output_dir": "output_dir=X",
    "--max_epochs": "trainer.max_epochs=X",
    "--early_stopping_patience": "trainer.early_stopping.patience=X",
    "--val_ratio": "split.val_ratio=X",
    "--wandb_project": "wandb.project=X wandb.mode=online",
    "--wandb_run_name": "wandb.name=X",
    "--model_name_or_path": "model=hf model.name=X",
    "--per_device_train_batch_size": "trainer.targets_per_step=TARGETS",
    "--gradient_accumulation_steps": "trainer.targets_per_step=TARGETS",
    "--max_length": "prompt.max_tokens=X",
    "--resume_from_checkpoint": "output_dir=X resume=true",
}
# Other programs' names for our keys.
SYNONYMS = {"batch_size": "targets_per_step", "epochs": "max_epochs", "max_length": "max_tokens", "n": "count"}
# The least similarity (from 0 to 1) of a name that is suggested.
MIN_SIMILARITY = 0.5
# Prefixes of launchers' flags, which come before the script's name.
LAUNCHER_FLAGS = ("--nproc", "--nnodes", "--node", "--master", "--rdzv", "--standalone", "--num_gpus", "--hostfile")
MULTIRUN_FLAGS = {"--multirun", "-m"}
# Hydra's keys that have no effect here, and their replacements.
REPLACEMENTS = {"hydra.run.dir": "output_dir", "hydra.sweep.dir": "output_dir"}
# Launchers of Hydra can't start the ranks of a job.
OTHER_LAUNCHER = (
    "hydra/launcher={} can't start the jobs of a sweep: leave it out. The default launcher (mlens) starts a torchrun "
    "for each; hydra.launcher.nproc_per_node=N sets its ranks, hydra.launcher.max_parallel=N runs N jobs at once, "
    "hydra.launcher.backend=slurm queues them"
)
# Packages with options of Hydra's groups, and what installs them.
PACKAGES = {"hydra/sweeper/optuna": "the package hydra-optuna-sweeper: pip install -e '.[optuna]'"}


def refuse_flags(arguments: Sequence[str]) -> str | None:
    """Return an error message for flags that this program doesn't have; None where there are none.

    >>> refuse_flags(["--history_strategy", "random", "--history_ratio=0.5"])
    'settings are KEY=VALUE: write history=random history.ratio=0.5 in place of --history_strategy --history_ratio'
    """
    found: list[str] = []
    written: list[str] = []
    for place, argument in enumerate(arguments):
        flag, given, value = argument.partition("=")
        if flag.startswith(LAUNCHER_FLAGS):
            return f"{flag} is a flag of the launcher: write it before the script, as in torchrun {argument} train.py"
        if flag in FLAGS:
            following = arguments[place + 1 : place + 2]
            value = value if given else next((word for word in following if not word.startswith("-")), "VALUE")
            value = re.sub(r"(ds_config_)?(\w+)\.json$", r"\2", value) if flag == "--deepspeed" else value
            found.append(flag)
            written += (word for word in FLAGS[flag].replace("X", value).split() if word not in written)
    if not found:
        return None
    return f"settings are KEY=VALUE: write {' '.join(written)} in place of {' '.join(found)}"


def refuse_unused(arguments: Sequence[str]) -> str | None:
    """Return an error message for what has no effect here, or not together; None where there is none."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in REPLACEMENTS:
            return f"{key} has no effect here: write {REPLACEMENTS[key]}={value}"
        if key == "hydra/launcher" and value != "mlens":
            return OTHER_LAUNCHER.format(value)
    flags = {argument.partition("=")[0] for argument in arguments}
    if flags & {"--cfg", "-c"} and flags & MULTIRUN_FLAGS:
        return "--cfg shows the config of one job: leave out --multirun, and give one value for each setting"
    return None


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Return one line that says which override Hydra refused with `error`, and what to type instead."""
    if isinstance(error, OverrideParseException):
        return _explain_syntax(error.override, first_line(error))
    key = unknown_key(error)
    if key is not None:
        return _explain_key(key, overrides)
    missing = missing_option(error)
    if missing is not None:
        return _explain_option(*missing)
    parsed = _parsed(overrides)
    for override in parsed:
        key = override.key_or_group
        if (CONF / key).is_dir() and key not in _groups() and not override.is_add():
            return _explain_key(key, overrides)
        sweeps = MULTIRUN_FLAGS & {*overrides} or any(o.startswith("+experiment=") for o in overrides)
        if override.is_sweep_override() and not sweeps:
            return f"{override.input_line} has several values, for a sweep: add --multirun, or give one value"
    text = first_line(error)
    return text if error.__cause__ is None else f"{text} {first_line(error.__cause__)}"


def explain_null(overrides: Sequence[str]) -> str | None:
    """Return an error message for `GROUP=null`, with which Hydra fails; None where there is none.

    >>> explain_null(["debug=null"])
    'debug=null chooses no option of the group debug: leave it out'
    """
    for override in _parsed(overrides):
        group = override.key_or_group
        if override.value() is None and (CONF / group).is_dir():
            default = _chosen(group, ())[0] if group in _groups() else "None"
            remedy = "leave it out" if default == "None" else f"choose one of {_list(list(_options(group)))}"
            return f"{group}=null chooses no option of the group {group}: {remedy}"
    return None


def _parsed(arguments: Sequence[str]) -> list[Override]:
    """Return those of a command line's arguments that are overrides."""
    parser, parsed = OverridesParser.create(), []
    for argument in arguments:
        with suppress(HydraException):
            parsed.append(parser.parse_override(argument))
    return parsed


def _explain_syntax(argument: str, message: str) -> str:
    """Explain an argument that can't be parsed."""
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument} is no override: write KEY=VALUE, without blanks around the ="
    typed = as_typed(key, value)
    if not typed:
        return f"{argument} can't be read: {message}"
    return f"{argument} can't be read, since its value has special characters of Hydra: write it as {typed}"


def as_typed(key: str, value: str) -> str | None:
    """Return `key=value` quoted for the shell and for Hydra; None where `key` itself can't be parsed.

    >>> print(as_typed("output_dir", "/x/lr=1e-4"))
    "output_dir='/x/lr=1e-4'"
    """
    argument = f"{key}={quoted(value)}"
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
    return shlex.quote(argument) if re.search(r'["$`\\!]', argument) else f'"{argument}"'


def quoted(value: str) -> str:
    """Quote a value as one string in Hydra's grammar.

    >>> quoted("history=none,seed=0")
    "'history=none,seed=0'"
    """
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def _explain_key(key: str, overrides: Sequence[str]) -> str:
    """Explain a key that the composed config doesn't have."""
    group, dot, rest = key.partition(".")
    if not dot:
        if (CONF / key).is_dir():
            value = next((o.partition("=")[2] for o in overrides if o.startswith(f"{key}=")), "OPTION")
            remedy = "only mlens plan accepts hardware" if key == "hardware" else f"write +{key}={value}"
            return f"{key} isn't chosen by default: {remedy}"
        names = [*_root_keys(), *(k for g in _groups() for k in _keys(g))]
        return f"{key}: unknown key.{guess(key, names)} The keys at the top level are {_list(_root_keys())}."
    if group == "hydra":
        sweep = _flat(_read(CONF / "hydra" / "launcher" / "mlens.yaml"))
        known = [f"hydra.launcher.{name}" for name in sweep if name[0] != "_"]
        return f"{key}: unknown key. The keys of a sweep are {_list(known)}."
    options = _options(group)
    if not options:
        return f"{group} has no key {rest}"
    having = [name for name, keys in options.items() if rest in keys]
    if not having:
        known = [name for name in _keys(group) if name.startswith(f"{group}.")]
        return f"{key}: unknown key.{guess(key, known)} The keys of {group} are {_list(known)}."
    chosen = _chosen(group, overrides)
    lacking = next((name for name in chosen if name not in having), chosen[0])
    refusal = f"{key}: {group}={lacking} has no key {rest}. Options with it: {group}={_list(having)}."
    if len(chosen) == 1:
        return refusal
    presets = _presets(group, rest, chosen, overrides)
    if presets:
        return f"{refusal} For a sweep over them write {group}={','.join(presets)} without {key}."
    return f"{refusal} For a sweep over them make a file with the value in conf/{group}/, such as {having[-1]}.yaml."


def _presets(group: str, key: str, chosen: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the options of a sweep, with those that have `key` replaced by files that set it.

    For example `random_50` for `random` with ratio 0.5. Empty where a value has no such file.
    """
    values = next((o.partition("=")[2].split(",") for o in overrides if o.startswith(f"{group}.{key}=")), [])
    options, names = _options(group), []
    for option in chosen:
        if key not in options.get(option, {}):
            names.append(option)
            continue
        for value in values:
            matching = [n for n in options if _bases(group, n) == [option] and str(options[n].get(key)) == value]
            if not matching:
                return []
            names.append(matching[0])
    return names


def _explain_option(place: str, options: Sequence[str]) -> str:
    """Explain an option that its group doesn't have."""
    group, _, option = place.rpartition("/")
    if place in PACKAGES:
        return f"{group}={option} needs {PACKAGES[place]}"
    if group == "hydra/launcher":
        return OTHER_LAUNCHER.format(option)
    return f"{group}={option}: there is no such option.{guess(option, options)} The options are {_list(options)}."


def guess(word: str, names: Sequence[str]) -> str:
    """Return a question that suggests the name most similar to `word`, or abbreviated by it; empty if none is similar.

    >>> guess("lr", ["trainer.max_steps", "trainer.learning_rate"])
    ' Did you mean trainer.learning_rate?'
    >>> guess("oldest", ["none", "random"])
    ''
    """

    def similarity(name: str) -> tuple[float, int]:
        last, typed = name.rpartition(".")[2], word.rpartition(".")[2]
        typed = SYNONYMS.get(typed, typed)
        initials = "".join(part[0] for part in last.split("_") if part)
        return max(SequenceMatcher(None, typed, last).ratio(), 0.9 * (typed == initials)), -len(name)

    best = max(names, key=similarity)
    return f" Did you mean {best}?" if similarity(best)[0] >= MIN_SIMILARITY else ""


def _chosen(group: str, overrides: Sequence[str]) -> list[str]:
    """Return the options of a group (several in a sweep) that the overrides or the defaults list select."""
    given = [o.partition("=")[2] for o in overrides if o.partition("=")[0].lstrip("+") == group]
    defaults = [entry[group] for entry in _read(CONF / "config.yaml")["defaults"] if group in entry]
    return str([*defaults, *given][-1]).split(",")


@cache
def _groups() -> tuple[str, ...]:
    return tuple(next(iter(e)) for e in _read(CONF / "config.yaml")["defaults"] if isinstance(e, dict))


@cache
def _root_keys() -> tuple[str, ...]:
    keys = [key for key in _read(CONF / "config.yaml") if key not in ("defaults", "hydra", "dataset")]
    return (*keys, *(group for group in _groups() if "/" not in group))


def _keys(group: str) -> list[str]:
    return list(dict.fromkeys(f"{group}.{key}" for keys in _options(group).values() for key in keys))


@cache
def _options(group: str) -> dict[str, dict]:
    """Return each option of a group of conf/ with its dotted keys and their values."""
    return {file.stem: _option(group, file.stem) for file in sorted((CONF / group).glob("*.yaml"))}


def _option(group: str, name: str) -> dict:
    node = _read(CONF / group / f"{name}.yaml")
    keys: dict = {}
    for base in _bases(group, name):
        keys |= _option(group, base)
    return keys | _flat({key: value for key, value in node.items() if key not in ("defaults", "_target_")})


def _bases(group: str, name: str) -> list[str]:
    """Return the options of the same group that this one extends."""
    defaults = _read(CONF / group / f"{name}.yaml").get("defaults", ())
    return [base for base in defaults if isinstance(base, str) and base != "_self_"]


def _flat(node: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, value in node.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _read(file: Path) -> dict:
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
