// The page of one run.

const QUIET = ["on_save", "on_best", "on_evaluate", "on_epoch_end"]; // events that come again and again

function showRun(run) {
    document.title = `${run.name} · ${run.status}`;
    main.append(heading(run), ...problems(run), cards(run), results(run), commands(run));
    curvesSection([run], () => [run], []);
    if (run.figures.length) showFigures(run.figures);
    if (run.phases.length) showTime(run);
    if (run.config.length) showConfig(run.config);
    showProvenance(run);
    if (run.events.length) showEvents(run.events);
    if (run.log) showLog(run.log);
}

function heading(run) {
    const words = [statusWord(run.status), ...run.tags.map((tag) => element("span", { class: "tag" }, tag))];
    const box = element("header", {}, element("h1", {}, run.name), element("p", { class: "words" }, ...words));
    if (run.description) box.append(element("p", {}, run.description));
    if (run.note) box.append(element("p", { class: "user-note" }, run.note));
    return box;
}

/** Why a run has ended, in a frame, with the traceback; and the files of it that are damaged. */
function problems(run) {
    const found = [];
    if (run.reason) {
        const isFailure = ["failed", "died", "damaged"].includes(run.status);
        const frame = element("div", { class: isFailure ? "frame bad" : "frame", role: isFailure ? "alert" : null });
        frame.append(element("p", {}, run.reason));
        if (run.traceback) frame.append(longText(run.traceback, "traceback"));
        found.push(frame);
    }
    if (run.problems.length)
        found.push(element("div", { class: "frame" }, ...run.problems.map((text) => element("p", {}, text))));
    return found;
}

function cards(run) {
    const box = element("div", { class: "cards" });
    const add = (name, value, note) =>
        box.append(
            element(
                "div",
                { class: "card" },
                element("span", { class: "dim" }, name),
                element("b", {}, value),
                element("span", { class: "dim" }, note),
            ),
        );
    for (const key of headlines(run)) add(key, formatNumber(run.results[key]), whenOf(run, key.split("/")[0]));
    add(
        "step",
        `${formatNumber(run.step)} / ${formatNumber(run.num_steps) || "?"}`,
        run.epoch === null ? "" : `epoch ${formatNumber(run.epoch)}`,
    );
    const end = run.ended ?? Date.now() / 1000;
    const speed = run.speed === null ? "" : `${formatNumber(Math.round(run.speed))} items/s`;
    if (run.started !== null && (run.ended !== null || run.status === "running"))
        add("time", formatSeconds(end - run.started), speed);
    return box;
}

/** The results that come first: what is monitored, then test, rollout, validation and training. */
function headlines(run) {
    const rank = (key) => ["test", "rollout", "val", "train"].indexOf(key.split("/")[0]);
    const keys = Object.keys(run.results).filter(isResult);
    keys.sort((one, other) => (other === run.monitor) - (one === run.monitor) || rank(one) - rank(other));
    return keys.slice(0, 4);
}

/** Whether a value is what came out, not how the training went. */
function isResult(key) {
    return !LAST_METRICS.includes(key.slice(key.lastIndexOf("/") + 1));
}

/** Which row of a split a result is of. */
function whenOf(run, split) {
    if (split === "test") return `of the ${run.best_step === null ? "last" : "best"} weights`;
    return split === "val" && run.best_step !== null ? `best, step ${formatNumber(run.best_step)}` : "last";
}

/** A table of all results, a column for each split; a value that is not finite is said to be so. */
function results(run) {
    const keys = Object.keys(run.results).filter(isResult);
    const splits = ["train", "val", "test", "rollout"].filter((split) =>
        keys.some((key) => key.startsWith(`${split}/`)),
    );
    const names = [...new Set(keys.map((key) => key.slice(key.indexOf("/") + 1)))];
    if (!names.length)
        return element("p", { class: "dim" }, run.status === "running" ? "No results yet." : "No results.");
    const value = (key) => (key in run.results ? (run.results[key] ?? "not finite") : "");
    const rows = names.map((name) => [name, ...splits.map((split) => value(`${split}/${name}`))]);
    const made = table("results", ["", ...splits.map((split) => `${split} (${whenOf(run, split)})`)], rows);
    made.classList.add("narrow");
    return made;
}

function commands(run) {
    const box = element("div", { class: "commands" }, ...run.commands.map(([label, text]) => copied(label, text)));
    if (run.trust.length)
        box.append(
            element(
                "p",
                { class: "dim" },
                `trust= lets the config of this run name ${run.trust.join(", ")}. Paste it only if you trust that code.`,
            ),
        );
    return box;
}

// --- figures

function showFigures(kinds) {
    const grid = element("div", { class: "figures" });
    for (const kind of kinds) grid.append(figureOf(kind));
    section("Figures").append(grid);
}

/** The figures of a kind: one, and a slider to choose it where there are several. */
function figureOf({ kind, images, left_out }) {
    const picture = element("img", { decoding: "sync" });
    const when = element("span", { class: "dim" });
    const slider = element("input", {
        type: "range",
        min: 0,
        max: images.length - 1,
        value: images.length - 1,
        "aria-label": `${kind}: step`,
    });
    const show = () => {
        const image = images[Number(slider.value)];
        picture.src = image.source;
        picture.alt = `${kind}, step ${image.step}`;
        when.textContent = image.moment === "start" ? "start" : `step ${formatNumber(image.step)}`;
        slider.setAttribute("aria-valuetext", when.textContent);
    };
    slider.addEventListener("input", show);
    show();
    const more = left_out
        ? element("span", { class: "dim" }, `${left_out.toLocaleString("en")} more in figures/`)
        : null;
    const caption = element("figcaption", {}, element("b", {}, kind), when, images.length > 1 ? slider : null, more);
    return element("figure", {}, caption, picture);
}

// --- time

function showTime(run) {
    const total = run.phases.reduce((sum, [, seconds]) => sum + seconds, 0);
    const share = (seconds) => `${((100 * seconds) / total).toFixed(1)} %`;
    const bar = element("div", { class: "bar", "aria-hidden": "true" });
    run.phases.forEach(([name, seconds], index) => {
        const part = element("span", {
            style: `flex-grow:${seconds};background:${lineColor(index)}`,
            title: `${name} ${share(seconds)}`,
        });
        if (seconds > 0.07 * total) part.textContent = name;
        bar.append(part);
    });
    const rows = run.phases.map(([name, seconds]) => [
        name,
        formatSeconds(seconds),
        share(seconds),
        run.step ? (1000 * seconds) / run.step : "",
    ]);
    const times = table("time by phase", ["phase", "time", "share", "ms per step"], rows);
    times.classList.add("narrow");
    const box = section("Time");
    if (run.advice) box.append(element("p", { class: "frame" }, run.advice));
    box.append(
        bar,
        times,
        element(
            "p",
            { class: "dim" },
            "Wall time of the host, of the whole run. In device, it waits until the device has done what it was given.",
        ),
    );
}

// --- config

function showConfig(rows) {
    const changed = rows.filter(([, , , setBy]) => setBy !== null);
    const body = element("div");
    const search = element("input", { type: "search", placeholder: "search", "aria-label": "search the config" });
    const hasDefaults = rows.some(([, , usual]) => usual !== null); // runs of older versions do not say them
    const columns = hasDefaults ? ["key", "value", "default", "set by"] : ["key", "value", "set by"];
    let isAll = changed.length === 0;
    const fill = () => {
        const wanted = search.value.toLowerCase();
        const found = (isAll || wanted ? rows : changed).filter((row) => row.join(" ").toLowerCase().includes(wanted));
        const cells = found.map(([key, value, usual, setBy]) =>
            hasDefaults ? [key, value, usual ?? "", setBy ?? ""] : [key, value, setBy ?? ""],
        );
        body.replaceChildren(table("config", columns, cells));
    };
    search.addEventListener("input", fill);
    const all = tick(`all ${rows.length} settings, not only the ${changed.length} that were set`, isAll, (value) => {
        isAll = value;
        fill();
    });
    section("Config").append(element("div", { class: "controls" }, search, all), body);
    fill();
}

// --- provenance, events

function showProvenance(run) {
    if (!run.provenance.length) return;
    const box = section("Provenance");
    const facts = table("provenance", ["", ""], run.provenance);
    facts.classList.add("narrow");
    box.append(facts);
    if (run.changed.length) {
        const rows = run.changed.map(([name, added, removed]) => [name, `+${added}`, `−${removed}`]);
        const title = `${count(run.changed.length, "file")} with uncommitted changes (the lines are in changes.patch in the run's folder)`;
        box.append(folded(title, table("uncommitted changes", ["file", "added", "removed"], rows)));
    }
    if (run.packages.length)
        box.append(folded(count(run.packages.length, "package"), element("pre", {}, run.packages.join("\n"))));
}

function showEvents(events) {
    const columns = ["time", "event", "step", ""];
    const rare = events.filter(([, name]) => !QUIET.includes(name));
    const box = section("Events");
    box.append(table("events", columns, rare));
    if (rare.length < events.length)
        box.append(folded(`all of the last ${events.length}`, table("all events", columns, events)));
}

/** The end of the log, where a reader looks first. */
function showLog(log) {
    const text = longText(log, "the end of log.txt");
    section("Log").append(text);
    text.scrollTop = text.scrollHeight;
}
