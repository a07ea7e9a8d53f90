/** `captions(image)` in a browser: models are fetched once, photos never leave the page. */

import { Captioner } from "./captioner.js";

/** @typedef {import("./captioner.js").Options} Options */
/** @typedef {import("./captioner.js").Caption} Caption */
/** @typedef {import("./resize.js").Pixels} Pixels */
/** @typedef {Blob | ImageData | HTMLImageElement | HTMLCanvasElement | ImageBitmap | Pixels} Image */

/**
 * @typedef {object} Opening
 * @property {string | URL} [model] - folder that `clearcap export --web` wrote; default the package's own
 * @property {any} [ort] - onnxruntime-web, already imported; default `import("onnxruntime-web/wasm")`
 * @property {Uint8Array} [wasm] - onnxruntime-web's .wasm; default as onnxruntime-web finds it
 * @property {string[]} [executionProviders] - onnxruntime-web's: "wasm", or "webgpu" with its own build of `ort`
 * @property {(bytes: number) => void} [progress] - told how many bytes each piece adds that came in
 */

/** @type {Promise<Captioner> | undefined} */
let opened;

/**
 * Captions a photo, with the model of the first call.
 *
 * @param {Image} image - a file, an image of the page, a canvas, or decoded pixels
 * @param {Options & Opening} [options]
 * @returns {Promise<Caption>}
 */
export async function captions(image, options = {}) {
  opened ??= open(options).catch((fault) => {
    opened = undefined; // another try may have a network
    throw fault;
  });
  const [captioner, photo] = await Promise.all([opened, pixels(image)]);
  return captioner.caption(photo, options);
}

/**
 * Opens a captioner.
 *
 * @param {Opening} [opening]
 * @returns {Promise<Captioner>}
 */
export async function open({ model, ort, wasm, executionProviders = ["wasm"], progress = () => {} } = {}) {
  const folder = new URL(`${model ?? new URL("../model", import.meta.url)}/`, document.baseURI);
  ort ??= await import("onnxruntime-web/wasm");
  // @ts-ignore: of the DOM's newest
  const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  ort.env.wasm.numThreads = threads;
  if (wasm) ort.env.wasm.wasmBinary = wasm;
  return Captioner.open(ort, (name) => fetched(new URL(name, folder), progress), { executionProviders });
}

/**
 * A file's content; one named .gz is decompressed here, so that any static server serves few bytes.
 *
 * @param {URL} url
 * @param {(bytes: number) => void} progress
 * @returns {Promise<Uint8Array>}
 */
async function fetched(url, progress) {
  const [head, rest] = (await stream(url, progress)).tee();
  const packed = url.pathname.endsWith(".gz") && (await startsAsGzip(head)); // some servers undo .gz themselves
  const content = packed ? rest.pipeThrough(new DecompressionStream("gzip")) : rest;
  return new Uint8Array(await new Response(content).arrayBuffer());
}

/**
 * A file's content as it comes.
 *
 * @param {URL} url
 * @param {(bytes: number) => void} progress
 * @returns {Promise<ReadableStream<Uint8Array<ArrayBuffer>>>}
 */
export async function stream(url, progress) {
  const answer = await fetch(url);
  if (!answer.ok || !answer.body) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer.body.pipeThrough(
    new TransformStream({
      transform(piece, out) {
        progress(piece.length);
        out.enqueue(piece);
      },
    }),
  );
}

/**
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {Promise<boolean>}
 */
async function startsAsGzip(stream) {
  const reader = stream.getReader();
  const { value } = await reader.read();
  reader.cancel();
  return value?.[0] === 0x1f && value?.[1] === 0x8b;
}

/**
 * Decoded pixels: upright, on white, in the photo's own numbers (no colour management), as Python reads them.
 *
 * @param {Image} image
 * @returns {Promise<Pixels>}
 */
export async function pixels(image) {
  if ("data" in image) return image;
  if (image instanceof HTMLImageElement) {
    const answer = await fetch(image.currentSrc || image.src);
    if (!answer.ok) throw new Error(`${image.src}: ${answer.status} ${answer.statusText}`);
    image = await answer.blob();
  }
  const bitmap = await createImageBitmap(image, {
    imageOrientation: "from-image",
    premultiplyAlpha: "none",
    colorSpaceConversion: "none",
  });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser has no 2D canvas, which photos are decoded with");
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: context.getImageData(0, 0, width, height).data, width, height };
}
