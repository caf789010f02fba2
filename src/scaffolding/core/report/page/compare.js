// The page that compares several runs.

const MOST_LINES = 50; // runs whose curves are drawn: the first ones of the table
const MOST_SETTINGS = 12; // that have a chart against what is monitored

function showRuns({ runs, title, left_out, monitor, mode, varying, metrics, seeds, rows }) {
    document.title = title;
    main.append(element("header", {}, element("h1", {}, title), statusCounts(runs)));
    if (left_out)
        main.append(
            element(
                "p",
                { class: "frame" },
                `The newest ${count(runs.length, "run")} of ${(runs.length + left_out).toLocaleString("en")} are shown.`,
            ),
        );
    main.append(...failures(runs));
    const columns = columnsOf(runs, varying, metrics);
    const metric = metrics.includes(monitor) ? monitor : metrics[0];
    const charts = { runs: [], redraw: () => {}, scatter: () => {} };
    const later = debounced(() => (charts.redraw(), charts.scatter()));
    const state = runsSection(runs, columns, metric || "run", mode !== "max", (found) => {
        charts.found = found;
        charts.runs = found.slice(0, MOST_LINES);
        colorDots(runs, charts.runs);
        later();
    });
    fillRows(state);
    if (seeds) showSeeds(seeds);
    if (metric && varying.length) charts.scatter = settingsSection(metric, varying, () => charts.found);
    charts.redraw = curvesSection(runs, () => charts.runs, varying);
    const shown = `The curves are those of the first ${MOST_LINES} runs of the table, as it is filtered and sorted; of each at most ${rows} rows of a split, evenly chosen.`;
    document.getElementById("curves").append(element("p", { class: "dim" }, shown));
    charts.scatter();
}

function statusCounts(runs) {
    const counts = new Map();
    for (const run of runs) counts.set(run.status, (counts.get(run.status) || 0) + 1);
    return element(
        "p",
        { class: "words" },
        ...[...counts].map(([status, number]) => statusWord(status, `${number} ${status}`)),
    );
}

/** The reasons of runs that did not finish, each once, with the runs that have it. */
function failures(runs) {
    const reasons = new Map();
    for (const run of runs) {
        if (!run.reason) continue;
        const reason = run.reason.split("\n")[0];
        if (!reasons.has(reason)) reasons.set(reason, []);
        reasons.get(reason).push(run);
    }
    return [...reasons].map(([reason, members]) => {
        const isFailure = members.some((run) => ["failed", "died", "damaged"].includes(run.status));
        const names = members.map((run) => run.name).join(", ");
        const who = members.length > 3 ? folded(count(members.length, "run"), names) : names;
        return element(
            "div",
            { class: isFailure ? "frame bad" : "frame" },
            element("p", {}, reason),
            element("p", { class: "dim" }, who),
        );
    });
}

function columnsOf(runs, varying, metrics) {
    const columns = [
        ["run", (run) => run.name],
        ["status", (run) => run.status],
    ];
    for (const key of varying) columns.push([key, (run) => run.settings[key], true]);
    for (const name of metrics) columns.push([name, (run) => run.results[name]]);
    columns.push(["step", (run) => run.step], ["seconds", (run) => run.seconds]);
    if (runs.some((run) => run.tags.length)) columns.push(["tags", (run) => run.tags.join(", ")]);
    if (runs.some((run) => run.note)) columns.push(["note", (run) => run.note]);
    return columns;
}

/** Give the runs that are drawn a colour each, and show it in the table. */
function colorDots(runs, drawn) {
    for (const run of runs) {
        run.color = null;
        if (run.dot) run.dot.style.background = "transparent";
    }
    drawn.forEach((run, index) => {
        run.color = index;
        if (run.dot) run.dot.style.background = lineColor(index);
    });
}

function showSeeds({ columns, rows, notes }) {
    const box = section("Mean over seeds");
    const means = table("mean over seeds", columns, rows);
    means.classList.add("unbroken");
    box.append(means, ...notes.map((note) => element("p", { class: "dim" }, note)));
}

// --- settings: what is monitored over each setting that varies, a dot for each run

function settingsSection(metric, varying, found) {
    const grid = element("div", { class: "charts small" });
    const note = element("p", { class: "dim" });
    section("Settings").append(grid, note);
    let drawn = 0;
    return async () => {
        const turn = ++drawn;
        const runs = found().filter((run) => typeof run.results[metric] === "number");
        const keys = varying.filter((key) => new Set(runs.map((run) => formatSetting(run.settings[key]))).size > 1);
        const figures = keys.slice(0, MOST_SETTINGS).map((key) => settingFigure(metric, key));
        const left = keys.length - figures.length;
        note.textContent =
            left > 0
                ? `${left} more settings vary.`
                : keys.length
                  ? ""
                  : `No setting varies among runs with ${metric}.`;
        grid.replaceChildren(...figures.map(({ figure }) => figure));
        for (const { key, host } of figures) {
            if (turn === drawn) await drawSetting(host, key, metric, runs);
        }
    };
}

function settingFigure(metric, key) {
    const host = element("div", { class: "chart" });
    const caption = element("figcaption", {}, element("b", {}, metric), " over ", element("b", {}, key));
    return { key, host, figure: element("figure", {}, caption, host) };
}

async function drawSetting(host, key, metric, runs) {
    const known = runs.filter((run) => run.settings[key] !== undefined);
    const values = known.map((run) => run.settings[key]);
    const isNumber = values.every((value) => typeof value === "number");
    const names = isNumber ? null : [...new Set(values.map(formatSetting))].sort();
    const at = (run) => (isNumber ? run.settings[key] : names.indexOf(formatSetting(run.settings[key])));
    known.sort((one, other) => at(one) - at(other));
    const x = Float64Array.from(known, at);
    const y = Float64Array.from(known, (run) => run.results[metric]);
    const isLogX = isNumber && spans(x);
    const line = { name: "", color: color("val"), x, y, isDots: true };
    await makeChart(host, chartGroup(aroundX(x, isLogX)), {
        label: `${metric} over ${key}, ${count(known.length, "run")}`,
        isLogX,
        isLogY: spans(y),
        ticks: names ? namedTicks(names) : valueTicks(x),
        lines: [line],
        isFixed: true,
        hint:
            names && !areShort(names)
                ? names
                      .slice(0, 12)
                      .map((name, index) => `${index + 1}: ${name}`)
                      .join(" · ")
                : "",
        describe: (_, place) =>
            `${known[place].name}: ${formatSetting(known[place].settings[key])}, ${formatNumber(y[place])}`,
        height: 180,
    });
}

/** Whether texts fit under an axis. */
function areShort(names) {
    return names.length <= 6 && Math.max(...names.map((name) => name.length)) <= 14;
}

/** The texts under the places 0, 1, ...; numbers where they would not fit. */
function namedTicks(names) {
    return names.map((name, index) => [index, areShort(names) ? name : String(index + 1)]);
}

/** The values themselves where they are few; null: any ticks. */
function valueTicks(x) {
    const values = [...new Set(x)];
    return values.length <= 6 ? values.map((value) => [value, formatTick(value)]) : null;
}

/** Whether numbers are best seen on a logarithmic axis. */
function spans(numbers) {
    const [least, most] = [numbers.reduce((a, b) => Math.min(a, b)), numbers.reduce((a, b) => Math.max(a, b))];
    return least > 0 && most / least >= 30;
}

function aroundX(x, isLog) {
    const [low, high] = [x[0], x[x.length - 1]];
    if (isLog) return [low / 1.5, high * 1.5];
    const margin = (high - low) * 0.1 || Math.abs(high) * 0.1 || 0.5;
    return [low - margin, high + margin];
}
