"""Deliver what the trackers of a run have missed: all rows and figures, from the run's files.

python scripts/sync.py RUN                     # W&B: online with WANDB_API_KEY, else a complete folder to upload later
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
    from scaffolding.core.session.tracking import Follower, leave_unfinished, unfinished
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
        exit_code = EXIT_CODES.get(read_status(run)["status"], 143)
        for name, spec in trackers.items():
            if args.tracker not in (None, name):
                continue
            if "mode" in spec:
                spec["mode"] = "auto"  # dev runs are offline by choice; here the choice is to deliver
            follower = Follower(name, build(spec, f"tracker.{name}"), run, config)
            if follower.deliver(exit_code):
                where = getattr(follower.tracker, "where", name)
                print(f"{run.name}: {follower.num_rows} rows and {len(follower.told)} figures delivered to {where}")
        sys.exit(1 if unfinished else 0)
    except UserError as error:
        parser.error(str(error))
    finally:
        leave_unfinished()


if __name__ == "__main__":
    main()
