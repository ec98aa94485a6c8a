"""docs/look_inside.ipynb: its cells run, and print the stored outputs."""

import io
import json
from contextlib import redirect_stdout

from tests.helpers.runs import ROOT


def test_the_notebooks_cells_print_the_stored_outputs():
    notebook = json.loads((ROOT / "docs" / "look_inside.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for cell in code:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec("".join(cell["source"]), names)
        stored = "".join(line for output in cell["outputs"] for line in output["text"])
        assert printed.getvalue() == stored, "".join(cell["source"])
    assert len(code) > 5
