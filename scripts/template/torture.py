"""What the template survives: the real program killed, stopped, robbed of state, its files damaged; a row per promise.

    python scripts/template/torture.py                  # everything, about an hour on two cores
    python scripts/template/torture.py kills signals    # only these sections
    python scripts/template/torture.py --quick          # fewer of each, about four minutes: what CI runs
    python scripts/template/torture.py --folder WORK    # keep runs and logs in the empty folder WORK, to look at a miss

Equal means equal bit for bit: everything in every checkpoint (weights, averages, optimizer, schedule, counters) and
every logged value, which at each step has a hash of the items that it read. Exit code 1: a promise was missed; times
are printed only.
"""

import argparse
import contextlib
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["OMP_NUM_THREADS"] = "1"  # the runs go side by side
import damaged
import hostile
import interrupted
import tracker_faults
from loguru import logger
from shared import table_head, table_row

SECTIONS = interrupted.SECTIONS | damaged.SECTIONS | tracker_faults.SECTIONS | hostile.SECTIONS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which; none: all of them")
    parser.add_argument("--quick", action="store_true", help="fewer of each")
    parser.add_argument("--folder", type=Path, help="an empty folder that keeps what is made; none: a temporary one")
    arguments = parser.parse_args()
    print(table_head(), flush=True)
    logger.remove()  # the lines of runs in this process are not part of the table
    verdicts = []
    with TemporaryDirectory() as temporary, contextlib.chdir(arguments.folder or temporary):
        for section in arguments.sections or SECTIONS:
            Path(section).mkdir()
            for row in SECTIONS[section](arguments.quick):
                print(table_row(*row), flush=True)
                verdicts.append(row[-1])
    return int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(main())
