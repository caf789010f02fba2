"""The ways to install: pyproject.toml, pdm.lock, and what pdm makes of them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from test_rename import ROOT, copy_repository

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "pdm.lock").read_text())
OPTIONAL = PROJECT["project"]["optional-dependencies"]
VERSIONS = {package["name"]: package["version"] for package in LOCK["package"]}
FROM_INDEX = "--torch-backend=cpu"
CUDA = ("cuda-", "nvidia-", "triton")  # names of what only a GPU needs begin like this
one_worker = pytest.mark.xdist_group("install")


def run(clone: Path, command: str) -> tuple[bool, str]:
    """Whether a command succeeds in a shell that has pdm and uv, and nothing of this test's environment; its output."""
    dropped = ("PYTEST_", "PYTHON", "VIRTUAL_ENV", "PDM_", "UV_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {"PDM_NO_CACHE": "1", "UV_NO_CACHE": "1", "NO_COLOR": "1"}
    environment["PATH"] = f"{clone.parent / 'python/bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(["bash", "-c", command], cwd=clone, env=environment, capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone next to an environment that has pdm and uv."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs a git checkout")
    clone = copy_repository(tmp_path_factory.mktemp("install") / "clone")
    subprocess.run([sys.executable, "-m", "venv", str(clone.parent / "python")], check=True)
    worked, output = run(clone, "python -m pip install 'pdm[locked]' uv")
    if not worked:
        pytest.skip(f"needs pdm and uv, which pip cannot install here: {output.splitlines()[-1]}")
    return clone


def planned(clone: Path, command: str) -> dict[str, str]:
    """Names and versions that a command would install."""
    worked, output = run(clone, command)
    if FROM_INDEX in (clone / "pyproject.toml").read_text() and "Failed to fetch" in output and "/whl/cpu/" in output:
        pytest.skip("the index of torch's CPU builds cannot be reached from here")
    assert worked, output
    return dict(re.findall(r"^ +[-+] ([\w.-]+)(?:==| )(\d\S*)$", output, re.MULTILINE))


def assert_locked_without_cuda(packages: dict[str, str]) -> None:
    assert len(packages) > 100 and not [name for name in packages if name.startswith(CUDA)]
    assert {name: version.partition("+")[0] for name, version in packages.items()}.items() <= VERSIONS.items()


def test_every_group_is_locked() -> None:
    """A lock made without a group refuses `pdm install -G NAME`: in a lock that exists, pdm adds none by itself."""
    assert set(LOCK["metadata"]["groups"]) == {"default", *OPTIONAL, *PROJECT["dependency-groups"]}
    for group, requirements in OPTIONAL.items():
        held = {package["name"] for package in LOCK["package"] if group in package["groups"]}
        assert {re.split(r"\W*[=<>\[]", requirement)[0] for requirement in requirements} <= held


@one_worker
@pytest.mark.full
def test_an_optional_group_is_installed_by_its_name_only(clone: Path) -> None:
    worked, output = run(clone, "pdm lock --check")
    assert worked, output
    plain = planned(clone, "pdm install --dry-run")
    needed = {package["name"] for package in LOCK["package"] if {"default", "dev"} & set(package["groups"])}
    assert {"torch", "pytest"} <= set(plain) <= needed
    assert "pytest" not in planned(clone, "pdm install --prod --dry-run")
    for group, requirements in OPTIONAL.items():
        names = {re.split(r"\W*[=<>\[]", requirement)[0] for requirement in requirements}
        packages = planned(clone, f"pdm install -G {group} --dry-run")
        assert set(plain) | names <= set(packages)
        assert set(packages) - set(plain) <= {p["name"] for p in LOCK["package"] if group in p["groups"]}


@one_worker
@pytest.mark.full
def test_torch_for_the_cpu(clone: Path) -> None:
    assert_locked_without_cuda(planned(clone, "pdm run install-cpu --dry-run"))


@one_worker
@pytest.mark.full
def test_torch_for_the_cpu_from_a_folder_in_place_of_the_index(clone: Path) -> None:
    """All but the index: the export of the lock, what uv makes of it, that a CPU build drops CUDA."""
    needed = {"torch": ["filelock", "jinja2", "networkx", "sympy"], "torchvision": ["numpy", "pillow", "torch"]}
    for name, requirements in needed.items():
        version = f"{VERSIONS[name]}+cpu"
        about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        with zipfile.ZipFile(clone.parent / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            info = f"{name}-{version}.dist-info"
            wheel.writestr(f"{info}/METADATA", about + "".join(f"Requires-Dist: {other}\n" for other in requirements))
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    file = clone / "pyproject.toml"
    text = file.read_text()
    file.write_text(text.replace(FROM_INDEX, "--find-links .."))
    try:
        packages = planned(clone, "pdm run install-cpu --extra sweep --dry-run")
    finally:
        file.write_text(text)
    assert packages["torch"] == f"{VERSIONS['torch']}+cpu" and "optuna" in packages
    assert_locked_without_cuda(packages)
