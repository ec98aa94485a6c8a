"""Extracts files and commands from the documents."""

import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest

import mlens.compose
import mlens.data
import mlens.history
from tests.helpers import runs
from tests.helpers.runs import ROOT

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *(str(file.relative_to(ROOT)) for file in sorted((ROOT / "docs").rglob("*.md"))),
)
# The start of a command: environment variables (`NAME=VALUE `) or an assignment of its output (`NAME=$(`), then its
# program.
BEGINS = re.compile(
    r"([A-Z_]+=(\w+ |\$\())*((python|torchrun|deepspeed|accelerate|make) |make$|pip install |mlens [a-z]+ )"
)


def document_files(document: str) -> dict[str, str]:
    """Return the complete files in a document by path: a path in backticks, a colon, and the text as a code block."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, re.DOTALL))


def extended_copy(folder: Path) -> Path:
    """Make a copy of mlens that includes the files of docs/extending.md."""
    for name in ("mlens", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    for name, text in document_files("extending.md").items():
        assert not (folder / name).exists(), name
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def use_copy(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process use the copy's conf/, and its additional modules of mlens.data and mlens.history."""
    for module in (runs, mlens.compose):
        monkeypatch.setattr(module, "CONF", copy / "conf")
    for package in (mlens.data, mlens.history):
        folder = copy / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])


def document_commands(document: str) -> list[str]:
    """Return the distinct commands in a document's inline code and code blocks without a language, in order."""
    # Every second part between fences is a code block, whose first line is its language.
    parts = re.split(r"^ *```", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[str] = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            found += (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", part))
        elif part.startswith("\n"):
            found += block_commands(part)
    return list(dict.fromkeys(command for command in found if BEGINS.match(command)))


def block_commands(block: str) -> list[str]:
    """Return the commands of a block without shell prompts and comments, with continued lines joined."""
    commands, current = [], ""
    for line in re.sub(r"\s*\\\n\s*", " ", textwrap.dedent(block)).splitlines():
        current += re.sub(r"\s{2,}# .*", "", line.removeprefix("$ "))
        if is_open(current):
            current += "\n"
        else:
            commands.append(current)
            current = ""
    return [command for command in commands if command]


def is_open(text: str) -> bool:
    """Whether the text has an unclosed quotation mark."""
    try:
        shlex.split(text)
    except ValueError:
        return True
    return False


def make_targets() -> set[str]:
    """Return the targets of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
