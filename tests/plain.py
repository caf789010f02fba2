"""The config folder that the tests compose from: the project's own, but for what its owner pinned in base.yaml.

Numbers of `run` and `loader` are those of plain.yaml, which the tests count on. Keys that plain.yaml does not know, the
choices of data and model, and `paths` are the owner's.
"""

import atexit
import json
import os
import re
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHOICES = {"optimizer": "adamw", "scheduler": "none", "tracker": "none", "plots": "standard", "mode": "dev"}
FOLDER = "PYTEST_PLAIN_CONFIGS"  # an environment variable: where it is, for the processes that tests start


def plain(text: str, configs: Path) -> str:
    """The text of base.yaml with nothing pinned; comments stay, as --help shows them."""
    header, _, rest = text.partition("\n\n")
    for group, option in CHOICES.items():
        if (configs / group / f"{option}.yaml").exists():
            header = re.sub(rf"(?m)^(  - {group}: )\S+", rf"\g<1>{option}", header)
    header = re.sub(r"(?m)^(  - experiment: )\S+", r"\g<1>null", header)
    values = yaml.safe_load((HERE / "plain.yaml").read_text())
    lines, part = [], ""
    for line in rest.splitlines():
        if line[:1].isalpha():
            part = line.partition(":")[0]
        key = re.match(r"  (\w+):[^#]*", line)
        if key and key[1] in values.get(part, ()) and yaml.safe_load(line)[key[1]] != values[part][key[1]]:
            line = f"  {key[1]}: {json.dumps(values[part][key[1]])} {line[key.end() :]}".rstrip()
        if part in (*values, "paths", "imports"):
            lines.append(line)
    return "\n".join([header, "", *lines, ""])


def use(project: Any) -> None:
    """Let a project compose from the plain folder; it is made by the first process, and ends with it."""
    configs = project.configs
    if FOLDER not in os.environ:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="configs_")
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
        copy = Path(os.environ[FOLDER])
        shutil.copytree(configs, copy, dirs_exist_ok=True)
        (copy / "base.yaml").write_text(plain((configs / "base.yaml").read_text(), configs))
        if (configs / "local.yaml").exists():  # where this machine has its data
            local = yaml.safe_load((configs / "local.yaml").read_text()) or {}
            data = {name: path for name, path in local.get("paths", {}).items() if name == "data"}
            (copy / "local.yaml").write_text(yaml.safe_dump({"paths": data}))
    object.__setattr__(project, "configs", Path(os.environ[FOLDER]))


if __name__ == "__main__":  # python plain.py FILE WORDS: `python FILE WORDS`, as a test wants it
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    use(runpy.run_path(sys.argv[0], run_name="imported")["PROJECT"])
    runpy.run_path(sys.argv[0], run_name="__main__")
