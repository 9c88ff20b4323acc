// @ts-check
/** An error that a person can act on: what was received, what was expected, what to do next. */
export class PlayerError extends Error {
  /**
   * @param {string} message one sentence
   * @param {string} [hint] what to do next
   * @param {boolean} [clip] whether it is the clip's fault, so that trying it again is of no use
   */
  constructor(message, hint = "", clip = false) {
    super(message);
    this.name = "PlayerError";
    this.hint = hint;
    this.clip = clip;
  }
}

/**
 * An error as it goes from the worker to the page.
 *
 * @typedef {{message: string, hint: string, clip: boolean}} Explained
 */

/**
 * Any error as a message and a hint; what libraries throw is shortened to its first line.
 *
 * @param {unknown} error
 * @returns {Explained}
 */
export function explained(error) {
  if (error instanceof PlayerError) {
    return { message: error.message, hint: error.hint, clip: error.clip };
  }
  const text = error instanceof Error ? error.message : String(error);
  const line = text.split("\n").find((part) => part.trim()) ?? "something failed without a word";
  return { message: line.trim().slice(0, 300), hint: "", clip: false };
}
