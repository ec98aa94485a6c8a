"""docs/troubleshooting.md quotes messages as the program writes them."""

import re

import pytest

from tests.helpers.runs import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
# The first cell of a table's line, where it holds a quotation; `…` stands for what differs.
CELLS = re.findall(r"^\| (`.*?`.*?) \|", TEXT, re.MULTILINE)
QUOTED = [part.strip() for cell in CELLS for text in re.findall(r"`(.*?)`", cell) for part in text.split("…")]
MESSAGES = sorted({part for part in QUOTED if " " in part})
SOURCES = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "mlens").rglob("*.py")))
# A message may go on in the next line of the source.
JOINED = re.sub(r'"\s*\n\s*f?"', "", SOURCES)


def test_the_page_quotes_messages():
    assert len(MESSAGES) == 30


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_the_programs(message):
    assert message in JOINED
