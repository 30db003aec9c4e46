"""What `make check` looks for in the docs is found where it is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
from check_installs import OTHER

PACKAGE = "headgate"


@pytest.mark.parametrize(
    "line",
    ["pip install {}", "pip install '{}[postgresql]'", "uv tool install {}", "  - pip install -q {}==0.1", "{}>=0.1",
     '"{}[kubernetes,postgresql]"', "fix='pip install {}'", "{} @ git+https://example.com/x"],
)  # fmt: skip
def test_a_line_that_installs_the_other_package_is_found(line):
    assert OTHER.search(line.format(PACKAGE))


@pytest.mark.parametrize(
    "line",
    [
        "pip install headgate-ml",
        "pip install './headgate_ml-0.1.0-py3-none-any.whl[vertex]'",
        "headgate validate release.yaml",
        "Install Headgate from a wheel",
        "from headgate.cli import cli",
        "helm upgrade --install models ops/helm/headgate",
    ],
)
def test_other_lines_are_left_alone(line):
    assert not OTHER.search(line)
