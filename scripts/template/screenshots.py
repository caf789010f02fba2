"""Pictures of the pages that report.py writes: light, dark and as wide as a phone. Look at them after each change.

python scripts/template/screenshots.py /tmp/pictures                 # makes a run and a sweep there first, in a minute
python scripts/template/screenshots.py /tmp/pictures --only-pictures # of the runs that are there
python scripts/template/screenshots.py /tmp/pictures --readme        # those of the README, too, into .github/
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DARK = "--blink-settings=preferredColorScheme=0"
PHONE = 390  # pixels; a window is at least 500 wide, so the page is put into a frame
README = {"run": 1205, "sweep": 1420}  # the pictures of the README and how high they are
FRAME = '<!doctype html><body style="margin:0"><iframe src="{page}" width="{width}" height="{height}" style="border:0">'


def make_runs(folder: Path) -> None:
    """A run with figures, and a sweep of six points of which seeds differ."""
    words = ["data=digits", "model=mlp", "mode=prod", "tracker=none", f"paths.output_root={folder}"]
    train = next(ROOT.glob("src/*/train.py")).relative_to(ROOT)  # as it would be typed: the page shows the command
    own = ["run.name=run", "run.budget=30epochs", "run.plot_every=6epochs", "run.log_every=10", "scheduler=cosine"]
    notes = ["run.description=a first look", "run.tags=[baseline,digits]"]
    subprocess.run([sys.executable, train, *words, *own, *notes], cwd=ROOT, check=True)
    points = ["run.budget=10epochs", "run.log_every=10", "optimizer.lr=1e-2,1e-3", "run.seed=1,2,3"]
    subprocess.run([sys.executable, ROOT / "scripts" / "sweep.py", "lr", *words, *points], check=True)


def photograph(page: Path, file: Path, width: int, height: int, is_dark: bool = False) -> None:
    """Write a picture of a page as PNG."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"error: no browser here: {', '.join(BROWSERS)}")
    opened = page
    if width < 500:
        opened = page.with_name("frame.html")
        opened.write_text(FRAME.format(page=page.name, width=width, height=height))
    options = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=8000"]
    window = f"--window-size={max(width, 500)},{height}"
    command = [browser, *options, window, *([DARK] if is_dark else []), f"--screenshot={file}", f"file://{opened}"]
    subprocess.run(command, check=True, capture_output=True)
    Image.open(file).convert("RGB").crop((0, 0, width, height)).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the runs and the pictures")
    parser.add_argument("--only-pictures", action="store_true", help="make no runs")
    parser.add_argument("--readme", action="store_true", help="write the pictures of the README, too")
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not args.only_pictures:
        make_runs(folder)
    for name, run in (("run", folder / "run"), ("sweep", folder / "exp_lr")):
        subprocess.run([sys.executable, ROOT / "scripts" / "report.py", run, "--output", folder], check=True)
        page = run / "report.html"
        photograph(page, folder / f"{name}_light.png", 1280, 2600)
        photograph(page, folder / f"{name}_dark.png", 1280, 1400, is_dark=True)
        photograph(page, folder / f"{name}_phone.png", PHONE, 2400)
        if args.readme:
            photograph(page, ROOT / ".github" / f"report_{name}.png", 1280, README[name])
    print(f"pictures: {folder}")


if __name__ == "__main__":
    main()
