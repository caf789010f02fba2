"""Finding runs by what the user calls them. Imported only where a run is named; does not import torch."""

from pathlib import Path

from .errors import UserError, nearest
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
