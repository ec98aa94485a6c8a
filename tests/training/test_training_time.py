"""A run with a time limit: its last step, and its learning rate."""

import pytest

from mlens.errors import UserError
from tests.helpers.runs import checked, records_of, run_here, summary_of, train

MINUTES = ("trainer.max_minutes=0.02", "trainer.max_steps=null", "trainer.validate_every_steps=null")


def test_it_ends_with_the_step_that_reaches_the_limit_and_the_rate_has_fallen(tmp_path):
    summary = run_here(tmp_path / "run", "debug=fast", *MINUTES, "comparison.equal=time")
    steps = records_of(tmp_path / "run")
    spent = sum(step["seconds"] for step in steps)
    assert spent >= 1.2 > spent - steps[-1]["seconds"]
    assert summary["training"]["seconds"] == pytest.approx(spent) and summary["training"]["step"] == len(steps) > 4
    rates = [step["learning_rate"] for step in steps]
    assert max(rates) == pytest.approx(0.02, rel=0.05) and rates[-1] < 0.3 * max(rates)


@pytest.mark.slow
def test_all_ranks_end_at_the_same_step(tmp_path):
    result = train("debug=fast", *MINUTES, f"output_dir={tmp_path}/run", ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert summary_of(tmp_path / "run")["counts"]["ranks"] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        ("comparison.equal=time",),
        ("comparison.equal=time", "trainer.max_minutes=1", "trainer.max_steps=3"),
        ("comparison.equal=steps",),
        ("trainer.max_minutes=0",),
        ("trainer.max_minutes=.inf",),
    ],
)
def test_a_wrong_time_limit_is_refused(wrong):
    with pytest.raises(UserError, match=r"comparison\.equal|trainer\.max_minutes"):
        checked("trainer.max_steps=null", *wrong)
