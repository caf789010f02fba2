"""What it costs to see and compare runs: tables, pages and how a browser opens them, places of settings, checks."""

import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from browser import BROWSER, View, time_in
from hydra import compose, initialize_config_dir
from many_runs import write_runs
from measure import CYCLES, at_most, cpu, process, turns
from omegaconf import OmegaConf
from shared import Row

from scaffolding import train as program
from scaffolding.core.clock import Clock
from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import UserError
from scaffolding.core.means import Means
from scaffolding.core.meter import Meter
from scaffolding.core.preflight.blocks import check_specs
from scaffolding.core.preflight.origins import find_origins, set_by
from scaffolding.core.preflight.sections import examine
from scaffolding.core.processes.connect import ONE_PROCESS
from scaffolding.core.report import write
from scaffolding.core.report.figures import read_figures
from scaffolding.core.report.write import write_report
from scaffolding.core.session.record import Record
from scaffolding.core.session.run import Run
from scaffolding.experiment import PROJECT

TRAIN = PROJECT.sources / "train.py"
BATCH = 64
# Ten faults of different kinds, in one command line.
FAULTS = (
    "data=digits", "model=mlp", "run.precision=fp16", "loader.batch_size=0", "model.hidden_size=[64]",
    "optimizer.lr=fast", "run.budget=soon", "run.matmul=low", "run.seed=-1", "run.monitor_mode=least",
    "loader.num_workers=-1", "run.nothing=1",
)  # fmt: skip
NUM_FAULTS = 10
# What is in view, or nearly, is drawn; two frames later it can be seen.
OPENED = """
const frame = () => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
const isNear = (chart) => chart.getBoundingClientRect().top < innerHeight + 300;
document.querySelector("#curves").scrollIntoView();
while (!shown().filter(isNear).every((chart) => chart.dataset.range)) await sleep(5);
await frame();
const out = { opened: performance.now(), charts: charts().length };
let before;
"""
ZOOM = """
const overlay = document.querySelector("#curves .overlay"), box = overlay.getBoundingClientRect();
const at = (share) => box.left + share * box.width;
const range = () => document.querySelector("#curves .chart").dataset.range;
const whole = range();
before = performance.now();
for (const [type, share] of [["pointerdown", 0.3], ["pointermove", 0.6], ["pointerup", 0.6]])
  act(overlay, type, at(share), box.top + 40);
await frame();
out.zoom = performance.now() - before;
if (range() === whole) throw new Error("nothing was zoomed");
"""
FILTER = """
const input = document.querySelector("#runs input");
const text = () => document.querySelector("#runs [role=status]").textContent;
const all_runs = text();
before = performance.now();
input.value = "lr<0.01";
input.dispatchEvent(new Event("input", { bubbles: true }));
await frame();
out.filter = performance.now() - before;
if (text() === all_runs) throw new Error("nothing was filtered");
"""
END = "return out;"


def see(quick: bool, mnist: list[str]) -> Iterator[Row]:
    """All rows; `mnist` are the words of a run whose dataset is as large as MNIST."""
    folder, num, num_rows = Path("see").absolute(), 10_000, 100_000
    if quick:
        num, num_rows = 1_000, 10_000
    words = ("data=mnist", "model=mlp", "mode=dev", "run.rehearse_resume=false", "run.name=like")
    process(str(TRAIN), *words, f"paths.output={folder / 'runs'}")
    like = folder / "runs" / "like"
    write_runs(folder / "many", like, num)
    shown = (str(PROJECT.root / "scripts" / "runs.py"), "--output", str(folder / "many"))
    query = ("--where", "optimizer.lr < 1e-2 and data=mnist and status=finished", "--sort", "val/loss")
    times = [process(*shown, *query) for _ in range(CYCLES[quick])]
    yield at_most(f"see: `runs.py --where ... --sort ...` of {num:,} runs", times, "s", 2)
    yield at_most("see: phases and means, 2 metrics", [step_cost(quick) for _ in range(CYCLES[quick])], "us a step", 15)
    yield from pages(quick, folder, like, num_rows)
    yield from places_and_checks(quick)
    yield share_of_a_run([*mnist, f"paths.output={folder / 'share'}"])


# --- pages


def pages(quick: bool, folder: Path, like: Path, num_rows: int) -> Iterator[Row]:
    """How long pages take to write, what they weigh, and how a browser opens them."""
    plain, long = folder / "plain", folder / "long"
    copy_run(like, plain)
    copy_run(like, long)
    write_rows(like, long, num_rows * 2 // 3, seed=0)
    runs = sorted((folder / "many").iterdir())[:1000]
    for seed, run in enumerate(runs):
        write_rows(like, run, 60, seed)
    kinds = {file.stem.rsplit("-", 2)[0] for file in (like / "figures").glob("*.png")}
    figures = sum(len(image["source"]) for kind in figures_of(like) for image in kind["images"]) / 1e6
    files = {name: folder / f"{name}.html" for name in ("long", "many")}
    for what, paths, file, most, largest in (
        ("a small run without figures", [plain], folder / "plain.html", 0.05, 0.6),
        (
            f"a small run, {len(kinds)} kinds of figures ({figures:.2f} MB in base64)",
            [like],
            folder / "like.html",
            0.05,
            0.6 + figures,
        ),
        (f"a run of {num_rows:,} rows", [long], files["long"], 2, 8),
        (f"{len(runs):,} runs", runs, files["many"], 3, 6),
    ):
        times = [cpu(write_report, paths, file) for _ in range(CYCLES[quick] + 1)][1:]
        yield at_most(f"see: writing the page of {what}", times, "s of CPU", most)
        weight = file.stat().st_size / 1e6
        yield f"see: its weight, {what}", f"{weight:.2f} MB", f"<= {largest:.2f} MB", weight <= largest
    if BROWSER is None:
        yield "see: opening, zoom, filter, requests", "not measured: no browser here", "", True
        return
    seen = {"long": list[dict[str, Any]](), "many": list[dict[str, Any]]()}
    for _ in range(CYCLES[quick]):
        seen["long"].append(time_in(View(files["long"], OPENED + ZOOM + END)))
        seen["many"].append(time_in(View(files["many"], OPENED + ZOOM + FILTER + END)))
    every = [*seen["long"], *seen["many"]]
    for one in every:
        assert one["found"] is not None and one["errors"] == [] and one["found"]["charts"] > 0, one
    for name, what in (("long", f"{num_rows:,} rows"), ("many", f"{len(runs):,} runs")):
        yield at_most(f"see: opening the page of {what}, wall", milliseconds(seen[name], "opened"), "s", 2)
        yield at_most(f"see: zoom, {what}, wall", milliseconds(seen[name], "zoom"), "s", 0.5)
    yield at_most(f"see: filter, {len(runs):,} runs, wall", milliseconds(seen["many"], "filter"), "s", 0.1)
    requests = sum(len(one["requests"]) + len(one["refused"]) for one in every)
    yield "see: requests of these pages", str(requests), "0", requests == 0


def milliseconds(seen: list[dict[str, Any]], what: str) -> list[float]:
    """Times of a probe in seconds."""
    return [one["found"][what] / 1000 for one in seen]


def figures_of(run: Path) -> list[dict[str, Any]]:
    """The figures of a run as its page embeds them."""
    return read_figures(run / "figures", [])


def copy_run(like: Path, run: Path) -> None:
    """A copy of a run without figures."""
    shutil.copytree(like, run, ignore=shutil.ignore_patterns("figures", "checkpoints", "wandb"))


def write_rows(like: Path, run: Path, num_rows: int, seed: int) -> None:
    """Rows for a run: as many of training, and half as many of validation, with numbers that differ as a run's do."""
    head, *rows = (like / "facts" / "scalars.csv").read_text().splitlines()
    names = head.split(",")
    examples = {split: next(row for row in rows if f",{split}," in row).split(",") for split in ("train", "val")}
    draws = random.Random(seed)
    lines = [head]
    for step, (split, cells) in product(range(1, num_rows + 1), examples.items()):
        if split == "val" and step % 2:
            continue
        values = dict(zip(names, cells, strict=True))
        for name, text in values.items():
            if name not in ("epoch", "split") and text:
                values[name] = repr(float(text) * draws.uniform(1, 2))
        values |= {"step": str(step), "samples": str(step * BATCH)}
        values["time"] = repr(float(cells[names.index("time")]) + 0.01 * step + draws.uniform(0, 0.001))
        lines.append(",".join(values.values()))
    file = run / "facts" / "scalars.csv"
    file.unlink()  # it may be a link
    file.write_text("\n".join([*lines, ""]))


# --- what a run spends on it


def step_cost(quick: bool) -> float:
    """Microseconds of CPU that a step spends on its phases and on the means of two metrics, rows included."""
    clock, meter, num = Clock(), Meter(ONE_PROCESS), 20_000
    if quick:
        num = 2_000
    loss, accuracy = torch.rand(()), torch.rand(())

    def steps() -> None:
        for step in range(num):
            means = Means()
            means.add("", loss, {"accuracy": accuracy}, 1.0)
            metrics = means.values()
            for phase in ("data", "step", "forward", "backward", "step"):
                clock.enter(phase)
            meter.add(metrics, BATCH)
            if step % 50 == 0:
                meter.average(metrics)

    def bare() -> None:
        for _ in range(num):
            means = Means()
            means.add("", loss, {"accuracy": accuracy}, 1.0)
            means.values()

    return (cpu(steps) - cpu(bare)) / num * 1e6


def share_of_a_run(words: list[str]) -> Row:
    """What the clock, the means of rows, rows, summary, page and places of settings take of the wall time of a run.

    Each call is timed while the run goes on; the timing itself counts, so the figure is an upper bound. A run that
    Python starts has no places to look up, so that is timed by itself.
    """
    spent = dict.fromkeys(("clock", "means", "rows", "summary", "page"), 0.0)
    measured: tuple[tuple[str, Any, str], ...] = (
        ("clock", Clock, "enter"),
        ("means", Meter, "add"),
        ("means", Meter, "average"),
        ("rows", Record, "add"),
        ("summary", Run, "_summarise"),
        ("summary", Run, "_write_summary"),
        ("page", write, "write_report"),
    )

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            before = time.perf_counter()
            try:
                return function(*arguments, **more)
            finally:
                spent[name] += time.perf_counter() - before

        return call

    cfg = compose_config(PROJECT, words)
    with ExitStack() as stack:
        for name, owner, attribute in measured:
            stack.enter_context(patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        before = time.perf_counter()
        program.main(cfg)
        wall = time.perf_counter() - before
    spent["places"] = cpu(lambda: set_by(find_origins(PROJECT, words)))
    assert all(spent.values())
    share = 100 * sum(spent.values()) / wall
    told = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in spent.items())
    return (
        "see: share of an epoch of MNIST, default model",
        f"{share:.2f} % of {wall:.0f} s ({told})",
        "<= 1 %",
        share <= 1,
    )


# --- places of settings, and checks before a run


def places_and_checks(quick: bool) -> Iterator[Row]:
    """What it takes to say what set each setting, and to check a config without a fault and one with ten."""
    words = ["data=mnist", "model=mlp", "optimizer.lr=1e-2"]
    times = [cpu(lambda: set_by(find_origins(PROJECT, words))) for _ in range(CYCLES[quick] + 1)][1:]
    yield at_most("see: what set each setting, once after the first step", times, "s of CPU", 0.06)
    with initialize_config_dir(str(PROJECT.configs), version_base=None):
        composed = compose("base", overrides=words)

    def checks() -> float:
        return cpu(lambda: check_specs(examine(composed, PROJECT.schema, PROJECT.configs)[1], is_new=True))

    def bare() -> float:
        """The least that a typed config takes: on top of the schema, and resolved."""

        def resolve() -> None:
            typed = OmegaConf.merge(OmegaConf.structured(PROJECT.schema), composed)
            OmegaConf.to_container(typed, resolve=True)

        return cpu(resolve)

    ours, floor = turns(3 * CYCLES[quick], checks, bare)
    more = [1000 * (one - other) for one, other in zip(ours, floor, strict=True)]
    yield at_most("see: checks of a sound config, more than types and interpolations", more, "ms of CPU", 2)
    told = []

    def refused() -> None:
        try:
            compose_config(PROJECT, list(FAULTS))
        except UserError as error:
            told.append(str(error))

    times = [cpu(refused) for _ in range(CYCLES[quick] + 1)][1:]
    assert told and told[0].startswith(f"{NUM_FAULTS} faults"), told[:1]
    yield at_most(f"see: {NUM_FAULTS} faults named, after the imports", times, "s of CPU", 0.6)
