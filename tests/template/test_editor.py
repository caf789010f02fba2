"""What editors and dev containers read: .vscode/ and .devcontainer/."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scaffolding.core.config.explain import groups
from scaffolding.experiment import PROJECT

FILES = ["devcontainer/devcontainer", *(f"vscode/{name}" for name in ("launch", "settings", "extensions", "tasks"))]


def read(name: str) -> Any:
    """The content of a JSON file with comments, which stand at the start of a line or after a value."""
    text = (PROJECT.root / f".{name}.json").read_text()
    return json.loads(re.sub(r"(?m)(^|(?<=[,{\]}]))\s*//.*$", "", text))


@pytest.mark.parametrize("name", FILES)
def test_it_is_json_with_comments(name: str) -> None:
    assert isinstance(read(name), dict)


def test_the_container_is_set_up_as_the_readme_says() -> None:
    container, readme = read("devcontainer/devcontainer"), (PROJECT.root / "README.md").read_text()
    command = container["postCreateCommand"]
    assert re.search(rf"^{re.escape(command)}(\s+#.*)?$", readme, re.MULTILINE)
    assert container["image"].startswith("python:3.11")  # one that the lock file covers
    text = (PROJECT.root / ".devcontainer/devcontainer.json").read_text()
    (other,) = re.findall(r"without a GPU: (.*)", text)
    assert f"\n{other}\n" in readme
    assert container["customizations"]["vscode"]["extensions"] == read("vscode/extensions")["recommendations"]


def test_every_folder_of_configs_has_a_schema() -> None:
    schemas: dict[str, Any] = read("vscode/settings")["yaml.schemas"]
    assert schemas.pop("./.vscode/schemas/base.json") == ["configs/base.yaml", "configs/local.yaml"]
    folders = [*groups(PROJECT.root / "configs"), "_shared"]
    assert schemas == {f"./.vscode/schemas/{name.replace('/', '.')}.json": f"configs/{name}/*.yaml" for name in folders}


def test_what_is_debugged_is_there() -> None:
    programs = [entry.get("program") for entry in read("vscode/launch")["configurations"]]
    for program in filter(None, programs):
        assert Path(program.replace("${workspaceFolder}", str(PROJECT.root))).is_file()
    (task,) = read("vscode/tasks")["tasks"]
    assert (PROJECT.root / task["args"][0]).is_file()
