"""Deliver what the trackers of a run have missed: all rows and figures, from the run's files.

python scripts/sync.py RUN                     # W&B: online with WANDB_API_KEY, else a complete folder to upload later
python scripts/sync.py RUN --tracker wandb     # only this one; where the run has none of that name, the one of configs/
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scaffolding.core.config.build import build
from scaffolding.core.config.compose import COMPOSE_ERRORS, explained, read_config
from scaffolding.core.config.trust import check_trusted
from scaffolding.core.errors import UserError
from scaffolding.core.folder import lock
from scaffolding.core.folder.find import find_run
from scaffolding.core.folder.run_folder import read_status
from scaffolding.core.session import console
from scaffolding.core.session.tracking import Follower, leave_unfinished, unfinished
from scaffolding.experiment import PROJECT

EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 130}
PREEMPTED = 143  # any other: it can be carried on


def sync(run: Path, name: str | None) -> None:
    """Deliver one run, and say what went where. UserError: it runs, or has no such tracker."""
    lock.acquire(run)
    trackers = read_trackers(run, name)
    config = yaml.safe_load((run / "config.yaml").read_text())
    exit_code = EXIT_CODES.get(read_status(run)["status"], PREEMPTED)
    for name, spec in trackers.items():
        if "mode" in spec:
            spec["mode"] = "auto"  # dev runs are offline by choice; here the choice is to deliver
        follower = Follower(name, build(spec, f"tracker.{name}"))
        follower.folder, follower.config = run, config
        if follower.deliver(exit_code):
            where = getattr(follower.tracker, "where", name)
            print(f"{run.name}: {follower.num_rows} rows and {len(follower.told)} figures delivered to {where}")


def read_trackers(run: Path, name: str | None) -> dict[str, Any]:
    """The trackers of a run, or the one called `name`; all of them code of this checkout."""
    trackers: Any = OmegaConf.to_container(read_config(run, PROJECT).tracker, resolve=True)
    if name is not None and name not in trackers:
        trackers = read_group(name)
    if name is not None:
        trackers = {name: trackers[name]}
    if not trackers:
        raise UserError(f"{run.name} has no tracker\nname one: --tracker wandb")
    check_trusted({"tracker": trackers}, PROJECT, ())
    return dict(trackers)


def read_group(name: str) -> Any:
    """What configs/tracker/NAME.yaml describes."""
    try:
        with initialize_config_dir(str(PROJECT.configs), version_base="1.3"):
            return OmegaConf.to_container(compose(f"tracker/{name}").tracker, resolve=True)
    except COMPOSE_ERRORS as error:
        raise explained(error, PROJECT, []) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a name, its first letters, latest, or a path")
    parser.add_argument("--tracker", metavar="NAME", help="one of the run's, or of configs/tracker")
    arguments = parser.parse_args()
    console.setup()
    run = Path(arguments.run)
    try:
        if not (run / "config.yaml").is_file():
            run = find_run(arguments.run, PROJECT.output_root)
        sync(run.resolve(), arguments.tracker)
        sys.exit(1 if unfinished else 0)
    except UserError as error:
        parser.error(str(error))
    finally:
        leave_unfinished()


if __name__ == "__main__":
    main()
