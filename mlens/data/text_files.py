"""Text files as streams of UTF-8 bytes, also where they are compressed by gzip, in another encoding, or have lines that
CR alone ends; and the error for a file that isn't text."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from mlens.errors import UserError
from mlens.files import is_lfs_pointer

# Bytes that are looked at to tell what a file is.
START = 1 << 16
# Bytes that are decompressed or decoded at once.
PIECE = 1 << 20
GZIP = b"\x1f\x8b"
# How files begin that are taken for text by their name.
NO_TEXT = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"SQLite format 3\0": "an SQLite database",
    b"BZh91AY&SY": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins with UTF-16's
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def refuse_lfs_pointer(file: Path) -> None:
    """Raises UserError where git-lfs left a pointer in place of the file."""
    if is_lfs_pointer(file):
        raise UserError(f"{file} is a git-lfs pointer, not the file: run `git lfs pull`")


def check_encoding(encoding: str) -> None:
    """Raises UserError unless `encoding` names an encoding of text."""
    try:
        codecs.getincrementaldecoder(encoding)
        b"a".decode(encoding, "ignore")
    except (LookupError, ValueError):
        known = "utf-8, utf-16, gb18030 or latin-1"
        raise UserError(
            f"data.encoding must be the name of a text encoding, such as {known}, not {encoding!r}"
        ) from None


def open_text(file: Path, encoding: str = "utf-8", settable: bool = False) -> BinaryIO:
    """The content of a text file as UTF-8, without a byte order mark.

    A file that gzip compressed is decompressed, whatever its name; where CR alone ends the first line, all line ends
    become LF. Bytes of a file in UTF-8 aren't checked.

    encoding: of the file; settable: whether `data.encoding` can set it, so that errors may advise to.
    Raises UserError for a git-lfs pointer, an archive or another file that isn't text, and text in UTF-16 or UTF-32
    that should be UTF-8; while reading, for damaged gzip data, and bytes that aren't text in `encoding`.
    """
    refuse_lfs_pointer(file)
    stream = file.open("rb")
    with _closed_on_error(stream):
        start = stream.read(START)
    compressed = start.startswith(GZIP)
    if compressed:
        stream.close()
        stream = cast(io.BufferedReader, gzip.open(file))  # noqa: SIM115 - the caller closes it
    with _closed_on_error(stream), _gzip_errors(file):
        if compressed:
            start = stream.read(START)
        kind = next((kind for magic, kind in NO_TEXT.items() if start.startswith(magic)), None)
        if start[257:262] == b"ustar":
            kind = "a tar archive"
        if kind is not None:
            raise UserError(f"{file} is {kind}, not text. Unpack it, or export it as text")
        utf8 = is_utf8(encoding)
        if utf8 and (wide := _wide_encoding(start)) is not None:
            raise UserError(f"{file}: not valid UTF-8. {_advice(wide, settable)}")
        stream.seek(len(codecs.BOM_UTF8) if utf8 and start.startswith(codecs.BOM_UTF8) else 0)
        carriage_returns = _ends_in_cr(start.decode(encoding, "ignore"))
    if utf8 and not compressed and not carriage_returns:
        return stream
    pieces = _pieces(stream, file)
    if not utf8:
        pieces = _recoded(pieces, file, encoding, settable, "\r" if carriage_returns else "\n")
    if carriage_returns:
        pieces = _with_newlines(pieces)
    return Pieces.stream(pieces, stream)


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def refuse_undecodable(file: Path, encoding: str = "utf-8", settable: bool = False) -> None:
    """Raises UserError, with line and advice, where the file isn't text in its encoding."""
    with open_text(file, encoding, settable) as stream:
        deque(_recoded(_pieces(stream, file), file, "utf-8", settable, "\n"), maxlen=0)


class Pieces(io.RawIOBase):
    """The bytes of an iterator as a stream; closing it closes `source` too."""

    def __init__(self, pieces: Iterator[bytes], source: BinaryIO) -> None:
        self._pieces, self._source, self._left = pieces, source, memoryview(b"")

    @classmethod
    def stream(cls, pieces: Iterator[bytes], source: BinaryIO) -> BinaryIO:
        """With the methods of a file that is opened to be read."""
        return io.BufferedReader(cls(pieces, source), PIECE)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


@contextmanager
def _closed_on_error(stream: BinaryIO) -> Iterator[None]:
    try:
        yield
    except BaseException:
        stream.close()
        raise


@contextmanager
def _gzip_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = f"its gzip data are damaged or cut off ({error})"
        raise UserError(f"{file}: {reason}. Download or compress it again") from error


def _pieces(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    while True:
        with _gzip_errors(file):
            piece = stream.read(PIECE)
        if not piece:
            return
        yield piece


def _recoded(pieces: Iterator[bytes], file: Path, encoding: str, settable: bool, end: str) -> Iterator[bytes]:
    """The same text in UTF-8; `end` ends its lines, for the line that an error names."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, first, sample = 1, True, b""
    for piece in chain(pieces, [b""]):
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].decode(error.encoding, "ignore").count(end)
            name = "UTF-8" if is_utf8(encoding) else encoding
            what = f"{file}:{line}: not valid {name} (byte 0x{error.object[error.start]:02x})"
            likely = _likely_encoding(piece or sample)
            if codecs.lookup(likely).name != codecs.lookup(encoding).name:
                raise UserError(f"{what}. {_advice(likely, settable)}") from error
            if piece:
                raise UserError(f"{what}, unlike the text around it. Correct that line") from error
            raise UserError(f"{what}: the file ends inside a character. Download or copy it again") from error
        except UnicodeError as error:  # UTF-16 and UTF-32 without a byte order mark
            advice = _advice(_likely_encoding(piece), settable)
            raise UserError(f"{file}: no text in {encoding} ({error}). {advice}") from error
        sample = piece
        line += text.count(end)
        text = text.removeprefix("\ufeff") if first else text
        first = first and not text
        if text:
            yield text.encode("utf-8", "replace")


def _advice(encoding: str, settable: bool) -> str:
    return f"Try data.encoding={encoding}" if settable else f"Convert it to UTF-8 (it may be {encoding})"


def _wide_encoding(start: bytes) -> str | None:
    """UTF-16 or UTF-32 where a file begins so: by its byte order mark, or since every other byte is mostly zero and the
    others aren't, as in text that is mostly ASCII."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    even, odd = start[::2].count(0), start[1::2].count(0)
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if 4 * zeros > len(start) and 50 * others <= len(start):
            return encoding
    return None


def _likely_encoding(sample: bytes) -> str:
    """What text is written in that isn't what it was read as; utf-8 where most of it is.

    Chinese characters are pairs of bytes above 0x7f, and so stand in runs of them; accented letters stand alone.
    """
    if wide := _wide_encoding(sample):
        return wide
    text = sample.decode(errors="replace")
    broken = text.count("\ufffd")
    runs = re.findall(rb"[\x80-\xff]+", sample)
    size = sum(map(len, runs))
    if not broken or size > 5 * broken:  # of other text, most bytes are broken UTF-8
        return "utf-8"
    in_pairs = sum(len(run) for run in runs if len(run) > 1)
    odd = sample.decode("gb18030", "replace").count("\ufffd")
    if in_pairs > size / 2 and odd <= 1 + size / 20:  # a cut end, a damaged place
        return "gb18030"
    # Windows has letters and quotation marks where Latin-1 has control characters.
    return "cp1252" if re.search(rb"[\x80-\x9f]", sample) else "latin-1"


def _ends_in_cr(text: str) -> bool:
    """Whether CR alone ends the first line."""
    end = re.search("\r\n?|\n", text)
    return end is not None and end[0] == "\r" and end.end() < START


def _with_newlines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Each CR LF and each CR alone as LF."""
    rest = b""
    for piece in pieces:
        text = rest + piece
        rest = b"\r" if text.endswith(b"\r") else b""
        yield text[: len(text) - len(rest)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield b"\n" if rest else b""
