"""Where the ranks of a run meet: a port that another program has doesn't stop a single process."""

import socket

import pytest

from tests.helpers.runs import command

JOIN = """
from mlens.engine.ranks import join_ranks
from mlens.errors import exit_on_user_error
with exit_on_user_error():
    print(join_ranks().world)
"""


@pytest.fixture
def taken():
    with socket.socket() as listening:
        listening.bind(("", 0))
        listening.listen()
        yield str(listening.getsockname()[1])


@pytest.mark.slow
def test_a_single_process_takes_a_free_port(taken):
    assert command("-c", JOIN, MASTER_PORT=taken).stdout == "1\n"


@pytest.mark.slow
def test_ranks_that_can_not_meet_are_told_the_port(taken):
    first = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": taken}
    ended = command("-c", JOIN, **first)
    assert ended.returncode == 2 and ended.stderr.count("error: ") == 1
    assert f"MASTER_PORT={taken} is in use by another program" in ended.stderr
