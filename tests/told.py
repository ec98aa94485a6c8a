"""What the documents tell their readers to write and to run."""

import re

from runs import ROOT


def told_files(document: str) -> dict[str, str]:
    """The files that a document shows whole: a path in backticks, a colon, and the file's text as a block."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return dict(re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
