"""What the template survives: the real program killed, stopped, robbed of state, its files damaged; a row per promise.

    python scripts/template/torture.py                  # everything, about an hour on two cores
    python scripts/template/torture.py kills signals    # only these sections
    python scripts/template/torture.py --quick          # fewer of each, about three minutes: what CI runs
    python scripts/template/torture.py --folder WORK    # keep runs and logs in the empty folder WORK, to look at a miss

Equal means equal bit for bit: everything in every checkpoint (weights, averages, optimizer, schedule, counters) and
every logged value, which at each step has a hash of the items that it read. Exit code 1: a promise was missed; times
are printed only.
"""

import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # the runs go side by side
import damaged
import hostile
import interrupted
from shared import run_sections

if __name__ == "__main__":
    sections = interrupted.SECTIONS | damaged.SECTIONS | hostile.SECTIONS
    sys.exit(not run_sections(__doc__, sections))
