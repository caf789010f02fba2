"""Deliver to the tracker what it has not got of runs that ended or died: rows and figures, each once.

python scripts/sync.py RUN [RUN ...]               # online with WANDB_API_KEY, else a complete folder to upload later
python scripts/sync.py RUN --tracker wandb         # a run that had none: configs/tracker/wandb.yaml
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from scaffolding.core.errors import UserError
from scaffolding.core.folder.find import find_run
from scaffolding.core.folder.run_folder import read_status
from scaffolding.core.session import console
from scaffolding.core.session.tracking import Tracking

EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 130}  # of any other: preempted, it can be carried on
TIMEOUT = 3600.0  # seconds for one run


class Recorder:
    """Remembers the ordinals that come by, and passes everything on to a tracker, if there is one."""

    def __init__(self, tracker: Any = None) -> None:
        self.tracker = tracker
        self.ordinals: dict[str, list[int]] = {"log": [], "log_figure": []}

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> Any:
            if method in self.ordinals:
                self.ordinals[method].append(arguments[-1])
            return getattr(self.tracker, method)(*arguments) if self.tracker else 0

        return call

    def follow(self, run: Path, exit_code: int) -> bool:
        """Let all rows and figures of a run come by; False if the tracker failed."""
        tracking = Tracking(self)
        tracking.start(run, yaml.safe_load((run / "config.yaml").read_text()))
        tracking.finish(exit_code, TIMEOUT)
        return not tracking.ended.locked()


def sync(run: Path, group: str | None) -> bool:
    """Deliver one run and say what went where; False if the tracker failed. UserError: it runs, or has no tracker."""
    from scaffolding.core.config.build import build
    from scaffolding.core.config.compose import read_config
    from scaffolding.core.config.trust import check_trusted
    from scaffolding.experiment import PROJECT

    status = read_status(run)
    if status["status"] == "running":
        raise UserError(f"{run.name} is running (process {status['pid']} on {status['host']}): it delivers by itself")
    cfg = read_config(run, PROJECT)
    spec = read_tracker(cfg, group) if group else cfg.tracker
    if not spec:
        raise UserError(f"{run.name} has no tracker\nname one: --tracker wandb")
    check_trusted({"tracker": OmegaConf.to_container(spec)}, PROJECT, ())
    if "mode" in spec:
        spec.mode = "auto"  # dev runs are offline by choice; here the choice is to deliver
    tracker, exit_code = build(spec, "tracker"), EXIT_CODES.get(status["status"], 143)
    wanted, delivered = Recorder(), Recorder(tracker)
    wanted.follow(run, exit_code)
    known, copy = tracker.delivered(run) if hasattr(tracker, "delivered") else ([], "")
    if copy and all(set(ordinals) <= set(known) for ordinals in wanted.ordinals.values()):
        print(f"{run.name}: nothing to deliver, {copy} is complete")
    elif not delivered.follow(run, exit_code):
        return False
    else:
        rows, figures = (len(ordinals) for ordinals in delivered.ordinals.values())
        print(f"{run.name}: {rows} rows and {figures} figures delivered to {tracker.where}")
    return True


def read_tracker(cfg: DictConfig, name: str) -> Any:
    """The tracker that `configs/tracker/NAME.yaml` describes, in the config of a run; UserError: there is none."""
    from hydra import compose, initialize_config_dir

    from scaffolding.core.config.compose import COMPOSE_ERRORS, explained
    from scaffolding.experiment import PROJECT

    try:
        with initialize_config_dir(str(PROJECT.configs), version_base="1.3"):
            cfg.tracker = compose(f"tracker/{name}").tracker
    except COMPOSE_ERRORS as error:
        raise explained(error, PROJECT, []) from error
    return cfg.tracker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a name, its first letters, latest, or a path")
    parser.add_argument("--tracker", metavar="NAME", help="of configs/tracker, instead of the run's own")
    args = parser.parse_args()
    console.setup()
    from scaffolding.experiment import PROJECT

    try:
        runs = [Path(n) if (Path(n) / "config.yaml").is_file() else find_run(n, PROJECT.output_root) for n in args.runs]
        delivered = [sync(run.resolve(), args.tracker) for run in runs]
    except UserError as error:
        parser.error(str(error))
    sys.exit(0 if all(delivered) else 1)


if __name__ == "__main__":
    main()
