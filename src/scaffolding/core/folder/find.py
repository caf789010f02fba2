"""Finding runs and checkpoints by what the user calls them, and what is wrong with them. Imported only for that."""

import contextlib
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from .run_folder import NAME


def list_runs(output_root: Path) -> list[Path]:
    """All run folders under the output root (dev runs and jobs of sweeps too), oldest first."""
    found = {file.parent for depth in ("*", "*/*", "*/*/*") for file in output_root.glob(f"{depth}/config.yaml")}
    runs = [path for path in found if found.isdisjoint(path.parents)]
    files = ("config.yaml", "overrides.yaml")  # a resume may write the config again: the older one tells
    ages = {run: min((run / name).stat().st_mtime for name in files if (run / name).exists()) for run in runs}
    return sorted(runs, key=lambda run: ages[run])


def find_run(name: str, output_root: Path) -> Path:
    """The run that `name` stands for: a name, a unique prefix, `latest`, `dev/NAME`, or a path under the output root.

    Raises:
        UserError: none, or several; the nearest or all of them are named.
    """
    root = output_root.resolve()
    runs = {str(path.relative_to(root)): path for path in list_runs(root) if path.resolve().is_relative_to(root)}
    if name == "latest":
        real = [path for key, path in runs.items() if not key.startswith("dev/")]
        if not real:
            raise UserError(f"latest: there is no run in {root} (dev runs do not count)\nno run was created")
        return real[-1]
    paths = (Path(name).resolve(), (root.parent / name).resolve()) if name.isprintable() else ()
    for path in paths:  # as a shell completes it
        if "/" in name and path in runs.values() and path.is_relative_to(root):
            return path
    wanted = name.rstrip("/")
    if not all(NAME.fullmatch(part) for part in wanted.split("/")):
        raise UserError(
            f"{name!r} is no run in {root}\ngive a run's name, its first letters, `latest`, or its path there"
        )
    exact = [key for key in runs if wanted in (key, key.rpartition("/")[2])]
    matches = exact if len(exact) == 1 else [key for key in runs if key.startswith(wanted)]
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        raise UserError(f"{name!r} is the beginning of {len(matches)} runs: {', '.join(matches[-5:])}\ngive more of it")
    near = ", ".join(nearest(wanted, runs, 3)) or "there are no runs"
    raise UserError(f"there is no run {name!r} in {root}\nnearest: {near}\nno run was created")


def find_checkpoint(run: Path, name: str) -> Path:
    """The file of a run's checkpoint by its plain name; UserError: there is none, and those that there are."""
    path = run / "checkpoints" / f"{name}.pt"
    if NAME.fullmatch(name) is None or not path.is_file():
        raise UserError(
            f"{run} has no checkpoint {name!r:.100}\ncheckpoints there: {checkpoints_beside(run / 'checkpoints' / '?')}"
        )
    return path


def checkpoints_beside(path: Path) -> str:
    """The other checkpoints in a file's folder, as "best (step 7, 0.31), latest (step 9)"."""
    from ..state.checkpoint import read

    found = {file.stem: "" for file in sorted(path.parent.glob("*.pt")) if file != path}
    for name in list(found)[:20]:
        with contextlib.suppress(Exception):  # one that cannot be read is there all the same
            state = read(path.with_name(f"{name}.pt"), mmap=True)["state"]
            best = f", {state['best']:.4g}" if name == "best" and state["best"] is not None else ""
            found[name] = f" (step {int(state['step'])}{best})"
    return ", ".join(name + state for name, state in found.items()) or "none"


def misfits(here: dict[str, Any], saved: Any) -> str:
    """How many weights of a checkpoint do not fit those of a model, the first by name and shape; "" where all do."""
    states = (here, saved if isinstance(saved, dict) else {})
    shapes, others = ({n: list(getattr(value, "shape", ())) for n, value in dict(state).items()} for state in states)
    odd = [name for name in [*shapes, *(set(others) - set(shapes))] if shapes.get(name) != others.get(name)]
    first = ", ".join(f"{n} (saved {others.get(n, 'not')}, here {shapes.get(n, 'not')})" for n in odd[:5])
    return f"{len(odd)} names of weights do not fit the model: {first}" if odd else ""
