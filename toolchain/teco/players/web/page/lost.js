// @ts-check
/** What is lost on the way from the file to the screen, in sentences. */

/**
 * What is known of a clip on show.
 *
 * @typedef {object} Facts
 * @property {number} shown pictures
 * @property {number} dropped frames of the clip that were left out
 * @property {{width: number, height: number}} clip its own size
 * @property {{width: number, height: number}} from what was given to the network
 * @property {number} height of the picture that came out; 0 before the first
 * @property {number} rate of play; below 1 where every frame is waited for
 * @property {import("./tracks.js").Tracks | null} tracks of the file, where they are known
 * @property {boolean} silenced the browser wanted sound off
 * @property {boolean} soundless the file has sound, and after a second of play none was decoded
 * @property {boolean} hdr its brightness goes beyond what this page shows
 * @property {boolean} slow one thread only, because the page is not isolated from others
 * @property {boolean} secure it came by https or from this machine; else it never will be
 */

/**
 * @param {Facts} facts
 * @returns {string[]} the gravest first; none where nothing is lost
 */
export function losses(facts) {
  const { shown, dropped, clip, from, height, rate, tracks } = facts;
  /** @type {string[]} */
  const found = [];
  if (dropped) {
    const share = Math.round((100 * dropped) / (dropped + shown));
    found.push(
      `${dropped} frames left out (${share} %), as this machine does not keep up: ` +
      "“Show every frame” plays slower, a smaller size is faster");
  }
  if (rate < 1) found.push(`Played at ${rate.toFixed(2)} of its speed, sound too, to show every frame`);
  if (height && from.height < clip.height) {
    const vain = height <= clip.height ? ", so that the picture is no larger than the clip" : "";
    found.push(
      `Shrunk from ${clip.width}×${clip.height} to ${from.width}×${from.height} before it is ` +
      `enlarged, to be in time${vain}`);
  }
  if (facts.silenced) found.push("Sound is off, as this browser asks for a press of the loudspeaker");
  if (facts.soundless) found.push("The sound is of a kind that this browser does not play");
  if (facts.hdr) found.push("HDR is shown as an ordinary picture of 8 bits");
  if (tracks?.subtitles) {
    found.push(tracks.subtitles === 1
      ? "The file's subtitles are not shown"
      : `The file's ${tracks.subtitles} tracks of subtitles are not shown`);
  }
  if (tracks && tracks.sound > 1) found.push(`One of ${tracks.sound} tracks of sound is played`);
  if (facts.slow) {
    found.push(facts.secure
      ? "One processor core is used: load the page again to use them all"
      : "One processor core is used, as the page came by plain http: by https, or from this " +
        "machine itself, all are");
  }
  return found;
}
