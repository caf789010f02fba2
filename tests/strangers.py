"""What somebody else's run may hold to do harm: checkpoints, configs, command lines and names, for tests to open.

Every payload, if it ran, would leave a file in a folder that is looked at afterwards; nothing else is touched.
"""

# ruff: noqa: E501, RUF001
import copy
import io
import os
import pickle
import random
import struct
import subprocess
import tarfile
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from scaffolding.core.state.checkpoint import FORMAT
from scaffolding.experiment import PROJECT

PACKAGE = PROJECT.package
Spec = dict[str, Any]


class Call:
    """Pickled, it is a call of `function` with `arguments` on loading."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Colour(Enum):
    RED = 1


@dataclass
class Record:
    step: int = 1


def _archive(data: bytes, records: dict[str, bytes] | None = None, compression: int = 0) -> bytes:
    """A file as torch.save writes it, around a pickle of our own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        files = {"a/data.pkl": data, "a/byteorder": b"little", "a/version": b"3\n"} | (records or {})
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def _saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _storage(count: int) -> bytes:
    """A pickled tensor of `count` bytes, whatever its record holds."""
    number = struct.pack("<q", count)
    return (
        b"\x80\x02}X\x06\x00\x00\x00formatK\x01sX\x05\x00\x00\x00model}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu\x8a\x08"
        + number + b"tQK\x00\x8a\x08" + number + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRss."
    )  # fmt: skip


def checkpoints(good: dict[str, Any], marks: Path) -> Iterator[tuple[str, bytes]]:
    """(what it is, content) of files in the place of a checkpoint; `good` is the content of a whole one."""

    def mark(name: str) -> str:
        return str(marks / name)

    def inside(value: Any, **options: Any) -> bytes:
        return _saved(good | {"extra": value}, **options)

    shell = {name: f"touch {mark(name)}" for name in ("system", "popen", "run", "old", "tar", "four", "one", "env")}
    evil = pickle.dumps(Call(os.system, shell["system"]), 2)
    yield "os.system", inside(Call(os.system, shell["system"]))
    yield "os.system instead of a checkpoint", _archive(evil)
    yield "subprocess.Popen", inside(Call(subprocess.Popen, ["touch", mark("popen")]))
    yield "eval", inside(Call(eval, f"open({mark('eval')!r}, 'w')"))
    chain = b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'%b'\ntR." % shell["run"].encode()
    yield "getattr chain", _archive(chain)
    yield "Path.touch", inside(Call(Path.touch, Path(mark("touch"))))
    yield "map", inside(Call(list, Call(map, os.system, [shell["run"]])))
    yield "a shell of torch", inside(Call(torch.utils.collect_env.run, shell["env"]))  # type: ignore[attr-defined]
    yield (
        "bytes that torch unpickles",
        inside(Call(torch.storage._load_from_bytes, inside(Call(open, mark("bytes"), "w")))),
    )
    yield "torch.load", inside(Call(torch.load, mark("none"), None, None))
    yield "pickle protocol 4", inside(Call(os.system, shell["four"]), pickle_protocol=4)
    yield "opcode INST", _archive(b"(S'" + shell["one"].encode() + b"'\nios\nsystem\n.")
    yield "opcode NEWOBJ", _archive(b"\x80\x02cbuiltins\nobject\n)\x81}X\x01\x00\x00\x00xK\x01sb.")
    yield (
        "storage of another type",
        _archive(b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ."),
    )
    yield "numpy scalar", inside(np.float64(1))
    yield "numpy array", inside(np.zeros(3))
    yield "enum", inside(Colour.RED)
    yield "dataclass", inside(Record())
    yield "defaultdict", inside(defaultdict(int))
    yield "module", inside(nn.Linear(2, 2))
    yield "10 GB declared, 4 bytes there", _archive(_storage(10_000_000_000), {"a/data/0": b"1234"})
    yield "4 KB declared, 4 bytes there", _archive(_storage(4096), {"a/data/0": b"1234"})
    yield "record missing", _archive(_storage(4))
    yield "record packed to a thousandth", _archive(_storage(10**8), {"a/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    yield "tensor of 40 GB", _archive(b"\x80\x02ctorch\nTensor\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.")
    yield "bytearray of 40 GB", _archive(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x09\x85R.")
    yield "string longer than the file", _archive(b"\x80\x02X\xff\xff\xff\x7fabc.")
    outside = dict.fromkeys((f"../../{marks.name}/up", str(marks / "absolute"), "a/../../up", "a\\..\\up"), b"x")
    yield "names that lead out", _archive(pickle.dumps([1], 2), outside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that it is an old format
        script, file = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), io.BytesIO()
        torch.jit.save(script, file)
    yield "TorchScript", file.getvalue()
    yield "old format, os.system", inside(Call(os.system, shell["old"]), _use_new_zipfile_serialization=False)
    yield "old format", _saved(good, _use_new_zipfile_serialization=False)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", f"../{marks.name}/tar"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data := pickle.dumps(Call(os.system, shell["tar"]), 2))
            archive.addfile(entry, io.BytesIO(data))
    yield "oldest format, a tar", file.getvalue()
    yield "pickle alone", evil
    whole = _saved(good)
    yield "empty", b""
    yield "text", b"weights, as discussed\n"
    yield "first half", whole[: len(whole) // 2]
    yield "noise", random.Random(0).randbytes(10_000)
    yield "zip without entries", b"PK\x05\x06" + bytes(18)
    yield "lists in lists", _archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    yield "a list", _saved([1, 2])
    yield "another format", _saved(good | {"format": FORMAT + 1})
    yield "format that is a tensor", _saved(good | {"format": torch.zeros(3)})
    yield "no format", _saved({"model": good["model"]})
    yield "state with a target", _saved(good | {"state": {"_target_": "os.system", "command": shell["one"]}})
    yield "state that is a list", _saved(good | {"state": [1]})
    yield "no weights", _saved({name: part for name, part in good.items() if name not in ("model", "ema")})
    weights = good["model"]
    yield "weights that are a list", _saved(good | {"model": [1, 2], "ema": None})
    yield "targets for weights", _saved(good | {"model": {"_target_": "os.system"}, "ema": None})
    yield "other shapes", _saved(good | {"model": {name: torch.zeros(7, 7, 7) for name in weights}, "ema": None})
    yield (
        "1,000 weights too many",
        _saved(good | {"model": weights | {f"w{i}": torch.zeros(1) for i in range(1000)}, "ema": None}),
    )
    yield (
        "no weight that is known",
        _saved(good | {"model": OrderedDict((f"w{i}", torch.zeros(1)) for i in range(1000)), "ema": None}),
    )


def targets(marks: Path, evil: Path) -> dict[str, Spec]:
    """What to build, by what it is; `evil` is a checkpoint that touches the file "loaded" in `marks` when unpickled."""

    def mark(name: str) -> str:
        return str(marks / name)

    def touch(name: str) -> str:
        return f"touch {mark(name)}"

    def spec(target: Any, *args: Any, **kwargs: Any) -> Spec:
        return {"_target_": target, **({"_args_": list(args)} if args else {}), **kwargs}

    path = spec("pathlib.Path", mark("path"))
    weights = spec("torchvision.models._api.Weights", url=f"file://{evil}", transforms=None, meta={})
    return {
        # what Hydra 1.3.8 runs
        "torch.load": spec("torch.load", f=str(evil), weights_only=False),
        "a shell of torch": spec("torch.utils.collect_env.run", touch("env")),
        "Path.write_text": spec("pathlib.Path.write_text", path, "x"),
        "copyfile": spec("shutil.copyfile", str(evil), mark("copy")),
        "Path.touch": spec("pathlib.Path.touch", path),
        "torch.save": spec("torch.save", 1, mark("saved")),
        "weights of torchvision": spec("torchvision.models._api.WeightsEnum.get_state_dict", weights, str(marks)),
        # through another module's imports
        "os of the tracker": spec(f"{PACKAGE}.tracker.wandb.os.system", touch("tracker")),
        "os of torch.nn": spec("torch.nn.parallel.distributed.os.system", touch("nn")),
        "partial of torch.nn": spec("torch.nn.modules.module.functools.partial", {"_target_": "os.system", "_partial_": True}, touch("x")),
        # of this package
        "write_config": spec(f"{PACKAGE}.core.session.run.write_config", path, {}),
        "write_text": spec(f"{PACKAGE}.core.folder.files.write_text", path, "x"),
        "a method": spec(f"{PACKAGE}.tracker.wandb.Wandb.start", {}, str(marks), {}),
        "from_path with trust": spec(f"{PACKAGE}.experiment.Experiment.from_path", str(marks), trust=["os"]),
        "train": spec(f"{PACKAGE}.train.run"),
        # what Hydra 1.3.8 refuses itself
        "os.system": spec("os.system", touch("system")),
        "exec": spec("builtins.exec", f"open({mark('exec')!r}, 'w')"),
        "instantiate": spec("hydra.utils.instantiate", {"_target_": "os.system", "command": touch("x")}),
        # within something that is trusted
        "in a list of arguments": spec("torch.nn.Sequential", spec("torch.utils.collect_env.run", touch("list"))),
        "in a dictionary": spec("torch.nn.ModuleDict", {"a": {"b": [spec("builtins.open", mark("dict"), "w")]}}),
        "_recursive_": spec("torch.nn.Identity", spec("builtins.open", mark("raw"), "w"), _recursive_=False),
        # parts of trusted libraries that reach too far
        "fx": spec("torchvision.models.feature_extraction.create_feature_extractor", spec("torch.nn.Identity"), ["x"]),
        "Weights": weights,
        "a function": spec("torch.nn.init.zeros_", [1]),
        "TorchScript": spec("torch.jit.load", str(evil)),
        "a name that is not there": spec("torch.nn.NoSuch"),
        "a module": spec("torch.nn.modules"),
        "a private name": spec("torch.nn.Linear.__init__.__globals__"),
        # no names
        "a list for a target": spec(["os.system"]),
        "a mapping for a target": spec({"_target_": "os.system"}),
        "a number for a target": spec(7),
        "nothing for a target": spec(None),
        "two dots": spec("torch.nn..Linear"),
        "a line break": spec("torch.nn.Linear\n"),
        "another alphabet": spec("torch.nn.Linе\u0430r"),
        "interpolated": spec("${paths.data}"),
    }  # fmt: skip


def configs(good: dict[str, Any], marks: Path, evil: Path) -> Iterator[tuple[str, bytes]]:
    """(what it is, content) of files in the place of config.yaml; `good` is a whole config."""

    def dumped(**parts: Any) -> bytes:
        return yaml.safe_dump(good | parts, allow_unicode=True).encode()

    for name, spec in targets(marks, evil).items():
        yield name, dumped(model=spec)
    shell = {"_target_": "torch.utils.collect_env.run", "_args_": [f"touch {marks / 'hydra'}"]}
    text = dumped()
    for part in ("optimizer", "loss", "plots", "metrics", "tracker", "rollout", "data", "scheduler"):
        yield f"in {part}", dumped(**{part: {"inner": copy.deepcopy(shell)}})
    for value in ("${oc.env:HOME}", "${oc.env:SECRET,x}", "${now:%Y}", "${oc.decode:1}", "a${oc.env:HOME}b", "\\${oc.env:HOME}",
                  "${paths.${oc.env:HOME}}", "\x1b]0;owned\x07", "${run.name}", "${.x}", "${hydra:run.dir}", "${oc.create:{a: 1}}"):  # fmt: skip
        yield f"refers to {value}", dumped(run=good["run"] | {"description": value})
    yield (
        "refers when put together",
        dumped(paths=good["paths"] | {"data": "/$"}, model={"x": "${paths.data}{oc.env:SECRET}"}),
    )
    yield "refers in a key", dumped(data={"${oc.env:HOME}": 1})
    apply = f"!!python/object/apply:os.system ['touch {marks / 'tag'}']"
    for tag in (apply, "!!python/object/apply:pathlib.PosixPath [a]", "!!python/name:os.system", "!!python/module:os",
                "!!python/object/new:os.system [a]", "!!python/tuple [1]", "!ours 1", "!!binary aGk=", "!!set {a}", "2026-01-01"):  # fmt: skip
        yield f"tag {tag[:40]}", text + f"metrics: {tag}\n".encode()
    for key in ("resume", "fork", "rerun", "trust"):
        yield f"{key} in the file", dumped(**{key: str(marks)})
    yield "section of Hydra", dumped(hydra={"callbacks": {"x": shell}})
    yield "launcher of Hydra", dumped(hydra={"launcher": shell, "mode": "MULTIRUN"})
    yield "environment of Hydra", dumped(hydra={"job": {"env_set": {"PATH": str(marks)}}})
    yield "search path of Hydra", dumped(hydra={"searchpath": [f"file://{marks}"]})
    yield "defaults", dumped(defaults=["base", {"data": "../../x"}])
    yield "defaults of Hydra", dumped(defaults=[{"override hydra/launcher": "evil"}])
    yield "unknown section", dumped(other=1)
    yield (
        "laughs",
        text
        + b"metrics:\n  a: &a [x, x]\n"
        + b"".join(f"  b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n".encode() for i in range(30)),
    )
    yield "a list in itself", text + b"metrics: &a [*a]\n"
    yield "lists in lists", text + b"metrics: " + b"[" * 20_000 + b"]" * 20_000 + b"\n"
    yield "mappings in mappings", text + b"metrics: " + b"{a: " * 20_000 + b"}" * 20_000 + b"\n"
    yield "long", text + b"# " + bytes(b"x" * 10_000_000)
    yield "long number", text + b"metrics: " + b"9" * 100_000 + b"\n"
    yield "NUL", text + b"metrics: \0\n"
    yield "UTF-16", "metrics: 1".encode("utf-16")
    yield "no text", random.Random(0).randbytes(1000)
    yield "empty", b""
    yield "a list", b"[1, 2]\n"
    yield "no mapping", b"hydra\n"


def words(marks: Path) -> dict[str, str]:
    """What may stand in overrides.yaml, by the word: some reach for Hydra, some for files, some for what is built."""
    shell = f"{{_target_: torch.utils.collect_env.run, _args_: ['touch {marks / 'word'}']}}"
    found = [
        "hydra.run.dir=/tmp", "+hydra.callbacks.x._target_=os.system", "hydra/launcher=basic", "++hydra.mode=MULTIRUN",
        f"+hydra.callbacks.x={shell}", "hydra.job.env_set={PATH: x}", "hydra.searchpath=[file:///tmp]", "--config-dir=/tmp",
        "-m", "--multirun", "--config-path", "--cfg=job", "--help", "-cd=/tmp", "run.seed=1,2", "run.seed=choice(1,2)",
        "run.seed=range(3)", "data=glob(*)", "experiment=../../evil", "+experiment=/tmp/evil", "data=[mnist,../x]", "data=a/b",
        "data@hydra.x=mnist", "+model@_global_=mlp", "hydra@x=1", "model._target_=os.system", "+model.x._target_=builtins.open",
        f"loss={shell}", f"+metrics.x={shell}", f"metrics.x=[1, {shell}]", "run.name=${oc.env:HOME}", "run.name='${now:%Y}'",
        "data.x=${hydra:run.dir}", " run.seed=1", "run.seed=1\n", "=1", "", "run.seed", "a b=1", "~hydra", "+_x.y=1", "9.x=1",
        "run..seed=1", "run.seed=" + "[" * 5000,
    ]  # fmt: skip
    return {word[:60]: yaml.safe_dump([word]) for word in found} | {
        "tag": "- !!python/object/apply:os.system [a]\n",
        "no list": "1\n",
        "mapping": "{a: 1}\n",
        "alias": "- &a [x]\n- *a\n",
    }


PIECES = ("..", ".", "/", "\\", "~", "\0", "\n", "\r", "\t", " ", "-", "--help", "$(touch x)", "`id`", ";", "|", "*", "?", "%2e%2e",
          "latest", "dev", "exp", "good", "link", "run", "checkpoints", "best", "latest.pt", "é", "中", "\u202e", "\ud800", "\u2024\u2024",
          "x" * 300, "a" * 200, "=", ",", "+", "{a}", "[a]", "'", '"', "etc", "passwd", "CON", "C:", "file:", "${oc.env:HOME}")  # fmt: skip


def names(count: int, root: Path) -> Iterator[str]:
    """Names for a run or a checkpoint: paths that lead out of `root`, and pieces of such, put together at random."""
    generator = random.Random(0)
    fixed = ("", "/", str(root), str(root.parent), f"{root}/..", f"{root}/../outside", f"{root}/link", f"{root}/dev/../../outside",
             "../outside", "link", "link/", "link/outside", "good/../../outside", "good/../link", "dev/../good", "good/.", "./good",
             "good/checkpoints/..", "../" * 40 + "etc", "/etc/passwd", "/proc/self/cwd", "~root", "-x", "outside")  # fmt: skip
    yield from fixed
    for _ in range(count - len(fixed)):
        pieces = generator.choices(PIECES, k=generator.randint(1, 5))
        yield generator.choice(("", "/", "", f"{root}/")) + generator.choice(("", "/", "/", ".")).join(pieces)
