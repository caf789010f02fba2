"""The validation items a classifier finds hardest (highest cross-entropy): a table, and for images a figure.

python scripts/find_hardest.py RUN --num 25                # RUN: a name, its first letters, latest, or a path
python scripts/find_hardest.py RUN --checkpoint latest
"""

import argparse
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--num", type=int, default=25, help="items to show (default: 25)")
    parser.add_argument("--checkpoint", default="best", help="best, latest, or another in checkpoints/ (default: best)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()
    if args.num < 1:
        parser.error(f"--num {args.num}: 1 or more is needed")

    import torch
    import torch.nn.functional as F

    from scaffolding.core.errors import ONE_LINE, UserError
    from scaffolding.core.find import open_run
    from scaffolding.core.folder.folder import replacing
    from scaffolding.experiment import PROJECT, Experiment

    try:
        path = open_run(args.run, PROJECT.output_root)
        exp = Experiment.from_path(path, args.checkpoint, trust=args.trust)
    except UserError as error:
        parser.error(str(error))
    if "val" not in exp.datasets:
        parser.error(f"{path.name} has no validation split")
    parts = []
    with torch.no_grad():
        for batch in exp.val_loader:
            logits, labels = classified(exp.model, batch)
            if logits is None:
                parser.error(f"{path.name}: a {type(exp.model).__name__} does not classify items")
            losses = F.cross_entropy(logits, labels, reduction="none")
            parts.append(torch.stack([losses.double(), labels.double(), logits.argmax(dim=1).double()], dim=1))
    table = torch.cat(parts)  # a row for each item: loss, true class, predicted class
    hardest = table[:, 0].argsort(descending=True)[: args.num].tolist()
    names = exp.cfg.data.get("class_names") or range(logits.shape[1])
    names = [str(name).translate(ONE_LINE) for name in names]
    print(f"{'index':>6}  {'true':12}  {'predicted':12}  loss (nats)      index: of exp.datasets['val']")
    titles = []
    for index in hardest:
        loss, label, predicted = table[index].tolist()
        true, said = names[int(label)], names[int(predicted)]
        print(f"{index:>6}  {true:12}  {said:12}  {loss:.4g}")
        titles.append(f"is {true}, loss {loss:.3g}\nsaid {said}")
    images = torch.stack([exp.datasets["val"][index][0] for index in hardest])
    if images.ndim == 4 and images.shape[1] in (1, 3):
        file = path / "figures" / f"hardest-val-{exp.state.step:06d}.png"
        heading = f"Highest validation losses (nats) of {path.name} at step {exp.state.step}"
        figure = draw(images, titles, heading)
        try:
            file.parent.mkdir(exist_ok=True)
            with replacing(file) as stream:
                figure.savefig(stream, format="png", dpi=120)
        except OSError as error:
            parser.error(f"{file} cannot be written: {error.strerror}")
        print(file)


def classified(model: Any, batch: Any) -> tuple[Any, Any]:
    """The logits (B, classes) of a batch and its labels (B,); None of both where the model is not a classifier."""
    try:
        inputs, labels = batch
        logits = model(inputs)
        is_classifier = logits.ndim == 2 and labels.ndim == 1
    except Exception:  # a generator takes noise
        is_classifier = False
    return (logits, labels) if is_classifier else (None, None)


def draw(images: Any, titles: list[str], heading: str) -> Any:
    """Images (n, C, H, W) in a grid, each under its title."""
    from matplotlib.figure import Figure

    columns, low, high = min(5, len(images)), images.min(), images.max()
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(max(1.4 * columns, 6), 1.6 * rows + 0.4), layout="constrained")
    figure.suptitle(heading, fontsize=9)
    for position, (image, title) in enumerate(zip(images, titles, strict=True), 1):
        axes = figure.add_subplot(rows, columns, position)
        axes.imshow(((image - low) / (high - low)).permute(1, 2, 0).numpy(), "gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=7.5)
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
