"""Files that are whole or not there, and hold valid JSON."""

import json
import math

import numpy as np

from mlens.files import write_json


def test_numbers_that_are_none_become_null(tmp_path):
    file = tmp_path / "summary.json"
    write_json(
        file, {"auc": math.nan, "of": [{"rmse": math.inf}, -math.inf, np.float64("nan")], "mae": 0.5, "n": (1, 2)}
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content == {"auc": None, "of": [{"rmse": None}, None, None], "mae": 0.5, "n": [1, 2]}
