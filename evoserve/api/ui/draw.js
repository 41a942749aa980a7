// Pictures of a recipe as SVG, each with a title, a description and its numbers as a table.

import { h, number, plain, s, table } from "./dom.js";
import { nameStep } from "./recipe.js";

const WIDTH = 720;
const LEFT = 46;
const NUM_COLOURS = 7;
const EXACT = 6; // significant digits in tables
const LANE = 44;
const ABOVE = 42; // over a lane: its name, then the numbers on its bars
const BELOW = 16; // under a lane that has negative values: their numbers
const FLOOR = 316; // of the scales' picture

/** Lanes of one coefficient, one above the other, all to one scale; `palette` gives the colours. */
export function drawLanes(title, lanes, columns, palette) {
  const values = lanes.flatMap((lane) => lane.runs.map((run) => run.value ?? 0));
  const high = Math.max(...values, 0) || 1;
  const low = Math.min(...values, 0);
  const wide = (WIDTH - 16) / columns.length;
  const pitch = ABOVE + LANE + (low < 0 ? BELOW : 8);
  const body = [];
  lanes.forEach((lane, index) => {
    const top = ABOVE + index * pitch;
    const y = (value) => top + LANE * (1 - (value - low) / (high - low));
    body.push(label(8, top - 24, laneName(lane), "start", "strong"));
    body.push(s("line", { x1: 8, x2: WIDTH - 8, y1: y(0), y2: y(0), class: "grid" }));
    for (const run of lane.runs) body.push(...drawRun(run, wide, y, palette.indexOf(lane.model)));
  });
  const bottom = lanes.length * pitch + 16;
  body.push(...columnNames(columns, wide, bottom - 4));
  const said = `${lanes.length} lanes over ${columns.length - 2} layers, the embedding and the head, `
    + `from ${number(low)} to ${number(high)}.`;
  const rows = lanes.flatMap((lane) => lane.runs.map((run) => {
    return [laneName(lane), columnRange(run, columns), run.value === null ? "–" : number(run.value, EXACT)];
  }));
  return figure(title, said, bottom, body, table(`${title}, in numbers`, ["source", "part", "value"], rows));
}

/** The path: steps to the right, layers upwards, a colour per model; below it the scales, if any, of `scaled`. */
export function drawPath(title, steps, { scales, scaled }, palette) {
  const models = palette.filter((model) => steps.some((step) => step.model === model));
  const top = Math.max(4, ...steps.map((step) => step.layer));
  const x = (hop) => LEFT + 16 + (hop * (WIDTH - LEFT - 36)) / Math.max(1, steps.length - 1);
  const y = (layer) => 190 - (layer * 162) / top;
  const body = [...layerGrid(top, y), label(4, 12, "layer"), ...hopNames(steps.length, x, 208)];
  const line = steps.map((step, hop) => `${x(hop)},${y(step.layer)}`).join(" ");
  body.push(s("polyline", { points: line, class: "thin" }));
  const radius = Math.max(2, Math.min(7, 260 / steps.length));
  steps.forEach((step, hop) => {
    const tip = `step ${hop}: ${nameStep(step)}` + (scales ? `, × ${number(scales[hop])}` : "");
    const place = { cx: x(hop), cy: y(step.layer), r: radius };
    body.push(s("circle", { ...place, class: `dot ${colour(palette.indexOf(step.model))}` },
      s("title", {}, plain(tip))));
  });
  const isScaled = scales?.some((scale) => scale !== 1) ?? false;
  if (isScaled) body.push(...drawScales(scales, `scale of ${scaled}`, x));
  const said = `${steps.length} steps over ${models.map((model) => plain(model)).join(", ")}.`;
  const rows = steps.map((step, hop) => {
    return [String(hop), plain(step.model), String(step.layer), scales ? number(scales[hop], EXACT) : "–"];
  });
  const head = ["step", "model", "layer", `scale of ${scaled}`];
  const numbers = table(`${title}, in numbers`, head, rows);
  const drawn = figure(title, said, isScaled ? FLOOR + 18 : 224, body, numbers);
  drawn.prepend(legend(models, palette));
  return drawn;
}

function drawScales(scales, name, x) {
  const high = Math.max(1, ...scales);
  const low = Math.min(0, ...scales);
  const y = (value) => FLOOR - ((value - low) * 60) / (high - low);
  const wide = Math.max(1.5, Math.min(20, (WIDTH - LEFT) / scales.length - 2));
  const body = [label(4, 232, name)];
  for (const value of y(0) - y(1) < 12 ? [1] : [0, 1]) {
    body.push(label(LEFT - 6, y(value) + 4, String(value), "end"));
  }
  scales.forEach((scale, hop) => {
    const kind = scale === 1 ? "bar quiet" : "bar c0";
    body.push(s("rect", { x: x(hop) - wide / 2, width: wide, ...span(y(scale), y(0)), class: kind },
      s("title", {}, `step ${hop}: × ${number(scale)}`)));
  });
  body.push(s("line", { x1: LEFT, x2: WIDTH - 4, y1: y(1), y2: y(1), class: "mark" }));
  body.push(s("line", { x1: LEFT, x2: WIDTH - 4, y1: y(0), y2: y(0), class: "grid" }));
  if (scales.length > 24) return body;
  const given = [...scales.entries()].filter(([, scale]) => scale !== 1);
  return [...body, ...given.map(([hop, scale]) => {
    return label(x(hop), beyond(scale, y), number(scale), "middle", "halo");
  })];
}

/** Where the number of a bar stands: over its end, or under it where the bar hangs down. */
function beyond(value, y) {
  return value < 0 ? y(value) + 13 : y(value) - 4;
}

function drawRun(run, wide, y, index) {
  const x = 8 + run.from * wide;
  const width = (run.to - run.from) * wide - Math.min(2, wide / 4);
  if (run.value === null) return [s("rect", { x, width, ...span(y(0) - 3, y(0)), class: "none" })];
  const bar = s("rect", { x, width, ...span(y(run.value), y(0)), class: `bar ${colour(index)}` });
  const text = number(run.value);
  const at = beyond(run.value, y);
  return text.length * 7 < width ? [bar, label(x + width / 2, at, text, "middle", "halo")] : [bar];
}

function span(a, b) {
  return { y: Math.min(a, b), height: Math.max(0.5, Math.abs(a - b)) };
}

function layerGrid(top, y) {
  const step = Math.max(1, Math.ceil(top / 6));
  const body = [];
  for (let layer = 0; layer <= top; layer += step) {
    body.push(s("line", { x1: LEFT, x2: WIDTH - 8, y1: y(layer), y2: y(layer), class: "grid" }));
    body.push(label(LEFT - 6, y(layer) + 4, String(layer), "end"));
  }
  return body;
}

function hopNames(count, x, at) {
  const step = Math.max(1, Math.ceil(count / 16));
  const body = [];
  for (let hop = 0; hop < count; hop += step) body.push(label(x(hop), at, String(hop), "middle"));
  return [...body, label(4, at, "step")];
}

function columnNames(columns, wide, at) {
  const step = Math.max(1, Math.ceil(30 / wide));
  const shown = columns.map((name, index) => {
    const isEnd = index === 0 || index === columns.length - 1;
    const isShown = isEnd ? wide > 40 : (index - 1) % step === 0;
    return isShown && label(8 + wide * (index + 0.5), at, name, "middle");
  });
  return shown.filter(Boolean);
}

function columnRange(run, columns) {
  if (run.from === 0) return "embedding";
  if (run.from === columns.length - 1) return "final norm and head";
  const [first, last] = [columns[run.from], columns[run.to - 1]];
  return first === last ? `layer ${first}` : `layers ${first} to ${last}`;
}

function laneName(lane) {
  const name = plain(lane.model || lane.field, 60);
  return lane.filter ? `${name}, tensors with “${lane.filter}”` : name;
}

function legend(models, palette) {
  const marks = models.map((model) => h("li", {},
    h("span", { class: `swatch ${colour(palette.indexOf(model))}`, "aria-hidden": "true" }), plain(model)));
  return h("ul", { class: "legend", "aria-label": "colours" }, ...marks);
}

function figure(title, said, height, body, numbers) {
  const drawn = s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img" },
    s("title", {}, plain(title)), s("desc", {}, said), ...body);
  const held = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, drawn);
  const details = h("details", {}, h("summary", {}, "The same as a table"), numbers);
  return h("figure", {}, held, details);
}

function label(x, y, text, anchor = "start", kind = "") {
  return s("text", { x, y, "text-anchor": anchor, class: `t ${kind}` }, text);
}

function colour(index) {
  return `c${Math.max(0, index) % NUM_COLOURS}`; // coefficients of no source take the first
}
