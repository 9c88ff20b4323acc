// @ts-check
/**
 * One model ready to step, by onnxruntime-web: WebGPU, where the state never leaves the GPU, or
 * WebAssembly with threads.
 */
import { dimensions, shapeOf } from "./contract.js";
import { PlayerError, explained } from "./errors.js";

/** @typedef {typeof import("onnxruntime-web")} Ort */
/** @typedef {import("onnxruntime-web").Tensor} Tensor */
/** @typedef {import("./contract.js").Manifest} Manifest */
/** @typedef {"webgpu" | "wasm"} Backend */
/** @typedef {Map<string, Tensor>} State by the graph inputs that take it */

/**
 * A model's bytes.
 *
 * @typedef {object} Files
 * @property {Manifest} manifest
 * @property {Uint8Array} model the ONNX file
 * @property {{path: string, data: Uint8Array}[]} data files that hold weights of it, by name
 */

/** Threads of WebAssembly at most: beyond it these convolutions wait for each other. */
const MOST_THREADS = 8;

/**
 * Why a backend cannot be used here, or "".
 *
 * @param {Backend} backend
 * @returns {Promise<string>}
 */
export async function whyNot(backend) {
  if (backend === "wasm") {
    return typeof WebAssembly === "object" ? "" : "this browser has no WebAssembly";
  }
  const gpu = /** @type {{gpu?: GPU}} */ (navigator).gpu;
  if (!gpu) {
    return self.isSecureContext
      ? "this browser has no WebGPU"
      : "browsers offer WebGPU to https and localhost only";
  }
  try {
    return (await gpu.requestAdapter()) ? "" : "WebGPU finds no graphics adapter here";
  } catch (error) {
    return `WebGPU does not start: ${explained(error).message}`;
  }
}

/**
 * Load onnxruntime-web's build for a backend; each is downloaded only when it is used.
 *
 * @param {Backend} backend
 * @param {URL} folder where onnxruntime-web's files lie
 * @returns {Promise<Ort>}
 */
export async function loadRuntime(backend, folder) {
  const [script, wasm] = backend === "webgpu"
    ? ["ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"]
    : ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"];
  /** @type {Ort} */
  let ort;
  try {
    ort = await import(new URL(script, folder).href);
  } catch (error) {
    throw new PlayerError(
      `onnxruntime-web could not be loaded: ${explained(error).message}`,
      "offline, only what was used before is at hand; try again when connected");
  }
  ort.env.wasm.wasmPaths = { wasm: new URL(wasm, folder).href };
  const cores = navigator.hardwareConcurrency || 1;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(cores, MOST_THREADS) : 1;
  ort.env.logLevel = "error";
  return ort;
}

/** A model for frames of one size. */
export class Session {
  /** @type {Tensor | null} */
  #shown = null;

  /**
   * @param {Ort} ort
   * @param {import("onnxruntime-web").InferenceSession} session
   * @param {Manifest} manifest
   * @param {Backend} backend
   * @param {number} h of frames
   * @param {number} w of frames
   */
  constructor(ort, session, manifest, backend, h, w) {
    this.ort = ort;
    this.session = session;
    this.contract = manifest.contract;
    this.backend = backend;
    this.h = h;
    this.w = w;
  }

  /**
   * Open a model for frames of one size, and run it once, so that a failure shows now and shaders
   * are ready.
   *
   * @param {Ort} ort from {@link loadRuntime} for the same backend
   * @param {Files} files
   * @param {Backend} backend
   * @param {number} h
   * @param {number} w
   * @returns {Promise<Session>}
   */
  static async open(ort, files, backend, h, w) {
    const { manifest, model, data } = files;
    const { contract } = manifest;
    let session;
    try {
      session = await ort.InferenceSession.create(model, {
        executionProviders: [backend],
        freeDimensionOverrides: dimensions(contract, h, w),
        graphOptimizationLevel: "all",
        // What is both picture and state is shown from where it is.
        preferredOutputLocation: backend === "webgpu" ? "gpu-buffer" : "cpu",
        ...(data.length ? { externalData: data } : {}),
      });
    } catch (error) {
      throw new PlayerError(
        `onnxruntime-web cannot load the model: ${explained(error).message}`,
        "the file is damaged, or no model; make it again with `teco export --for web`");
    }
    const made = new Session(ort, session, manifest, backend, h, w);
    const wanted = [contract.frame, ...contract.states.map((s) => s.input)];
    const missing = wanted.filter((name) => !session.inputNames.includes(name));
    if (missing.length || session.inputNames.length !== wanted.length) {
      await made.close();
      throw new PlayerError(
        `the model takes ${session.inputNames.join(", ")}, its manifest says ${wanted.join(", ")}`,
        "the manifest is another model's; keep the two files together");
    }
    try {
      const { picture, state } = await made.step(new Float32Array(3 * h * w).fill(0.5), null);
      const values = /** @type {Float32Array} */ (await picture.getData());
      if (!Number.isFinite(values.reduce((sum, x) => sum + x, 0))) {
        throw new PlayerError(
          "the network gives values that are not finite", "let something else compute it");
      }
      made.release(state);
    } catch (error) {
      await made.close();
      if (error instanceof PlayerError) throw error;
      throw new PlayerError(
        `the model does not run at ${w}×${h}: ${explained(error).message}`,
        "choose a smaller size (More choices), or another network");
    }
    return made;
  }

  /**
   * One recurrent step.
   *
   * @param {Float32Array} frame (3, h, w)
   * @param {State | null} state what the last step gave, which this one takes; null starts a scene
   * @returns {Promise<{picture: Tensor, state: State}>} The picture, (1, 3, H, W), is good until the
   *     next step.
   */
  async step(frame, state) {
    const { ort, contract, h, w } = this;
    const given = state ?? this.#zeros();
    const lr = new ort.Tensor("float32", frame, [1, 3, h, w]);
    const feeds = { [contract.frame]: lr, ...Object.fromEntries(given) };
    const results = await this.session.run(feeds);
    this.#dispose(this.#shown);
    /** @type {Record<string, Tensor>} */
    const values = { [contract.frame]: lr, ...results };
    /** @type {State} */
    const next = new Map();
    for (const { input, source } of contract.states) {
      const value = values[source];
      if (!value) throw new PlayerError(`the model gives no ${source}, which its state needs`);
      next.set(input, value);
    }
    const picture = values[contract.picture];
    if (!picture) throw new PlayerError(`the model gives no ${contract.picture}`);
    // What was state before and is not now has been read for the last time.
    const kept = new Set(next.values());
    for (const tensor of given.values()) if (!kept.has(tensor)) this.#dispose(tensor);
    this.#shown = kept.has(picture) ? null : picture;
    return { picture, state: next };
  }

  /** Give a state back that no step will take. @param {State | null} state */
  release(state) {
    for (const tensor of state?.values() ?? []) this.#dispose(tensor);
  }

  /** Give everything back. */
  async close() {
    this.#dispose(this.#shown);
    this.#shown = null;
    await this.session.release();
  }

  /** @returns {State} */
  #zeros() {
    return new Map(this.contract.states.map(({ input, shape }) => {
      const dims = shapeOf(shape, this.h, this.w);
      const values = new Float32Array(dims.reduce((a, b) => a * b, 1));
      return [input, new this.ort.Tensor("float32", values, dims)];
    }));
  }

  /** @param {Tensor | null} tensor */
  #dispose(tensor) {
    if (tensor && tensor.location === "gpu-buffer") tensor.dispose();
  }
}
