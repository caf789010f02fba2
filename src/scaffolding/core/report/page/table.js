// The table of runs: sorted by a click on a heading, filtered by words.

const MOST_ROWS = 100; // that are shown before one asks for all

/**
 * The section. columns: [name, value of a run, whether it is a setting] each; sortBy, isUp: at first. `onchange` gets the runs that fit, in order.
 */
function runsSection(runs, columns, sortBy, isUp, onchange) {
    const state = { runs, columns, sortBy, isUp, onchange, most: MOST_ROWS, rows: new Map() };
    Object.assign(state, choices.table);
    state.filter = element("input", {
        type: "search",
        placeholder: "lr<0.01 status=finished, or any text",
        "aria-label": "filter the runs",
    });
    state.filter.value = choices.filter || "";
    state.said = element("span", { class: "dim", role: "status" });
    state.more = element("button", { type: "button", onclick: () => ((state.most = Infinity), fillRows(state)) });
    state.body = element("tbody");
    state.heads = columns.map(([name], index) => sortHead(state, name, index));
    state.filter.addEventListener("input", () => {
        keep("filter", state.filter.value);
        fillRows(state);
    });
    const made = element(
        "table",
        {},
        element("caption", { class: "hidden" }, "runs"),
        element("thead", {}, element("tr", {}, ...state.heads)),
        state.body,
    );
    section("Runs").append(
        element("div", { class: "controls" }, state.filter, state.said),
        scrolling(made, "runs"),
        state.more,
    );
    return state;
}

function sortHead(state, name, index) {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => {
        state.isUp = state.sortBy === name ? !state.isUp : true;
        state.sortBy = name;
        keep("table", { sortBy: state.sortBy, isUp: state.isUp });
        fillRows(state);
    });
    const isNumber = state.runs.some((run) => typeof state.columns[index][1](run) === "number");
    return element("th", { scope: "col", class: isNumber ? "number" : null }, button);
}

/** Filter, sort and show. */
function fillRows(state) {
    const fits = readFilter(state, state.filter.value);
    const found = state.runs.filter(fits).sort(orderOf(state));
    state.body.replaceChildren(...found.slice(0, state.most).map((run) => rowOf(state, run)));
    state.heads.forEach((head, index) => {
        const isSorted = state.columns[index][0] === state.sortBy;
        head.setAttribute("aria-sort", isSorted ? (state.isUp ? "ascending" : "descending") : "none");
    });
    state.more.hidden = found.length <= state.most;
    state.more.textContent = `show all ${found.length}`;
    state.said.textContent = `${found.length} of ${count(state.runs.length, "run")}`;
    state.onchange(found);
}

/** The row of a run, which is made once. */
function rowOf(state, run) {
    if (!state.rows.has(run)) {
        const cells = state.columns.map(([name, value, isSetting], index) =>
            runCell(run, name, value(run), index, isSetting),
        );
        state.rows.set(run, element("tr", {}, ...cells));
    }
    return state.rows.get(run);
}

function runCell(run, name, value, index, isSetting) {
    if (index === 0) {
        run.dot = element("span", { class: "dot", "aria-hidden": "true" });
        const shown = run.link ? element("a", { href: run.link }, run.name) : run.name;
        return element("th", { scope: "row", title: run.description || null }, run.dot, shown);
    }
    if (name === "status") return element("td", {}, statusWord(run.status));
    if (isSetting) return element("td", { class: typeof value === "number" ? "number" : null }, formatSetting(value));
    return cell(value ?? "");
}

/** Smaller first, or larger; what a run does not have comes last, either way. */
function orderOf({ columns, sortBy, isUp }) {
    const value = (columns.find(([name]) => name === sortBy) || columns[0])[1];
    const lacks = (x) => x === null || x === undefined || x === "";
    return (one, other) => {
        const [x, y] = [value(one), value(other)];
        if (lacks(x) || lacks(y)) return lacks(x) - lacks(y);
        const order =
            typeof x === "number" && typeof y === "number"
                ? x - y
                : String(x).localeCompare(String(y), "en", { numeric: true });
        return isUp ? order : -order;
    };
}

// --- the filter: words that must all fit, KEY<VALUE and the like, or a text in anything that the table has

const COMPARISON = /^([^<>=!]+)(<=|>=|!=|=|<|>)(.*)$/;

function readFilter(state, text) {
    const tests = text
        .split(/\s+/)
        .filter(Boolean)
        .map((word) => testOf(state, word));
    return (run) => tests.every((test) => test(run));
}

function testOf(state, word) {
    const [, key, comparison, wanted] = word.match(COMPARISON) || [];
    const column = key && columnOf(state, key);
    if (column) return (run) => compares(column[1](run), comparison, wanted);
    const text = word.toLowerCase();
    return (run) => textOf(state, run).includes(text);
}

/** The column that a key stands for: its name, or the end of it. */
function columnOf({ columns }, key) {
    return (
        columns.find(([name]) => name === key) ||
        columns.find(([name]) => name.endsWith(`.${key}`) || name.endsWith(`/${key}`))
    );
}

function compares(value, comparison, wanted) {
    const isNumber = typeof value === "number" && wanted !== "" && !Number.isNaN(Number(wanted));
    const [x, y] = isNumber
        ? [value, Number(wanted)]
        : [formatSetting(value ?? "").toLowerCase(), wanted.toLowerCase()];
    if (comparison === "=") return x === y;
    if (comparison === "!=") return x !== y;
    if (!isNumber) return false;
    return { "<": x < y, ">": x > y, "<=": x <= y, ">=": x >= y }[comparison];
}

function textOf({ columns }, run) {
    run.text ||= [
        run.name,
        run.folder,
        run.description,
        run.note,
        run.reason,
        ...run.tags,
        ...columns.map(([, value]) => formatSetting(value(run) ?? "")),
    ]
        .join(" ")
        .toLowerCase();
    return run.text;
}
