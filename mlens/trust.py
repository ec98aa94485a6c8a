"""What a run made elsewhere may make this machine do: create objects of mlens' own classes, and no more, unless the
user trusts the run as a program."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlens.config import CHOSEN, ONE_FORM, chosen_class
from mlens.errors import UserError

# Where the classes that a node names with `_target_` come from: others would be imported, and so run. Nodes of one form
# are refused with another class whether they are trusted or not (`config.check`).
OWN = {
    **{name: f"mlens.{name}." for name in ("data", "history", "packing")},
    **dict.fromkeys(("model", "peft", "base"), "mlens.model.settings."),
    "dataset": "mlens.packing.dataset.RatingDataset",
}
ALLOW = "where you would run it as a program, --trust (in Python trust=True) allows it"


def refuse_foreign(config: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """Raises UserError, before anything is imported, where a run's config names a class that is none of mlens' choices
    for its node, or has a model's own code run.

    given: dotted keys that the user set instead of the run, with all below them.
    """
    for path, value in _entries(config, ()):
        key, node = ".".join(path), ".".join(path[:-1])
        if any(key == own or key.startswith(f"{own}.") for own in given):
            continue
        if path[-1] == "trust_remote_code" and value:
            raise UserError(f"{key} runs code that comes with the model; {ALLOW}")
        if path[-1] == "_target_" and node not in ONE_FORM:
            _require_own(node, value)


def _require_own(node: str, target: object) -> None:
    own = OWN.get(node)
    if own is None:
        raise UserError(f"{node}._target_={target}: no class is expected there, and its code would run; {ALLOW}")
    if target != own and not (own.endswith(".") and str(target).startswith(own)):
        raise UserError(f"{node}._target_={target} is not from {own}*: its code would run; {ALLOW}")
    # By way of a module of ours another's could be named.
    if node in (*CHOSEN, "base") and not f"{chosen_class(node, target).__module__}.".startswith(own):
        raise UserError(f"{node}._target_={target} is no choice for {node}")


def _entries(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key of a dict in it, with the keys and numbers that lead to it, and its value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield (*path, str(key)), value
            yield from _entries(value, (*path, str(key)))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _entries(value, (*path, str(number)))
