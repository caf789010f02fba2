"""The promises of scripts/template/torture.py, in small numbers, through the real program."""

import re
import subprocess
import sys

import pytest

from scaffolding.config import PROJECT_ROOT

PROGRAM = PROJECT_ROOT / "scripts" / "template" / "torture.py"


@pytest.mark.full
def test_every_figure_is_reached() -> None:
    done = subprocess.run([sys.executable, PROGRAM, "--quick"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    verdicts = re.findall(r"^\| .* \| (\S+) \|$", done.stdout, re.MULTILINE)
    assert len(verdicts) > 15 and set(verdicts) == {"---", "ok"}
