// Charts: BokehJS draws axes and lines, which get numbers and colours only; what a run says stands around them as text.
// Charts of a group share what they show of x and the cursor: drag to zoom, double click to see all.

const EDGE = 0.035; // where marks stand, as a share of the height

let library = null;

/** BokehJS, unpacked and started once. */
function loadLibrary() {
    library ||= runPacked("library");
    return library;
}

const model = (name, attributes = {}) => new (Bokeh.Models.get(name))(attributes);

/** Charts that show the same part of x. `whole` is all of it. */
function chartGroup(whole) {
    return { charts: new Set(), whole, range: whole };
}

/** Show a part of x in all charts of a group; null: the whole. */
function zoom(group, range) {
    group.range = range || group.whole;
    for (const chart of group.charts) showRange(chart);
}

/** Move the cursor of all charts of a group to x; null: away. */
function moveCursor(group, x) {
    group.cursor = x;
    for (const chart of group.charts) showCursor(chart);
}

/**
 * A chart in `host`.
 *
 * spec: label; isLogX, isLogY; ticks of x, each [x, text], or none: Bokeh chooses them; isFixed: no zoom;
 * lines, each {name, color, x, y, marks, isDots, isHidden, width, alpha}; bands, each {color, x, low, high}; marker, an x
 * with a dashed line, or null; describe(line, i), the text of a point; height.
 */
async function makeChart(host, group, spec) {
    await loadLibrary();
    const chart = { host, group, spec, lines: [], bands: [] };
    buildPlot(chart);
    const canvas = element("div", { class: "canvas", role: "img", "aria-label": spec.label });
    chart.cursor = element("div", { class: "cursor" });
    chart.box = element("div", { class: "zoom-box" });
    chart.overlay = element("div", { class: "overlay", tabindex: 0, role: "group" }, chart.cursor, chart.box);
    chart.overlay.setAttribute(
        "aria-label",
        `${spec.label}. Arrow keys move the cursor, plus and minus zoom, 0 shows all`,
    );
    chart.note = element("p", { class: "note" });
    delete host.dataset.range;
    host.classList.remove("lone");
    host.replaceChildren(element("div", { class: "plot" }, canvas, chart.overlay), makeLegend(chart), chart.note);
    listen(chart);
    const doc = new (Bokeh.require("document").Document)();
    doc.add_root(chart.plot);
    const views = await Bokeh.embed.add_document_standalone(doc, canvas);
    chart.view = views.get_one(chart.plot);
    group.charts.add(chart);
    showRange(chart);
    showCursor(chart);
    return chart;
}

function buildPlot(chart) {
    const { spec, group } = chart;
    const [start, end] = group.whole;
    const scale = (isLog) => model(isLog ? "LogScale" : "LinearScale");
    chart.plot = model("Plot", {
        x_range: model("Range1d", { start, end }),
        y_range: model("Range1d", { start: 0, end: 1 }),
        extra_y_ranges: { edge: model("Range1d", { start: 0, end: 1 }) },
        extra_y_scales: { edge: model("LinearScale") },
        x_scale: scale(spec.isLogX),
        y_scale: scale(spec.isLogY),
        sizing_mode: "stretch_width",
        height: spec.height || 210,
        toolbar_location: null,
        output_backend: "canvas",
        background_fill_color: null,
        border_fill_color: null,
        outline_line_color: color("line"),
        min_border_left: 48,
        min_border_right: 14,
        min_border_top: 6,
    });
    addAxis(chart.plot, "below", spec.isLogX, spec.ticks);
    addAxis(chart.plot, "left", spec.isLogY, null);
    for (const band of spec.bands || []) addBand(chart, band);
    for (const line of spec.lines) addLine(chart, line);
    if (spec.marker !== null && spec.marker !== undefined) {
        const look = { line_color: color("dim"), line_dash: [4, 4], line_width: 1 };
        chart.plot.add_layout(model("Span", { location: spec.marker, dimension: "height", ...look }));
    }
}

function addAxis(plot, side, isLog, ticks) {
    const font = {
        major_label_text_color: color("dim"),
        major_label_text_font_size: "11px",
        major_label_text_font: "system-ui",
    };
    const look = { axis_line_color: null, major_tick_line_color: color("line"), minor_tick_line_color: null };
    const axis = model(isLog ? "LogAxis" : "LinearAxis", { ...font, ...look });
    if (ticks) {
        axis.ticker = model("FixedTicker", { ticks: ticks.map(([place]) => place) });
        const labels = ticks.map(([place, text]) => [place, model("PlainText", { text })]); // plain: it is never read as TeX
        axis.major_label_overrides = new Map(labels);
    } else {
        axis.formatter = shortFormatter();
        if (!isLog) axis.ticker.desired_num_ticks = 5;
    }
    plot.add_layout(axis, side);
    plot.add_layout(model("Grid", { dimension: side === "left" ? 1 : 0, axis, grid_line_color: color("grid") }));
}

/** Bokeh's formatter, but for what it writes: 20k, 0.003, 3e-5. */
function shortFormatter() {
    const formatter = model("BasicTickFormatter");
    Object.defineProperty(formatter, "doFormat", { value: (ticks) => ticks.map(formatTick) });
    return formatter;
}

function formatTick(value) {
    const size = Math.abs(value);
    const digits = (number) => String(Number(number.toPrecision(6)));
    if (size >= 1e9 || (size > 0 && size < 1e-4)) return Number(value.toPrecision(6)).toExponential();
    if (size >= 1e6) return `${digits(value / 1e6)}M`;
    return size >= 1e4 ? `${digits(value / 1e3)}k` : digits(value);
}

function addBand(chart, band) {
    const source = model("ColumnDataSource", { data: { x: band.x, low: band.low, high: band.high } });
    const look = { fill_color: band.color, fill_alpha: 0.18 };
    const glyph = model("VArea", { x: { field: "x" }, y1: { field: "low" }, y2: { field: "high" }, ...look });
    const renderer = chart.plot.add_glyph(glyph, source);
    renderer.level = "underlay";
    chart.bands.push({ ...band, renderer });
}

function addLine(chart, line) {
    const at = { x: { field: "x" }, y: { field: "y" } };
    const source = model("ColumnDataSource", { data: { x: [], y: [] } });
    const look = {
        line_color: line.color,
        line_alpha: line.alpha ?? 1,
        line_width: line.width || 1.6,
        line_join: "round",
    };
    const dots = { size: 7, fill_color: line.color, line_color: null, fill_alpha: dotAlpha(line) };
    const isAlone = line.x.length === 1;
    const glyph =
        line.isDots || isAlone
            ? model("Scatter", { ...at, ...dots, marker: isAlone && !line.isDots ? "diamond" : "circle" })
            : model("Line", { ...at, ...look });
    if (isAlone && !line.isDots) glyph.size = 11;
    const renderers = [chart.plot.add_glyph(glyph, source)];
    if (line.marks?.length) renderers.push(addMarks(chart, line));
    for (const renderer of renderers) renderer.visible = !line.isHidden;
    chart.lines.push({ ...line, source, renderers });
}

function dotAlpha(line) {
    return line.isDots ? (line.alpha ?? 0.75) : 1;
}

/** Crosses at the lower edge, where a value cannot be drawn. */
function addMarks(chart, line) {
    const x = line.marks.map((mark) => mark.x);
    const source = model("ColumnDataSource", { data: { x, y: x.map(() => EDGE) } });
    const look = { marker: "x", size: 9, line_color: color("bad"), line_width: 2 };
    const renderer = chart.plot.add_glyph(model("Scatter", { x: { field: "x" }, y: { field: "y" }, ...look }), source);
    renderer.y_range_name = "edge";
    return renderer;
}

/** Draw what lies in the range of the group, as high as it needs. */
function showRange(chart) {
    const range = chart.group.range;
    let [low, high, isThin] = [Infinity, -Infinity, false];
    const see = (y) => {
        for (const value of y) {
            if (value < low) low = value;
            if (value > high) high = value;
        }
    };
    for (const line of chart.lines) {
        const drawn = visible(line, range);
        line.source.data = { x: drawn.x, y: drawn.y };
        isThin ||= drawn.isThin;
        if (!line.isHidden) see(drawn.y);
    }
    for (const band of chart.bands) {
        see(band.low);
        see(band.high);
    }
    chart.plot.x_range.setv({ start: range[0], end: range[1] });
    if (low <= high) chart.plot.y_range.setv(padded(low, high, chart.spec.isLogY));
    chart.note.textContent = noteOf(chart, isThin);
    chart.host.dataset.range = range.join(" ");
}

function padded(low, high, isLog) {
    if (isLog) {
        const factor = Math.max((high / low) ** 0.06, 1.05);
        return { start: low / factor, end: high * factor };
    }
    const more = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    return { start: low - more, end: high + more };
}

function noteOf(chart, isThin) {
    const notes = [];
    const marks = chart.lines.flatMap((line) => line.marks || []);
    const odd = marks.filter((mark) => typeof mark.value === "string");
    const first = (list) => `first at ${formatNumber(list[0].x)}`;
    if (odd.length) notes.push(`${count(odd.length, "value")} not finite (✕, ${first(odd)}: ${odd[0].value})`);
    const below = marks.filter((mark) => typeof mark.value === "number");
    if (below.length) notes.push(`${count(below.length, "value")} not above 0 (✕, ${first(below)})`);
    if (isThin)
        notes.push(
            `more than ${count(MOST_POINTS, "point")}: drawn as the least and largest of each pixel; zoom in to see each`,
        );
    return notes.join(" · ");
}
