"""Writing the little files that the readers' tests read, and seeing what became of them."""

import pytest

from mlens.data.sources import load_table
from mlens.errors import UserError


@pytest.fixture
def write(tmp_path):
    """write({name: text or bytes}) -> the folder that now holds them."""

    def write(files):
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


@pytest.fixture
def rows():
    """rows(table) -> (raw user, raw movie, rating, timestamp) of each rating, in the table's order."""

    def rows(table):
        users, movies = table.users["id"].to_list(), table.movies["id"].to_list()
        columns = (table.user, table.movie, table.rating, table.timestamp)
        return [(users[u], movies[m], r, t) for u, m, r, t in zip(*(c.tolist() for c in columns), strict=True)]

    return rows


@pytest.fixture
def refusal():
    """refusal(source) -> the one line that load_table(source) refuses it with."""

    def refusal(source):
        with pytest.raises(UserError) as caught:
            load_table(source)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refusal
