"""Prints the lowest versions that pyproject.toml allows as pip's constraints: `torch>=2.6,<2.14` as `torch==2.6`.

python .ci/lowest_versions.py EXTRA,EXTRA,...
"""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
requirements = project["dependencies"]
for extra in sys.argv[1].split(","):
    requirements += project["optional-dependencies"][extra]
for requirement in requirements:
    name, version = re.match(r"([\w-]+)>=([\w.]+)", requirement).groups()
    print(f"{name}=={version}")
