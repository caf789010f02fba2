"""Write a folder of many runs, to see how long tables and pages of them take.

    python scripts/template/many_runs.py FOLDER --like RUN            # 10,000 runs like RUN; --num 1000
"""

import argparse
import json
import os
import random
from datetime import datetime
from pathlib import Path

KEPT = ("config.yaml", "status.json", "provenance.json", "overrides.yaml", "facts/scalars.csv", "facts/events.jsonl")
SPACING = 600  # seconds from run to run


def write_runs(folder: Path, like: Path, num: int) -> None:
    """Write runs with the files of a finished run, other settings and other results; what stays the same is linked."""
    summary = json.loads((like / "summary.json").read_text())
    draws = random.Random(0)
    for index in range(num):
        started = summary["started"] - SPACING * (num - index)
        run = folder / f"{datetime.fromtimestamp(started):%Y-%m-%d_%H-%M-%S}_quick_otter_{index}"
        (run / "facts").mkdir(parents=True)
        for name in KEPT:
            os.link(like / name, run / name)
        settings = summary["settings"] | {"optimizer.lr": 10 ** draws.uniform(-4, -1), "run.seed": index % 5}
        results = {name: value * draws.uniform(0.5, 2) for name, value in summary["results"].items()}
        own = {"status": draws.choice(["finished"] * 9 + ["failed"]), "started": started, "ended": started + 300}
        own |= {"settings": settings, "results": results, "best": results.get(summary["monitor"])}
        (run / "summary.json").write_text(json.dumps(summary | own) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where they are written")
    parser.add_argument("--like", metavar="RUN", type=Path, required=True, help="a finished run")
    parser.add_argument("--num", metavar="N", type=int, default=10_000)
    args = parser.parse_args()
    write_runs(args.folder, args.like, args.num)


if __name__ == "__main__":
    main()
