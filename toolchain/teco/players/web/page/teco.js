// @ts-check
/**
 * The module: a clip's frames in order through a recurrent network, in the browser.
 *
 *     const upscaler = await Upscaler.open({ model: new URL("models/live-web.onnx", location.href) });
 *     const { rgba, width, height } = await upscaler.enlarge(imageData);
 *
 * Frames go in as RGBA pictures, pictures as many times as large as the model makes come out, equal to what
 * `teco upscale` makes of the same frames up to one 8-bit step. Nothing is sent anywhere.
 */
import { checkSize, readManifest } from "./contract.js";
import { PlayerError, explained } from "./errors.js";
import { toPicture, toPlanes } from "./pixels.js";
import { SceneCutDetector } from "./scenecut.js";
import { Session, loadRuntime, whyNot } from "./session.js";
import { Stream } from "./stream.js";

export { PlayerError } from "./errors.js";

const ELSEWHERE = "let something else compute it (More choices)";

/** @typedef {import("./session.js").Backend} Backend */
/** @typedef {import("./stream.js").Reason} Reason */

/**
 * A picture as canvases have it; an ImageData is one.
 *
 * @typedef {object} Picture
 * @property {Uint8ClampedArray | Uint8Array} data (height, width, 4) RGBA
 * @property {number} width
 * @property {number} height
 */

/**
 * What one step gave.
 *
 * @typedef {object} Step
 * @property {import("onnxruntime-web").Tensor} picture (1, 3, H, W) float32, good until the next step
 * @property {number} width W
 * @property {number} height H
 * @property {Reason} reason why the frame started a scene, or ""
 * @property {number} seconds the step took; 0 for a frame that repeats the one before it
 */

/**
 * @typedef {object} Options
 * @property {URL} model of the ONNX file; its manifest lies beside it with the suffix .json
 * @property {URL} [runtime] folder of onnxruntime-web's files; "ort/" beside this module
 * @property {Backend | "auto"} [backend] auto is WebGPU where there is one, else WebAssembly
 * @property {boolean} [sceneCuts] start afresh at scene cuts; true
 * @property {number} [gap] most frames that may be missing between two without starting afresh; 0
 * @property {(text: string) => void} [say] told what is being done
 */

export class Upscaler {
  /** @type {Session | null} */
  #session = null;
  /** @type {import("./session.js").State | null} */
  #state = null;
  /** What the last step gave. @type {Step | null} */
  #last = null;
  #busy = false;

  /**
   * @param {import("./session.js").Files} files
   * @param {import("./session.js").Ort} ort
   * @param {Backend} backend
   * @param {string} fallback why it is not WebGPU although that was wanted, or ""
   * @param {Stream} stream
   * @param {(text: string) => void} say told what is being done
   */
  constructor(files, ort, backend, fallback, stream, say) {
    this.files = files;
    this.ort = ort;
    this.backend = backend;
    this.fallback = fallback;
    this.stream = stream;
    this.say = say;
  }

  /**
   * Fetch a model and the runtime for it. The model is opened with the first frame, for its size.
   *
   * @param {Options} options
   * @returns {Promise<Upscaler>}
   * @throws {PlayerError} a file is missing, damaged or of another kind; no backend
   */
  static async open(options) {
    const say = options.say ?? (() => {});
    const [backend, fallback] = await chosen(options.backend ?? "auto");
    const name = options.model.pathname.split("/").pop() ?? "the model";
    say(`loading ${name}`);
    const files = await fetchModel(options.model);
    say("loading onnxruntime-web");
    const folder = options.runtime ?? new URL("ort/", import.meta.url);
    const ort = await loadRuntime(backend, folder);
    const detector = options.sceneCuts ?? true ? await SceneCutDetector.open() : null;
    const stream = new Stream({ detector, gap: options.gap ?? 0 });
    return new Upscaler(files, ort, backend, fallback, stream, say);
  }

  /** What it runs on, for people. */
  get details() {
    if (this.backend === "webgpu") return "graphics card (WebGPU)";
    const threads = this.ort.env.wasm.numThreads ?? 1;
    return `processor, ${threads} thread${threads === 1 ? "" : "s"}`;
  }

  /** The next frame starts a scene. */
  reset() {
    this.stream.reset();
  }

  /**
   * The next frame, enlarged where it was computed.
   *
   * @param {Picture} frame
   * @param {Partial<import("./stream.js").Moment>} [moment]
   * @returns {Promise<Step>}
   * @throws {PlayerError} the model does not take this size; the runtime failed
   */
  async step(frame, moment = {}) {
    if (this.#busy) throw new PlayerError("a step is running", "await each step before the next");
    this.#busy = true;
    try {
      return await this.#step(frame, moment);
    } finally {
      this.#busy = false;
    }
  }

  /**
   * @param {Picture} frame
   * @param {Partial<import("./stream.js").Moment>} moment
   * @returns {Promise<Step>}
   */
  async #step(frame, moment) {
    const { width: w, height: h, data } = frame;
    const { contract } = this.files.manifest;
    checkSize(this.files.manifest, h, w);
    if (!this.#session || this.#session.h !== h || this.#session.w !== w) await this.#open(h, w);
    const session = /** @type {Session} */ (this.#session);
    const when = { time: null, missing: 0, jump: false, ...moment };
    const reason = this.stream.take(data, h, w, when);
    if (reason === "same" && this.#last) return { ...this.#last, reason: "", seconds: 0 };
    if (reason === "same") throw new Error("a frame is repeated that was never shown");
    this.#last = null;
    if (reason) {
      session.release(this.#state);
      this.#state = null;
    }
    const given = this.#state;
    // The step takes its state for good, whether it succeeds or not.
    this.#state = null;
    const began = performance.now();
    let result;
    try {
      result = await session.step(toPlanes(data, h, w), given);
    } catch (error) {
      this.stream.reset();
      if (error instanceof PlayerError) throw error;
      throw new PlayerError(
        `the runtime failed: ${explained(error).message}`,
        "try again, or let something else compute it");
    }
    this.#state = result.state;
    this.#last = {
      picture: result.picture,
      width: contract.scale * w,
      height: contract.scale * h,
      reason,
      seconds: (performance.now() - began) / 1000,
    };
    return this.#last;
  }

  /**
   * The next frame as an 8-bit picture.
   *
   * @param {Picture} frame
   * @param {Partial<import("./stream.js").Moment>} [moment]
   * @returns {Promise<{rgba: Uint8ClampedArray<ArrayBuffer>, width: number, height: number,
   *     reason: Reason}>}
   */
  async enlarge(frame, moment = {}) {
    const step = await this.step(frame, moment);
    const rgba = await pictureOf(step);
    return { rgba, width: step.width, height: step.height, reason: step.reason };
  }

  /** Give everything back. */
  async close() {
    const session = this.#session;
    session?.release(this.#state);
    this.#session = this.#state = this.#last = null;
    this.stream.reset();
    await session?.close();
  }

  /** @param {number} h @param {number} w */
  async #open(h, w) {
    this.say(`preparing the network for ${w}×${h}`);
    const [old, state] = [this.#session, this.#state];
    this.#session = this.#state = this.#last = null;
    this.stream.reset();
    try {
      // Before the old one goes: with its last session ONNX Runtime gives up the GPU's device, on
      // which pictures are painted too.
      this.#session = await Session.open(this.ort, this.files, this.backend, h, w);
    } finally {
      old?.release(state);
      await old?.close();
    }
  }
}

/**
 * The 8-bit picture of a step.
 *
 * @param {Step} step
 * @returns {Promise<Uint8ClampedArray<ArrayBuffer>>} (H, W, 4) RGBA
 * @throws {PlayerError} it holds values that are not finite
 */
export async function pictureOf(step) {
  const values = /** @type {Float32Array} */ (await step.picture.getData());
  const rgba = toPicture(values, step.height, step.width);
  if (!rgba) throw new PlayerError("the network gives values that are not finite", ELSEWHERE);
  return rgba;
}

/**
 * @param {Backend | "auto"} asked
 * @returns {Promise<[Backend, string]>} what is used, and why it is not WebGPU
 */
async function chosen(asked) {
  if (asked !== "auto") {
    const why = await whyNot(asked);
    if (why) throw new PlayerError(why, ELSEWHERE);
    return [asked, ""];
  }
  const why = await whyNot("webgpu");
  if (!why) return ["webgpu", ""];
  const neither = await whyNot("wasm");
  if (neither) throw new PlayerError(neither, "use a current browser");
  return ["wasm", why];
}

/**
 * Fetch a model, its manifest and its weights, and hold them against the manifest's hashes.
 *
 * @param {URL} url
 * @returns {Promise<import("./session.js").Files>}
 */
async function fetchModel(url) {
  const beside = new URL(url.pathname.replace(/\.onnx$/, ".json"), url);
  const name = url.pathname.split("/").pop() ?? "";
  const text = new TextDecoder().decode(await fetched(beside));
  const manifest = readManifest(text, beside.pathname.split("/").pop() ?? "");
  const model = await fetched(url);
  await check(model, manifest.sha256, name);
  const data = [];
  for (const [path, sha256] of Object.entries(manifest.data_sha256)) {
    if (path.includes("/")) throw new PlayerError(`${path} is not beside ${name}`);
    const bytes = await fetched(new URL(path, url));
    await check(bytes, sha256, path);
    data.push({ path, data: bytes });
  }
  return { manifest, model, data };
}

/** @param {URL} url @returns {Promise<Uint8Array<ArrayBuffer>>} */
async function fetched(url) {
  const name = url.pathname.split("/").pop();
  let answer;
  try {
    answer = await fetch(url);
  } catch {
    throw new PlayerError(
      `${name} could not be fetched`,
      "offline, only what was used before is at hand; try again when connected");
  }
  if (!answer.ok) {
    throw new PlayerError(
      `${name} could not be fetched: the server says ${answer.status}`,
      "make the folder again with `teco emit web`");
  }
  return new Uint8Array(await answer.arrayBuffer());
}

/** @param {Uint8Array<ArrayBuffer>} bytes @param {string} expected @param {string} name */
async function check(bytes, expected, name) {
  // Browsers hash on https and localhost only; elsewhere ONNX Runtime's own reading must do.
  if (!self.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = [...digest].map((x) => x.toString(16).padStart(2, "0")).join("");
  if (found !== expected) {
    throw new PlayerError(
      `${name} is damaged: its sha256 is ${found.slice(0, 12)}…, ` +
        `its manifest says ${expected.slice(0, 12)}…`,
      "make the folder again with `teco emit web`");
  }
}
