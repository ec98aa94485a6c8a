"""Text files as streams of UTF-8 bytes: gzip is decompressed, other encodings and CR line ends are converted, and files
that aren't text are refused."""

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

# Bytes at a file's beginning that are inspected to detect its type.
START_BYTES = 1 << 16
# Bytes that are decompressed or decoded at once.
CHUNK = 1 << 20
GZIP = b"\x1f\x8b"
# How binary files begin whose name suggests text.
BINARY_SIGNATURES = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"SQLite format 3\0": "an SQLite database",
    b"BZh91AY&SY": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
}
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def refuse_lfs_pointer(file: Path) -> None:
    """Raise UserError where git-lfs left a pointer in place of the file."""
    if is_lfs_pointer(file):
        raise UserError(f"{file} is a git-lfs pointer, not the file: run `git lfs pull`")


def check_encoding(encoding: str) -> None:
    """Raise UserError unless `encoding` names a text encoding."""
    try:
        codecs.getincrementaldecoder(encoding)
        b"a".decode(encoding, "ignore")
    except (LookupError, ValueError):
        known = "utf-8, utf-16, gb18030 or latin-1"
        raise UserError(
            f"data.encoding must be the name of a text encoding, such as {known}, not {encoding!r}"
        ) from None


def open_text(file: Path, encoding: str = "utf-8", settable: bool = False) -> BinaryIO:
    """Open a text file as a stream of UTF-8, without a byte order mark.

    A gzipped file is decompressed, whatever its name; where CR alone ends the first line, all line ends become LF.
    Bytes of a UTF-8 file aren't validated.

    encoding: of the file.
    settable: whether `data.encoding` can set it, so that errors may suggest it.

    Raises UserError for a git-lfs pointer, an archive or another file that isn't text, and text in UTF-16 or UTF-32
    that should be UTF-8; while reading, for damaged gzip data, and bytes that aren't text in `encoding`.
    """
    refuse_lfs_pointer(file)
    stream = file.open("rb")
    with _close_on_error(stream):
        start = stream.read(START_BYTES)
    compressed = start.startswith(GZIP)
    if compressed:
        stream.close()
        stream = cast(io.BufferedReader, gzip.open(file))  # noqa: SIM115 - the caller closes it
    with _close_on_error(stream), _gzip_errors(file):
        if compressed:
            start = stream.read(START_BYTES)
        kind = next((kind for magic, kind in BINARY_SIGNATURES.items() if start.startswith(magic)), None)
        if start[257:262] == b"ustar":
            kind = "a tar archive"
        if kind is not None:
            raise UserError(f"{file} is {kind}, not text. Unpack it, or export it as text")
        utf8 = is_utf8(encoding)
        if utf8 and (wide := _detect_wide_encoding(start)) is not None:
            raise UserError(f"{file}: not valid UTF-8. {_encoding_hint(wide, settable)}")
        stream.seek(len(codecs.BOM_UTF8) if utf8 and start.startswith(codecs.BOM_UTF8) else 0)
        cr_line_ends = _has_cr_line_ends(start.decode(encoding, "ignore"))
    if utf8 and not compressed and not cr_line_ends:
        return stream
    chunks = _chunks(stream, file)
    if not utf8:
        chunks = _recode_to_utf8(chunks, file, encoding, settable, "\r" if cr_line_ends else "\n")
    if cr_line_ends:
        chunks = _normalise_newlines(chunks)
    return ChunkStream.stream(chunks, stream)


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def refuse_undecodable(file: Path, encoding: str = "utf-8", settable: bool = False) -> None:
    """Raise UserError, with line and suggestion, where the file isn't text in its encoding."""
    with open_text(file, encoding, settable) as stream:
        deque(_recode_to_utf8(_chunks(stream, file), file, "utf-8", settable, "\n"), maxlen=0)


class ChunkStream(io.RawIOBase):
    """A stream of the bytes of an iterator; closing it closes `source` too."""

    def __init__(self, chunks: Iterator[bytes], source: BinaryIO) -> None:
        self._chunks, self._source, self._remaining = chunks, source, memoryview(b"")

    @classmethod
    def stream(cls, chunks: Iterator[bytes], source: BinaryIO) -> BinaryIO:
        """Return the stream with the methods of a file that is open for reading."""
        return io.BufferedReader(cls(chunks, source), CHUNK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._remaining:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._remaining = memoryview(chunk)
        size = min(len(buffer), len(self._remaining))
        buffer[:size] = self._remaining[:size]
        self._remaining = self._remaining[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


@contextmanager
def _close_on_error(stream: BinaryIO) -> Iterator[None]:
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


def _chunks(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    while True:
        with _gzip_errors(file):
            chunk = stream.read(CHUNK)
        if not chunk:
            return
        yield chunk


def _recode_to_utf8(chunks: Iterator[bytes], file: Path, encoding: str, settable: bool, end: str) -> Iterator[bytes]:
    """Yield the same text in UTF-8; `end` is its line end, to count the line that an error names."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, first, sample = 1, True, b""
    for chunk in chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].decode(error.encoding, "ignore").count(end)
            name = "UTF-8" if is_utf8(encoding) else encoding
            what = f"{file}:{line}: not valid {name} (byte 0x{error.object[error.start]:02x})"
            likely = _guess_encoding(chunk or sample)
            if codecs.lookup(likely).name != codecs.lookup(encoding).name:
                raise UserError(f"{what}. {_encoding_hint(likely, settable)}") from error
            if chunk:
                raise UserError(f"{what}, unlike the text around it. Correct that line") from error
            raise UserError(f"{what}: the file ends inside a character. Download or copy it again") from error
        except UnicodeError as error:  # UTF-16 and UTF-32 without a byte order mark
            advice = _encoding_hint(_guess_encoding(chunk), settable)
            raise UserError(f"{file}: not text in {encoding} ({error}). {advice}") from error
        sample = chunk
        line += text.count(end)
        text = text.removeprefix("\ufeff") if first else text
        first = first and not text
        if text:
            yield text.encode("utf-8", "replace")


def _encoding_hint(encoding: str, settable: bool) -> str:
    return f"Try data.encoding={encoding}" if settable else f"Convert it to UTF-8 (it may be {encoding})"


def _detect_wide_encoding(start: bytes) -> str | None:
    """Detect UTF-16 or UTF-32 at the start of a file, else return None.

    They are recognised by the byte order mark, or by every other byte being mostly zero while the rest isn't, as in
    text that is mostly ASCII.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    even, odd = start[::2].count(0), start[1::2].count(0)
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if 4 * zeros > len(start) and 50 * others <= len(start):
            return encoding
    return None


def _guess_encoding(sample: bytes) -> str:
    """Guess the encoding of text that failed to decode; utf-8 where most of it is valid UTF-8.

    Chinese characters are pairs of bytes above 0x7f, and so come in runs; accented letters come alone.
    """
    if wide := _detect_wide_encoding(sample):
        return wide
    text = sample.decode(errors="replace")
    broken = text.count("\ufffd")
    runs = re.findall(rb"[\x80-\xff]+", sample)
    size = sum(map(len, runs))
    if not broken or size > 5 * broken:  # in other encodings, most of these bytes are invalid UTF-8
        return "utf-8"
    in_pairs = sum(len(run) for run in runs if len(run) > 1)
    odd = sample.decode("gb18030", "replace").count("\ufffd")
    if in_pairs > size / 2 and odd <= 1 + size / 20:  # tolerates a truncated end and a damaged character
        return "gb18030"
    # Windows has letters and quotation marks where Latin-1 has control characters.
    return "cp1252" if re.search(rb"[\x80-\x9f]", sample) else "latin-1"


def _has_cr_line_ends(text: str) -> bool:
    """Whether CR alone ends the first line."""
    end = re.search("\r\n?|\n", text)
    return end is not None and end[0] == "\r" and end.end() < START_BYTES


def _normalise_newlines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Replace each CR LF, and each CR alone, by LF."""
    rest = b""
    for chunk in chunks:
        text = rest + chunk
        rest = b"\r" if text.endswith(b"\r") else b""
        yield text[: len(text) - len(rest)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    yield b"\n" if rest else b""
