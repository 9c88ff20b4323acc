// @ts-check
/**
 * A video element, the network's worker and what lies between: which frames go to the network, which
 * are left out and counted, and what the worker is told of seeks, loops and gaps.
 *
 * The worker has one frame at a time. The newest frame that comes meanwhile waits, and is left out
 * when a newer one comes; so pictures follow each other as fast as they are made, and none is late by
 * more than one step.
 */
import { PlayerError, explained } from "./errors.js";

/** @typedef {import("./worker.js").Shown} Shown */
/** @typedef {import("./worker.js").Answer} Answer */
/** @typedef {import("./worker.js").Opened} Opened */
/** @typedef {import("./errors.js").Explained} Explained */

/**
 * What has happened since the clip or the model was chosen.
 *
 * @typedef {object} Stats
 * @property {number} shown pictures
 * @property {number} dropped frames of the clip that were left out while it played
 * @property {number} scenes started
 * @property {number} fps pictures in the last second
 * @property {number} milliseconds of one step, median of the last 15
 * @property {number} width of the last picture
 * @property {number} height of the last picture
 * @property {{width: number, height: number}} from of the frame it was made of
 * @property {string} reason why the last picture's scene started there, or ""
 */

/**
 * @typedef {object} Choice
 * @property {URL} model of the ONNX file
 * @property {URL} runtime folder of onnxruntime-web's files
 * @property {"auto" | "webgpu" | "wasm"} backend
 * @property {boolean} sceneCuts
 * @property {number} gap most frames that may be missing between two steps of one scene
 */

/**
 * @typedef {object} Events
 * @property {(text: string) => void} say what is being done
 * @property {(error: Explained) => void} fail
 * @property {(stats: Stats) => void} show called after each picture
 */

/** @typedef {{bitmap: Promise<ImageBitmap>, time: number, jump: boolean}} Waiting */

const SECOND = 1000;
/** Steps whose median is told. */
const RECENT = 15;
/** Share of the time between two frames that a step may take where every frame is to be shown. */
const ROOM = 0.85;
/** Slowest rate of play that browsers know. */
const SLOWEST = 1 / 16;

export class Player {
  /** @type {Worker | null} */
  #worker = null;
  #next = 1;
  /** @type {Map<number, {resolve: (a: Answer) => void, reject: (e: Error) => void}>} */
  #asked = new Map();
  #open = false;
  #busy = false;
  /** @type {Waiting | null} */
  #waiting = null;
  #jump = true;
  #missing = 0;
  /** The browser's own counts at the last frame. */
  #presented = 0;
  #lost = 0;
  /** @type {number[]} */
  #moments = [];
  /** @type {number[]} */
  #steps = [];
  /** Seconds in the clip between its frames. @type {number[]} */
  #apart = [];
  #time = 0;
  /** Raised with each clip and model: what was asked of the one before is nobody's. */
  #clip = 0;
  /** @type {Stats} */
  stats = fresh();
  /** Frames of more lines are shrunk to so many before they are enlarged; 0 takes all as they are. */
  lines = 0;
  /** Play slower rather than leave frames out. */
  every = false;

  /**
   * @param {HTMLVideoElement} video
   * @param {Events} events
   */
  constructor(video, events) {
    this.video = video;
    this.events = events;
    for (const name of ["seeking", "emptied"]) {
      video.addEventListener(name, () => { this.#jump = true; });
    }
    /** @type {VideoFrameRequestCallback} */
    const frame = (_now, about) => {
      video.requestVideoFrameCallback(frame);
      this.#presentedFrame(about);
    };
    video.requestVideoFrameCallback(frame);
  }

  /** Whether a frame is being enlarged, or waits for that. */
  get busy() {
    return this.#busy || this.#waiting !== null || this.#asked.size > 0;
  }

  /** Whether a model is ready. */
  get ready() {
    return this.#open;
  }

  /**
   * Load a model in a worker of its own; the one before is gone with all it held.
   *
   * @param {Choice} choice
   * @param {HTMLCanvasElement} before shows the frames that were enlarged; fresh
   * @param {HTMLCanvasElement} after shows them enlarged; fresh
   * @returns {Promise<Opened>}
   */
  async open(choice, before, after) {
    this.close();
    const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.#worker = worker;
    worker.addEventListener("message", (event) => this.#answered(event.data));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      if (worker === this.#worker) this.#lose(event.message || "the worker did not start");
    });
    const canvases = [before.transferControlToOffscreen(), after.transferControlToOffscreen()];
    const { opened } = await this.#ask({
      kind: "open", model: choice.model.href, runtime: choice.runtime.href,
      backend: choice.backend, sceneCuts: choice.sceneCuts, gap: choice.gap,
      before: canvases[0], after: canvases[1],
    }, canvases);
    if (worker !== this.#worker || !opened) throw new PlayerError("another model was chosen");
    this.#open = true;
    this.restart();
    this.again();
    return opened;
  }

  /** End the worker. */
  close() {
    this.#open = false;
    this.#worker?.terminate();
    this.#worker = null;
    const left = [...this.#asked.values()];
    this.#asked.clear();
    for (const { reject } of left) reject(new PlayerError(GONE));
    this.#forgetWaiting();
    this.#busy = false;
  }

  /** Count from nothing: another clip or another model. */
  restart() {
    this.#clip++;
    this.#forgetWaiting();
    this.stats = fresh();
    this.#moments = [];
    this.#steps = [];
    this.#apart = [];
    this.#missing = 0;
    this.#jump = true;
    this.video.playbackRate = 1;
  }

  /** Enlarge the frame that the paused video shows once more. */
  again() {
    if (this.video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA || !this.#open) return;
    this.#jump = true;
    this.#offer(this.video.currentTime);
  }

  /**
   * Enlarge pixels that come from elsewhere, and give them back: for programs and tests, which know
   * their frames exactly, as a video element does not.
   *
   * @param {ImageData} pixels
   * @param {{time?: number | null, missing?: number, jump?: boolean}} [moment]
   * @returns {Promise<Shown>} with `rgba`
   */
  async push(pixels, moment = {}) {
    const exact = /** @type {const} */ ({ premultiplyAlpha: "none", colorSpaceConversion: "none" });
    const bitmap = await createImageBitmap(pixels, exact);
    const { width, height } = pixels;
    const { shown } = await this.#ask({
      kind: "frame", bitmap, width, height, pixels: true,
      time: null, missing: 0, jump: false, ...moment,
    }, [bitmap]);
    if (!shown) throw new PlayerError("the worker gave no picture");
    this.#count(shown);
    return shown;
  }

  /** The next frame that is pushed starts a scene. */
  async reset() {
    await this.#ask({ kind: "reset" }, []);
  }

  /** @param {VideoFrameCallbackMetadata} about */
  #presentedFrame(about) {
    const { presentedFrames: presented, mediaTime } = about;
    const lost = this.video.getVideoPlaybackQuality?.().droppedVideoFrames ?? 0;
    // The larger of both, not their sum: a frame that is taken for the screen and not drawn in time is
    // counted twice by Chromium.
    const unseen = Math.max(0, presented - this.#presented - 1, lost - this.#lost);
    const first = this.#presented === 0 || presented <= this.#presented;
    this.#presented = presented;
    this.#lost = lost;
    if (!this.#open) return;
    if (!this.#jump && !this.video.seeking && !first) {
      this.#leaveOut(unseen);
      const apart = (mediaTime - this.#time) / (1 + unseen);
      if (apart > 0) this.#apart = [...this.#apart.slice(1 - RECENT), apart];
    }
    this.#time = mediaTime;
    this.#offer(mediaTime);
  }

  /** A frame is on show now: the worker's next one. @param {number} time */
  #offer(time) {
    // While it seeks, a frame may be of the old place or of the new: neither follows the other.
    let jump = this.#jump || this.video.seeking;
    this.#jump = this.video.seeking;
    if (this.#waiting) {
      if (!jump) this.#leaveOut(1);
      jump ||= this.#waiting.jump;
      this.#forgetWaiting();
    }
    const bitmap = createImageBitmap(this.video);
    bitmap.catch(() => {}); // told where it is awaited
    this.#waiting = { bitmap, time, jump };
    void this.#work();
  }

  /** Give the worker the frame that waits, if it has none. */
  async #work() {
    if (this.#busy || !this.#waiting || !this.#open) return;
    const worker = this.#worker;
    const clip = this.#clip;
    const { bitmap: coming, time, jump } = this.#waiting;
    this.#waiting = null;
    this.#busy = true;
    const missing = this.#missing;
    this.#missing = 0;
    try {
      const bitmap = await coming.catch((error) => {
        // The clip was put away while its frame was taken.
        if (this.video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return null;
        throw error;
      });
      if (!bitmap) return;
      const [width, height] = this.#size(bitmap);
      const { shown } = await this.#ask(
        { kind: "frame", bitmap, width, height, time, missing, jump, pixels: false }, [bitmap]);
      if (shown && clip === this.#clip) this.#count(shown);
    } catch (error) {
      // What was asked of a worker that is gone is nobody's any more.
      if (worker === this.#worker) this.events.fail(explained(error));
    } finally {
      if (worker === this.#worker) {
        this.#busy = false;
        void this.#work();
      }
    }
  }

  /** @param {ImageBitmap} bitmap @returns {[number, number]} width and height for the network */
  #size({ width, height }) {
    if (!this.lines || height <= this.lines) return [width, height];
    return [Math.max(1, Math.round((width * this.lines) / height)), this.lines];
  }

  /** @param {number} frames that were not enlarged */
  #leaveOut(frames) {
    this.#missing += frames;
    if (!this.video.paused) this.stats.dropped += frames;
  }

  #forgetWaiting() {
    this.#waiting?.bitmap.then((bitmap) => bitmap.close(), () => {});
    this.#waiting = null;
  }

  /** @param {Shown} shown */
  #count(shown) {
    const now = performance.now();
    const { stats } = this;
    this.#moments = [...this.#moments.filter((x) => now - x < SECOND), now];
    if (shown.seconds) this.#steps = [...this.#steps.slice(1 - RECENT), shown.seconds * 1000];
    stats.shown++;
    if (shown.reason) stats.scenes++;
    stats.fps = this.#moments.length;
    stats.milliseconds = median(this.#steps);
    stats.width = shown.width;
    stats.height = shown.height;
    stats.from = shown.from;
    stats.reason = shown.reason;
    this.#pace();
    this.events.show(stats);
  }

  /** Play as fast as the network allows, at most as fast as the clip. */
  #pace() {
    const apart = median(this.#apart) * 1000;
    if (!this.every || !apart || !this.stats.milliseconds) {
      if (!this.every) this.video.playbackRate = 1;
      return;
    }
    const rate = Math.min(1, Math.max(SLOWEST, (ROOM * apart) / this.stats.milliseconds));
    // Small corrections would make sound waver and help nobody.
    if (Math.abs(rate / this.video.playbackRate - 1) > 0.1) this.video.playbackRate = rate;
  }

  /** Pictures in the last second, which falls while none come. */
  get fps() {
    const now = performance.now();
    return this.#moments.filter((x) => now - x < SECOND).length;
  }

  /**
   * @param {object} message without its id
   * @param {Transferable[]} moved
   * @returns {Promise<Answer>}
   */
  #ask(message, moved) {
    const worker = this.#worker;
    if (!worker) return Promise.reject(new PlayerError(GONE));
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject });
      worker.postMessage({ ...message, id }, moved);
    });
  }

  /** @param {Answer} answer */
  #answered(answer) {
    if (answer.say !== undefined) this.events.say(answer.say);
    const asked = this.#asked.get(answer.id);
    if (!asked) return;
    this.#asked.delete(answer.id);
    const { error } = answer;
    if (error) asked.reject(new PlayerError(error.message, error.hint, error.clip));
    else asked.resolve(answer);
  }

  /** The worker itself failed. @param {string} why */
  #lose(why) {
    const left = [...this.#asked.values()];
    this.#asked.clear();
    this.#open = false;
    const lost = new PlayerError(`the network stopped: ${why}`);
    for (const { reject } of left) reject(lost);
    if (!left.length) this.events.fail(explained(lost));
  }
}

const GONE = "the model was closed";

/** @returns {Stats} */
function fresh() {
  return {
    shown: 0, dropped: 0, scenes: 0, fps: 0, milliseconds: 0, width: 0, height: 0,
    from: { width: 0, height: 0 }, reason: "",
  };
}

/** @param {number[]} values @returns {number} 0 of none */
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? 0;
}
