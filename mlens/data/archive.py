"""Locates a source's files: in a folder, in a zip archive (unpacked into the cache), or in the official download."""

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
# As GroupLens publishes them with the archives; ml-latest-small's is the one that TensorFlow Datasets pins.
# ml-latest has none: its content changes from time to time under the same name.
CHECKSUMS = {
    "ml-100k": "md5:0e33842e24a9c977be4e0107933c0723",
    "ml-1m": "md5:c4d9eecfca2ab87c1945afe126590906",
    "ml-10m": "md5:ce571fd55effeba0271552578f2648bd",
    "ml-25m": "md5:6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": "md5:d472be332d4daa821edc399621853b57",
    "ml-latest-small": "sha256:696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
}
# Seconds to connect, and between two chunks: offline users get an error within seconds.
TIMEOUT = (5, 10)
# Far above any release (ml-32m is 1 GB, and its text compresses to a quarter), far below a decompression bomb.
MAX_UNPACKED_BYTES = 8 * 2**30
MAX_RATIO = 100
# The most file names that an error lists.
MAX_LISTED = 10


@dataclass(frozen=True)
class FileSet:
    """The names of the files that a reader takes.

    required: all of them must be present.
    optional: read where they are present.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


def source_files(path: str | None, release: str, file_sets: Sequence[FileSet]) -> dict[str, Path]:
    """Return the files of the first complete file set, by name.

    path: a folder, or a zip (a wheel is one) that is unpacked into the cache; None downloads the official archive.
    release: the name of the official archive.
    file_sets: in order of preference.

    Raises UserError where `path` doesn't exist, a file is missing, or an archive is broken, unsafe or can't be
    downloaded.
    """
    place = downloaded(release) if path is None else Path(path).expanduser()
    if place.is_dir():
        names = _first_complete((file.name for file in place.iterdir() if file.is_file()), file_sets)
        if names is None:
            found = [f"{file.name}/" if file.is_dir() else file.name for file in place.iterdir()]
            raise UserError(f"data.path={place}: {_missing_files(found, file_sets)}")
        return {name: place / name for name in names}
    if not place.exists():
        raise UserError(f"data.path={place}: no such file or folder")
    # Reading a pipe would block; `_is_zip` opens the file itself, so that the reason why it can't be opened isn't lost.
    if place.is_file():
        refuse_lfs_pointer(place)
    if not place.is_file() or not _is_zip(place):
        if any(place.name in file_set.required for file_set in file_sets):
            raise UserError(f"data.path={place}: is one of several files. Give their folder")
        hint = ", or a damaged one. Download it again" if place.suffix.lower() == ".zip" else ""
        raise UserError(f"data.path={place}: is neither a folder nor a zip archive{hint}")
    return unpacked(place, file_sets)


def _is_zip(place: Path) -> bool:
    with place.open("rb") as stream:
        return zipfile.is_zipfile(stream)


def downloaded(release: str) -> Path:
    """Download the official archive of `release` into the cache, and return its path.

    Raises UserError where it has no checksum or can't be downloaded.
    """
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
        except ValueError as error:  # pooch raises it for a checksum that differs
            raise UserError(f"{url} is not the file with checksum {CHECKSUMS[release]}: {by_hand}") from error

    key = content_key(url, CHECKSUMS[release])
    return cached_folder("downloads", key, write) / f"{release}.zip"


def unpacked(archive: Path, file_sets: Sequence[FileSet]) -> dict[str, Path]:
    """Unpack the first complete file set in a folder of the zip `archive` into the cache; return its files by name."""
    with _broken_zip_errors(archive), zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
    _refuse_unsafe(archive, members)
    wanted = _wanted_members(archive, members, file_sets)
    _refuse_zip_bomb(archive, wanted.values())

    def write(folder: Path) -> None:
        with _broken_zip_errors(archive), zipfile.ZipFile(archive) as zipped:
            for name, member in wanted.items():
                # zipfile reads no more than the declared size, which was checked.
                with zipped.open(member) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)

    folder = cached_folder("archives", content_key(sorted(wanted), files=[archive]), write)
    return {name: folder / name for name in wanted}


@contextmanager
def _broken_zip_errors(archive: Path) -> Iterator[None]:
    """Turn what zipfile raises for a malformed archive into a UserError."""
    try:
        yield
    # RuntimeError: an encrypted member; NotImplementedError (one of its subclasses): an unknown compression method;
    # ValueError and struct.error: impossible offsets and fields.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise UserError(f"{archive}: a broken zip archive ({error})") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # raised by bz2, and for an offset before the file's beginning
            raise
        raise UserError(f"{archive}: a broken zip archive ({error.strerror or error})") from error


def _wanted_members(
    archive: Path, members: list[zipfile.ZipInfo], file_sets: Sequence[FileSet]
) -> dict[str, zipfile.ZipInfo]:
    folders: dict[PurePosixPath, dict[str, zipfile.ZipInfo]] = {}
    for member in members:
        if not member.is_dir():
            path_in_zip = PurePosixPath(member.filename)
            folder = folders.setdefault(path_in_zip.parent, {})
            if path_in_zip.name in folder:
                raise UserError(f"{archive}: refused, since it contains {member.filename!r} twice")
            folder[path_in_zip.name] = member
    found = [(files, names) for files in folders.values() if (names := _first_complete(files, file_sets)) is not None]
    if not found:
        raise UserError(f"{archive}: {_missing_files([member.filename for member in members], file_sets)}")
    if len(found) > 1:
        raise UserError(f"{archive}: more than one folder in it contains {found[0][1][0]}. Unpack the right one")
    files, names = found[0]
    return {name: files[name] for name in names}


def _first_complete(present: Iterable[str], file_sets: Sequence[FileSet]) -> list[str] | None:
    """Return the names of the first file set whose required files are all in `present`, or None."""
    available = set(present)
    for file_set in file_sets:
        if available.issuperset(file_set.required):
            return [*file_set.required, *(name for name in file_set.optional if name in available)]
    return None


def _missing_files(found: list[str], file_sets: Sequence[FileSet]) -> str:
    needs = f"needs {' (or '.join(', '.join(file_set.required) for file_set in file_sets)}" + ")" * (len(file_sets) - 1)
    named = ", ".join(sorted(found)[:MAX_LISTED]) + (", …" if len(found) > MAX_LISTED else "")
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


def _refuse_zip_bomb(archive: Path, members: Iterable[zipfile.ZipInfo]) -> None:
    size = 0
    for member in members:
        size += member.file_size
        if size > MAX_UNPACKED_BYTES or member.file_size > MAX_RATIO * max(member.compress_size, 1):
            raise UserError(
                f"{archive}: refused, since {member.filename!r} in it unpacks to {member.file_size:,} bytes "
                f"from {member.compress_size:,}"
            )
