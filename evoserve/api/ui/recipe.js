// A manifest made into what is drawn: coefficients by layer, the path and its scales. No DOM here.

const COEFFICIENTS = ["weights", "densities", "gammas", "epsilons"];
const STEP = /^([A-Za-z_][\w-]*)\[(\d+)(?::(\d+))?\]$/;
const GROUP = /^(all|embed|head|layers)(?:\[(\d+)(?::(\d+))?\])?(?:\.([\w.]+))?$/;
const MAX_STEPS = 4096;

/** The layers a path visits, as {model, layer}; at most `MAX_STEPS`. */
export function expandPath(path) {
  const steps = [];
  for (const text of path) {
    const [, model, first, stop] = STEP.exec(text) ?? [null, text, "0"];
    const end = stop === undefined ? Number(first) + 1 : Number(stop);
    for (let layer = Number(first); layer < end && steps.length < MAX_STEPS; layer += 1) {
      steps.push({ model, layer });
    }
  }
  return steps;
}

/** One number per step, or null where only the server can compute them (`network`). */
export function hopScales(scaling, steps) {
  if (scaling?.network) return null;
  if (scaling?.per_hop) return steps.map((_, hop) => scaling.per_hop[hop] ?? 1);
  const known = new Map((scaling?.matrix ?? []).map(([from, to, scale]) => [`${from} ${to}`, scale]));
  const before = ["embed", ...steps.map(nameStep)];
  return steps.map((step, hop) => {
    return known.get(`${before[hop]} ${nameStep(step)}`) ?? scaling?.default ?? 1;
  });
}

/** What a step's scale is of, as it enters the step. */
export function nameScaled(scaling) {
  return scaling?.target === "hidden_state" ? "the hidden state" : "the MLP output";
}

/** `model[layer]`. */
export function nameStep({ model, layer }) {
  return `${model}[${layer}]`;
}

/** The models that a recipe's pictures show, in one order: each has the same colour in all. */
export function listModels(manifest) {
  const merged = Object.values(manifest.merges ?? {}).flatMap((merge) => {
    return COEFFICIENTS.flatMap((field) => Object.keys(merge[field] ?? {}));
  });
  const known = [...Object.keys(manifest.sources), ...Object.keys(manifest.merges ?? {})];
  const shown = new Set([...merged, ...expandPath(manifest.path ?? []).map((step) => step.model)]);
  return known.filter((model) => shown.has(model));
}

/**
 * The coefficients of a merge as lanes {field, model, filter, runs}, in the order of `models`; a run
 * is {from, to, value} over columns as `listColumns` names them.
 */
export function coefficientLanes(merge, columns, models) {
  const groups = (merge.groups ?? ["all"]).map(parseGroup);
  const filters = [...new Set(groups.map((group) => group.filter))].sort();
  const numLayers = columns.length - 2;
  const lanes = [];
  for (const [field, model, value] of givenCoefficients(merge, models)) {
    for (const filter of filters) {
      const at = (column) => coefficientAt(groups, value, { column, numLayers, filter });
      lanes.push({ field, model, filter, runs: joinRuns(columns.length, at) });
    }
  }
  return lanes;
}

/**
 * The columns of a merge's picture: the embedding, its layers, the head. How many layers there are is
 * known of a path and of a loaded recipe; else those that groups name, and one for all others if a
 * group holds them.
 */
export function listColumns(manifest, merge, loadedLayers) {
  const groups = (merge.groups ?? ["all"]).map(parseGroup);
  const steps = expandPath(manifest.path ?? []).map((step) => step.layer + 1);
  const stops = groups.map((group) => group.stop ?? 0);
  const named = Math.min(MAX_STEPS, Math.max(0, ...stops, ...steps, loadedLayers ?? 0));
  const layers = Array.from({ length: named }, (_, layer) => String(layer));
  const isOpen = groups.some(({ part, start }) => part === "all" || (part === "layers" && start === null));
  const rest = isOpen && !manifest.path && !loadedLayers ? [named ? `${named}…` : "all"] : [];
  return ["embed", ...layers, ...rest, "head"];
}

function givenCoefficients(merge, models) {
  const found = [];
  for (const field of COEFFICIENTS) {
    for (const model of models) {
      if (model in (merge[field] ?? {})) found.push([field, model, merge[field][model]]);
    }
  }
  for (const field of ["t", "split"]) {
    if (merge[field] !== null && merge[field] !== undefined) found.push([field, "", merge[field]]);
  }
  return found;
}

function parseGroup(text) {
  const [, part, first, stop, filter] = GROUP.exec(text) ?? [null, "all"];
  const start = first === undefined ? null : Number(first);
  const end = start === null ? null : stop === undefined ? start + 1 : Number(stop);
  return { part, start, stop: end, filter: filter ?? "" };
}

function coefficientAt(groups, value, { column, numLayers, filter }) {
  const index = groups.findIndex((group) => holds(group, column, numLayers, filter));
  if (index < 0) return null;
  return Array.isArray(value) ? value[index] : value;
}

function holds(group, column, numLayers, filter) {
  if (group.filter && !filter.includes(group.filter)) return false;
  if (group.part === "all") return true;
  if (column === 0) return group.part === "embed";
  if (column === numLayers + 1) return group.part === "head";
  if (group.part !== "layers") return false;
  return group.start === null || (group.start < column && column <= group.stop);
}

function joinRuns(count, at) {
  const runs = [];
  for (let column = 0; column < count; column += 1) {
    const value = at(column);
    const last = runs.at(-1);
    const isEnd = column <= 1 || column === count - 1;
    if (last && last.value === value && !isEnd) last.to = column + 1;
    else runs.push({ from: column, to: column + 1, value });
  }
  return runs;
}
