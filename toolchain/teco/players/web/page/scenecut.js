// @ts-check
/**
 * Where one shot ends and the next begins: the detector of `teco/scenecut.py`, which says how it
 * works, how it was measured, and what it does not find. Its constants are the same; what OpenCV does
 * there (area resize, grey, box blur) is written out here with the same roundings.
 */

const LONG_SIDE = 64;
const BLOCK = 16;
const REACH = 8;
const GAIN = 2;
const FLOOR = 2;
const RELIT = 2.5;
const UNKNOWN = 0.75;

/**
 * What is kept of one frame.
 *
 * @typedef {object} Sketch
 * @property {number} h multiple of BLOCK
 * @property {number} w multiple of BLOCK
 * @property {Uint8ClampedArray} detail (h, w) luma less its local mean, GAIN steps per luma step
 * @property {number} amount mean size of the detail, luma steps
 */

/**
 * @param {Uint8ClampedArray | Uint8Array} rgba (height, width, 4)
 * @param {number} height
 * @param {number} width
 * @returns {Sketch}
 */
export function sketch(rgba, height, width) {
  const scale = LONG_SIDE / Math.max(height, width);
  const h = Math.max(1, halfEven((height * scale) / BLOCK)) * BLOCK;
  const w = Math.max(1, halfEven((width * scale) / BLOCK)) * BLOCK;
  const step = Math.max(1, Math.trunc(Math.min(Math.trunc(height / h), Math.trunc(width / w)) / 4));
  const first = Math.trunc(step / 2);
  const rows = Math.ceil((height - first) / step);
  const columns = Math.ceil((width - first) / step);
  const luma = new Float32Array(h * w);
  const colours = [0, 1, 2].map((channel) => {
    const plane = new Float32Array(rows * columns);
    for (let y = 0, n = 0; y < rows; y++) {
      let at = ((first + y * step) * width + first) * 4 + channel;
      for (let x = 0; x < columns; x++, n++, at += 4 * step) plane[n] = rgba[at] ?? 0;
    }
    return resized(plane, rows, columns, h, w);
  });
  const [red, green, blue] = /** @type {[Float32Array, Float32Array, Float32Array]} */ (colours);
  for (let n = 0; n < luma.length; n++) {
    // OpenCV's fixed-point weights of 0.299, 0.587 and 0.114.
    luma[n] = ((red[n] ?? 0) * 9798 + (green[n] ?? 0) * 19235 + (blue[n] ?? 0) * 3735 + 16384) >> 15;
  }
  const mean = blurred(luma, h, w);
  return quantised(luma.map((value, n) => value - (mean[n] ?? 0)), h, w);
}

/**
 * Area resize of one 8-bit plane, rounded to 8 bits; bilinear where it enlarges, as OpenCV's
 * INTER_AREA does.
 *
 * @param {Float32Array} plane (rows, columns)
 * @param {number} rows
 * @param {number} columns
 * @param {number} h
 * @param {number} w
 * @returns {Float32Array} (h, w)
 */
function resized(plane, rows, columns, h, w) {
  const enlarges = rows < h || columns < w;
  const across = (enlarges ? between : covered)(columns, w);
  const down = (enlarges ? between : covered)(rows, h);
  const narrow = new Float32Array(rows * w);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < w; x++) {
      let sum = 0;
      for (const [at, share] of across[x] ?? []) sum += (plane[y * columns + at] ?? 0) * share;
      narrow[y * w + x] = sum;
    }
  }
  const out = new Float32Array(h * w);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      let sum = 0;
      for (const [at, share] of down[y] ?? []) sum += (narrow[at * w + x] ?? 0) * share;
      out[y * w + x] = halfEven(sum);
    }
  }
  return out;
}

/**
 * Which of `from` pixels each of `to` pixels covers, and with which share of its area.
 *
 * @param {number} from
 * @param {number} to
 * @returns {[number, number][][]}
 */
function covered(from, to) {
  const ratio = from / to;
  return Array.from({ length: to }, (_, n) => {
    const begin = n * ratio;
    const end = Math.min((n + 1) * ratio, from);
    /** @type {[number, number][]} */
    const shares = [];
    for (let at = Math.floor(begin + 1e-9); at < end - 1e-9; at++) {
      shares.push([at, (Math.min(at + 1, end) - Math.max(at, begin)) / (end - begin)]);
    }
    return shares;
  });
}

/**
 * The same for enlarging: the two neighbours of each pixel. INTER_AREA's own rule, which is not that
 * of INTER_LINEAR: the weight only moves within the last part of a source pixel.
 *
 * @param {number} from
 * @param {number} to
 * @returns {[number, number][][]}
 */
function between(from, to) {
  const ratio = from / to;
  const inverse = to / from;
  return Array.from({ length: to }, (_, n) => {
    let at = Math.floor(n * ratio);
    let share = n + 1 - (at + 1) * inverse;
    share = share <= 0 ? 0 : share - Math.floor(share);
    if (at >= from - 1) {
      at = from - 1;
      share = 0;
    }
    return [[at, 1 - share], [Math.min(at + 1, from - 1), share]];
  });
}

/**
 * Box mean of 15x15, mirrored at the border without repeating it.
 *
 * @param {Float32Array} plane (h, w)
 * @param {number} h
 * @param {number} w
 * @returns {Float32Array}
 */
function blurred(plane, h, w) {
  const radius = (BLOCK - 2) / 2;
  const side = BLOCK - 1;
  /** @param {number} at @param {number} size */
  const mirrored = (at, size) => (at < 0 ? -at : at >= size ? 2 * size - 2 - at : at);
  const rows = new Float64Array(h * w);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      let sum = 0;
      for (let d = -radius; d <= radius; d++) sum += plane[y * w + mirrored(x + d, w)] ?? 0;
      rows[y * w + x] = sum;
    }
  }
  const out = new Float32Array(h * w);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      let sum = 0;
      for (let d = -radius; d <= radius; d++) sum += rows[mirrored(y + d, h) * w + x] ?? 0;
      out[y * w + x] = sum / (side * side);
    }
  }
  return out;
}

/**
 * @param {Float32Array} detail (h, w) luma steps
 * @param {number} h
 * @param {number} w
 * @returns {Sketch}
 */
function quantised(detail, h, w) {
  const levels = new Uint8ClampedArray(h * w);
  let sum = 0;
  for (let n = 0; n < levels.length; n++) {
    levels[n] = Math.trunc(Math.min(255, Math.max(0, (detail[n] ?? 0) * GAIN + 128.5)));
    sum += Math.abs((levels[n] ?? 0) - 128);
  }
  return { h, w, detail: levels, amount: sum / levels.length / GAIN };
}

/**
 * How little two sketches of one size explain each other: 0 the same, about 0.9 unrelated.
 *
 * @param {Sketch} previous
 * @param {Sketch} current
 * @returns {number}
 */
export function change(previous, current) {
  const ratio = (current.amount + FLOOR) / (previous.amount + FLOOR);
  if (ratio > 1) current = dimmed(current, Math.max(1 / ratio, 1 / RELIT));
  else previous = dimmed(previous, Math.max(ratio, 1 / RELIT));
  const unexplained = left(current, previous) + left(previous, current);
  return unexplained / (current.amount + previous.amount + 2 * FLOOR);
}

/** @param {Sketch} full @param {number} share @returns {Sketch} */
function dimmed(full, share) {
  const factor = Math.fround(share / GAIN);
  return quantised(Float32Array.from(full.detail, (x) => (x - 128) * factor), full.h, full.w);
}

/**
 * Mean absolute difference, luma steps, of target's blocks from their best match in source.
 *
 * @param {Sketch} target
 * @param {Sketch} source
 * @returns {number}
 */
function left(target, source) {
  const { h, w } = target;
  const wide = w + 2 * REACH;
  const padded = new Uint8Array((h + 2 * REACH) * wide);
  for (let y = 0; y < h + 2 * REACH; y++) {
    const row = Math.min(h - 1, Math.max(0, y - REACH)) * w;
    for (let x = 0; x < wide; x++) {
      padded[y * wide + x] = source.detail[row + Math.min(w - 1, Math.max(0, x - REACH))] ?? 0;
    }
  }
  let total = 0;
  for (let top = 0; top < h; top += BLOCK) {
    for (let side = 0; side < w; side += BLOCK) {
      let best = Infinity;
      for (let dy = 0; dy <= 2 * REACH && best > 0; dy++) {
        for (let dx = 0; dx <= 2 * REACH; dx++) {
          let sum = 0;
          for (let y = 0; y < BLOCK && sum < best; y++) {
            let a = (top + y) * w + side;
            let b = (top + y + dy) * wide + side + dx;
            for (let x = 0; x < BLOCK; x++) {
              const apart = /** @type {number} */ (target.detail[a++]) -
                /** @type {number} */ (padded[b++]);
              sum += apart < 0 ? -apart : apart;
            }
          }
          if (sum < best) best = sum;
        }
      }
      total += halfEven(best / (BLOCK * BLOCK));
    }
  }
  return total / ((h / BLOCK) * (w / BLOCK)) / GAIN;
}

/** @param {number} x at least 0 @returns {number} rounded to nearest, ties to even */
function halfEven(x) {
  const down = Math.floor(x);
  const rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}

/** Says of each frame, given in order, whether a new shot begins with it. */
export class SceneCutDetector {
  /**
   * @param {{threshold?: number, caution?: number, memory?: number}} [options] as in Python
   */
  constructor({ threshold = 0.6, caution = 0.4, memory = 4 } = {}) {
    this.threshold = threshold;
    this.caution = caution;
    this.memory = Math.max(1, memory);
    /** Change of the last frame from the one before it; 0 for a first frame. */
    this.score = 0;
    /** @type {number[]} */
    this.recent = [UNKNOWN];
    this.size = "";
    /** @type {Sketch | null} */
    this.previous = null;
  }

  /** Forget everything: the next frame is a first frame. */
  reset() {
    this.score = 0;
    this.recent = [UNKNOWN];
    this.previous = null;
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
    const size = `${h}x${w}`;
    if (size !== this.size) {
      this.reset();
      this.size = size;
    }
    const previous = this.previous;
    this.previous = sketch(rgba, h, w);
    if (previous === null) return false;
    this.score = change(previous, this.previous);
    const usual = this.recent.reduce((sum, x) => sum + x, 0) / this.recent.length;
    if (this.score > this.threshold + this.caution * usual) {
      this.recent = [UNKNOWN];
      return true;
    }
    this.recent.push(this.score);
    if (this.recent.length > this.memory) this.recent.shift();
    return false;
  }
}
