"""Restrict which classes a run's config may name to those of mlens, unless the user trusts the run to execute code."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlens.config import CHOSEN, FIXED_SCHEMAS, resolve_class
from mlens.errors import UserError

# The modules (ending in a dot) or class that `_target_` of a node may name. Importing another one would run its code.
# Nodes with a fixed dataclass accept no other class, trusted or not (`config.check`).
ALLOWED = {
    **{name: f"mlens.{name}." for name in ("data", "history", "packing")},
    **dict.fromkeys(("model", "peft", "base"), "mlens.model.settings."),
    "dataset": "mlens.packing.dataset.RatingDataset",
}
REMEDY = "if you trust it as you would a program, allow it with --trust (in Python trust=True)"


def refuse_foreign(config: Mapping[str, Any], given: Collection[str] = ()) -> None:
    """Raise UserError, before any import, for a config that would run code from outside mlens.

    That is one that names a class which isn't an option of mlens for its node, or allows code that comes with a model.

    config: that of a run
    given: dotted keys that the user has set, which are accepted with all below them
    """
    for path, value in _entries(config, ()):
        key, node = ".".join(path), ".".join(path[:-1])
        if any(key == name or key.startswith(f"{name}.") for name in given):
            continue
        if path[-1] == "trust_remote_code" and value:
            raise UserError(f"{key} runs code that comes with the model: {REMEDY}")
        if path[-1] == "_target_" and node not in FIXED_SCHEMAS:
            _require_allowed(node, value)


def _require_allowed(node: str, target: object) -> None:
    allowed = ALLOWED.get(node)
    if allowed is None:
        raise UserError(f"{node}._target_={target}: no class is expected there, and its code would run: {REMEDY}")
    if target != allowed and not (allowed.endswith(".") and str(target).startswith(allowed)):
        raise UserError(f"{node}._target_={target} is not from {allowed}*, and its code would run: {REMEDY}")
    # A name in one of our modules may be imported from another package.
    if node in (*CHOSEN, "base") and not f"{resolve_class(node, target).__module__}.".startswith(allowed):
        raise UserError(f"{node}._target_={target} is not an option of {node}")


def _entries(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of every key of the nested dicts and lists in `node`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield (*path, str(key)), value
            yield from _entries(value, (*path, str(key)))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _entries(value, (*path, str(number)))
