"""The page of a run and the page that compares several, of real runs, in a real browser."""

import base64
import csv
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import View, look, look_at_all, with_browser
from conftest import BASE, TINY, run_train, wait_until

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.errors import StorageError, UserError
from scaffolding.core.folder import folder
from scaffolding.core.folder.summary import read_summary
from scaffolding.core.report import write
from scaffolding.core.report.content import advice
from scaffolding.core.report.figures import MAX_FIGURES
from scaffolding.core.report.write import write_report
from scaffolding.experiment import Experiment

SCRIPT = PROJECT_ROOT / "scripts" / "report.py"
HOSTILE = (
    "</script><script>window.ran='script'</script><img src=x onerror=window.ran='img'>$$x$$ ${data}"
    "<!--<svg onload=window.ran='svg'>"
)


pytestmark = pytest.mark.xdist_group("report")  # they share the real runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that ended in each way, and a sweep of which one job failed. Everything is copied before it is changed."""
    root = tmp_path_factory.mktemp("reports")
    base = (*BASE, f"paths.output_root={root}")
    run_train(*base, "run.name=finished", "run.tags=[one,two]", "run.description=a first look")
    run_train(*base, "run.name=failed", env={"FAIL": "update 9"}, code=1)
    run_train(*base, "run.name=interrupted", env={"KILL_AT": "11", "KILL_WITH": "SIGINT"}, code=130)
    run_train(*base, "run.name=killed", env={"KILL_AT": "11"}, code=-9)
    run_train(*base, "run.name=early", env={"KILL_AT": "1"}, code=-9)
    pair = ("model=pair", "optimizer=adamw", "run.monitor=null")
    run_train(*TINY, *pair, "run.budget=8", "run.log_every=1", f"paths.output_root={root}", "run.name=pair")
    sweep = f"paths.output={root / 'exp_lr'}"
    for job, words in enumerate((("run.seed=1",), ("run.seed=2",), ("run.seed=1", "optimizer.lr=0.001"))):
        run_train(*base, sweep, *words, f"job=job{job}")
    run_train(*base, sweep, "optimizer.lr=0.5", "job=job3", env={"FAIL": "update 3"}, code=1)
    return root


def data_of(page: Path) -> dict[str, Any]:
    """What the page was made of."""
    found = re.search(r'<script type="text/plain" id="data">(.*?)</script>', page.read_text())
    assert found is not None
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(found[1])))
    return data


def page_of(tmp_path: Path, *paths: Path, title: str = "", file: str = "page.html") -> Path:
    write_report(list(paths), tmp_path / file, title)
    return tmp_path / file


def copy_of(run: Path, tmp_path: Path, name: str = "copy") -> Path:
    """A copy without what was computed from its files."""
    copy = tmp_path / name
    shutil.copytree(run, copy)
    (copy / "summary.json").unlink(missing_ok=True)
    return copy


def assert_quiet(seen: dict[str, Any]) -> None:
    """No error, nothing asked of the network, nothing run that is not the page's own, not too wide."""
    assert seen["errors"] == [] and seen["refused"] == [] and seen["requests"] == []
    assert seen["ran"] is None and seen["overflow"] <= 0


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "facts" / "scalars.csv", newline="") as stream:
        return list(csv.DictReader(stream))


# --- what the pages hold


@pytest.mark.parametrize("name", ["finished", "pair"])
def test_the_numbers_are_those_of_the_csv(runs: Path, tmp_path: Path, name: str) -> None:
    run = data_of(page_of(tmp_path, runs / name))["run"]
    rows = rows_of(runs / name)
    checked = 0
    for split in {row["split"] for row in rows}:
        of_split, curves = [row for row in rows if row["split"] == split], run["curves"][split]
        assert curves["step"] == [int(row["step"]) for row in of_split]
        assert curves["samples"] == [int(row["samples"]) for row in of_split]
        for column, values in curves["values"].items():
            for row, value in zip(of_split, values, strict=True):
                checked += 1
                expected = float(row[column]) if row[column] else None
                assert value == (expected if expected is None else pytest.approx(expected, rel=1e-5))
        columns = {name for row in of_split for name, text in row.items() if text}
        axes = {"step", "epoch", "samples", "split", "time"}
        assert {name for name in columns - axes if not name.startswith("seconds/")} == set(curves["values"])
    assert checked > 40


def test_epochs_advance_with_the_samples(runs: Path, tmp_path: Path) -> None:
    curves = data_of(page_of(tmp_path, runs / "finished"))["run"]["curves"]["train"]
    whole = [int(row["epoch"]) for row in rows_of(runs / "finished") if row["split"] == "train"]
    assert all(epoch <= found <= epoch + 1 for found, epoch in zip(curves["epoch"], whole, strict=True))
    assert len(set(curves["epoch"])) == len(whole), "several rows of an epoch have places of their own"


def test_many_rows_are_thinned_evenly_and_keep_their_ends(runs: Path, tmp_path: Path) -> None:
    many = []
    for name in ("a", "b"):
        many.append(copy_of(runs / "finished", tmp_path, name))
        file = many[-1] / "facts" / "scalars.csv"
        file.write_text("step,split,loss\n" + "".join(f"{step},train,{step / 2}\n" for step in range(1, 5001)))
    data = data_of(page_of(tmp_path, *many))
    train = data["runs"][0]["curves"]["train"]
    assert len(train["step"]) == data["rows"] == 400
    assert train["step"][0] == 1 and train["step"][-1] == 5000
    assert all(loss == step / 2 for step, loss in zip(train["step"], train["values"]["loss"], strict=True))
    assert {later - step for step, later in zip(train["step"], train["step"][1:], strict=False)} == {12, 13}


ENDED = {"failed": "failed", "interrupted": "interrupted", "killed": "died", "early": "died", "pair": "finished"}


@with_browser
def test_a_run_that_ended_in_any_way_has_a_page(runs: Path, tmp_path: Path) -> None:
    probe = """
    await chartsDone();
    const text = (name) => all(name).map((each) => each.textContent);
    return { words: text("header")[0], charts: charts().length, bad: text(".frame.bad"), commands: text("code") };
    """
    views = [View(page_of(tmp_path, runs / name, file=f"{name}.html"), probe) for name in ENDED]
    for (name, status), seen in zip(ENDED.items(), look_at_all(views), strict=True):
        assert_quiet(seen)
        found = seen["found"]
        assert status in found["words"]
        assert (found["charts"] > 0) == (name != "early")
        if status == "failed":
            assert "ZeroDivisionError" in found["bad"][0] and "planted" in found["bad"][0]
        resumable = any("resume=" in command for command in found["commands"])
        assert resumable == (runs / name / "checkpoints" / "latest.pt").exists()


@with_browser
def test_a_run_that_goes_on_is_said_to_run_and_reloads_itself(runs: Path, tmp_path: Path) -> None:
    copy = copy_of(runs / "killed", tmp_path)
    folder.acquire(copy)
    try:
        write_report([copy], tmp_path / "page.html", reload=3600)
        seen = look(tmp_path / "page.html", "return document.querySelector('header').textContent;")
    finally:
        folder.release(copy)
    assert "running" in seen["found"] and seen["errors"] == []


@with_browser
def test_values_that_are_not_finite_are_marked(runs: Path, tmp_path: Path) -> None:
    copy = copy_of(runs / "finished", tmp_path)
    rows = rows_of(copy)
    rows[3]["loss"], rows[4]["loss"], rows[5]["loss"] = "nan", "inf", "-inf"
    with open(copy / "facts" / "scalars.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    page = page_of(tmp_path, copy)
    values = [value for split in data_of(page)["run"]["curves"].values() for value in split["values"]["loss"]]
    assert {"nan", "inf", "-inf"} <= set(values)
    probe = """
    await chartsDone();
    const figure = all("figure").find((each) => each.querySelector("b").textContent === "loss");
    return figure.querySelector(".note").textContent;
    """
    seen = look(page, probe)
    assert_quiet(seen)
    assert seen["found"].startswith(f"3 values not finite (✕, first at {rows[3]['step']}: nan)")


@with_browser
def test_what_a_run_says_is_text(runs: Path, tmp_path: Path) -> None:
    copy = copy_of(runs / "failed", tmp_path, "hostile")
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps(status | {"reason": HOSTILE}))
    config = (copy / "config.yaml").read_text()
    config = re.sub(r"(?m)^  description: .*$", f"  description: {json.dumps(HOSTILE)}", config)
    config = re.sub(r"(?m)^  tags: .*$", f"  tags: [{json.dumps(HOSTILE)}]", config)
    (copy / "config.yaml").write_text(f"{config}\n{json.dumps(HOSTILE)}: {json.dumps(HOSTILE)}\n")
    (copy / "note.txt").write_text(HOSTILE)
    (copy / "log.txt").write_text(HOSTILE)
    rows = rows_of(copy)
    with open(copy / "facts" / "scalars.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], HOSTILE])
        writer.writeheader()
        writer.writerows([row | {HOSTILE: "1", "split": "train"} for row in rows] + [rows[0] | {"split": HOSTILE}])
    with open(copy / "facts" / "events.jsonl", "a") as stream:
        stream.write(json.dumps({"event": HOSTILE, "time": HOSTILE, HOSTILE: HOSTILE}) + "\n")
        stream.write(json.dumps({"event": "on_exception", "time": "", "traceback": HOSTILE}) + "\n")
    (copy / "provenance.json").write_text(
        json.dumps({"argv": [HOSTILE], "commit": HOSTILE, "packages": {HOSTILE: "1"}})
    )
    (copy / "changes.patch").write_text(f"diff --git a/{HOSTILE} b/{HOSTILE}\n+{HOSTILE}\n")
    (copy / "figures").mkdir(exist_ok=True)
    (copy / "figures" / f"{HOSTILE.replace('/', '')}-val-000001.png").write_bytes(b"not an image")
    other = copy_of(copy, tmp_path, "other")
    (other / "config.yaml").write_text(f"{config}\n{json.dumps(HOSTILE)}: other\n")
    for paths in ([copy], [copy, other]):
        page = page_of(tmp_path, *paths, title=HOSTILE)
        assert page.read_text().count("<img") == sum(path.read_text().count("<img") for path in write.PAGE.iterdir())
        probe = (
            "await chartsDone(); await sleep(300); return { images: all('img').length, text: document.body.innerText };"
        )
        seen = look(page, probe)
        assert_quiet(seen)
        assert seen["found"]["images"] == (1 if len(paths) == 1 else 0)
        assert seen["found"]["text"].count("</script><script>window.ran='script'") > 4, "it is shown as it is"


def test_damaged_files_cost_their_part(runs: Path, tmp_path: Path) -> None:
    copy = copy_of(runs / "finished", tmp_path)
    (copy / "facts" / "scalars.csv").write_bytes(b"\xff\xfe\x00")
    (copy / "provenance.json").write_text("[1")
    (copy / "log.txt").unlink()
    (copy / "log.txt").symlink_to("/etc/hostname")
    run = data_of(page_of(tmp_path, copy))["run"]
    assert [name in " ".join(run["problems"]) for name in ("scalars.csv", "provenance.json", "log.txt")] == [True] * 3
    assert run["log"] == "" and run["curves"] == {} and run["events"]


def test_figures_are_chosen_evenly_and_the_rest_is_counted(runs: Path, tmp_path: Path) -> None:
    copy = copy_of(runs / "finished", tmp_path)
    (copy / "figures").mkdir(exist_ok=True)
    for step in range(1, 31):
        (copy / "figures" / f"samples-val-{step:06d}.png").write_bytes(b"\x89PNG")
    (copy / "figures" / "notes.txt").write_text("not a figure")
    (kind,) = [kind for kind in data_of(page_of(tmp_path, copy))["run"]["figures"] if kind["kind"] == "samples"]
    steps = [image["step"] for image in kind["images"]]
    assert len(steps) == MAX_FIGURES and (steps[0], steps[-1]) == (1, 30) and kind["left_out"] == 30 - MAX_FIGURES


def test_commands_can_be_pasted(runs: Path, tmp_path: Path) -> None:
    copy = copy_of(runs / "finished", runs / "nested")
    provenance = json.loads((copy / "provenance.json").read_text())
    words = ["train.py", f"paths.output_root={runs}", "run.description=a first look", "run.tags=[a,'b c']"]
    (copy / "provenance.json").write_text(json.dumps(provenance | {"argv": words}))
    commands = dict(data_of(page_of(tmp_path, copy))["run"]["commands"])
    assert f"resume=nested/copy paths.output_root={runs}" in commands["resume"]
    again = subprocess.run(["sh", "-c", f"printf '%s\\n' {commands['again']}"], capture_output=True, text=True)
    assert again.stdout.splitlines() == ["python", *words]
    shutil.rmtree(runs / "nested")


def test_commands_say_what_must_be_trusted(tmp_path: Path) -> None:
    """They work as they stand; the run is of a target that no YAML file names."""
    words = (*TINY, "run.budget=4", "run.save_every=1", "loss._target_=unnamed.CountingLoss", "run.name=plugin")
    run_train(*words, f"paths.output_root={tmp_path}")
    run = tmp_path / "plugin"
    provenance = json.loads((run / "provenance.json").read_text())
    typed = {"argv": ["train.py", *words, f"paths.output_root={tmp_path}"]}  # a test starts its runs in another way
    (run / "provenance.json").write_text(json.dumps(provenance | typed))
    shown = data_of(page_of(tmp_path, run))["run"]
    commands = dict(shown["commands"])
    assert shown["trust"] == ["unnamed.CountingLoss"]
    resume = shlex.split(commands["resume"])[2:]
    assert resume == ["resume=plugin", f"paths.output_root={tmp_path}", "trust=unnamed.CountingLoss"]
    run_train(*resume, "run.budget=6")
    assert read_summary(run)["step"] == 6
    names: dict[str, Any] = {"Experiment": Experiment}
    exec(commands["load"], names)
    assert names["exp"].path == run.resolve()


def test_without_a_page_the_last_lines_say_how_to_make_one(tmp_path: Path) -> None:
    done = run_train(*TINY, "run.budget=2", "run.report=false", f"paths.output_root={tmp_path}", "run.name=plain")
    run = tmp_path / "plain"
    assert not (run / "report.html").exists()
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("report:")]
    python, script, path = shlex.split(line.removeprefix("report:"))
    assert python == "python" and path == str(run)
    if not SCRIPT.exists():
        pytest.skip("report.py has been deleted")
    subprocess.run([sys.executable, script, path], check=True, capture_output=True)
    assert data_of(run / "report.html")["run"]["status"] == "finished"


def test_advice_needs_a_device_that_waits() -> None:
    training = {"forward": 3.0, "backward": 2.0, "step": 1.0}
    assert "loader.num_workers" in advice({**training, "data": 4.0, "log": 0.1})
    assert advice({**training, "data": 4.0, "device": 3.0}) == "", "the device is behind"
    assert advice({**training, "data": 0.5}) == ""
    assert advice({**training, "save": 6.0}) == "", "of a run of seconds it does not matter"
    assert "run.save_every" in advice({name: 100 * value for name, value in {**training, "save": 6.0}.items()})
    assert advice({}) == ""


# --- how they act


ACTS = {  # what is done on the page of the finished run
    "zoom": """
    await chartsDone();
    const ranges = () => charts().map((chart) => chart.dataset.range.split(" ").map(Number));
    const overlays = all(".overlay");
    const whole = ranges();
    await drag(overlays[1], 0.4, 0.7);
    const zoomed = ranges();
    act(overlays[0], "dblclick", 0, 0);
    const again = ranges();
    overlays[0].dispatchEvent(new KeyboardEvent("keydown", { key: "+", bubbles: true }));
    return { whole, zoomed, again, keys: ranges() };
    """,
    "legend": """
    await chartsDone();
    const figure = all("figure").find((each) => each.querySelector("b").textContent === "loss");
    const overlay = figure.querySelector(".overlay");
    const left = () => new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true });
    for (let i = 0; i < 60; i++) overlay.dispatchEvent(left());
    return all(".legend button", figure).map((button) => button.textContent);
    """,
    "choices": """
    await chartsDone();
    const [x, split] = all(".controls select");
    const log = document.querySelector(".controls input[type=checkbox]");
    const said = () => all(".canvas").map((canvas) => canvas.getAttribute("aria-label"));
    const begin = said();
    await choose(x, "epoch"); await chartsDone();
    const epoch = charts()[0].dataset.range;
    await choose(split, "val"); await chartsDone();
    const val = said();
    log.click(); await chartsDone();
    await choose(x, "time"); await chartsDone();
    return { begin, epoch, val, end: said() };
    """,
}


@pytest.fixture(scope="module")
def acted(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each of ACTS finds, after one start of the browser."""
    page = page_of(tmp_path_factory.mktemp("acts"), runs / "finished")
    seen = dict(zip(ACTS, look_at_all([View(page, probe) for probe in ACTS.values()]), strict=True))
    for each in seen.values():
        assert_quiet(each)
    return {name: each["found"] for name, each in seen.items()}


@with_browser
def test_a_drag_zooms_all_charts_and_a_double_click_shows_all(acted: dict[str, Any]) -> None:
    found = acted["zoom"]
    assert len(found["whole"]) >= 3
    for name in ("whole", "zoomed", "again", "keys"):
        assert all(one == found[name][0] for one in found[name]), "charts show the same part"
    (low, high), (first, last) = found["whole"][0], found["zoomed"][0]
    assert low < first < last < high and (last - first) / (high - low) == pytest.approx(0.3, abs=0.08)
    assert found["again"] == found["whole"]
    assert found["keys"][0][1] - found["keys"][0][0] == pytest.approx((high - low) / 2)


@with_browser
def test_the_legend_says_the_values_under_the_cursor(runs: Path, acted: dict[str, Any]) -> None:
    found = acted["legend"]
    first = next(row for row in rows_of(runs / "finished") if row["split"] == "train")
    (shown,) = [text for text in found if text.startswith("train")]
    assert float(shown.split()[1]) == pytest.approx(float(first["loss"]), rel=1e-3)


@with_browser
def test_choices_draw_the_curves_anew(runs: Path, acted: dict[str, Any]) -> None:
    found = acted["choices"]
    assert found["begin"][0].startswith("loss over step: train last ")
    epochs = max(int(row["epoch"]) for row in rows_of(runs / "finished")) + 1
    assert float(found["epoch"].split()[1]) == pytest.approx(epochs, rel=0.1)
    assert found["val"][0].startswith("loss over epoch: val last ") and "train" not in found["val"][0]
    assert found["end"][0].startswith("loss over time in s: val last ")


@with_browser
def test_no_page_is_too_wide(runs: Path, tmp_path: Path) -> None:
    probe = "await chartsDone(); return innerWidth;"
    shown = {"finished": [runs / "finished"], "failed": [runs / "failed"], "sweep": sorted(runs.glob("exp_lr/job*"))}
    pages = [page_of(tmp_path, *paths, file=f"{name}.html") for name, paths in shown.items()]
    views = [View(page, probe, width) for page in pages for width in (390, 1280)]
    for view, seen in zip(views, look_at_all(views), strict=True):
        assert_quiet(seen)
        assert seen["found"] == view.width


def luminance(color: str) -> float:
    """Of an sRGB colour, as WCAG 2.2 defines it."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_light_and_dark() -> None:
    """WCAG 2.2 AA: 4.5 for text, 3 for lines of charts."""
    schemes = re.findall(r":root \{(.*?)\}", (write.PAGE / "page.css").read_text(), re.DOTALL)
    assert len(schemes) == 2
    for scheme, on_bar in zip(schemes, ("#ffffff", "#10151c"), strict=True):
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for name in ("text", "dim", "link", "good", "bad", "warn"):
            assert all(contrast(colors[name], colors[ground]) >= 4.5 for ground in ("background", "card")), name
        for name in ("train", "val", "test", "rollout"):
            assert contrast(colors[name], colors["background"]) >= 3, name
        for name in (f"line-{index}" for index in range(8)):
            assert contrast(colors[name], on_bar) >= 4.5 and contrast(colors[name], colors["background"]) >= 3, name


# --- several runs


@with_browser
def test_a_sweep_is_counted_filtered_and_sorted(runs: Path, tmp_path: Path) -> None:
    probe = """
    await chartsDone();
    const names = () => all("#runs tbody th").map((name) => name.textContent);
    const filter = document.querySelector("#runs input");
    const head = (text) => all("#runs thead button").find((button) => button.textContent === text);
    const text = (selector) => all(selector).map((each) => each.textContent);
    const out = { counts: text("header .status"), bad: text(".frame.bad"), columns: text("#runs thead button") };
    out.sorted = names();
    head("run").click(); out.up = names();
    head("run").click(); out.down = names();
    head("val/loss").click(); out.best = names();
    for (const text of ["lr<0.005", "run.seed=2", "status=failed", "optimizer.lr>=0.01 seed!=2", "job1", "nothing=1"]) {
      await type(filter, text);
      out[text] = names().sort();
    }
    await type(filter, "status=finished");
    await chartsDone();
    out.lines = all("#curves .legend").slice(0, 1).map((legend) => legend.textContent);
    const group = all("#curves select").at(-1);
    await choose(group, "optimizer.lr"); await chartsDone();
    out.means = all("#curves .legend button").map((button) => button.textContent);
    return out;
    """
    page = page_of(tmp_path, *sorted(runs.glob("exp_lr/job*")), title="exp_lr")
    seen = look(page, probe)
    assert_quiet(seen)
    found, data = seen["found"], data_of(page)
    assert sorted(found["counts"]) == ["1 failed", "3 finished"]
    assert len(found["bad"]) == 1 and "planted" in found["bad"][0] and "job3" in found["bad"][0]
    assert set(data["varying"]) == {"run.seed", "optimizer.lr"}
    assert set(found["columns"]) >= {"run", "status", "run.seed", "optimizer.lr", "val/loss", "step"}
    assert [row[:2] for row in data["seeds"]["rows"]] in ([[0.01, 2], [0.001, 1]], [[0.001, 1], [0.01, 2]])
    jobs = [f"job{job}" for job in range(4)]
    assert found["up"] == jobs and found["down"] == jobs[::-1]
    losses = {run["name"]: run["results"].get("val/loss", math.inf) for run in data["runs"]}
    assert found["sorted"] == found["best"] == sorted(jobs, key=losses.__getitem__)
    assert found["lr<0.005"] == ["job2"] and found["run.seed=2"] == ["job1"] and found["job1"] == ["job1"]
    assert found["status=failed"] == ["job3"] and found["nothing=1"] == []
    assert found["optimizer.lr>=0.01 seed!=2"] == ["job0", "job3"]
    assert [f"job{job}" in found["lines"][0] for job in range(4)] == [True, True, True, False]
    assert any(text.startswith("0.01 (n=2)") for text in found["means"])
    assert any(text.startswith("0.001 (n=1)") for text in found["means"])


def test_only_the_newest_runs_are_shown_and_the_rest_is_counted(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaffolding.core.report.compare.MAX_RUNS", 2)
    data = data_of(page_of(tmp_path, *sorted(runs.glob("exp_lr/job*"))))
    assert data["left_out"] == 2 and [run["name"] for run in data["runs"]] == ["job2", "job3"]


def test_runs_link_to_their_own_pages(runs: Path, tmp_path: Path) -> None:
    copies = [copy_of(runs / "finished", tmp_path, name) for name in ("with page", "without")]
    for copy in copies:
        (copy / "report.html").unlink(missing_ok=True)
    write_report([copies[0]], copies[0] / "report.html")
    links = {run["folder"]: run["link"] for run in data_of(page_of(tmp_path, *copies))["runs"]}
    assert links == {"with page": "./with%20page/report.html", "without": None}


# --- writing


def test_a_page_is_written_whole_or_not_at_all(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(tmp_path, runs / "finished")
    before = page.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="No space left"):
            write_report([runs / "failed"], page)
    assert page.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_without_bokeh_it_says_what_to_install(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write._library.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="bokeh"):
        write_report([runs / "finished"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_without_figures_is_small(runs: Path, tmp_path: Path) -> None:
    assert page_of(tmp_path, runs / "finished").stat().st_size < 600_000


@pytest.fixture
def report(runs: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """The script, which must import neither torch nor Python's bokeh."""
    if not SCRIPT.exists():
        pytest.skip("report.py has been deleted")

    def call(*words: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
        program = (
            f"import runpy, sys; sys.argv = {[SCRIPT.name, *map(str, words), '--output', str(runs)]!r}\n"
            f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
            "finally: assert not {'torch', 'bokeh'} & set(sys.modules)"
        )
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        return done

    return call


def test_the_script_takes_runs_and_sweeps(runs: Path, tmp_path: Path, report: Any) -> None:
    assert report("finished").stdout.split() == ["report:", str(runs / "finished" / "report.html")]
    report(runs / "exp_lr")
    data = data_of(runs / "exp_lr" / "report.html")
    assert data["title"] == "exp_lr" and len(data["runs"]) == 4
    report("exp_lr", "finished", "failed", "--to", tmp_path / "all.html")
    assert {run["folder"] for run in data_of(tmp_path / "all.html")["runs"]} == {
        *(f"exp_lr/job{job}" for job in range(4)), "finished", "failed",
    }  # fmt: skip
    for page in (runs / "finished", runs / "exp_lr"):
        (page / "report.html").unlink()


def test_the_script_names_what_is_wrong(runs: Path, tmp_path: Path, report: Any) -> None:
    before = sorted(runs.rglob("*"))
    assert "nearest: finished" in report("finnished", code=2).stderr
    assert "--to FILE" in report("finished", "failed", code=2).stderr
    assert "is not a folder" in report("finished", "--to", tmp_path / "no" / "page.html", code=2).stderr
    assert "more than 0" in report("finished", "--every", "0", code=2).stderr
    assert sorted(runs.rglob("*")) == before


def test_every_writes_again_until_the_run_ends(runs: Path, tmp_path: Path) -> None:
    if not SCRIPT.exists():
        pytest.skip("report.py has been deleted")
    copy = copy_of(runs / "killed", tmp_path)
    page = copy / "report.html"
    folder.acquire(copy)
    words = [sys.executable, str(SCRIPT), str(copy), "--every", "0.2", "--output", str(runs)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        wait_until(page.exists)
        assert data_of(page)["reload"] == 0.2 and data_of(page)["run"]["status"] == "running"
    finally:
        folder.release(copy)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and str(page) in said
    assert data_of(page)["reload"] == 0 and data_of(page)["run"]["status"] == "died"
