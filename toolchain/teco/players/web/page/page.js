// @ts-check
/** The page: what is on it, and what happens when it is touched. */
import { divider } from "./divider.js";
import { PlayerError, explained } from "./errors.js";
import { losses } from "./lost.js";
import { Player } from "./player.js";
import { tracksOf } from "./tracks.js";

/**
 * `site.json`, which `teco emit web` writes.
 *
 * @typedef {object} Site
 * @property {string} teco version
 * @property {string} runtime version of onnxruntime-web
 * @property {{name: string, title: string, group: string, file: string, about: string,
 *     gap: number}[]} models the first is the one to begin with
 */

/** @typedef {import("./player.js").Stats} Stats */
/** @typedef {import("./errors.js").Explained} Explained */
/** @typedef {import("./tracks.js").Tracks} Tracks */

/**
 * Lines at most where nothing was chosen, by what it runs on. Four times as many come out, so these
 * make pictures of 1440 and 2880 lines, beyond which screens do not show more.
 */
const SUITED = { webgpu: 720, wasm: 360 };
/** Seconds that the arrow keys move by. */
const SKIP = 5;
/** Seconds of play after which sound that is not there will not come. */
const SOUND_BY = 1;
const SAMPLE = "sample.mp4";
const REMADE = "try again; whoever keeps this page makes it anew with `teco emit web`";

/**
 * @template {Element} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
function part(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${id}`);
  return found;
}

const main = part("player", HTMLElement);
const stage = part("stage", HTMLElement);
const frames = part("frames", HTMLElement);
const video = part("video", HTMLVideoElement);
const play = part("play", HTMLButtonElement);
const seek = part("seek", HTMLInputElement);
const mute = part("mute", HTMLButtonElement);
const full = part("full", HTMLButtonElement);
const model = part("model", HTMLSelectElement);
const backend = part("backend", HTMLSelectElement);
const lines = part("lines", HTMLSelectElement);
const every = part("every", HTMLInputElement);
const loop = part("loop", HTMLInputElement);
const cuts = part("cuts", HTMLInputElement);
const file = part("file", HTMLInputElement);
const status = part("status", HTMLElement);
const alert = part("alert", HTMLElement);
const ways = part("ways", HTMLElement);
const drop = part("drop", HTMLElement);
const another = part("another", HTMLButtonElement);

const player = new Player(video, { say: (text) => busy(text), fail, show });
/** @type {Site | null} */
let site = null;
let clip = "";
/** @type {import("./worker.js").Opened | null} */
let runs = null;
let loading = false;
/** Whether the clip is to play once its first picture is there: nothing is dropped meanwhile. */
let begins = false;
/** @type {Tracks | null} */
let tracks = null;
/** Whether the browser refused to play with sound. */
let silenced = false;
let hdr = false;

/** With a capital, but for what begins with a name of a file. @param {string} text */
function sentence(text) {
  return /^[a-z]+[ ,:]/.test(text) ? `${text.charAt(0).toUpperCase()}${text.slice(1)}` : text;
}

/** @param {string} text */
function busy(text) {
  status.textContent = `${sentence(text)} …`;
  status.classList.add("busy");
}

/** @param {string} text */
function calm(text) {
  status.textContent = text;
  status.classList.remove("busy");
}

/** @param {Explained} error */
function fail({ message, hint, clip: bad }) {
  alert.replaceChildren();
  for (const text of [message, hint]) {
    if (!text) continue;
    const line = document.createElement("p");
    line.textContent = `${sentence(text).replace(/\.+$/, "")}.`;
    alert.append(line);
  }
  calm("Stopped");
  begins = false;
  video.pause();
  if (bad) leave();
  tellPlaying();
  // Without a clip the stage has these two already.
  for (const id of ["other", "sample-instead"]) part(id, HTMLElement).hidden = !clip;
  part("again", HTMLElement).hidden = bad;
  // What has not been opened was to be, where there is one.
  const onCard = runs ? runs.backend === "webgpu" : "gpu" in navigator;
  const wanted = backend.value === "webgpu" || (backend.value === "auto" && onCard);
  part("processor", HTMLElement).hidden = !wanted;
  ways.hidden = bad;
}

function forgive() {
  alert.replaceChildren();
  ways.hidden = true;
}

/** What is ready, in a sentence. */
function ready() {
  if (!player.ready || !runs) return;
  const what = clip ? `${clip}, by ${model.value}` : `Ready: ${model.value}`;
  calm(`${what} on ${runs.backend === "webgpu" ? "the graphics card" : "the processor"}`);
}

// --- the model ----------------------------------------------------------------------------------

async function load() {
  if (!site) return;
  const chosen = site.models.find((x) => x.name === model.value) ?? site.models[0];
  if (!chosen) throw new PlayerError("this folder holds no network", REMADE);
  busy(`loading ${chosen.name}`);
  part("about", HTMLElement).textContent = `${chosen.name}: ${chosen.about}.`;
  const [before, after] = ["before-place", "after-place"].map((id) => {
    // A canvas that a worker has painted on is that worker's for good.
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    part(id, HTMLElement).replaceChildren(canvas);
    return canvas;
  });
  if (!before || !after) return;
  runs = null;
  runs = await player.open({
    model: new URL(chosen.file, document.baseURI),
    runtime: new URL("ort/", document.baseURI),
    backend: /** @type {"auto" | "webgpu" | "wasm"} */ (backend.value),
    sceneCuts: cuts.checked,
    gap: chosen.gap,
  }, before, after);
  part("details", HTMLElement).textContent = runs.details;
  if (runs.fallback) {
    part("about", HTMLElement).append(` The graphics card is not used: ${runs.fallback}.`);
  }
  suit();
  ready();
}

/** Load what is chosen, from the list of networks on where there is none, and say what went wrong. */
function reload() {
  loading = true;
  forgive();
  busy("preparing the network");
  (site ? load() : begin()).then(() => { loading = false; }, (error) => {
    // Another choice was made meanwhile, which tells its own story.
    if (error instanceof PlayerError && error.message === "the model was closed") return;
    loading = false;
    fail(explained(error));
  });
}

/** How many lines a frame may have. */
function suit() {
  const most = SUITED[runs?.backend ?? "wasm"];
  player.lines = lines.value === "auto" ? most : Number(lines.value);
}

// --- the clip -----------------------------------------------------------------------------------

/** @param {File | undefined | null} chosen */
function open(chosen) {
  if (!chosen) return;
  forgive();
  if (video.src) URL.revokeObjectURL(video.src);
  clip = chosen.name;
  if (chosen.type.startsWith("image/")) {
    return fail({
      message: `${clip} is a still picture, and this page plays videos`,
      hint: `choose a video; \`teco upscale ${clip} large.png\` enlarges a picture`,
      clip: true,
    });
  }
  player.restart();
  tracks = null;
  silenced = hdr = false;
  video.src = URL.createObjectURL(chosen);
  drop.hidden = true;
  frames.hidden = false;
  another.hidden = false;
  busy(`opening ${clip}`);
  begins = true;
  setMuted(false);
  const source = video.src;
  tracksOf(chosen).then((found) => {
    if (video.src === source) tracks = found;
  }, () => {}); // a file that cannot be read is told by the video
  if (!player.ready && !loading) reload();
}

/** Back to the beginning: what was chosen is of no use. */
function leave() {
  URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
  clip = "";
  drop.hidden = false;
  frames.hidden = true;
  another.hidden = true;
  for (const control of [play, seek, mute, full]) control.disabled = true;
  seek.max = "0";
  for (const id of ["now", "length"]) part(id, HTMLElement).textContent = clock(0);
  for (const id of ["step", "size", "scenes"]) part(id, HTMLElement).textContent = "–";
  player.restart();
  part("choose", HTMLElement).focus();
}

async function openSample() {
  forgive();
  busy("fetching the sample");
  const before = video.src;
  const answer = await fetch(SAMPLE).catch(() => null);
  if (!answer?.ok) throw new PlayerError("the sample could not be fetched", REMADE, true);
  const sample = await answer.blob();
  if (video.src !== before) return; // a clip of the visitor's own was chosen meanwhile
  open(new File([sample], SAMPLE, { type: "video/mp4" }));
}

video.addEventListener("loadedmetadata", () => {
  const { videoWidth: w, videoHeight: h } = video;
  if (!w || !h) {
    return fail({ message: `${clip} has no picture`, hint: "choose a video", clip: true });
  }
  frames.style.setProperty("--ratio", `${w} / ${h}`);
  stage.style.setProperty("--wide", String(w / h));
  for (const control of [play, seek, mute, full]) control.disabled = false;
  play.focus();
  seek.max = String(Number.isFinite(video.duration) ? video.duration : 0);
  part("length", HTMLElement).textContent = clock(video.duration);
});

video.addEventListener("loadeddata", () => {
  if (!("VideoFrame" in window)) return;
  try {
    const frame = new VideoFrame(video);
    hdr = ["pq", "hlg"].includes(String(frame.colorSpace.transfer));
    frame.close();
  } catch {
    // Some browsers have no frame yet; what is not known is not told.
  }
});

video.addEventListener("error", () => {
  if (!video.src) return;
  fail({
    message: `this browser cannot play ${clip}`,
    hint: "browsers play H.264, VP9 and AV1; `ffmpeg -i clip clip.webm` makes such a file",
    clip: true,
  });
});

/** The button says what pressing it would do. */
function tellPlaying() {
  const playing = !video.paused && !video.error;
  play.classList.toggle("playing", playing);
  play.setAttribute("aria-label", playing ? "Pause" : "Play");
}
for (const name of ["play", "pause", "ended"]) video.addEventListener(name, tellPlaying);

video.addEventListener("timeupdate", () => {
  part("now", HTMLElement).textContent = clock(video.currentTime);
  if (!seek.matches(":active")) seek.value = String(video.currentTime);
  seek.setAttribute("aria-valuetext", `${clock(video.currentTime)} of ${clock(video.duration)}`);
});

/** @param {number} seconds */
function clock(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.floor(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (/** @type {number} */ x) => String(x).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

// --- what is shown ------------------------------------------------------------------------------

/** @param {Stats} stats */
function show(stats) {
  if (status.classList.contains("busy")) ready();
  if (begins) {
    begins = false;
    // Long after the choice of a file some browsers want it silent, and all let a person unmute it.
    video.play().catch(() => {
      setMuted(true);
      silenced = true;
      return video.play();
    }).catch(() => {});
  }
  part("factor", HTMLElement).textContent = `${stats.width / stats.from.width}×`;
  const from = `${stats.from.width}×${stats.from.height}`;
  part("size", HTMLElement).textContent = `${from} → ${stats.width}×${stats.height}`;
  part("step", HTMLElement).textContent = `${stats.milliseconds.toFixed(stats.milliseconds < 10 ? 1 : 0)} ms`;
  part("scenes", HTMLElement).textContent = String(stats.scenes);
  tick();
}

function tick() {
  const { shown, dropped, from, height } = player.stats;
  part("fps", HTMLElement).textContent = shown ? String(player.fps) : "–";
  part("dropped", HTMLElement).textContent = shown ? String(dropped) : "–";
  const decoded = /** @type {{webkitAudioDecodedByteCount?: number}} */ (video)
    .webkitAudioDecodedByteCount;
  const found = !clip || !shown ? [] : losses({
    shown, dropped, from, height, tracks, silenced: silenced && video.muted, hdr,
    clip: { width: video.videoWidth, height: video.videoHeight },
    rate: video.playbackRate,
    soundless: decoded === 0 && (tracks?.sound ?? 0) > 0 && !video.muted &&
      video.currentTime > SOUND_BY,
    slow: runs?.slow ?? false,
    secure: isSecureContext,
  });
  const list = part("lost", HTMLElement);
  if (found.join() === [...list.children].map((item) => item.textContent).join()) return;
  list.replaceChildren(...found.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}
setInterval(tick, 500);

// --- controls -----------------------------------------------------------------------------------

/** @param {boolean} muted */
function setMuted(muted) {
  video.muted = muted;
  mute.setAttribute("aria-pressed", String(muted));
}

function toggle() {
  if (play.disabled) return;
  begins = false;
  if (video.paused) video.play().catch((error) => fail(explained(error)));
  else video.pause();
}

play.addEventListener("click", toggle);
seek.addEventListener("input", () => { video.currentTime = Number(seek.value); });
mute.addEventListener("click", () => {
  silenced = false;
  setMuted(!video.muted);
});
full.addEventListener("click", () => {
  const done = document.fullscreenElement ? document.exitFullscreen() : stage.requestFullscreen();
  done.catch((error) => fail(explained(error)));
});
full.hidden = !document.fullscreenEnabled;
for (const id of ["choose", "another", "other"]) {
  part(id, HTMLButtonElement).addEventListener("click", () => file.click());
}
for (const id of ["sample", "sample-instead"]) {
  part(id, HTMLButtonElement).addEventListener("click", () => {
    openSample().catch((error) => fail(explained(error)));
  });
}
part("again", HTMLButtonElement).addEventListener("click", reload);
part("processor", HTMLButtonElement).addEventListener("click", () => {
  backend.value = "wasm";
  reload();
});
file.addEventListener("change", () => {
  open(file.files?.[0]);
  file.value = ""; // so that the same file can be chosen again
});
for (const choice of [model, backend, cuts]) choice.addEventListener("change", reload);
lines.addEventListener("change", () => {
  suit();
  player.again();
});
every.addEventListener("change", () => {
  player.every = every.checked;
  if (!every.checked) video.playbackRate = 1;
});
loop.addEventListener("change", () => { video.loop = loop.checked; });
for (const view of document.querySelectorAll('input[name="view"]')) {
  view.addEventListener("change", () => {
    if (view instanceof HTMLInputElement && view.checked) stage.dataset.view = view.value;
  });
}
divider(part("divider", HTMLElement), frames);

main.addEventListener("keydown", (event) => {
  const own = event.target instanceof Element && event.target.closest("input, select");
  if (own || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === " " && !(event.target instanceof Element && event.target.closest("button"))) {
    event.preventDefault();
    toggle();
  } else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && !seek.disabled) {
    event.preventDefault();
    video.currentTime += event.key === "ArrowLeft" ? -SKIP : SKIP;
  }
});

// --- dropping -----------------------------------------------------------------------------------

const over = part("over", HTMLElement);
/** @param {DragEvent} event */
const carries = (event) => event.dataTransfer?.types.includes("Files") ?? false;
for (const name of /** @type {const} */ (["dragenter", "dragover"])) {
  document.addEventListener(name, (event) => {
    if (!carries(event)) return;
    event.preventDefault(); // else the browser opens the file itself
    over.hidden = false;
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) over.hidden = true;
});
document.addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  over.hidden = true;
  open(event.dataTransfer?.files[0]);
});

// --- beginning ----------------------------------------------------------------------------------

/** Have everything that is fetched from now on kept for when there is no network. */
async function keep() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    const late = new Promise((resolve) => setTimeout(resolve, 4000));
    const controlled = new Promise((resolve) => {
      if (navigator.serviceWorker.controller) resolve(null);
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    });
    await Promise.race([controlled, late]);
  } catch {
    // Private windows refuse it; the page works all the same, only not offline.
  }
}

async function begin() {
  if (!HTMLVideoElement.prototype.requestVideoFrameCallback || !("OffscreenCanvas" in window)) {
    throw new PlayerError(
      "this browser cannot hand frames of a video to a worker",
      "use a current Chrome, Edge, Firefox or Safari");
  }
  await keep();
  const answer = await fetch("site.json").catch(() => null);
  if (!answer?.ok) {
    throw new PlayerError("site.json could not be fetched", REMADE);
  }
  site = /** @type {Site} */ (await answer.json());
  list(site);
  await load();
}

/** Offer the networks, by what they are for. @param {Site} site */
function list({ models }) {
  const groups = [...new Set(models.map(({ group }) => group))];
  model.replaceChildren(...groups.map((group) => {
    const place = document.createElement("optgroup");
    place.label = group;
    for (const { name, title, about } of models.filter((x) => x.group === group)) {
      const option = new Option(title, name);
      option.title = about;
      place.append(option);
    }
    return place;
  }));
}

reload();

/** For programs and tests, which give frames of their own: see `Player.push`. */
Object.assign(window, { teco: player });
