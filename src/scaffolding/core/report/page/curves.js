// The curves: a chart for each metric, with a line for each split of each run, or the mean of runs that are alike.

const SPLITS = ["train", "val", "test", "rollout"];
const LAST_METRICS = ["lr", "grad_norm", "items_per_second", "peak_memory_mb"]; // of all, what is looked at last
const X_NAMES = { step: "step", epoch: "epoch", samples: "samples", time: "time" };

/** The section; `all` are the runs, `shown()` the ones to draw, `varying` the settings by which they can be grouped. */
function curvesSection(all, shown, varying) {
    const metrics = metricsOf(all);
    if (!metrics.length) {
        section("Curves").append(element("p", { class: "dim" }, "No rows have been logged yet."));
        return () => {};
    }
    const isSingle = all.length === 1;
    const view = {
        x: "step",
        split: isSingle ? "all" : bestSplit(all),
        log: false,
        smooth: 0,
        group: "",
        ...choices.curves,
    };
    const box = section("Curves");
    const grid = element("div", { class: "charts" });
    const state = { view, all, shown, isSingle, grid, metrics, group: null, observer: null };
    const change = (name, value) => {
        view[name] = value;
        keep("curves", view);
        drawCurves(state);
    };
    box.append(controls(state, varying, change), grid);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCurves(state));
    addEventListener("beforeprint", () => drawAll(state));
    drawCurves(state);
    return () => drawCurves(state);
}

function controls(state, varying, change) {
    const { view, all, isSingle } = state;
    const splits = SPLITS.filter((split) => all.some((run) => run.curves[split]));
    const others = new Set(all.flatMap((run) => Object.keys(run.curves)));
    for (const split of splits) others.delete(split);
    const smooth = element("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: view.smooth });
    smooth.addEventListener("input", () => change("smooth", Number(smooth.value)));
    const box = element("div", { class: "controls" });
    box.append(
        choice(
            "x",
            Object.keys(X_NAMES).filter((name) => hasAxis(all, name)),
            view.x,
            (value) => change("x", value),
        ),
        choice("split", ["all", ...splits, ...others], view.split, (value) => change("split", value)),
        tick("log y", view.log, (value) => change("log", value)),
        element("label", {}, "smooth train ", smooth),
    );
    if (!isSingle && varying.length) {
        const options = [["", "each run alone"], ...varying.map((key) => [key, `mean ± std by ${key}`])];
        box.append(choice("lines", options, view.group, (value) => change("group", value)));
    }
    const whole = element("button", { type: "button", onclick: () => zoom(state.group, null) }, "whole range");
    box.append(whole, element("span", { class: "dim" }, "drag: zoom all · double click: whole range"));
    return box;
}

/** Whether something can be drawn over an axis: it has more than one place there. */
function hasAxis(all, name) {
    return name === "step" || all.some((run) => Object.values(run.curves).some((rows) => new Set(rows[name]).size > 1));
}

/** The split that runs are compared on. */
function bestSplit(all) {
    return ["val", "train", "test"].find((split) => all.some((run) => run.curves[split])) || "all";
}

function metricsOf(all) {
    const found = new Set();
    for (const run of all)
        for (const split of SPLITS.concat(Object.keys(run.curves)))
            for (const name in run.curves[split]?.values) found.add(name);
    const rank = (name) =>
        1 + LAST_METRICS.indexOf(name.slice(name.lastIndexOf("/") + 1)) || (name.endsWith("loss") ? -1 : 0);
    return [...found].sort((one, other) => rank(one) - rank(other));
}

// --- drawing: a chart is made when it comes into view

function drawCurves(state) {
    for (const chart of state.group?.charts || []) chart.view.remove();
    state.observer?.disconnect();
    state.unit = unitOf(state);
    state.group = chartGroup(wholeRange(state));
    state.observer = new IntersectionObserver(
        (entries) => {
            for (const entry of entries) if (entry.isIntersecting) drawOne(state, entry.target);
        },
        { rootMargin: "400px" },
    );
    const figures = state.metrics
        .filter((metric) => hasMetric(state, metric))
        .map((metric) => {
            const host = element("div", { class: "chart" });
            const figure = element("figure", {}, element("figcaption", {}, element("b", {}, metric)), host);
            Object.assign(figure, { metric, host });
            state.observer.observe(figure);
            return figure;
        });
    state.grid.replaceChildren(...figures);
}

function drawAll(state) {
    for (const figure of state.grid.children) drawOne(state, figure);
}

async function drawOne(state, figure) {
    if (figure.isDrawn) return;
    figure.isDrawn = true;
    state.observer.unobserve(figure);
    const spec = chartOf(state, figure.metric);
    const group = state.group;
    const chart = await makeChart(figure.host, group, spec);
    if (state.group !== group) return chart.view.remove(); // drawn anew meanwhile
    if (state.isSingle) figure.append(folded("values", valuesTable(state, figure.metric)));
}

function wantsSplit(state, split) {
    return state.view.split === "all" || state.view.split === split;
}

function hasMetric(state, metric) {
    return state
        .shown()
        .some((run) =>
            Object.keys(run.curves).some((split) => wantsSplit(state, split) && run.curves[split].values[metric]),
        );
}

/** Seconds in the unit that fits the longest run: its name and its size. */
function unitOf(state) {
    const longest = Math.max(
        0,
        ...state.shown().flatMap((run) => Object.values(run.curves).map((rows) => rows.time.at(-1) || 0)),
    );
    if (longest > 7200) return ["h", 3600];
    return longest > 120 ? ["min", 60] : ["s", 1];
}

function xOf(state, rows) {
    const x = rows[state.view.x];
    if (state.view.x !== "time") return x;
    return x.map((seconds) => (seconds === null ? null : seconds / state.unit[1]));
}

function wholeRange(state) {
    let [low, high] = [Infinity, -Infinity];
    for (const run of state.shown()) {
        for (const [split, rows] of Object.entries(run.curves)) {
            if (!wantsSplit(state, split)) continue;
            for (const x of xOf(state, rows)) {
                if (x !== null && x < low) low = x;
                if (x !== null && x > high) high = x;
            }
        }
    }
    if (low > high) return [0, 1];
    const margin = (high - low) * 0.015 || 0.5;
    return [low - margin, high + margin];
}

/** The lines of a chart: of each shown run and split. */
function linesOf(state, metric) {
    const found = [];
    for (const [index, run] of state.shown().entries()) {
        for (const [split, rows] of Object.entries(run.curves)) {
            if (!wantsSplit(state, split) || !rows.values[metric]) continue;
            const line = points(xOf(state, rows), rows.values[metric], state.view.log);
            if (!line.x.length && !line.marks.length) continue;
            const name = state.isSingle ? split : state.view.split === "all" ? `${run.name} ${split}` : run.name;
            found.push({
                ...line,
                name,
                run,
                split,
                color: state.isSingle ? splitColor(split) : lineColor(run.color ?? index),
            });
        }
    }
    return found;
}

function splitColor(split) {
    return color(SPLITS.includes(split) ? split : "rollout");
}

function chartOf(state, metric) {
    const { view } = state;
    const axis = view.x === "time" ? `time in ${state.unit[0]}` : view.x;
    const alone = linesOf(state, metric);
    const { lines, bands } = view.group
        ? meansOf(state, alone)
        : { lines: alone.flatMap((line) => withSmooth(line, view.smooth)), bands: [] };
    return {
        label: `${metric} over ${axis}: ${described(lines)}`,
        isLogY: view.log,
        lines,
        bands,
        marker: state.isSingle ? bestX(state) : null,
        hint: `${count(lines.length, "line")}: point at one to see its name`,
        describe: (line, place) =>
            `${line.name || line.of}: ${formatNumber(line.y[place])} at ${axis} ${formatNumber(line.x[place])}`,
    };
}

/** What a reader hears in place of a chart. */
function described(lines) {
    const named = lines.filter((line) => line.name).slice(0, MOST_NAMES);
    return named
        .map((line) => `${line.name} last ${line.y.length ? formatNumber(line.y.at(-1)) : "not finite"}`)
        .join(", ");
}

/** Where the best weights are, on the axis that is shown; null: not there. */
function bestX(state) {
    const [run] = state.shown();
    if (run.best_step === null || run.best_step === undefined) return null;
    for (const rows of Object.values(run.curves)) {
        const place = rows.step.indexOf(run.best_step);
        if (place >= 0) return xOf(state, rows)[place];
    }
    return null;
}

/** A training line and its moving average: the exponential one, corrected for its start at 0. */
function withSmooth(line, weight) {
    if (!weight || line.split !== "train" || line.y.length < 3) return [line];
    const y = new Float64Array(line.y.length);
    let [sum, rest] = [0, 1];
    for (let i = 0; i < y.length; i++) {
        sum = sum * weight + line.y[i] * (1 - weight);
        rest *= weight;
        y[i] = sum / (1 - rest);
    }
    return [
        { ...line, name: "", of: line.name, alpha: 0.25, width: 1 },
        { ...line, y, marks: [] },
    ];
}

/** Mean and mean ± standard deviation of the lines whose runs have the same value of a setting, where all have a point. */
function meansOf(state, alone) {
    const groups = new Map();
    for (const line of alone) {
        const value = `${formatSetting(line.run.settings[state.view.group])}${state.view.split === "all" ? ` ${line.split}` : ""}`;
        if (!groups.has(value)) groups.set(value, []);
        groups.get(value).push(line);
    }
    const [lines, bands] = [[], []];
    for (const [value, members] of groups) {
        const { x, mean, spread } = meanOf(members);
        const shade = lineColor(lines.length);
        lines.push({
            name: `${value} (n=${members.length})`,
            color: shade,
            x,
            y: mean,
            marks: members.flatMap((line) => line.marks),
        });
        // on a logarithmic axis a band must end above 0
        const low = mean.map((m, i) => (state.view.log ? Math.max(m - spread[i], m / 10) : m - spread[i]));
        if (members.length > 1) bands.push({ color: shade, x, low, high: mean.map((m, i) => m + spread[i]) });
    }
    return { lines, bands };
}

function meanOf(lines) {
    const at = new Map();
    for (const line of lines) {
        line.x.forEach((x, i) => {
            if (!at.has(x)) at.set(x, []);
            at.get(x).push(line.y[i]);
        });
    }
    const x = [...at.keys()].filter((key) => at.get(key).length === lines.length).sort((one, other) => one - other);
    const mean = x.map((key) => at.get(key).reduce((sum, value) => sum + value, 0) / lines.length);
    const spread = x.map((key, i) => {
        const squares = at.get(key).reduce((sum, value) => sum + (value - mean[i]) ** 2, 0);
        return lines.length > 1 ? Math.sqrt(squares / (lines.length - 1)) : 0;
    });
    return { x: Float64Array.from(x), mean: Float64Array.from(mean), spread };
}

/** The values of a chart as text: of each split the last one, the least and the largest, with their steps. */
function valuesTable(state, metric) {
    const rows = Object.entries(state.all[0].curves)
        .filter(([, rows]) => rows.values[metric])
        .map(([split, found]) => {
            const { x, y, marks } = points(found.step, found.values[metric], false);
            if (!y.length) return [split, `${marks.length} not finite`, "", "", ""];
            const place = (better) => y.reduce((best, value, i) => (better(value, y[best]) ? i : best), 0);
            const said = (i) => `${formatNumber(y[i])} (step ${formatNumber(x[i])})`;
            return [
                split,
                said(y.length - 1),
                said(place((a, b) => a < b)),
                said(place((a, b) => a > b)),
                count(y.length, "point"),
            ];
        });
    return table(`${metric}: values`, ["split", "last", "least", "largest", ""], rows);
}
