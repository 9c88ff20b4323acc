// @ts-check
/**
 * 8-bit pictures and the tensors that networks take, to the bit as `teco.core.pixels` has it in Python.
 * Pictures are RGBA, as canvases have them; planes are (3, h, w) float32, RGB in [0, 1].
 */

/** Levels as floats. Divided, not multiplied by 1/255: the training data and the references divide. */
const LEVELS = Float32Array.from({ length: 256 }, (_, level) => level / 255);

/**
 * @param {Uint8ClampedArray | Uint8Array} rgba (h, w, 4)
 * @param {number} h
 * @param {number} w
 * @returns {Float32Array<ArrayBuffer>} (3, h, w)
 */
export function toPlanes(rgba, h, w) {
  const count = h * w;
  const planes = new Float32Array(3 * count);
  for (let n = 0, at = 0; n < count; n++, at += 4) {
    planes[n] = LEVELS[rgba[at] ?? 0] ?? 0;
    planes[n + count] = LEVELS[rgba[at + 1] ?? 0] ?? 0;
    planes[n + 2 * count] = LEVELS[rgba[at + 2] ?? 0] ?? 0;
  }
  return planes;
}

/**
 * Times 255, rounded to nearest, ties to even, then clipped.
 *
 * @param {Float32Array} planes (3, h, w)
 * @param {number} h
 * @param {number} w
 * @returns {Uint8ClampedArray<ArrayBuffer> | null} (h, w, 4), or null where a value is not finite
 */
export function toPicture(planes, h, w) {
  const count = h * w;
  const rgba = new Uint8ClampedArray(4 * count);
  let sum = 0;
  for (let n = 0, at = 0; n < count; n++, at += 4) {
    const r = /** @type {number} */ (planes[n]);
    const g = /** @type {number} */ (planes[n + count]);
    const b = /** @type {number} */ (planes[n + 2 * count]);
    sum += r + g + b;
    // Storing into a clamped array rounds ties to even; the product is one of float32, as in Python.
    rgba[at] = Math.fround(r * 255);
    rgba[at + 1] = Math.fround(g * 255);
    rgba[at + 2] = Math.fround(b * 255);
    rgba[at + 3] = 255;
  }
  return Number.isFinite(sum) ? rgba : null;
}
