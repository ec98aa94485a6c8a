"""Where a source's files come from: a folder, a zip that is unpacked into the cache, or the official download."""

from __future__ import annotations

import errno
import lzma
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch
import requests

from mlens.data.cache import cached_folder, content_key
from mlens.data.text_files import refuse_lfs_pointer
from mlens.errors import UserError

ADDRESS = "https://files.grouplens.org/datasets/movielens"
# As GroupLens publishes them beside the archives; ml-latest-small's is the one that TensorFlow Datasets pins.
# ml-latest has none: its content changes from time to time under the same name.
CHECKSUMS = {
    "ml-100k": "md5:0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "md5:c4d9eecfca2ab87c1945afe126590906",
    "ml-10m": "md5:ce571fd55effeba0271552578f2648bd",
    "ml-25m": "md5:6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": "md5:d472be332d4daa821edc399621853b57",
    "ml-latest-small": "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
}
# Seconds to connect and between two pieces: whoever is offline hears of it at once.
TIMEOUT = (5, 10)
# Far above any release (ml-32m is 1 GB, and its text shrinks to a quarter), far below a decompression bomb.
MAX_UNPACKED_BYTES = 8 * 2**30
MAX_RATIO = 100
# Names of files that an error lists.
MOST_NAMED = 10


@dataclass(frozen=True)
class Layout:
    """The names of the files that a reader needs, and of those that it uses where they are there."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


def source_files(path: str | None, release: str, layouts: Sequence[Layout]) -> dict[str, Path]:
    """The files of the first of `layouts` that is there, by name.

    `path` is a folder, or a zip (a wheel is one) that is unpacked into the cache, or None: the official archive of
    `release` is downloaded. Raises UserError where there is no such file, a file is missing, or an archive is broken,
    unsafe, or can't be had.
    """
    place = downloaded(release) if path is None else Path(path).expanduser()
    if place.is_dir():
        names = _complete((file.name for file in place.iterdir() if file.is_file()), layouts)
        if names is None:
            found = [f"{file.name}/" if file.is_dir() else file.name for file in place.iterdir()]
            raise UserError(f"data.path={place}: {_missing(found, layouts)}")
        return {name: place / name for name in names}
    if not place.exists():
        raise UserError(f"data.path={place}: no such file or folder")
    # A pipe would be waited for; a name in place of the open file would hide why it can't be opened.
    if place.is_file():
        refuse_lfs_pointer(place)
    if not place.is_file() or not _is_zip(place):
        if any(place.name in layout.required for layout in layouts):
            raise UserError(f"data.path={place}: one of several files. Give their folder")
        hint = ", or a damaged one. Download it again" if place.suffix.lower() == ".zip" else ""
        raise UserError(f"data.path={place}: neither a folder nor a zip archive{hint}")
    return unpacked(place, layouts)


def _is_zip(place: Path) -> bool:
    with place.open("rb") as stream:
        return zipfile.is_zipfile(stream)


def downloaded(release: str) -> Path:
    """The official archive of `release`, in the cache. Raises UserError where it has no checksum or can't be had."""
    url = f"{ADDRESS}/{release}.zip"
    by_hand = f"download it by hand and give data.path=FOLDER/{release}.zip (or the folder that it unpacks to)"
    if release not in CHECKSUMS:
        raise UserError(f"{url} changes over time and so has no pinned checksum: {by_hand}")

    def write(folder: Path) -> None:
        downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
        try:
            pooch.retrieve(url, CHECKSUMS[release], fname=f"{release}.zip", path=folder, downloader=downloader)
        except requests.exceptions.RequestException as error:
            raise UserError(f"could not download {url} ({type(error).__name__}): {by_hand}") from error
        except ValueError as error:  # pooch's word for another checksum
            raise UserError(f"{url} is not the file with checksum {CHECKSUMS[release]}: {by_hand}") from error

    key = content_key(url, CHECKSUMS[release])
    return cached_folder("downloads", key, write) / f"{release}.zip"


def unpacked(archive: Path, layouts: Sequence[Layout]) -> dict[str, Path]:
    """The files of the first complete layout in one folder of the zip `archive`, unpacked into the cache, by name."""
    with _broken(archive), zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
    _refuse_unsafe(archive, members)
    wanted = _wanted(archive, members, layouts)
    _refuse_bomb(archive, wanted.values())

    def write(folder: Path) -> None:
        with _broken(archive), zipfile.ZipFile(archive) as zipped:
            for name, member in wanted.items():
                # zipfile hands out no more than the declared size, which was checked.
                with zipped.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)

    folder = cached_folder("archives", content_key(sorted(wanted), files=[archive]), write)
    return {name: folder / name for name in wanted}


@contextmanager
def _broken(archive: Path) -> Iterator[None]:
    """What zipfile raises for an archive that makes no sense, in one line."""
    try:
        yield
    # An encrypted member is a RuntimeError, one that is packed in an unknown way a NotImplementedError; a ValueError or
    # struct.error is of offsets and fields that can't be.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise UserError(f"{archive}: a broken zip archive ({error})") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # bz2's own word, and a place before the file's beginning
            raise
        raise UserError(f"{archive}: a broken zip archive ({error.strerror or error})") from error


def _wanted(archive: Path, members: list[zipfile.ZipInfo], layouts: Sequence[Layout]) -> dict[str, zipfile.ZipInfo]:
    folders: dict[PurePosixPath, dict[str, zipfile.ZipInfo]] = {}
    for member in members:
        if not member.is_dir():
            inside = PurePosixPath(member.filename)
            folder = folders.setdefault(inside.parent, {})
            if inside.name in folder:
                raise UserError(f"{archive}: refused, since {member.filename!r} is in it twice")
            folder[inside.name] = member
    found = [(files, names) for files in folders.values() if (names := _complete(files, layouts)) is not None]
    if not found:
        raise UserError(f"{archive}: {_missing([member.filename for member in members], layouts)}")
    if len(found) > 1:
        raise UserError(f"{archive}: more than one folder in it holds {found[0][1][0]}; unpack the one that you mean")
    files, names = found[0]
    return {name: files[name] for name in names}


def _complete(present: Iterable[str], layouts: Sequence[Layout]) -> list[str] | None:
    """The names of the first layout that `present` is enough for; None where there is none."""
    there = set(present)
    for layout in layouts:
        if there.issuperset(layout.required):
            return [*layout.required, *(name for name in layout.optional if name in there)]
    return None


def _missing(found: list[str], layouts: Sequence[Layout]) -> str:
    needs = f"needs {' (or '.join(', '.join(layout.required) for layout in layouts)}" + ")" * (len(layouts) - 1)
    named = ", ".join(sorted(found)[:MOST_NAMED]) + (", …" if len(found) > MOST_NAMED else "")
    return f"{needs}, and has {named or 'no files'}"


def _refuse_unsafe(archive: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    for member in members:
        name = member.filename
        if name.startswith("/") or "\\" in name or ":" in name.partition("/")[0] or ".." in PurePosixPath(name).parts:
            raise UserError(f"{archive}: refused, since {name!r} in it would be written outside its folder")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind == stat.S_IFLNK:
            raise UserError(f"{archive}: refused, since {name!r} in it is a link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive}: refused, since {name!r} in it is no ordinary file")


def _refuse_bomb(archive: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    size = 0
    for member in members:
        size += member.file_size
        if size > MAX_UNPACKED_BYTES or member.file_size > MAX_RATIO * max(member.compress_size, 1):
            raise UserError(
                f"{archive}: refused, since {member.filename!r} in it unpacks to {member.file_size:,} bytes "
                f"from {member.compress_size:,}"
            )
