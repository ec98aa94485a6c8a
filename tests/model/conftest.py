import pytest

from tests.helpers.other_models import save_model
from tests.helpers.steps import parts


@pytest.fixture(scope="module")
def made():
    """The inputs of a run, with which models are saved and loaded."""
    return parts()


@pytest.fixture(scope="module")
def folder_of(made, tmp_path_factory):
    """folder_of(name): the folder of a model of `other_models.MODELS`, saved once."""
    folders = {}

    def folder_of(name):
        if name not in folders:
            folders[name] = save_model(name, made, tmp_path_factory.mktemp("model"))
        return folders[name]

    return folder_of
