import pytest

from tests.helpers.predicting_runs import predicting_run


@pytest.fixture(scope="package")
def all_previous(tmp_path_factory):
    """A run whose histories are cut."""
    return predicting_run(tmp_path_factory.mktemp("runs") / "all", "history=all_previous")
