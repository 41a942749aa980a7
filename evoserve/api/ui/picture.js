// One recipe, drawn: its merges by layer, its path with scales, its scores and where it comes from.

import { manage, newest } from "./client.js";
import { byId, h, number, plain, put, table } from "./dom.js";
import { drawLanes, drawPath } from "./draw.js";
import { coefficientLanes, expandPath, hopScales, listColumns, listModels, nameScaled } from "./recipe.js";

const begin = newest();

/** Fetch a recipe and show it in its view. */
export async function showRecipe(page, id) {
  const isNewest = begin();
  byId("recipe-title").textContent = plain(id);
  put(byId("recipe-body"), h("p", { class: "soft" }, "Loading…"));
  try {
    const recipe = await manage(`v1/recipes/${encodeURIComponent(id)}`);
    if (!isNewest()) return;
    byId("recipe-title").textContent = plain(recipe.name);
    put(byId("recipe-body"), ...buildParts(recipe));
  } catch (error) {
    if (!isNewest()) return;
    put(byId("recipe-body"), h("p", { class: "soft" }, "There is nothing to show."));
    page.report(error);
  }
}

function buildParts(recipe) {
  const { manifest } = recipe;
  const loadedLayers = manifest.path ? null : recipe.loaded?.num_steps;
  const models = listModels(manifest);
  const merges = Object.entries(manifest.merges ?? {});
  return [
    h("p", { class: "soft" }, `${plain(recipe.id)} · ${recipe.state}`
      + (manifest.license ? ` · ${plain(manifest.license)}` : "")),
    h("p", { class: "text" }, plain(manifest.description ?? "", 2000)),
    part("Sources", sourceTable(manifest.sources)),
    ...merges.map(([name, merge]) => {
      return mergePart(name, merge, listColumns(manifest, merge, loadedLayers), models);
    }),
    pathPart(manifest, models),
    scorePart(manifest.evaluation ?? []),
    provenancePart(manifest.provenance ?? {}),
    h("details", {}, h("summary", {}, "The whole manifest"),
      h("pre", { tabindex: "0" }, JSON.stringify(manifest, null, 2))),
  ].filter(Boolean);
}

function part(title, ...nodes) {
  return h("section", { class: "part" }, h("h3", {}, title), ...nodes);
}

function sourceTable(sources) {
  const rows = Object.entries(sources).map(([name, source]) => [
    plain(name), plain(source.model) + (source.adapter ? ` + ${plain(source.adapter.model)}` : ""),
    plain(source.revision ?? "–"), shorten(source.digest),
  ]);
  return table("What the weights are read from", ["name", "model", "revision", "digest"], rows);
}

function mergePart(name, merge, columns, models) {
  const base = merge.base ? ` on ${plain(merge.base)}` : "";
  const lanes = coefficientLanes(merge, columns, models);
  const fields = [...new Set(lanes.map((lane) => lane.field))];
  const pictures = fields.map((field) => {
    return drawLanes(field, lanes.filter((lane) => lane.field === field), columns, models);
  });
  const options = Object.entries(merge.options ?? {}).filter(([, value]) => value !== null);
  const said = [["seed", merge.seed ?? 0], ["dtype", merge.dtype ?? "float32"], ...options];
  return part(`Merge ${plain(name)}: ${plain(merge.method)}${base}`,
    h("p", { class: "soft" }, said.map(([key, value]) => `${key} ${value}`).join(" · ")),
    ...pictures.flatMap((drawn, index) => [h("h4", {}, fields[index]), drawn]));
}

function pathPart(manifest, models) {
  if (!manifest.path) return null;
  const steps = expandPath(manifest.path);
  const scales = hopScales(manifest.scaling, steps);
  const note = scaleNote(scales);
  return part("Path", h("p", { class: "path" }, manifest.path.map((step) => plain(step)).join(" → ")),
    note && h("p", { class: "soft" }, note),
    drawPath("Path through the layers", steps, { scales, scaled: nameScaled(manifest.scaling) }, models));
}

function scaleNote(scales) {
  if (!scales) return "A small network gives the scales; the server computes them when it loads the recipe.";
  return scales.every((scale) => scale === 1) ? "Nothing is scaled." : null;
}

function scorePart(evaluation) {
  if (!evaluation.length) return part("Scores", h("p", { class: "soft" }, "None are recorded."));
  const rows = evaluation.map((each) => [
    plain(each.task) + (each.split ? ` (${plain(each.split)})` : ""), plain(each.metric),
    number(each.score), each.interval ? each.interval.map(number).join(" to ") : "–",
    String(each.num_items),
  ]);
  return part("Scores", table("As recorded in the manifest",
    ["task", "metric", "score", "interval", "items"], rows));
}

function provenancePart(provenance) {
  const entries = Object.entries(provenance);
  if (!entries.length) return null;
  const items = entries.flatMap(([key, value]) => [
    h("dt", {}, plain(key)), h("dd", {}, plain(String(value), 600)),
  ]);
  return part("Provenance", h("dl", {}, ...items));
}

function shorten(digest) {
  return digest ? plain(digest).replace(/^(sha256:.{12}).*$/, "$1…") : "–";
}
