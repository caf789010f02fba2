"""Deliver what the trackers of a run have missed: all rows and figures, from the run's files.

python scripts/sync.py RUN                     # W&B: online if you are logged in, else a folder to upload later
python scripts/sync.py RUN --tracker wandb     # only this one; where the run has none of that name, the one of configs/
"""

import argparse
import sys
from typing import Any

EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 130}  # any other: 143, it can be carried on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a name, its first letters, latest, or a path")
    parser.add_argument("--tracker", metavar="NAME", help="one of the run's, or of configs/tracker")
    args = parser.parse_args()

    from omegaconf import OmegaConf

    from scaffolding.core.config.build import build
    from scaffolding.core.config.compose import compose_config
    from scaffolding.core.errors import UserError
    from scaffolding.core.find import open_run
    from scaffolding.core.folder.folder import acquire, read_status
    from scaffolding.core.folder.reading import read_yaml
    from scaffolding.core.session.follow import End, Task
    from scaffolding.core.session.tracking import TrackerProcess
    from scaffolding.core.trust.config import check_trusted, read_config
    from scaffolding.experiment import PROJECT

    try:
        run = open_run(args.run, PROJECT.output_root).resolve()
        trackers: Any = OmegaConf.to_container(read_config(run, PROJECT).tracker, resolve=True)
        acquire(run)
        if args.tracker not in (None, *trackers):
            chosen = compose_config(PROJECT, [f"tracker={args.tracker}"])
            trackers = OmegaConf.to_container(chosen.tracker, resolve=True)
        if not trackers:
            raise UserError(f"{run.name} has no tracker\nname one: --tracker wandb")
        check_trusted({"tracker": trackers}, PROJECT, ())
        config = read_yaml(run / "config.yaml")
        status = read_status(run)
        end = End(EXIT_CODES.get(status["status"], 143), status.get("step", 0))
        all_delivered = True
        for name, spec in trackers.items():
            if args.tracker not in (None, name):
                continue
            if "mode" in spec:
                spec["mode"] = "auto"  # dev runs are offline by choice; here the choice is to deliver
            build(spec, f"tracker.{name}")  # what is wrong with it shows here
            process = TrackerProcess(name, Task(spec, str(run), config))
            process.send(end)
            process.wait()
            if process.delivered is None:
                all_delivered = False
                continue
            rows, figures, where = (process.delivered[key] for key in ("num_rows", "num_figures", "where"))
            print(f"{run.name}: {rows} rows and {figures} figures delivered to {where or name}")
        sys.exit(not all_delivered)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
