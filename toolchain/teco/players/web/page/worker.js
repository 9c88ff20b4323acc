// @ts-check
/**
 * Where the network runs, so that the page never waits for it: takes frames one at a time, paints
 * the original and the enlarged picture in one go, and answers each message once.
 */
import { explained } from "./errors.js";
import { painter } from "./paint.js";
import { Upscaler, pictureOf } from "./teco.js";

/** @typedef {import("./paint.js").Painter} Painter */

/**
 * From the page; `id` comes back with the answer.
 *
 * @typedef {{kind: "open", model: string, runtime: string, backend: "auto" | "webgpu" | "wasm",
 *     sceneCuts: boolean, gap: number, before: OffscreenCanvas, after: OffscreenCanvas}} Open
 * @typedef {{kind: "frame", bitmap: ImageBitmap, width: number, height: number,
 *     time: number | null, missing: number, jump: boolean, pixels: boolean}} Frame
 * @typedef {{id: number} & (Open | Frame | {kind: "reset"} | {kind: "close"})} Request
 */

/**
 * To the page.
 *
 * @typedef {object} Shown
 * @property {number} width of the enlarged picture
 * @property {number} height
 * @property {{width: number, height: number}} from of the frame
 * @property {string} reason why a scene started, or ""
 * @property {number} scenes started so far
 * @property {number} seconds the step took
 * @property {Uint8ClampedArray<ArrayBuffer>} [rgba] where pixels were asked for
 * @typedef {{details: string, fallback: string, backend: "webgpu" | "wasm", slow: boolean}} Opened
 *     what it runs on, for people; why it is not WebGPU although that was wanted, or ""; whether the
 *     server lacks the headers for threads
 * @typedef {{id: number, error?: import("./errors.js").Explained, say?: string,
 *     opened?: Opened, shown?: Shown}} Answer
 */

/** @type {Upscaler | null} */
let upscaler = null;
/** @type {OffscreenCanvas | null} */
let canvas = null;
/** Made with the first picture, as there is no GPU device before. @type {Painter | null} */
let after = null;
/** @type {OffscreenCanvasRenderingContext2D | null} */
let before = null;
/** Where frames become pixels. */
const desk = new OffscreenCanvas(1, 1);
const reader = /** @type {OffscreenCanvasRenderingContext2D} */ (
  desk.getContext("2d", { alpha: false, willReadFrequently: true }));

/** @param {Answer} message @param {Transferable[]} [moved] */
const answer = (message, moved = []) => self.postMessage(message, { transfer: moved });

/** @type {Promise<void>} */
let turn = Promise.resolve();
self.addEventListener("message", (event) => {
  /** @type {Request} */
  const request = event.data;
  // Messages come whenever they like, steps follow each other.
  turn = turn.then(() => handle(request)).catch((error) => {
    answer({ id: request.id, error: explained(error) });
  });
});

/** @param {Request} request */
async function handle(request) {
  const { id } = request;
  if (request.kind === "open") {
    upscaler = await Upscaler.open({
      model: new URL(request.model),
      runtime: new URL(request.runtime),
      backend: request.backend,
      sceneCuts: request.sceneCuts,
      gap: request.gap,
      say: (text) => answer({ id: 0, say: text }),
    });
    before = request.before.getContext("2d", { alpha: false });
    canvas = request.after;
    const { details, fallback, backend } = upscaler;
    const slow = backend === "wasm" && !self.crossOriginIsolated;
    answer({ id, opened: { details, fallback, backend, slow } });
  } else if (request.kind === "frame") {
    await show(id, request);
  } else if (request.kind === "reset") {
    upscaler?.reset();
    answer({ id });
  } else {
    await upscaler?.close();
    upscaler = null;
    answer({ id });
  }
}

/** @param {number} id @param {Frame} frame */
async function show(id, frame) {
  const { bitmap, width, height } = frame;
  if (!upscaler || !canvas || !before) throw new Error("a frame came before the model");
  try {
    desk.width = width;
    desk.height = height;
    reader.imageSmoothingQuality = "high";
    reader.drawImage(bitmap, 0, 0, width, height);
    const pixels = reader.getImageData(0, 0, width, height);
    const step = await upscaler.step(pixels, frame);
    before.canvas.width = width;
    before.canvas.height = height;
    before.drawImage(desk, 0, 0);
    after ??= await painter(canvas, upscaler);
    await after.paint(step);
    /** @type {Shown} */
    const shown = {
      width: step.width, height: step.height, from: { width, height }, reason: step.reason,
      seconds: step.seconds, scenes: upscaler.stream.scenes,
    };
    if (frame.pixels) shown.rgba = await pictureOf(step);
    answer({ id, shown }, shown.rgba ? [shown.rgba.buffer] : []);
  } finally {
    bitmap.close();
  }
}
