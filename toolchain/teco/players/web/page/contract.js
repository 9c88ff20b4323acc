// @ts-check
/**
 * How a model is driven, as the manifest beside it says: names and shapes of the state, sizes,
 * colour and range. Nothing else in these pages knows a name or a shape of any network.
 *
 * The same record as `teco.model.contract.StreamContract` in Python.
 */
import { PlayerError } from "./errors.js";

/**
 * One tensor of the recurrent state.
 *
 * @typedef {object} StatePort
 * @property {string} input the graph input that takes it
 * @property {string} source the graph input or output whose value of this step it is at the next
 * @property {string[]} shape four numbers or products of numbers, h and w, such as "4*h"
 * @property {string} [dtype] "float32" where it is not said
 */

/**
 * @typedef {object} Contract
 * @property {string} frame graph input for the frame, (1, 3, h, w)
 * @property {string} picture graph output, (1, 3, scale * h, scale * w), not clamped
 * @property {StatePort[]} states
 * @property {number} scale
 */

/**
 * @typedef {object} Manifest
 * @property {string} variant
 * @property {string} size "dynamic" or "HxW"
 * @property {Contract} contract
 * @property {string} sha256 of the ONNX file
 * @property {Record<string, string>} data_sha256 of files beside it that hold weights of it
 */

const SCHEMA = 1;
const SCALES = [2, 4];
const MINIMUM = 8;
const MOST_STATES = 8;
const MOST_NAME = 63;
const MOST_FACTOR = 2 ** 20;
const EXTENT = /^([1-9][0-9]{0,6}|h|w)(\*([1-9][0-9]{0,6}|h|w))*$/;
const FIELDS = [
  "frame", "picture", "states", "scale", "reset", "warm_up", "multiple_of", "minimum", "colour",
  "range", "dtype", "layout", "check", "chroma", "conversion",
];
const STATE_FIELDS = ["input", "source", "shape", "zero", "dtype"];
const AGAIN = "make it again with `teco export --for web`";

/**
 * Read and check a manifest, by the rules of `teco.model.contract` in Python and of libteco in C:
 * `tests/fixtures/contract` holds all three to the same answers.
 *
 * @param {string} text JSON
 * @param {string} source where it comes from, for messages
 * @returns {Manifest}
 * @throws {PlayerError} it is none, or its contract is one that this player cannot keep
 */
export function readManifest(text, source) {
  /** @type {any} */
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new PlayerError(`${source} is no manifest: it is not JSON`, AGAIN);
  }
  /** @type {(wrong: boolean, name: string, found: unknown, expected?: unknown) => void} */
  const refuse = (wrong, name, found, expected) => {
    if (!wrong) return;
    const knows = expected === undefined ? "" : `, this player knows ${JSON.stringify(expected)}`;
    throw new PlayerError(`${source} says ${name} is ${JSON.stringify(found)}${knows}`, AGAIN);
  };
  refuse(data?.schema !== SCHEMA, "the manifest schema", data?.schema, SCHEMA);
  const { variant, size, contract: c } = data;
  refuse(!isName(variant), "variant", variant);
  const high = /^(dynamic|[0-9]{1,5}x[0-9]{1,5})$/.test(size) ? size.split("x") : ["0"];
  refuse(size !== "dynamic" && Math.min(...high.map(Number)) < MINIMUM, "size", size);
  refuse(!isRecord(c, FIELDS), "the stream contract", c);
  refuse(!isName(c.frame), "frame", c.frame);
  refuse(!isName(c.picture) || c.picture === c.frame, "picture", c.picture);
  // A player that ignored these would show wrong pictures without a word.
  for (const [name, usual, left] of /** @type {[string, unknown, unknown][]} */ ([
    ["dtype", "float32", "float32"], ["layout", "NCHW", "NCHW"],
    ["minimum", MINIMUM, undefined], ["multiple_of", 1, undefined], ["colour", "RGB", undefined],
    ["warm_up", 0, undefined], ["check", "", ""],
  ])) refuse((name in c ? c[name] : left) !== usual, name, c[name], usual);
  for (const name of ["chroma", "conversion"]) {
    const planes = name in c ? c[name] : [];
    refuse(!Array.isArray(planes) || planes.length > 0, name, planes, []);
  }
  refuse(!SCALES.includes(c.scale), "scale", c.scale, SCALES);
  refuse(JSON.stringify(c.range) !== "[0,1]", "range", c.range, [0, 1]);
  refuse(!Array.isArray(c.states) || c.states.length > MOST_STATES, "states", c.states);
  // What a state is taken from must fit, since its values go over as they are.
  const shapes = new Map([
    [c.frame, shapeKey(["1", "3", "h", "w"])],
    [c.picture, shapeKey(["1", "3", `${c.scale}*h`, `${c.scale}*w`])],
  ]);
  const taken = new Set([c.frame, c.picture]);
  for (const state of c.states) {
    refuse(!isRecord(state, STATE_FIELDS), "one of states", state);
    const { input, source: from, shape, dtype = "float32" } = state;
    const key = shapeKey(shape);
    const fits = key && key === (shapes.get(from) ?? key) && dtype === "float32";
    refuse(!fits || !isName(input) || !isName(from) || taken.has(input), "one of states", state);
    shapes.set(from, key);
    taken.add(input);
  }
  // Of the graph's inputs, the frame alone is kept.
  for (const { input } of c.states) refuse(c.states.some((/** @type {StatePort} */ s) =>
    s.source === input), "one of states", input);
  return { variant, size, contract: c, sha256: String(data.sha256 ?? ""),
    data_sha256: data.data_sha256 ?? {} };
}

/** @param {unknown} value */
function isName(value) {
  return typeof value === "string" && value.length > 0 && value.length <= MOST_NAME;
}

/** Whether it is an object with no fields but these. @param {unknown} value @param {string[]} names */
function isRecord(value, names) {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    Object.keys(value).every((name) => names.includes(name));
}

/**
 * What is the same for equal shapes; "" for what is no shape of four products of numbers, h and w.
 *
 * @param {unknown} shape
 * @returns {string}
 */
function shapeKey(shape) {
  if (!Array.isArray(shape) || shape.length !== 4) return "";
  const keys = shape.map((text) => {
    if (typeof text !== "string" || !EXTENT.test(text)) return "";
    const parts = text.split("*");
    const sides = parts.filter((part) => part === "h" || part === "w").sort();
    const factor = parts.reduce((product, part) => product * (Number(part) || 1), 1);
    return factor <= MOST_FACTOR && sides.length <= 2 ? [factor, ...sides].join("*") : "";
  });
  return keys.every((key) => key) ? keys.join() : "";
}

/**
 * Evaluate a contract's shape.
 *
 * @param {string[]} expressions
 * @param {number} h of the frame
 * @param {number} w of the frame
 * @returns {number[]}
 */
export function shapeOf(expressions, h, w) {
  return expressions.map((text) =>
    text.split("*").reduce((value, factor) => {
      const number = factor === "h" ? h : factor === "w" ? w : Number(factor);
      return value * number;
    }, 1));
}

/**
 * Every symbolic extent of the graph with its value for one frame size: given to ONNX Runtime, they
 * make a graph of any size one of this size, and its arithmetic on sizes goes when it is loaded.
 *
 * @param {Contract} contract
 * @param {number} h of the frame
 * @param {number} w of the frame
 * @returns {Record<string, number>}
 */
export function dimensions(contract, h, w) {
  const names = new Set(["h", "w", `${contract.scale}*h`, `${contract.scale}*w`]);
  for (const state of contract.states) {
    for (const extent of state.shape) if (!/^\d+$/.test(extent)) names.add(extent);
  }
  const list = [...names];
  const values = shapeOf(list, h, w);
  return Object.fromEntries(list.map((name, n) => [name, values[n] ?? 0]));
}

/**
 * @param {Manifest} manifest
 * @param {number} h of the frame
 * @param {number} w of the frame
 * @throws {PlayerError} the model does not take frames of this size
 */
export function checkSize(manifest, h, w) {
  if (Math.min(h, w) < MINIMUM) {
    throw new PlayerError(
      `the video is ${w}×${h}, too small for this model, which takes ${MINIMUM}×${MINIMUM} or more`,
      "choose a larger video", true);
  }
  if (manifest.size !== "dynamic" && manifest.size !== `${h}x${w}`) {
    const [height, width] = manifest.size.split("x");
    throw new PlayerError(
      `the video is ${w}×${h}, this model was exported for ${width}×${height} only`,
      "export it with --size dynamic, or choose another video", true);
  }
}
