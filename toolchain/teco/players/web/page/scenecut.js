// @ts-check
/**
 * Where one shot ends and the next begins: libteco's detector, compiled from its C source
 * (`scripts/build_scenecut_wasm.sh`). `teco/inference/scene_cuts.py` says how it works, how it was
 * measured, and what it does not find.
 */
import { PlayerError, explained } from "./errors.js";

const PAGE = 65536;

/**
 * What scenecut.wasm offers.
 *
 * @typedef {object} Program
 * @property {WebAssembly.Memory} memory
 * @property {() => number} pixels where the picture is to be put
 * @property {(width: number, height: number) => number} isCut
 * @property {() => number} score
 * @property {() => void} reset
 */

/** Says of each frame, given in order, whether a new shot begins with it. */
export class SceneCutDetector {
  /** @param {WebAssembly.Instance} instance of scenecut.wasm, nobody else's */
  constructor(instance) {
    this.program = /** @type {Program} */ (/** @type {unknown} */ (instance.exports));
    this.reset();
  }

  /**
   * @returns {Promise<SceneCutDetector>}
   * @throws {PlayerError} its program cannot be fetched
   */
  static async open() {
    try {
      const answer = await fetch(new URL("scenecut.wasm", import.meta.url));
      if (!answer.ok) throw new Error(`the server says ${answer.status}`);
      const { instance } = await WebAssembly.instantiate(await answer.arrayBuffer());
      return new SceneCutDetector(instance);
    } catch (error) {
      throw new PlayerError(
        `scenecut.wasm could not be loaded: ${explained(error).message}`,
        "reload when connected, or make the folder again with `teco emit web`");
    }
  }

  /** Change of the last frame from the one before it; 0 for a first frame. */
  get score() {
    return this.program.score();
  }

  /** Forget everything: the next frame is a first frame. */
  reset() {
    this.program.reset();
  }

  /**
   * Take the next frame. A first frame, also at a new size, is no cut.
   *
   * @param {Uint8ClampedArray | Uint8Array} rgba (h, w, 4)
   * @param {number} h
   * @param {number} w
   * @returns {boolean}
   */
  isCut(rgba, h, w) {
    const { memory, pixels, isCut } = this.program;
    const missing = pixels() + rgba.length - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / PAGE));
    new Uint8Array(memory.buffer).set(rgba, pixels());
    return isCut(w, h) !== 0;
  }
}
