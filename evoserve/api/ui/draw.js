// Pictures of a recipe as SVG, each with a title, a description and its numbers as a table.

import { h, number, plain, s, table } from "./dom.js";
import { nameStep } from "./recipe.js";

const WIDTH = 720;
const LEFT = 46;
const NUM_COLOURS = 7;
const LANE = 44;
const ABOVE = 36; // over a lane: its name, then the numbers on its bars

/** Lanes of one coefficient, one above the other, all to one scale. */
export function drawLanes(title, lanes, numLayers) {
  const values = lanes.flatMap((lane) => lane.runs.map((run) => run.value ?? 0));
  const high = Math.max(...values, 0) || 1;
  const low = Math.min(...values, 0);
  const wide = (WIDTH - 16) / (numLayers + 2);
  const models = [...new Set(lanes.map((lane) => lane.model))];
  const body = [];
  lanes.forEach((lane, index) => {
    const top = ABOVE + index * (LANE + ABOVE + 8);
    const y = (value) => top + LANE * (1 - (value - low) / (high - low));
    body.push(label(8, top - 20, laneName(lane), "start", "strong"));
    body.push(s("line", { x1: 8, x2: WIDTH - 8, y1: y(0), y2: y(0), class: "grid" }));
    for (const run of lane.runs) body.push(...drawRun(run, wide, y, models.indexOf(lane.model)));
  });
  const bottom = lanes.length * (LANE + ABOVE + 8) + 16;
  body.push(...columnNames(numLayers, wide, bottom - 4));
  const said = `${lanes.length} lanes over the embedding, ${numLayers} layers and the head, `
    + `from ${number(low)} to ${number(high)}.`;
  const rows = lanes.flatMap((lane) => lane.runs.map((run) => {
    return [laneName(lane), columnRange(run, numLayers), run.value === null ? "–" : number(run.value)];
  }));
  return figure(title, said, bottom, body, table(title, ["source", "part", "value"], rows));
}

/** The path: steps to the right, layers upwards, a colour per model; below it the scales. */
export function drawPath(title, steps, scales) {
  const models = [...new Set(steps.map((step) => step.model))];
  const top = Math.max(4, ...steps.map((step) => step.layer));
  const x = (hop) => LEFT + 10 + (hop * (WIDTH - LEFT - 24)) / Math.max(1, steps.length - 1);
  const y = (layer) => 190 - (layer * 170) / top;
  const body = [...layerGrid(top, y), label(4, 12, "layer"), ...hopNames(steps.length, x, 208)];
  const line = steps.map((step, hop) => `${x(hop)},${y(step.layer)}`).join(" ");
  body.push(s("polyline", { points: line, class: "thin" }));
  const radius = Math.max(2, Math.min(7, 260 / steps.length));
  steps.forEach((step, hop) => {
    const tip = `step ${hop}: ${nameStep(step)}` + (scales ? `, input × ${number(scales[hop])}` : "");
    const place = { cx: x(hop), cy: y(step.layer), r: radius };
    body.push(s("circle", { ...place, class: `dot ${colour(models.indexOf(step.model))}` },
      s("title", {}, plain(tip))));
  });
  if (scales) body.push(...drawScales(scales, x));
  const said = `${steps.length} steps over ${models.map((model) => plain(model)).join(", ")}.`;
  const rows = steps.map((step, hop) => {
    return [String(hop), plain(step.model), String(step.layer), scales ? number(scales[hop]) : "–"];
  });
  const head = ["step", "model", "layer", "scale of its input"];
  const drawn = figure(title, said, scales ? 322 : 224, body, table(title, head, rows));
  drawn.prepend(legend(models));
  return drawn;
}

function drawScales(scales, x) {
  const high = Math.max(1, ...scales);
  const low = Math.min(0, ...scales);
  const y = (value) => 312 - ((value - low) * 56) / (high - low);
  const wide = Math.max(1.5, Math.min(20, (WIDTH - LEFT) / scales.length - 2));
  const body = [label(4, 232, "scale of the step's input"), label(LEFT - 6, y(1) + 4, "1", "end")];
  scales.forEach((scale, hop) => {
    const bar = span(y(scale), y(0));
    const kind = scale === 1 ? "bar quiet" : "bar c0";
    body.push(s("rect", { x: x(hop) - wide / 2, width: wide, ...bar, class: kind },
      s("title", {}, `step ${hop}: × ${number(scale)}`)));
    if (scale !== 1 && scales.length <= 24) {
      body.push(label(x(hop), Math.min(y(scale), y(0)) - 4, number(scale), "middle"));
    }
  });
  body.push(s("line", { x1: LEFT, x2: WIDTH - 8, y1: y(1), y2: y(1), class: "mark" }));
  body.push(s("line", { x1: LEFT, x2: WIDTH - 8, y1: y(0), y2: y(0), class: "grid" }));
  return body;
}

function drawRun(run, wide, y, index) {
  const x = 8 + run.from * wide;
  const width = (run.to - run.from) * wide - Math.min(2, wide / 4);
  if (run.value === null) return [s("rect", { x, width, ...span(y(0) - 3, y(0)), class: "none" })];
  const bar = s("rect", { x, width, ...span(y(run.value), y(0)), class: `bar ${colour(index)}` });
  const text = number(run.value);
  const above = run.value < 0 ? y(run.value) + 12 : y(run.value) - 3;
  return text.length * 7 < width ? [bar, label(x + width / 2, above, text, "middle")] : [bar];
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

function columnNames(numLayers, wide, at) {
  const step = Math.max(1, Math.ceil(30 / wide));
  const body = [];
  if (wide > 40) {
    body.push(label(8 + wide / 2, at, "embed", "middle"));
    body.push(label(8 + wide * (numLayers + 1.5), at, "head", "middle"));
  }
  for (let layer = 0; layer < numLayers; layer += step) {
    body.push(label(8 + wide * (layer + 1.5), at, String(layer), "middle"));
  }
  return body;
}

function columnRange(run, numLayers) {
  if (run.from === 0) return "embedding";
  if (run.from === numLayers + 1) return "final norm and head";
  return run.to - run.from === 1 ? `layer ${run.from - 1}` : `layers ${run.from - 1} to ${run.to - 2}`;
}

function laneName(lane) {
  const name = plain(lane.model || lane.field, 60);
  return lane.filter ? `${name}, tensors with “${lane.filter}”` : name;
}

function legend(models) {
  const marks = models.map((model, index) => h("li", {},
    h("span", { class: `swatch ${colour(index)}`, "aria-hidden": "true" }), plain(model)));
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
  return `c${index % NUM_COLOURS}`;
}
