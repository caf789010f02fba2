"""Deliver what the trackers of a run have missed: all rows and figures, from the run's files.

python scripts/sync.py RUN                     # W&B: online if you are logged in, else a folder to upload later
python scripts/sync.py RUN --tracker wandb     # only this one; where the run has none of that name, the one of configs/
"""

import argparse
import sys
import time
from typing import Any

EXIT_CODES = {"finished": 0, "failed": 1, "interrupted": 130}  # any other: 143, it can be carried on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a name, its first letters, latest, or a path")
    parser.add_argument("--tracker", metavar="NAME", help="one of the run's, or of configs/tracker")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()

    from omegaconf import OmegaConf

    from scaffolding.core.config.build import build
    from scaffolding.core.config.compose import compose_config
    from scaffolding.core.errors import UserError
    from scaffolding.core.find import open_run
    from scaffolding.core.folder.folder import acquire, read_status
    from scaffolding.core.folder.reading import read_yaml
    from scaffolding.core.tracking.follow import End
    from scaffolding.core.tracking.tracking import TrackerProcess
    from scaffolding.core.trust.config import read_config
    from scaffolding.core.trust.targets import check_trusted
    from scaffolding.experiment import PROJECT

    try:
        run = open_run(args.run, PROJECT.output_root).resolve()
        trackers: Any = OmegaConf.to_container(read_config(run, PROJECT, args.trust).tracker, resolve=True)
        acquire(run)
        if args.tracker in trackers:
            trackers = {args.tracker: trackers[args.tracker]}
        elif args.tracker is not None:
            chosen = compose_config(PROJECT, [f"tracker={args.tracker}"])
            trackers = OmegaConf.to_container(chosen.tracker, resolve=True)
        trackers = {name: spec for name, spec in trackers.items() if spec}
        if not trackers:
            raise UserError(f"{run.name} has no tracker\nname one: --tracker wandb")
        check_trusted({"tracker": trackers}, PROJECT, args.trust)
        config = read_yaml(run / "config.yaml")
        status = read_status(run)
        end = End(EXIT_CODES.get(status["status"], 143), status.get("step", 0))
        all_delivered = True
        for name, spec in trackers.items():
            if "mode" in spec:
                spec["mode"] = "auto"  # dev runs are offline by choice; here the choice is to deliver
            build(spec, f"tracker.{name}")  # what is wrong with it shows here
            process = TrackerProcess(name, spec, run, config, args.trust)
            process.tell(end)
            while process.is_at_work():
                time.sleep(0.02)
            process.close()
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
