"""Disks that are full, and disks that can't be written to."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    """A file system in memory, mounted at `path`."""

    path: Path

    def resize(self, kilobytes: int) -> None:
        mount("-o", f"remount,size={kilobytes}k", str(self.path))

    def read_only(self, value: bool = True) -> None:
        mount("-o", f"remount,{'ro' if value else 'rw'}", str(self.path))

    def fill(self, leaving: int) -> Path:
        """Fill the disk up to about so many bytes; returns the file that takes the room."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as stream:
            try:
                while stream.write(bytes(4096)):
                    pass
            except OSError:
                size = stream.seek(0, 2)
            stream.truncate(max(0, size - leaving))
        return filler


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path_factory):
    """A disk of 1 MiB."""
    path = tmp_path_factory.mktemp("disk")
    try:
        mount("-t", "tmpfs", "-o", "size=1m", "mlens-test", str(path))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small disk can't be mounted here: {getattr(error, 'stderr', '') or error}")
    yield Disk(path)
    subprocess.run(["umount", "--lazy", str(path)], check=True)
