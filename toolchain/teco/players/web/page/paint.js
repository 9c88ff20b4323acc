// @ts-check
/** The enlarged picture onto a canvas: from where it lies on the GPU, or as pixels. */
import { pictureOf } from "./teco.js";

/** Reads (3, H, W) floats and paints one pixel for each; what is out of range is clipped. */
const SHADER = /* wgsl */ `
@group(0) @binding(0) var<storage, read> planes: array<f32>;
@group(0) @binding(1) var<uniform> size: vec2u;

@vertex fn corner(@builtin(vertex_index) n: u32) -> @builtin(position) vec4f {
  // One triangle that covers the canvas.
  return vec4f(f32(n & 1u) * 4.0 - 1.0, f32(n >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

@fragment fn pixel(@builtin(position) place: vec4f) -> @location(0) vec4f {
  let at = u32(place.y) * size.x + u32(place.x);
  let plane = size.x * size.y;
  let rgb = vec3f(planes[at], planes[at + plane], planes[at + 2u * plane]);
  return vec4f(clamp(rgb, vec3f(0.0), vec3f(1.0)), 1.0);
}`;

/** Of GPUBufferUsage, as the WebGPU specification numbers them. */
const UNIFORM = 0x40;
const COPY_DST = 0x08;

/**
 * @typedef {object} Painter
 * @property {(step: import("./teco.js").Step) => Promise<void>} paint
 */

/**
 * Something that paints on a canvas, which must not have been painted on in another way.
 *
 * @param {OffscreenCanvas} canvas
 * @param {import("./teco.js").Upscaler} upscaler
 * @returns {Promise<Painter>}
 */
export async function painter(canvas, upscaler) {
  return upscaler.backend === "webgpu"
    ? new GpuPainter(canvas, await upscaler.ort.env.webgpu.device)
    : new PixelPainter(canvas);
}

class PixelPainter {
  /** @param {OffscreenCanvas} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = /** @type {OffscreenCanvasRenderingContext2D} */ (
      canvas.getContext("2d", { alpha: false }));
  }

  /** @param {import("./teco.js").Step} step */
  async paint(step) {
    fit(this.canvas, step);
    const rgba = await pictureOf(step);
    this.context.putImageData(new ImageData(rgba, step.width, step.height), 0, 0);
  }
}

class GpuPainter {
  /** @param {OffscreenCanvas} canvas @param {GPUDevice} device that ONNX Runtime computes on */
  constructor(canvas, device) {
    this.canvas = canvas;
    this.device = device;
    this.context = /** @type {GPUCanvasContext} */ (canvas.getContext("webgpu"));
    const format = navigator.gpu.getPreferredCanvasFormat();
    this.context.configure({ device, format, alphaMode: "opaque" });
    const module = device.createShaderModule({ code: SHADER });
    this.pipeline = device.createRenderPipeline({
      layout: "auto",
      vertex: { module, entryPoint: "corner" },
      fragment: { module, entryPoint: "pixel", targets: [{ format }] },
    });
    this.size = device.createBuffer({ size: 8, usage: UNIFORM | COPY_DST });
  }

  /** @param {import("./teco.js").Step} step */
  async paint(step) {
    const { device } = this;
    fit(this.canvas, step);
    device.queue.writeBuffer(this.size, 0, new Uint32Array([step.width, step.height]));
    const buffer = /** @type {GPUBuffer} */ (step.picture.gpuBuffer);
    const group = device.createBindGroup({
      layout: this.pipeline.getBindGroupLayout(0),
      entries: [
        { binding: 0, resource: { buffer } },
        { binding: 1, resource: { buffer: this.size } },
      ],
    });
    const commands = device.createCommandEncoder();
    const pass = commands.beginRenderPass({
      colorAttachments: [
        { view: this.context.getCurrentTexture().createView(), loadOp: "clear", storeOp: "store" },
      ],
    });
    pass.setPipeline(this.pipeline);
    pass.setBindGroup(0, group);
    pass.draw(3);
    pass.end();
    device.queue.submit([commands.finish()]);
    // Otherwise frames would queue up faster than the GPU makes them.
    await device.queue.onSubmittedWorkDone();
  }
}

/** @param {OffscreenCanvas} canvas @param {{width: number, height: number}} size */
function fit(canvas, { width, height }) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}
