"""Files that are whole or not there, and hold valid JSON."""

import errno
import json
import math
import os
import resource

import numpy as np
import pytest

from mlens.files import disk_refusal, in_words, is_lfs_pointer, write_json


def test_numbers_that_are_none_become_null(tmp_path):
    file = tmp_path / "summary.json"
    write_json(
        file, {"auc": math.nan, "of": [{"rmse": math.inf}, -math.inf, np.float64("nan")], "mae": 0.5, "n": (1, 2)}
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content == {"auc": None, "of": [{"rmse": None}, None, None], "mae": 0.5, "n": [1, 2]}


def test_a_git_lfs_pointer_is_recognised(tmp_path):
    pointer, table = tmp_path / "a.csv", tmp_path / "b.csv"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    table.write_text("version,oid\n1,2\n")
    assert is_lfs_pointer(pointer)
    assert not is_lfs_pointer(table)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"),
        RuntimeError("failed to bind, name: EMFILE, message: too many open files"),
    ],
)
def test_too_many_open_files_names_the_limit(error):
    refusal = disk_refusal(error)
    assert refusal is not None
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f"too many open files (this process may open {limit}): raise" in in_words(refusal)
    assert "`ulimit -n 4096`" in in_words(refusal)
