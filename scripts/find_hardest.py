"""The validation items with the highest loss, as a table and, for images, a figure in the run's folder.

python scripts/find_hardest.py RUN --num 25                # RUN: a name, its first letters, latest, or a path
python scripts/find_hardest.py RUN --checkpoint latest
"""

import argparse
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--num", type=int, default=25, help="items to show (default: 25)")
    parser.add_argument("--checkpoint", default="best", help="best, latest, or another in checkpoints/ (default: best)")
    args = parser.parse_args()

    import torch

    from scaffolding.core.errors import UserError
    from scaffolding.core.run_folder import find_run, is_run
    from scaffolding.experiment import PROJECT, Experiment

    try:
        path = Path(args.run) if is_run(Path(args.run)) else find_run(args.run, PROJECT.output_root)
        exp = Experiment.from_path(path, args.checkpoint)
    except UserError as error:
        parser.error(str(error))
    losses, labels, predicted = [], [], []
    with torch.no_grad():
        for inputs, targets in exp.val_loader:
            logits = exp.model(inputs)
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
            labels.append(targets)
            predicted.append(logits.argmax(dim=1))
    values, hardest = torch.cat(losses).sort(descending=True)
    hardest = hardest[: args.num]
    names = exp.cfg.data.get("class_names") or range(int(torch.cat(labels).max()) + 1)
    rows = [
        (index, names[label], names[guess], value)
        for index, label, guess, value in zip(
            hardest.tolist(),
            torch.cat(labels)[hardest].tolist(),
            torch.cat(predicted)[hardest].tolist(),
            values.tolist(),
            strict=False,
        )
    ]
    print(f"{'index':>6}  {'true':12}  {'predicted':12}  loss   (index: of exp.datasets['val'])")
    for index, label, guess, value in rows:
        print(f"{index:>6}  {label!s:12}  {guess!s:12}  {value:.3f}")
    images = torch.stack([exp.datasets["val"][index][0] for index, *_ in rows])
    if images.ndim == 4 and images.shape[1] in (1, 3):
        file = path / "figures" / f"hardest-val-{exp.state.step:06d}.png"
        draw(images, rows, f"Highest loss in validation, {path.name}, step {exp.state.step}").savefig(file, dpi=120)
        print(file)


def draw(images: Any, rows: list[tuple[int, Any, Any, float]], title: str) -> Any:
    """Images (n, C, H, W), each over its true class, predicted class and loss."""
    from matplotlib.figure import Figure

    columns = min(5, len(images))
    num_rows = -(-len(images) // columns)
    figure = Figure(figsize=(max(1.5 * columns, 5), 1.75 * num_rows + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=9)
    low, high = images.amin(), images.amax()
    for cell, image in enumerate((images - low) / (high - low)):
        axes = figure.add_subplot(num_rows, columns, cell + 1)
        axes.imshow(image.permute(1, 2, 0), "gray")
        _, label, guess, value = rows[cell]
        axes.set_title(f"{label}\nas {guess}, loss {value:.2f}", fontsize=7.5)
        axes.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
