"""The faults that scripts/template/planted.py plants fit the sources; it runs the tests on each, for an hour."""

import subprocess
import sys

from scaffolding.config import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "scripts" / "template"


def test_every_planted_fault_stands_where_it_says() -> None:
    """Fails where a text that a fault replaces was changed: change it in scripts/template/faults.py, too."""
    words = [sys.executable, "-c", "import planted; print(*planted.misfits(), sep='\\n')"]
    done = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr
