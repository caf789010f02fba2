"""A real browser that opens a page from a file, acts on it by a script, and says what it finds. No driver."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
with_browser = pytest.mark.skipif(BROWSER is None, reason=f"no browser here: {', '.join(BROWSERS)}")

# What a probe is told and can do. Nothing here knows the page's own functions, but for its charts' ranges.
TOOLS = """
const errors = [], refused = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason?.stack || event.reason)));
addEventListener("securitypolicyviolation", (event) => refused.push(`${event.violatedDirective} ${event.blockedURI}`));
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(condition) {
  for (let i = 0; i < 200 && !condition(); i++) await sleep(20);
  return condition();
}
const shown = () => all(".chart").filter((chart) => !chart.parentNode.hidden);
const charts = () => shown().filter((chart) => chart.dataset.range);
const chartsDone = () => sleep(150).then(() => until(() => shown().length === charts().length));
const act = (target, type, x, y, more = {}) =>
  target.dispatchEvent(new PointerEvent(type, { bubbles: true, clientX: x, clientY: y, pointerId: 1, ...more }));
async function drag(overlay, from, to) {
  const box = overlay.getBoundingClientRect();
  const at = (share) => box.left + share * box.width;
  act(overlay, "pointerdown", at(from), box.top + 50);
  act(overlay, "pointermove", at((from + to) / 2), box.top + 50);
  act(overlay, "pointermove", at(to), box.top + 50);
  act(overlay, "pointerup", at(to), box.top + 50);
  await sleep(100);
}
async function type(input, text) {
  input.value = text;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  await sleep(250);
}
async function choose(select, value) {
  select.value = value;
  select.dispatchEvent(new Event("change", { bubbles: true }));
  await sleep(100);
}
async function inspect(probe) {
  let found;
  try {
    await until(() => document.body.dataset.made !== undefined);
    found = await probe();
  } catch (error) {
    errors.push(error.stack);
  }
  const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const overflow = document.documentElement.scrollWidth - innerWidth;
  return { found: found ?? null, errors, refused, requests, overflow, ran: window.ran ?? null };
}
"""
ANSWER = 'report.then(JSON.stringify).then((said) => parent.postMessage(said, "*"));'
# A window of a desktop's browser is at least 500 pixels wide, and a frame is as wide as it is told. Frames lie on each
# other, as what is out of view is drawn later.
FRAME = '<iframe src="{name}" width="{width}" height="{height}" style="position: absolute; top: 0; left: 0"></iframe>'
COLLECT = """<script>
const said = {};
addEventListener("message", (event) => {
  const frames = [...document.querySelectorAll("iframe")].map((frame) => frame.contentWindow);
  said[frames.indexOf(event.source)] = JSON.parse(event.data);
  document.body.dataset.said = JSON.stringify(said);
});
</script>"""
HAND_ON = """<script>
addEventListener("message", (event) => fetch("{address}", {{ method: "POST", mode: "no-cors", body: event.data }}));
</script>"""
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-features=LocalNetworkAccessChecks")


@dataclass
class View:
    """A page, what is done in it, and how wide it is.

    Args:
        page: an HTML file with a content security policy.
        probe: the body of an async function; what it returns, as JSON, is `found`.
        width: in CSS pixels.
    """

    page: Path
    probe: str = "return null;"
    width: int = 1280


def look(page: Path, probe: str = "return null;", width: int = 1280) -> dict[str, Any]:
    """Open a page and run a probe in it: `look_at_all` with one view."""
    return look_at_all([View(page, probe, width)])[0]


def look_at_all(views: Sequence[View]) -> list[dict[str, Any]]:
    """Open pages at the same time, which takes one start of the browser, and run the probe of each.

    Returns:
        Of each view: found; errors (of scripts), refused (by the policy), requests, overflow (pixels that the page is
        too wide), ran (what a script from elsewhere set `window.ran` to).
    """
    frames = [
        FRAME.format(name=name_in_url(probed(view, i)), width=view.width, height=6000) for i, view in enumerate(views)
    ]
    outer = views[0].page.with_name("frames.html")
    outer.write_text("".join(["<!doctype html><body>", COLLECT, *frames, "</body>"]))
    dom = dump(outer, max(view.width for view in views))
    said = re.search(r'<body[^>]* data-said="([^"]*)"', dom)
    assert said is not None, dom[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(html.unescape(said[1]))
    return [found[str(index)] for index in range(len(views))]


def probed(view: View, index: int = 0) -> Path:
    """A copy of a page, next to it, which runs the probe and hands on what it finds."""
    script = f"{TOOLS}\nconst report = inspect(async () => {{ {view.probe} }});\n{ANSWER}"
    text = view.page.read_text()
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert text.count("script-src ") == 1
    text = text.replace("script-src ", f"script-src 'sha256-{own}' ").replace(
        "<main", f"<script>{script}</script><main", 1
    )
    copy = view.page.with_name(f"probed_{index}.html")
    copy.write_text(text)
    return copy


def name_in_url(page: Path) -> str:
    return page.absolute().as_uri()


def time_in(view: View, height: int = 900, timeout: float = 60) -> dict[str, Any]:
    """What `look` gives, by the clock on the wall: `performance.now()` in the probe counts from the page's opening."""
    assert BROWSER is not None
    answers: list[bytes] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answers.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server, TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        server.timeout = timeout
        address = f"http://127.0.0.1:{server.server_port}/"
        frame = FRAME.format(name=name_in_url(probed(view)), width=view.width, height=height)
        outer = view.page.with_name("frame.html")
        outer.write_text("".join(["<!doctype html><body>", HAND_ON.format(address=address), frame, "</body>"]))
        words = [f"--user-data-dir={profile}", f"--window-size={view.width},{height}", name_in_url(outer)]
        browser = subprocess.Popen(
            [BROWSER, *OPTIONS, "--remote-debugging-port=0", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            server.handle_request()
        finally:
            browser.terminate()
            browser.wait()
    assert answers, f"the browser did not answer in {timeout:g} s"
    found: dict[str, Any] = json.loads(answers[0])
    return found


def dump(page: Path, width: int) -> str:
    """The page as the browser has it after eight seconds, which it does not wait for: its clock runs ahead."""
    assert BROWSER is not None
    words = ["--virtual-time-budget=8000", f"--window-size={max(width, 500)},6000", "--dump-dom", name_in_url(page)]
    command = [BROWSER, *OPTIONS, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
