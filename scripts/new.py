"""Begin a dataset, model, loss or figure of your own: a commented file and its YAML, which pass the tests at once.

    pdm run new data birdcall     # data/birdcall.py, configs/data/birdcall.yaml
    pdm run new model gru         # model/gru.py, configs/model/gru.yaml
    pdm run new loss focal        # class FocalLoss at the end of losses.py; a model YAML that is trained with it
    pdm run new plot spectrum     # plot/spectrum.py, configs/plots/spectrum.yaml: the standard figures and this one

They fit the data and the model that configs/base.yaml chooses. Comments say what to replace; nothing is overwritten.
"""

import argparse
import ast
import keyword
import re
import sys
from pathlib import Path
from string import Template
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
SRC = next(ROOT.glob("src/*/train.py")).parent
WORDS = {*keyword.kwlist, *keyword.softkwlist, "null", "yes", "no", "on", "off", "true", "false", "n", "y"}

DATA = '''"""$title: replace this line by what the items are, and where they come from."""

${imports}import torch
from torch import Tensor


class $title:
    """Replace: what an item is. Here each class has a pattern, and an item is one under noise; all held in memory.

    Args:
        split: "train", "val" or "test".
        num_items: training items; the other splits have a quarter as many.
        $fact: $fact_meaning.
        num_classes: patterns.
        noise: standard deviation of the noise; that of the patterns is 1.

    Source: replace by author, title, year and licence.
    """

    def __init__(self, split: str, num_items: int, $fact: $fact_type, num_classes: int, noise: float) -> None:
        # Replace: read the files of this split. Where the author has no validation split, raise ValueError for "val"
        # and write `val_from_train: 0.1` into the YAML file. What is drawn comes from a generator of its own.
        generator = torch.Generator().manual_seed(0)
        patterns = torch.randn(num_classes, $sizes, generator=generator)
        count = num_items if split == "train" else num_items // 4
        self.labels = torch.arange(count) % num_classes
        generator.manual_seed(1 + ["train", "val", "test"].index(split))
        self.inputs = patterns[self.labels] + noise * torch.randn(count, $sizes, generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One input of shape ($shape), float32, and its label."""
        return self.inputs[index], int(self.labels[index])

    # Delete where items are read from disk one by one: loader workers then do that.
    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of shape (B, $shape), float32, and labels of shape (B,), int64."""
        return self.inputs.index_select(0, indices), self.labels.index_select(0, indices)
'''
DATA_YAML = """# $title: replace by author, year, licence, number of items, size of the download.
dataset:
  _target_: $package.data.$name.$title
  num_items: 400 # training items; a quarter as many for validation, and for the test
  $fact: $${data.$fact}
  num_classes: $${data.num_classes}
  noise: 1.0 # standard deviation; that of the patterns is 1
$fact: $value # $fact_meaning; a fact that networks refer to
num_classes: 4
"""
MODEL = '''"""$title: replace this line by what the network is."""

${imports}from torch import Tensor, nn


class $title(nn.Module):
    """Replace: its layers, in the order of the paper. Here one hidden layer.

    Args:
        $fact: $fact_meaning.
        num_classes: number of logits.
        hidden_size: units of the hidden layer.

    Source: replace by author, title and year.
    """

    def __init__(self, $fact: $fact_type, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear($size, hidden_size)
        self.output = nn.Linear(hidden_size, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs of shape (B, $shape) to logits of shape (B, num_classes)."""
        logits: Tensor = self.output(self.hidden(inputs.flatten(1)).relu())
        return logits
'''
MODEL_YAML = """# @package _global_
# Replace: what it is, and which data it is for. The line above must stay the first.
model:
  _target_: $package.model.$name.$title
  $fact: $${data.$fact}
  num_classes: $${data.num_classes}
  hidden_size: 128 # units of the hidden layer

loss:
  _target_: $package.losses.ClassificationLoss
  label_smoothing: 0.0 # weight of the uniform distribution in the target, 0..1
"""
TEXT_MODEL = '''"""$title: replace this line by what the network is, and its loss, which is its own."""

import torch.nn.functional as F
from torch import Tensor, nn


class $title(nn.Module):
    """Replace: its layers, in the order of the paper. Here a recurrent network that predicts the next token.

    Args:
        vocab_size: number of token ids.
        hidden_size: values in an embedding and in the state.

    Source: replace by author, title and year.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.recurrent = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to logits (B, T, vocab_size) of the token after each."""
        states, _ = self.recurrent(self.embedding(tokens))
        logits: Tensor = self.output(states)
        return logits


class ${title}Loss:
    """Cross-entropy of the next token."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in nats per token, from tokens and targets (B, T); metrics are tensors: means over the batch."""
        tokens, targets = batch
        return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()), {}
'''
TEXT_MODEL_YAML = """# @package _global_
# Replace: what it is, and which data it is for. The line above must stay the first.
model:
  _target_: $package.model.$name.$title
  vocab_size: $${data.vocab_size}
  hidden_size: 128 # values in an embedding and in the state

loss:
  _target_: $package.model.$name.${title}Loss
"""
LOSS = '''

class $title:
    """Replace: what it is. Here cross-entropy that counts what is already right for less.

    Args:
        gamma: exponent of the weight (1 - p)^gamma, where p is the probability of the right class; 0: cross-entropy.

    Source: replace. This one: T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and a dict of metrics, all means over the batch, from inputs (B, ...) and targets (B,) or (B, T)."""
        inputs, targets = batch
        logits = model(inputs)
        log_p = -F.cross_entropy(logits.movedim(-1, 1), targets, reduction="none")  # as targets
        loss = -((-log_p.expm1()) ** self.gamma * log_p).mean()  # replace
        is_correct = logits.argmax(dim=-1) == targets
        return loss, {"accuracy": is_correct.mean(dtype=torch.float32)}
'''
LOSS_YAML = """loss:
  _target_: $package.losses.$title
  gamma: 2.0 # 0: cross-entropy; the higher, the less counts what is already right
"""
PLOT = '''"""$title: replace this line by what the figure shows."""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import default_collate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class $title:
    """Replace: what it shows. Here how often the values in validation items occur.

    Args:
        num_items: items that are looked at.
        num_bins: bars.
    """

    moment = "val"  # after every run.plot_every; "start": once, after the first step

    def __init__(self, num_items: int, num_bins: int) -> None:
        self.num_items, self.num_bins = num_items, num_bins

    def __call__(self, exp: Any) -> "Figure | str":
        """The figure, or in a few words why there is none. Predictions: `exp.eval_model(inputs.to(exp.device))`."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: training starts without matplotlib
        from matplotlib.figure import Figure

        dataset = exp.datasets["val"]
        items = [dataset[index] for index in range(min(self.num_items, len(dataset)))]
        batch = getattr(dataset, "collate", default_collate)(items)
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        if not isinstance(inputs, Tensor) or inputs.is_complex():
            return "the first of a batch is not a tensor of real numbers"
        values = inputs[inputs.isfinite()].float()
        if not values.numel():
            return "no value of the inputs is finite"
        figure = Figure(figsize=(5, 3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.hist(values.numpy(), bins=self.num_bins)
        title = f"Values of {len(items)} validation items, {tuple(inputs.shape[1:])} each"
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("value", fontsize=8)
        axes.set_ylabel("count", fontsize=8)
        axes.tick_params(labelsize=7)
        return figure
'''
PLOT_YAML = """# Replace: what these figures are for. plots=$name draws those of plots=$plots, and this one.
defaults:
  - $plots
  - _self_

$name: # after every run.plot_every
  _target_: $package.plot.$name.$title
  num_items: 100 # validation items that are looked at
  num_bins: 50 # bars
"""


def refuse(problem: str, remedy: str) -> NoReturn:
    print(f"new.py: {problem}\n{remedy}\nNothing was written.", file=sys.stderr)
    sys.exit(2)


def default(group: str) -> str:
    """The option of a config group that base.yaml chooses."""
    found = re.search(rf"(?m)^  - {group}: (\w+)", (ROOT / "configs" / "base.yaml").read_text("utf-8"))
    if not found or not option(group, found[1]).exists():
        refuse(f"configs/base.yaml chooses no {group} that is there.", f"Name one in its defaults: `- {group}: NAME`.")
    return found[1]


def option(group: str, name: str) -> Path:
    return ROOT / "configs" / group / f"{name}.yaml"


def wanted(model: str) -> set[str]:
    """The facts of the data that a model's YAML refers to."""
    return set(re.findall(r"\$\{data\.(\w+)", option("model", model).read_text("utf-8")))


def facts(data: str) -> dict[str, str]:
    """The facts that a dataset's YAML states as a whole number or a list of them."""
    return dict(re.findall(r"(?m)^(\w+): *(\d+|\[[\d, ]+\])", option("data", data).read_text("utf-8")))


def describe(fact: str, value: str) -> dict[str, str]:
    """The words of a template about the shape of an input: a list of sizes, or one size."""
    words = {"fact": fact, "value": value}
    if value.startswith("["):
        words |= {"fact_type": "Sequence[int]", "fact_meaning": "shape of an input", "shape": f"*{fact}"}
        return words | {"sizes": f"*{fact}", "size": f"math.prod({fact})"}
    words |= {"fact_type": "int", "fact_meaning": "values in an input", "shape": fact}
    return words | {"sizes": fact, "size": fact}


def data_files(name: str) -> dict[Path, str]:
    """Images, or rows of numbers: whatever the default model, or else another one, refers to by one fact."""
    models = sorted(path.stem for path in (ROOT / "configs" / "model").glob("*.yaml"))
    for model in sorted(models, key=lambda model: model != default("model")):
        shapes = wanted(model) - {"num_classes"}
        if len(shapes) == 1 and not shapes & {"vocab_size", "seq_len"}:
            (fact,) = shapes
            words = describe(fact, "[1, 16, 16]" if fact.endswith("shape") else "64")
            words["imports"] = "from collections.abc import Sequence\n\n" if "Sequence" in words["fact_type"] else ""
            return filled(name, {SRC / "data" / f"{name}.py": DATA, option("data", name): DATA_YAML}, words)
    takes = ", ".join(sorted(wanted(default("model")))) or "no fact of the data"
    refuse(
        f"no stub of a dataset fits model={default('model')}, which takes {takes}.",
        f"Copy configs/data/{default('data')}.yaml to configs/data/{name}.yaml and change what it names.",
    )


def model_files(name: str) -> dict[Path, str]:
    """A classifier of the default data, or a language model where they are text."""
    found = facts(data := default("data"))
    if "vocab_size" in found:
        return filled(name, {SRC / "model" / f"{name}.py": TEXT_MODEL, option("model", name): TEXT_MODEL_YAML}, {})
    shapes = {fact: value for fact, value in found.items() if fact not in ("num_classes", "num_train")}
    if "num_classes" not in found or not shapes:
        refuse(
            f"no stub of a model fits data={data}: its YAML gives neither vocab_size nor num_classes and a shape.",
            "Write the file by hand, after another in model/, or choose other data in configs/base.yaml.",
        )
    fact = max(shapes, key=lambda fact: shapes[fact].startswith("["))
    words = describe(fact, shapes[fact])
    is_shape = shapes[fact].startswith("[")
    words["imports"] = "import math\nfrom collections.abc import Sequence\n\n" if is_shape else ""
    return filled(name, {SRC / "model" / f"{name}.py": MODEL, option("model", name): MODEL_YAML}, words)


def loss_files(name: str) -> dict[Path, str]:
    """A class at the end of losses.py, and the default model's YAML with this loss in the place of its own."""
    model, losses = default("model"), SRC / "losses.py"
    yaml, code = option("model", model).read_text("utf-8"), losses.read_text("utf-8")
    block = re.search(r"(?m)^loss:.*\n(?:[ #].*\n)*", yaml)
    if (
        not wanted(model) & {"num_classes", "vocab_size"}
        or not block
        or not re.match(r"loss:.*\n  _target_:", block[0])
    ):
        refuse(
            f"no stub of a loss fits model={model}: it is neither a classifier nor a language model.",
            "Write the class by hand, in the model's file, or choose another model in configs/base.yaml.",
        )
    bound = {alias.asname or alias.name for node in ast.walk(ast.parse(code)) for alias in getattr(node, "names", ())
             if isinstance(alias, ast.alias)}  # fmt: skip
    if missing := {"torch", "F", "Tensor", "nn"} - bound:
        refuse(f"{losses.relative_to(ROOT)} does not import {', '.join(sorted(missing))}.", "Add the imports first.")
    title = camel(name.removesuffix("_loss")) + "Loss"
    if re.search(rf"\b{title}\b", code):
        refuse(f"{losses.relative_to(ROOT)} has a {title} already.", "Choose another name.")
    words = {"package": SRC.name, "title": title}
    own = f"# As model={model}, with another loss. Replace: what for.\n" + Template(LOSS_YAML).substitute(words)
    yaml = yaml.replace(block[0], own)
    return {
        losses: code.rstrip("\n") + "\n" + Template(LOSS).substitute(words),
        option("model", f"{model}_{name}"): yaml,
    }


def plot_files(name: str) -> dict[Path, str]:
    """A histogram, and a set of figures with it."""
    templates = {SRC / "plot" / f"{name}.py": PLOT, option("plots", name): PLOT_YAML}
    return filled(name, templates, {"plots": default("plots")})


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def filled(name: str, templates: dict[Path, str], words: dict[str, str]) -> dict[Path, str]:
    title = camel(name)
    if any(re.search(rf"\b{title}\b", text) for text in templates.values()):  # Tensor, Figure, Sequence, ...
        refuse(f"a class {title} would hide what its own file uses.", "Choose another name.")
    words = {"package": SRC.name, "name": name, "title": title} | words
    return {path: Template(text).substitute(words) for path, text in templates.items()}


KINDS = {
    "data": (data_files, "pdm run train data={} mode=dev"),
    "model": (model_files, "pdm run train model={} mode=overfit"),
    "loss": (loss_files, "pdm run train model={} mode=overfit"),
    "plot": (plot_files, "pdm run train plots={} mode=dev"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("name", help="lower-case letters, digits and single _: birdcall, mel_spectrum")
    args = parser.parse_args()
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", args.name) or args.name in WORDS:
        refuse(f"{args.name!r} is not a name for a file.", "Lower-case letters, digits and single _, like birdcall.")
    make, next_command = KINDS[args.kind]
    files = make(args.name)
    for path in files:
        if path.name != "losses.py" and (path.exists() or path.with_suffix("").is_dir()):
            refuse(f"{path.relative_to(ROOT)} is there already.", "Choose another name.")
    for path, text in files.items():
        is_there = path.exists()
        path.write_text(text, "utf-8")
        print(f"{'added to the end of' if is_there else 'wrote'} {path.relative_to(ROOT)}")
    chosen = next(path.stem for path in files if path.suffix == ".yaml")
    print(f"\nNext:\n\n    {next_command.format(chosen)}\n    pdm run pytest -k {chosen} -m 'not full'")


if __name__ == "__main__":
    main()
