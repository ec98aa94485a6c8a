"""Make text from files and other libraries safe to print on one line of a terminal."""

from __future__ import annotations

import re

# Unicode marks that change the text direction for the rest of a line: one in a title would reorder what follows it.
DIRECTION_MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """Return `text` on one line.

    Line breaks become blanks; non-printable characters (control characters, marks that change the direction of writing)
    become escapes.

    >>> one_line("Heat\\n\\x1b[2J\\u202e(1995)")
    'Heat \\\\x1b[2J\\\\u202e(1995)'
    """
    return printable(" ".join(text.splitlines()))


def printable(text: str) -> str:
    """Return `text` with every non-printable character, line breaks included, as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error message, which says what is wrong."""
    return str(error).strip().partition("\n")[0]


def escape_direction_marks(text: str) -> str:
    """Return `text` with the name of every mark that changes the text direction in its place.

    >>> escape_direction_marks("Heat\\u202e(1995)")
    'Heat<U+202E>(1995)'
    """
    return DIRECTION_MARKS.sub(lambda mark: f"<U+{ord(mark[0]):04X}>", text)
