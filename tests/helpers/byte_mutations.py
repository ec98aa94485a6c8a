"""Mutations of files as by faulty disks, editors and attackers: bits flipped, bytes deleted, inserted, truncated, moved
and duplicated."""

from __future__ import annotations

import random

# Byte strings with a meaning for some text format.
FRAGMENTS = (
    *(b"\0", b"\n", b"\r\n", b"\r", b",", b'"', b"'", b"\t", b"|", b"::", b";", b"-", b".", b"[", b"]", b"{", b"}"),
    *(b"\\", b"\xff", b"\xef\xbb\xbf", b"\xc3", "\u202e".encode(), "\u2028".encode(), b"\x1b[31m", b"nan", b"inf"),
    *(b"1e999", b"9" * 400, b"-1", b"0x10", b" ", b"null", b"\\ud800", b"\\u0000", b"1_0", b"\xed\xa0\x80"),
)


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Return `content` after one to three mutations."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice((_flip, _delete, _insert, _truncate, _splice, _duplicate, _insert_fragment))(
            content, draw
        )
    return content


def _range(content: bytes, draw: random.Random) -> tuple[int, int]:
    """Draw the start and stop of a short piece of `content`."""
    start = draw.randrange(len(content) + 1)
    return start, min(len(content), start + draw.choice((1, 1, 2, 5, 20, 200)))


def _flip(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return content
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def _delete(content: bytes, draw: random.Random) -> bytes:
    start, stop = _range(content, draw)
    return content[:start] + content[stop:]


def _insert(content: bytes, draw: random.Random) -> bytes:
    at, _ = _range(content, draw)
    return content[:at] + draw.randbytes(draw.choice((1, 1, 2, 8, 100))) + content[at:]


def _insert_fragment(content: bytes, draw: random.Random) -> bytes:
    at, _ = _range(content, draw)
    return content[:at] + draw.choice(FRAGMENTS) + content[at:]


def _truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: _range(content, draw)[0]]


def _splice(content: bytes, draw: random.Random) -> bytes:
    """Overwrite one piece with another."""
    start, stop = _range(content, draw)
    at, end = _range(content, draw)
    return content[:at] + content[start:stop] + content[end:]


def _duplicate(content: bytes, draw: random.Random) -> bytes:
    start, stop = _range(content, draw)
    return content[:stop] + content[start:stop] + content[stop:]
