// What stands over and under a chart: the legend with the values under the cursor, the cursor, the box of a zoom, and the
// keys that do the same.

const MOST_NAMES = 10; // lines that have a name in the legend; of more, the nearest to the cursor is named

function makeLegend(chart) {
    chart.legend = element("div", { class: "legend" });
    chart.entries = [];
    const named = chart.lines.filter((line) => line.name);
    if (named.length > MOST_NAMES) return chart.legend;
    for (const line of named) {
        const value = element("b");
        const swatch = element("span", { class: "swatch", style: `background:${line.color}` });
        const entry = element(
            "button",
            { type: "button", "aria-pressed": String(!line.isHidden) },
            swatch,
            `${line.name} `,
            value,
        );
        entry.addEventListener("click", () => toggle(chart, line.name, entry));
        chart.entries.push({ line, value });
        chart.legend.append(entry);
    }
    return chart.legend;
}

/** Hide or show a line, and what belongs to it (of a smoothed line the values themselves). */
function toggle(chart, name, entry) {
    const isHidden = entry.getAttribute("aria-pressed") === "true";
    entry.setAttribute("aria-pressed", String(!isHidden));
    for (const line of chart.lines.filter((each) => each.name === name || each.of === name)) {
        line.isHidden = isHidden;
        for (const renderer of line.renderers) renderer.visible = !isHidden;
    }
    showRange(chart);
}

/** The point of a line that is nearest to x, or null. */
function nearestPoint(line, x) {
    if (!line.x.length) return null;
    const after = placeOf(line.x, x);
    const before = Math.max(0, after - 1);
    if (after >= line.x.length) return before;
    return x - line.x[before] < line.x[after] - x ? before : after;
}

function showCursor(chart) {
    const { cursor: x, range } = chart.group;
    const isOn = x !== null && x !== undefined && x >= range[0] && x <= range[1];
    chart.cursor.style.display = isOn ? "block" : "none";
    if (isOn) chart.cursor.style.left = `${chart.view.frame.x_scale.compute(x)}px`;
    for (const { line, value } of chart.entries) {
        const place = isOn ? nearestPoint(line, x) : line.x.length - 1;
        value.textContent = place === null || place < 0 ? "" : formatNumber(line.y[place]);
    }
    if (!chart.entries.length) chart.legend.textContent = isOn ? "" : chart.spec.hint || "";
}

/** Name the point that is nearest to the pointer, of many lines or dots. */
function namePoint(chart, px, py) {
    if (chart.entries.length) return;
    const { x_scale, y_scale } = chart.view.frame;
    let [best, distance] = [null, Infinity];
    for (const line of chart.lines.filter((each) => !each.isHidden)) {
        const places = line.isDots ? line.x.keys() : [nearestPoint(line, x_scale.invert(px))];
        for (const place of places) {
            if (place === null) continue;
            const [dx, dy] = [x_scale.compute(line.x[place]) - px, y_scale.compute(line.y[place]) - py];
            const far = line.isDots ? Math.hypot(dx, dy) : Math.abs(dy);
            if (far < distance) [best, distance] = [{ line, place }, far];
        }
    }
    if (best) chart.legend.textContent = chart.spec.describe(best.line, best.place);
}

// --- pointer and keys

function listen(chart) {
    const { overlay, group } = chart;
    let from = null;
    const position = (event) => {
        const { left, right } = chart.view.frame.bbox;
        const box = overlay.getBoundingClientRect();
        return [Math.min(Math.max(event.clientX - box.left, left), right), event.clientY - box.top];
    };
    overlay.addEventListener("pointerdown", (event) => {
        if (event.button === 0 && chart.view && !chart.spec.isFixed) from = position(event)[0];
        if (event.isTrusted) overlay.setPointerCapture(event.pointerId);
    });
    overlay.addEventListener("pointermove", (event) => {
        if (!chart.view) return;
        const [px, py] = position(event);
        moveCursor(group, chart.view.frame.x_scale.invert(px));
        namePoint(chart, px, py);
        if (from !== null) showBox(chart, from, px);
    });
    overlay.addEventListener("pointerup", (event) => {
        if (from !== null) zoomTo(chart, from, position(event)[0]);
        from = null;
        chart.box.style.display = "none";
    });
    overlay.addEventListener("pointercancel", () => {
        from = null;
        chart.box.style.display = "none";
    });
    overlay.addEventListener("pointerleave", () => moveCursor(group, null));
    overlay.addEventListener("dblclick", () => zoom(group, null));
    overlay.addEventListener("keydown", (event) => onKey(chart, event));
}

function showBox(chart, from, to) {
    Object.assign(chart.box.style, {
        display: "block",
        left: `${Math.min(from, to)}px`,
        width: `${Math.abs(to - from)}px`,
    });
}

/** Zoom all charts of the group to what was dragged over; a few pixels are a click. */
function zoomTo(chart, from, to) {
    if (Math.abs(to - from) < 5) return;
    const { x_scale } = chart.view.frame;
    zoom(chart.group, [x_scale.invert(Math.min(from, to)), x_scale.invert(Math.max(from, to))]);
}

function onKey(chart, event) {
    const { group } = chart;
    const [low, high] = group.range;
    const step = (high - low) / 50;
    const at = group.cursor ?? (low + high) / 2;
    const around = (factor) => [at - (at - low) * factor, at + (high - at) * factor];
    const keys = {
        ArrowLeft: () => moveCursor(group, Math.max(low, at - step)),
        ArrowRight: () => moveCursor(group, Math.min(high, at + step)),
        "+": () => zoom(group, around(0.5)),
        "-": () =>
            zoom(
                group,
                around(2).map((x) => Math.min(Math.max(x, group.whole[0]), group.whole[1])),
            ),
        0: () => zoom(group, null),
        Escape: () => zoom(group, null),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || (chart.spec.isFixed && !event.key.startsWith("Arrow")))
        return;
    keys[event.key]();
    event.preventDefault();
    announce(chart.entries.map(({ line, value }) => `${line.name} ${value.textContent}`).join(", "));
}
