"""The files and commands that the documents show."""

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
    *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md"))),
)
# How a command begins: what it sets for itself (`NAME=VALUE `), or what keeps its output (`NAME=$(`), and its program.
BEGINS = re.compile(r"([A-Z_]+=(\w+ |\$\())*((python|torchrun|deepspeed|make) |make$|pip install |mlens [a-z]+ )")


def document_files(document: str) -> dict[str, str]:
    """The complete files that a document shows: a path in backticks, a colon, and the file's text as a block."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, re.DOTALL))


def extended_copy(folder: Path) -> Path:
    """A copy of mlens with the files of docs/extending.md in it."""
    for name in ("mlens", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", folder)
    for name, text in document_files("extending.md").items():
        assert not (folder / name).exists(), name
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def put_in(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process choose from the copy's conf/, and find what the copy adds to mlens.data and mlens.history."""
    for module in (runs, mlens.compose):
        monkeypatch.setattr(module, "CONF", copy / "conf")
    for package in (mlens.data, mlens.history):
        own = copy / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(own)])


def document_commands(document: str) -> list[str]:
    """The commands that a document gives in blocks of no language and in inline code: each once, in their order."""
    # Between the fences every other part is a block, and its first line its language.
    parts = re.split(r"^ *```", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: list[str] = []
    for number, part in enumerate(parts):
        if number % 2 == 0:
            found += (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", part))
        elif part.startswith("\n"):
            found += block_commands(part)
    return list(dict.fromkeys(command for command in found if BEGINS.match(command)))


def block_commands(block: str) -> list[str]:
    """Its lines, without the prompt and remarks. A line that ends with a backslash, or within quotes, goes on."""
    commands, begun = [], ""
    for line in re.sub(r"\s*\\\n\s*", " ", textwrap.dedent(block)).splitlines():
        begun += re.sub(r"\s{2,}# .*", "", line.removeprefix("$ "))
        if is_open(begun):
            begun += "\n"
        else:
            commands.append(begun)
            begun = ""
    return [command for command in commands if command]


def is_open(text: str) -> bool:
    """Whether a quotation in it isn't closed."""
    try:
        shlex.split(text)
    except ValueError:
        return True
    return False


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
