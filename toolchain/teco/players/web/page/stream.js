// @ts-check
/**
 * When the recurrence starts afresh: the stream contract's rules for frames that come from a player,
 * which seeks, loops, cuts and leaves frames out.
 */
/** @typedef {"" | "first" | "size" | "seek" | "back" | "gap" | "cut"} Reason "" goes on */
/** @typedef {Reason | "same"} Kind "same" repeats the frame before it: nothing is to be computed */

/**
 * @typedef {object} Moment of one frame
 * @property {number | null} time seconds in the clip; null where there is none
 * @property {number} missing frames that were left out before it
 * @property {boolean} jump whether it does not follow the one before
 */

export class Stream {
  /**
   * @param {object} options
   * @param {import("./scenecut.js").SceneCutDetector | null} options.detector start afresh at scene
   *     cuts; null where they are not looked for
   * @param {number} [options.gap] most frames that may be missing between two; beyond, afresh
   */
  constructor({ detector, gap = 0 }) {
    this.detector = detector;
    this.gap = gap;
    this.scenes = 0;
    this.size = "";
    /** @type {number | null} */
    this.time = null;
    this.started = false;
    /** The last frame, to tell repeats by. @type {Uint8ClampedArray | Uint8Array | null} */
    this.seen = null;
  }

  /** The next frame starts a scene. */
  reset() {
    this.started = false;
    this.seen = null;
    this.detector?.reset();
  }

  /**
   * Take the next frame and say why it starts a scene, if it does.
   *
   * A frame that repeats the one before it, bit for bit, is no frame: as in Python
   * (`teco.inference.recurrence`), neither the network nor the detector sees it.
   *
   * @param {Uint8ClampedArray | Uint8Array} rgba (h, w, 4); it is kept and must not change
   * @param {number} h
   * @param {number} w
   * @param {Moment} moment
   * @returns {Kind}
   */
  take(rgba, h, w, moment) {
    const reason = this.#reason(`${h}x${w}`, moment);
    if ((!reason || reason === "gap") && this.seen && equal(this.seen, rgba)) {
      this.time = moment.time;
      return "same";
    }
    if (reason && reason !== "gap") this.detector?.reset();
    const cut = this.detector?.isCut(rgba, h, w);
    this.size = `${h}x${w}`;
    this.time = moment.time;
    this.started = true;
    this.seen = rgba;
    const found = reason || (cut ? "cut" : "");
    if (found) this.scenes++;
    return found;
  }

  /**
   * @param {string} size
   * @param {Moment} moment
   * @returns {Reason}
   */
  #reason(size, { time, missing, jump }) {
    if (!this.started) return "first";
    if (size !== this.size) return "size";
    if (jump) return "seek";
    if (time !== null && this.time !== null && time < this.time) return "back";
    return missing > this.gap ? "gap" : "";
  }
}

/** @param {Uint8ClampedArray | Uint8Array} a @param {Uint8ClampedArray | Uint8Array} b */
function equal(a, b) {
  if (a.length !== b.length) return false;
  // Four bytes at a time where both lie so that this is possible, as canvases' pixels do.
  if (a.byteOffset % 4 === 0 && b.byteOffset % 4 === 0 && a.length % 4 === 0) {
    const [x, y] = [a, b].map((z) => new Uint32Array(z.buffer, z.byteOffset, z.length / 4));
    return x !== undefined && y !== undefined && x.every((value, n) => value === y[n]);
  }
  return a.every((value, n) => value === b[n]);
}
