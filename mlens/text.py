"""Text of files and other libraries, made fit for one line on a terminal."""

from __future__ import annotations


def one_line(text: str) -> str:
    """`text` on one line: line breaks become blanks, and characters that do not print (control characters, marks that
    change the direction of writing) are written as their escapes.

    >>> one_line("Heat\\n\\x1b[2J\\u202e(1995)")
    'Heat \\\\x1b[2J\\\\u202e(1995)'
    """
    return printable(" ".join(text.splitlines()))


def printable(text: str) -> str:
    """`text` with every character that does not print, line breaks included, written as its escape."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def first_line(error: Exception) -> str:
    """The first line of an error message of another library, which says what was wrong."""
    return str(error).strip().partition("\n")[0]
