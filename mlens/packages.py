"""Packages that mlens works without: each is an extra of pyproject.toml, imported only where a setting needs it."""

from __future__ import annotations

from importlib.util import find_spec

from mlens.errors import UserError


def require_package(name: str, extra: str, setting: str) -> None:
    """Raise UserError, with the command that installs it, where the package `name` that `setting` needs is missing."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:  # without origin: a folder that has this name
        raise UserError(f"{setting} needs the package {name}: pip install -e '.[{extra}]'")
