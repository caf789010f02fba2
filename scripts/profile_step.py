"""Where the time of a training step goes: phases, the dearest operators, and a trace to look at.

python scripts/profile_step.py data=mnist model=convnet    # any overrides; prod mode where they say nothing else
python scripts/profile_step.py experiment=NAME --steps 50 --to step.json.gz    # for ui.perfetto.dev, chrome://tracing

The steps are those of train_step in your train.py. Writes nothing but the trace.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

DEFAULTS = ("mode=prod", "tracker=none", "plots=none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="OVERRIDE", help="as on the command line of train.py")
    parser.add_argument("--steps", type=int, default=20, help="to time, and then to profile (default: 20)")
    parser.add_argument("--warmup", type=int, default=5, help="steps before (default: 5)")
    parser.add_argument("--top", type=int, default=10, help="operators to list (default: 10)")
    parser.add_argument("--to", type=Path, metavar="FILE", help="the trace: .json, or .json.gz")
    args = parser.parse_intermixed_args()  # words may stand between options
    for name, value, least in (("steps", args.steps, 1), ("warmup", args.warmup, 0), ("top", args.top, 1)):
        if value < least:
            parser.error(f"--{name} {value}: {least} or more is needed")
    if args.to is not None and not str(args.to).endswith((".json", ".json.gz")):
        parser.error(f"--to {args.to}: give a name that ends in .json or .json.gz")
    if args.to is not None and not args.to.parent.is_dir():
        parser.error(f"--to {args.to}: the folder {args.to.parent} does not exist")

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler complains where there is no GPU

    from scaffolding.core.errors import RunError, UserError
    from scaffolding.experiment import Experiment

    given = {word.partition("=")[0] for word in args.words}
    words = [*args.words, *(word for word in DEFAULTS if word.partition("=")[0] not in given)]
    try:
        exp = Experiment.from_config(*words)
        exp.prepare()
        try:
            report(exp, args)
        finally:
            exp.close()
    except (UserError, RunError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


def report(exp: Any, args: Any) -> None:
    """Take the steps, some timed and some profiled, and print what they took."""
    from torch.profiler import ProfilerActivity, profile

    _ = exp.watch  # what is infinite before the first step is meant to be
    exp.model.train()
    steps = exp.train_loader.steps(exp.state, exp.settings.accumulate)
    take(exp, steps, args.warmup)
    exp.clock.read()
    num_items = exp.state.samples
    times = take(exp, steps, args.steps)
    num_items = (exp.state.samples - num_items) / args.steps
    seconds, total = exp.clock.read(), sum(times)
    print(f"{exp!r}")
    print(
        f"step: {1e3 * statistics.median(times):.4g} ms (median of {args.steps}; mean {1e3 * total / args.steps:.4g}), "
        f"{num_items * args.steps / total:.4g} items/s, {num_items:g} items a step"
    )
    print(f"\n{'phase':12} {'ms a step':>10} {'share':>6}   (without the profiler)")
    for phase, value in seconds.items():
        if value > 0:
            print(f"{phase:12} {1e3 * value / args.steps:10.3f} {value / sum(seconds.values()):6.0%}")
    is_cuda = exp.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        take(exp, steps, args.steps)
    name = "self_device_time_total" if is_cuda else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: getattr(row, name), reverse=True)
    whole = sum(getattr(row, name) for row in rows)
    print(f"\n{'operator':44} {'calls':>8} {'ms a step':>10} {'share':>6}   (on the {'GPU' if is_cuda else 'CPU'})")
    for row in rows[: args.top]:
        value = getattr(row, name)  # microseconds
        calls = row.count / args.steps
        print(f"{row.key:44.44} {calls:8.4g} {value / 1e3 / args.steps:10.3f} {value / max(whole, 1e-9):6.0%}")
    if args.to is not None:
        profiler.export_chrome_trace(str(args.to))
        print(f"\ntrace: {args.to} (open it at ui.perfetto.dev or chrome://tracing)")


def take(exp: Any, steps: Any, count: int) -> list[float]:
    """Take training steps as `train` does, but log, evaluate and save nothing; seconds of each."""
    import torch

    from scaffolding.train import train_step

    times = []
    for _ in range(count):
        begin = time.perf_counter()
        exp.clock.enter("data")
        micro_batches = next(steps)
        train_step(exp, micro_batches)
        exp.state.advance(micro_batches.num_batches, micro_batches.num_items, len(exp.train_loader))
        exp.clock.enter("device")
        if exp.device.type == "cuda":  # a run waits only at a logged row
            torch.cuda.synchronize(exp.device)
        times.append(time.perf_counter() - begin)
    return times


if __name__ == "__main__":
    main()
