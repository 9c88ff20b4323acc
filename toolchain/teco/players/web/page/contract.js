// @ts-check
/**
 * How a model is driven, as the manifest beside it says: names and shapes of the state, sizes,
 * colour and range. Nothing else in these pages knows a name or a shape of any network.
 *
 * The same record as `teco.model.opening.StreamContract` in Python.
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
 * @property {number} warm_up frames to run and drop after a reset
 * @property {number} multiple_of of h and w
 * @property {number} minimum smallest h and w
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
const EXTENT = /^(\d+|h|w)(\*(\d+|h|w))*$/;

/**
 * Read and check a manifest.
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
  if (data?.schema !== SCHEMA) {
    throw new PlayerError(
      `${source} has manifest schema ${data?.schema}, this player reads ${SCHEMA}`, AGAIN);
  }
  const c = data.contract;
  if (typeof c !== "object" || c === null || !Array.isArray(c.states)) {
    throw new PlayerError(`${source} has no stream contract`, AGAIN);
  }
  const range = Array.isArray(c.range) ? c.range.join(" to ") : String(c.range);
  // A player that ignored these would show wrong pictures without a word.
  const needs = [
    ["ports of", c.dtype ?? "float32", "float32"],
    ["layout", c.layout ?? "NCHW", "NCHW"],
    ["colour", c.colour, "RGB"],
    ["range", range, "0 to 1"],
  ];
  for (const [what, found, expected] of needs) {
    if (found !== expected) {
      throw new PlayerError(
        `${source} says ${what} ${found}, this player knows ${expected}`,
        "export the model with `teco export --for web`");
    }
  }
  for (const name of ["scale", "multiple_of", "minimum"]) {
    if (!Number.isInteger(c[name]) || c[name] < 1) {
      throw new PlayerError(`${source} says ${name} is ${c[name]}`, AGAIN);
    }
  }
  if (!Number.isInteger(c.warm_up) || c.warm_up < 0) {
    throw new PlayerError(`${source} says warm_up is ${c.warm_up}`, AGAIN);
  }
  const size = String(data.size);
  if (!/^(dynamic|\d+x\d+)$/.test(size)) {
    throw new PlayerError(`${source} says the size is ${size}`, AGAIN);
  }
  for (const state of c.states) {
    const shape = state?.shape;
    const known = Array.isArray(shape) && shape.length === 4 && shape.every((x) => EXTENT.test(x));
    if (!known || typeof state.input !== "string" || typeof state.source !== "string") {
      throw new PlayerError(`${source} has a state that says no shape or name`, AGAIN);
    }
    if ((state.dtype ?? "float32") !== "float32") {
      throw new PlayerError(`${source} keeps ${state.input} as ${state.dtype}, not float32`, AGAIN);
    }
  }
  return {
    variant: String(data.variant),
    size,
    contract: c,
    sha256: String(data.sha256 ?? ""),
    data_sha256: data.data_sha256 ?? {},
  };
}

const AGAIN = "make it again with `teco export --for web`";

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
  const { minimum, multiple_of: multiple } = manifest.contract;
  if (Math.min(h, w) < minimum) {
    throw new PlayerError(
      `the video is ${w}×${h}, too small for this model, which takes ${minimum}×${minimum} or more`,
      "choose a larger video");
  }
  if (h % multiple || w % multiple) {
    throw new PlayerError(
      `the video is ${w}×${h}, this model takes multiples of ${multiple}`,
      "choose another size or model");
  }
  if (manifest.size !== "dynamic" && manifest.size !== `${h}x${w}`) {
    const [height, width] = manifest.size.split("x");
    throw new PlayerError(
      `the video is ${w}×${h}, this model was exported for ${width}×${height} only`,
      "export it with --size dynamic, or choose another video");
  }
}
