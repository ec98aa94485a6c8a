"""What mlens takes from Hydra without a promise: it is there in the version that is installed."""

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException

from mlens.compose import register_resolvers
from mlens.hydra_private import SOURCE_FLAGS, missing_option, unknown_key
from tests.helpers.runs import CONF

TESTED = "1.3."


def test_the_version_of_hydra_is_of_a_series_that_was_tested():
    assert hydra.__version__.startswith(TESTED), (
        f"Hydra {hydra.__version__} is newer than what mlens was tested with ({TESTED}*). Read mlens/hydra_private.py, "
        "see that the other tests of this file, tests/test_overrides.py, tests/test_launch.py and tests/launcher/ pass "
        "with it (also the slow ones: make test-slow), then change TESTED here and the range in pyproject.toml"
    )


def refused(*overrides: str) -> Exception:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(ConfigCompositionException) as caught:
        compose("config", list(overrides), return_hydra_config=True)
    return caught.value


@pytest.mark.parametrize(
    "override", ["trainer.lr=1", "lr=3", "hydra.launcher.nproc=2", "trainer.early_stopping.pat=1", "data.path=x"]
)
def test_the_cause_of_a_refusal_names_the_key(override):
    error = refused(override)
    assert unknown_key(error) == override.partition("=")[0] and missing_option(error) is None


def test_a_missing_option_is_named_with_those_that_exist():
    place, options = missing_option(refused("history=randm"))
    assert place == "history/randm" and {"none", "random"} <= {*options}
    for override in ("hydra/sweeper=none", "hydra/launcher=none"):
        assert missing_option(refused(override))[0] == override.replace("=", "/")


def test_other_refusals_have_neither():
    error = refused("experiment=five_way")
    assert unknown_key(error) is None and missing_option(error) is None


def test_hydra_names_the_sources_of_configs_so(tmp_path, monkeypatch):
    """By which a sweep passes the folders on to its jobs."""
    found = []

    @hydra.main(version_base="1.3", config_path="conf", config_name="one")
    def main(config):
        sources = hydra.core.hydra_config.HydraConfig.get().runtime.config_sources
        found.extend((source.provider, source.path) for source in sources)

    for name in ("conf", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "conf" / "one.yaml").write_text(
        "defaults: [override hydra/job_logging: none, override hydra/hydra_logging: none]\n"
        "hydra: {output_subdir: null, run: {dir: .}}\n"
    )
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    monkeypatch.setattr("sys.argv", ["one.py", f"--config-path={tmp_path}/conf", "--config-dir=more"])
    main()
    assert {source: path for source, path in found if source in SOURCE_FLAGS} == {
        "main": f"{tmp_path}/conf",
        "command-line": f"{tmp_path}/more",
    }
