"""A real browser that opens a page from a file, acts on it by a script, and says what it finds. No driver."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
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
ANSWER = """
report.then(JSON.stringify).then((said) => {
  if (parent === window) document.body.dataset.probe = said;
  else parent.postMessage(said, "*");
});
"""
FRAME = """<!doctype html><body><iframe src="{name}" width="{width}" height="6000"></iframe>
<script>addEventListener("message", (event) => (document.body.dataset.probe = event.data));</script></body>"""


def look(page: Path, probe: str = "return null;", width: int = 1280) -> dict[str, Any]:
    """Open a page in a window (of a width that a frame of that width gives) and run a probe in it.

    Args:
        page: an HTML file with a content security policy.
        probe: the body of an async function; what it returns, as JSON, is `found`.
        width: in CSS pixels.

    Returns:
        found; errors (of scripts), refused (by the policy), requests, overflow (pixels that the page is too wide), ran
        (what a script from elsewhere set `window.ran` to).
    """
    script = f"{TOOLS}\nconst report = inspect(async () => {{ {probe} }});\n{ANSWER}"
    text = page.read_text()
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert text.count("script-src ") == 1
    text = text.replace("script-src ", f"script-src 'sha256-{own}' ").replace(
        "<main", f"<script>{script}</script><main", 1
    )
    copy = page.with_name("probed.html")
    copy.write_text(text)
    opened = copy
    if width < 500:  # no window of a desktop's browser is narrower
        opened = page.with_name("frame.html")
        opened.write_text(FRAME.format(name=copy.name, width=width))
    dom = dump(opened, max(width, 500))
    said = re.search(r'<body[^>]* data-probe="([^"]*)"', dom)
    assert said is not None, dom[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(said[1]))
    return found


def dump(page: Path, width: int) -> str:
    """The page as the browser has it after eight seconds, which it does not wait for: its clock runs ahead."""
    assert BROWSER is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
    window = f"--window-size={width},6000"
    command = [BROWSER, *options, window, "--dump-dom", f"file://{page}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
