import pytest

from tests.helpers.asked_runs import asked


@pytest.fixture(scope="package")
def all_previous(tmp_path_factory):
    """A run whose histories are cut."""
    return asked(tmp_path_factory.mktemp("runs") / "all", "history=all_previous")
