/** `captions(image)` under Node, with onnxruntime-node, and sharp where a photo is not decoded yet. */

import { readFile } from "node:fs/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { gunzipSync } from "node:zlib";
import { Captioner } from "./captioner.js";

/** @typedef {import("./captioner.js").Options} Options */
/** @typedef {import("./captioner.js").Caption} Caption */
/** @typedef {import("./resize.js").Pixels} Pixels */
/** @typedef {string | URL | Uint8Array | Pixels} Image */

/**
 * @typedef {object} Opening
 * @property {string | URL} [model] - folder that `clearcap export --web` wrote; default the package's own
 * @property {any} [ort] - onnxruntime-node or onnxruntime-web, already imported; default onnxruntime-node
 */

/** @type {Promise<Captioner> | undefined} */
let opened;

/**
 * Captions a photo, with the model of the first call.
 *
 * @param {Image} image - a path, file URL, an image file's bytes, or decoded pixels
 * @param {Options & Opening} [options]
 * @returns {Promise<Caption>}
 */
export async function captions(image, options = {}) {
  opened ??= open(options).catch((fault) => {
    opened = undefined;
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
export async function open({ model = new URL("../model", import.meta.url), ort } = {}) {
  const folder = model instanceof URL ? fileURLToPath(model) : model;
  ort ??= await installed("onnxruntime-node", "computes captions");
  return Captioner.open(ort, async (name) => {
    const content = await readFile(new URL(name, `${pathToFileURL(folder)}/`));
    return name.endsWith(".gz") ? gunzipSync(content) : content;
  });
}

/**
 * Decoded pixels: upright, on white, in the photo's own numbers (no colour management), as Python reads them.
 *
 * @param {Image} image
 * @returns {Promise<Pixels>}
 */
export async function pixels(image) {
  if (typeof image === "object" && "width" in image) return image;
  const sharp = await installed("sharp", "decodes photos");
  const source = image instanceof URL ? fileURLToPath(image) : image;
  const { data, info } = await sharp(source, { ignoreIcc: true })
    .rotate()
    .flatten({ background: "white" })
    .toColourspace("srgb")
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height };
}

/**
 * @param {string} name - of a package
 * @param {string} does
 */
async function installed(name, does) {
  try {
    const found = await import(name);
    return found.default ?? found;
  } catch (fault) {
    throw new Error(`${name}, which ${does}, cannot be imported; npm install ${name}`, { cause: fault });
  }
}
