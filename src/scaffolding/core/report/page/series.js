// The lines of a chart: of each run and split, smoothed, or the mean of runs that are alike.

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
