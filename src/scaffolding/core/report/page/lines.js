// Points of lines: which can be drawn, and which are.

const MOST_POINTS = 20000; // of a line that are drawn as they are; of more, the least and the largest of each column
const COLUMNS = 1000; // about as many as a chart has pixels

/**
 * Points as a chart takes them. A value that is null is left out; one that cannot be drawn (it is not finite or, on a
 * logarithmic axis, not above 0) becomes a mark.
 */
function points(x, values, isLog) {
    const [xs, ys, marks] = [[], [], []];
    for (let i = 0; i < values.length; i++) {
        if (values[i] === null || x[i] === null || x[i] === undefined) continue;
        if (typeof values[i] !== "number" || (isLog && values[i] <= 0)) marks.push({ x: x[i], value: values[i] });
        else {
            xs.push(x[i]);
            ys.push(values[i]);
        }
    }
    return { x: Float64Array.from(xs), y: Float64Array.from(ys), marks };
}

/** The first place in sorted numbers whose number is at least `value`. */
function placeOf(sorted, value) {
    let [low, high] = [0, sorted.length];
    while (low < high) {
        const middle = (low + high) >> 1;
        if (sorted[middle] < value) low = middle + 1;
        else high = middle;
    }
    return low;
}

/** What is drawn of a line between two x: all points and one more at each side or, of many, two of each column. */
function visible(line, [low, high]) {
    const first = Math.max(0, placeOf(line.x, low) - 1);
    const end = Math.min(line.x.length, placeOf(line.x, high) + 2);
    if (end - first <= MOST_POINTS)
        return { x: line.x.subarray(first, end), y: line.y.subarray(first, end), isThin: false };
    const [xs, ys] = [[], []];
    const add = (i) => (xs.push(line.x[i]), ys.push(line.y[i]));
    for (let column = 0; column < COLUMNS; column++) {
        const from = first + Math.floor((column * (end - first)) / COLUMNS);
        const to = first + Math.floor(((column + 1) * (end - first)) / COLUMNS);
        let [least, most] = [from, from];
        for (let i = from; i < to; i++) {
            if (line.y[i] < line.y[least]) least = i;
            if (line.y[i] > line.y[most]) most = i;
        }
        add(Math.min(least, most));
        if (least !== most) add(Math.max(least, most));
    }
    return { x: Float64Array.from(xs), y: Float64Array.from(ys), isThin: true };
}
