"use strict";
// What all parts of the page use: elements, numbers as text, tables, and the reader's choices.
// Whatever a run says becomes text by `append` or `textContent`, never markup.

const main = document.querySelector("main");

/** An element with attributes, listeners (on...) and children; a child that is null is left out. */
function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
        else if (value !== null && value !== undefined && value !== false)
            made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
}

/** A section with a heading, which the bar at the top links to. */
function section(title) {
    const id = title.toLowerCase().replace(/\W+/g, "-");
    const box = element(
        "section",
        { id, "aria-labelledby": `${id}-title` },
        element("h2", { id: `${id}-title` }, title),
    );
    document.querySelector("nav").append(element("a", { href: `#${id}` }, title));
    main.append(box);
    return box;
}

/** A number as a reader wants it: four digits, or a power of ten. */
function formatNumber(value) {
    if (value === null || value === undefined) return "";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
    return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/** A setting as it would be typed. */
function formatSetting(value) {
    return typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);
}

/** Seconds in the unit that fits. */
function formatSeconds(seconds) {
    if (seconds === null || seconds === undefined) return "";
    const units = [
        ["days", 86400],
        ["h", 3600],
        ["min", 60],
    ];
    for (const [unit, size] of units)
        if (seconds >= 2 * size) return `${Number((seconds / size).toPrecision(3))} ${unit}`;
    return `${Number(seconds.toPrecision(2))} s`;
}

/** "1 run", "3 runs". */
function count(number, what) {
    return `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
}

/** A cell; numbers stand at the right. */
function cell(value, tag = "td") {
    if (value instanceof Node) return element(tag, {}, value);
    return element(tag, { class: typeof value === "number" ? "number" : null }, formatNumber(value));
}

/** A table of rows; the first cell of each is its heading. */
function table(caption, columns, rows) {
    const isNumber = columns.map((_, index) => rows.some((row) => typeof row[index] === "number"));
    const head = columns.map((name, index) =>
        element("th", { scope: "col", class: isNumber[index] ? "number" : null }, name),
    );
    const body = rows.map((row) => {
        const cells = row.map((value, index) => (index === 0 ? cell(value, "th") : cell(value)));
        cells[0].setAttribute("scope", "row");
        return element("tr", {}, ...cells);
    });
    const made = element("table", {}, element("caption", { class: "hidden" }, caption));
    made.append(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
    return scrolling(made, caption);
}

/** A box that scrolls sideways where its content is too wide, also by the keyboard. */
function scrolling(content, label) {
    return element("div", { class: "scrolling", tabindex: 0, role: "region", "aria-label": label }, content);
}

/** Lines as they are, in a box that scrolls. */
function longText(text, label) {
    return element("pre", { tabindex: 0, role: "region", "aria-label": label }, text);
}

/** Something that opens by a click. */
function folded(title, ...content) {
    return element("details", {}, element("summary", {}, title), ...content);
}

/** The same, with content that is made when it is opened the first time. */
function lazilyFolded(title, make) {
    const made = folded(title);
    made.addEventListener("toggle", () => made.append(make()), { once: true });
    return made;
}

/** Call a function once things have settled. */
function debounced(call) {
    let waiting = null;
    return () => {
        clearTimeout(waiting);
        waiting = setTimeout(call, 60);
    };
}

/** A labelled choice; `options` are texts, or pairs of value and text. */
function choice(label, options, selected, onchange) {
    const made = options.map((option) => {
        const [value, text] = Array.isArray(option) ? option : [option, option];
        return element("option", { value, selected: value === selected }, text);
    });
    return element(
        "label",
        {},
        `${label} `,
        element("select", { onchange: (event) => onchange(event.target.value) }, ...made),
    );
}

/** A labelled box to tick. */
function tick(label, checked, onchange) {
    return element(
        "label",
        {},
        element("input", { type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) }),
        ` ${label}`,
    );
}

const announcer = element("div", { class: "hidden", role: "status", "aria-live": "polite" });
document.body.append(announcer);

/** Say something to those who cannot see it. */
function announce(text) {
    announcer.textContent = text;
}

/** A command that a click copies. */
function copied(label, text) {
    const button = element("button", { type: "button", class: "copy", "aria-label": `copy: ${text}` }, "copy");
    button.addEventListener("click", async () => {
        await copyText(text);
        button.textContent = "copied";
        announce("copied");
        setTimeout(() => (button.textContent = "copy"), 1500);
    });
    return element(
        "div",
        { class: "command" },
        element("span", { class: "dim" }, label),
        element("code", { tabindex: 0 }, text),
        button,
    );
}

/** Copy a text; a page from a file may not use the clipboard of the browser, but it may select and copy. */
async function copyText(text) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const area = element("textarea", { class: "hidden" });
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
    }
}

/** The reader's choices, which outlive a reload of a page of a running run. */
const storage = `report ${data.kind} ${data.title}`; // another page in the same tab keeps its choices apart
const choices = readChoices();

function readChoices() {
    try {
        return JSON.parse(sessionStorage.getItem(storage) || "{}");
    } catch {
        return {};
    }
}

function keep(name, value) {
    choices[name] = value;
    try {
        sessionStorage.setItem(storage, JSON.stringify(choices));
    } catch {
        // a browser that keeps nothing for files: the choice holds until the page is loaded again
    }
}

/** A colour of page.css. */
function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** The colour of the n-th line; they repeat. */
function lineColor(index) {
    return color(`line-${index % 8}`);
}

/** A status as a coloured word. */
function statusWord(status, text = status) {
    return element("span", { class: `status ${/^[a-z]+$/.test(status) ? status : ""}` }, text);
}
