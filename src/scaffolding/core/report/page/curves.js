// The curves: a chart for each metric, with a line for each split of each run, or the mean of runs that are alike.

const SPLITS = ["train", "val", "test", "rollout"];
const LAST_METRICS = ["lr", "grad_norm", "items_per_second", "epoch_seconds", "peak_memory_mb"]; // of all, what is looked at last
const MARGIN = 400; // pixels below the window within which charts are made
const X_NAMES = { step: "step", epoch: "epoch", samples: "samples", time: "time" };

/** The section; `all` are the runs, `shown()` the ones to draw, `varying` the settings by which they can be grouped. */
function curvesSection(all, shown, varying) {
    const metrics = metricsOf(all);
    if (!metrics.length) {
        section("Curves").append(element("p", { class: "dim" }, "No rows have been logged."));
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
    const state = { view, all, shown, isSingle, grid, metrics, figures: new Map() };
    const later = debounced(() => drawCurves(state));
    const change = (name, value) => {
        view[name] = value;
        keep("curves", view);
        later();
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

// --- drawing: a chart is made when it comes into view, and made anew when the choices change

function drawCurves(state) {
    for (const chart of state.group?.charts || []) chart.view.remove();
    state.unit = unitOf(state);
    state.group = chartGroup(wholeRange(state));
    state.observer ||= new IntersectionObserver((entries) => entries.forEach((entry) => comesIntoView(state, entry)), {
        rootMargin: `${MARGIN}px`,
    });
    for (const metric of state.metrics) {
        const figure = figureFor(state, metric);
        figure.hidden = !hasMetric(state, metric);
        if (!figure.hidden && (figure.wasSeen || isNear(figure))) drawOne(state, figure);
    }
}

function figureFor(state, metric) {
    if (!state.figures.has(metric)) {
        const host = element("div", { class: "chart" });
        const figure = element("figure", {}, element("figcaption", {}, element("b", {}, metric)), host);
        if (state.isSingle) figure.append(lazilyFolded("values", () => valuesTable(state, metric)));
        Object.assign(figure, { metric, host });
        state.figures.set(metric, figure);
        state.grid.append(figure);
        state.observer.observe(figure);
    }
    return state.figures.get(metric);
}

/** Whether an element is in view, or nearly: the browser is asked, before it tells. */
function isNear(figure) {
    return figure.getBoundingClientRect().top < innerHeight + MARGIN;
}

function comesIntoView(state, { isIntersecting, target }) {
    if (isIntersecting && !target.wasSeen) drawOne(state, target);
}

function drawAll(state) {
    for (const figure of state.figures.values()) if (!figure.wasSeen) drawOne(state, figure);
}

async function drawOne(state, figure) {
    figure.wasSeen = true;
    state.observer.unobserve(figure);
    const group = state.group;
    const spec = chartOf(state, figure.metric);
    if (spec.lines.every((line) => line.x.length < 2 && !line.marks.length)) return showValues(figure.host, spec);
    const chart = await makeChart(figure.host, group, spec);
    if (state.group !== group) chart.view.remove(); // drawn anew meanwhile
}

/** The values where there is one of each line, which would make an empty chart. */
function showValues(host, spec) {
    const values = spec.lines.filter((line) => line.x.length).map((line) => spec.describe(line, 0));
    host.replaceChildren(...values.map((text) => element("p", {}, text)));
    host.classList.add("lone");
    host.dataset.range = "";
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
