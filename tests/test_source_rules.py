"""What the source never does, because it would run what a file says."""

import ast
import re
import tomllib

from scaffolding.config import PROJECT_ROOT

FILES = [path for folder in ("src", "scripts") for path in sorted((PROJECT_ROOT / folder).rglob("*.py"))]
PICKLES = ("pickle", "dill", "joblib", "pandas", "pd", "shelve")
YAML = ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all")
SAFE = re.compile(r"Safe|\bBaseLoader")  # of these the second reads texts only
FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
UNPICKLING = ("load", "loads", "Unpickler", "read_pickle")
UNPACKING = ("extract", "extractall", "extract_archive", "unpack_archive", "download_and_extract_archive")
CHECKED = "cifar10.py"  # compares the sum of an archive first; the one place where one is unpacked


def offences(source: str, file: str = "file.py") -> list[str]:
    """Lines with a call that could run, or unpack anywhere, what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, arguments = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        module, _, last = name.rpartition(".")
        values = [ast.unparse(value) for value in node.args]
        wrong = (
            name in FORBIDDEN
            or (module.rpartition(".")[2] in PICKLES and last in UNPICKLING)
            or (name.endswith("torch.load") and arguments.get("weights_only") != "True")
            or arguments.get("weights_only") == "False"
            or arguments.get("allow_pickle") == "True"
            or arguments.get("shell", "False") != "False"
            or (module == "yaml" and last in YAML and not SAFE.search(str(values[1:] + [*arguments.values()])))
            or (last in UNPACKING and module != "re" and file != CHECKED)
            or arguments.get("trust_remote_code") == "True"
        )  # fmt: skip
        if wrong:
            found.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_nothing_runs_what_a_file_says() -> None:
    assert [found for path in FILES for found in offences(path.read_text(), path.name)] == []


def test_offences_are_found() -> None:
    wrong = [
        "torch.load(p)", "torch.load(p, weights_only=False)", "pickle.load(f)", "pickle.Unpickler(f)", "eval(x)",
        "yaml.load(f)", "yaml.load(f, yaml.Loader)", "yaml.unsafe_load(f)", "os.system(x)", "exec(x)",
        "subprocess.run(x, shell=True)", "subprocess.run(x, shell=flag)", "tar.extractall(p)", "extract_archive(a, b)",
        "np.load(p, allow_pickle=True)", "load(p, weights_only=False)", "import x; x.y.pickle.loads(b)",
        "load_dataset(x, trust_remote_code=True)",
    ]  # fmt: skip
    right = [
        "torch.load(p, weights_only=True)", "yaml.safe_load(f)", "yaml.load(f, yaml.CSafeLoader)", "model.eval()",
        "yaml.load(f, yaml.BaseLoader)",
        "json.load(f)", "checkpoint.load(p)", "np.load(p)", "subprocess.run(x)", "re.compile(x)",
    ]  # fmt: skip
    assert [line for line in wrong + right if offences(line)] == wrong


def test_versions_without_known_holes() -> None:
    """torch 2.10: loading with weights_only; hydra-core 1.3.8: instantiate refuses the worst."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    for name, least in (("torch", (2, 10)), ("hydra-core", (1, 3, 8))):
        (found,) = [line for line in project["dependencies"] if line.partition(">=")[0] == name]
        assert tuple(map(int, found.partition(">=")[2].split("."))) >= least
