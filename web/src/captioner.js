/** A captioner: photos to captions by three graphs, whatever runs them. */

import { normal } from "./philox.js";
import { planes, squash } from "./resize.js";
import { known, renoise } from "./sampler.js";
import { join, read, spell } from "./words.js";

/** @typedef {import("./resize.js").Pixels} Pixels */
/** @typedef {import("./words.js").Word} Word */
/** @typedef {import("onnxruntime-common")} Ort */
/** @typedef {import("onnxruntime-common").InferenceSession} Session */
/** @typedef {Record<string, import("onnxruntime-common").Tensor>} Tensors */

/**
 * What `clearcap export --web` says of a captioner (captioner.json).
 *
 * @typedef {object} About
 * @property {string} format
 * @property {string} stamp - SHA-256 of the weights
 * @property {number} bits - of a weight
 * @property {number} image_size - pixels a side that photos are squashed to
 * @property {number} positions - of a caption
 * @property {number} dim - channels of a latent
 * @property {number} longest - words of the longest caption that can be asked for
 * @property {import("./sampler.js").Sampling} sampling
 * @property {import("./words.js").Vocabulary} vocabulary
 * @property {Record<string, number>} files - bytes of each, compressed
 */

/**
 * @typedef {object} Options
 * @property {number} [length] - words of the caption, kept exactly; default the model's own number, nearly always kept
 * @property {number} [seed] - same seed, same caption; default 0
 */

/**
 * @typedef {object} Caption
 * @property {string} caption
 * @property {Word[]} words - each with its probability
 * @property {number} confidence - mean of theirs
 */

const FORMAT = "1";

export class Captioner {
  /**
   * @param {About} about
   * @param {Ort} ort
   * @param {{encode: Session, denoise: Session, decode: Session}} sessions
   * @param {Float32Array} lengths - latents that each length fixes, [longest, positions, dim]
   */
  constructor(about, ort, sessions, lengths) {
    this.about = about;
    this.ort = ort;
    this.sessions = sessions;
    this.lengths = lengths;
  }

  /**
   * Opens a captioner.
   *
   * @param {Ort} ort - onnxruntime-web or onnxruntime-node
   * @param {(name: string) => Promise<Uint8Array>} file - a file that `clearcap export --web` wrote, not compressed
   * @param {import("onnxruntime-common").InferenceSession.SessionOptions} [how]
   * @returns {Promise<Captioner>}
   * @throws {Error} a file is absent or of another format
   */
  static async open(ort, file, how = {}) {
    /** @type {About} */
    const about = JSON.parse(new TextDecoder().decode(await file("captioner.json")));
    if (about.format !== FORMAT) {
      throw new Error(`captioner.json: format ${about.format} and not ${FORMAT}; write it with clearcap export --web`);
    }
    const bytes = await file("lengths.bin.gz");
    const graphs = await Promise.all(["encode", "denoise", "decode"].map((name) => file(`${name}.onnx.gz`)));
    /** @type {Session[]} */
    const opened = [];
    for (const graph of graphs) opened.push(await ort.InferenceSession.create(graph, how));
    const [encode, denoise, decode] = opened;
    return new Captioner(about, ort, { encode, denoise, decode }, new Float32Array(Uint8Array.from(bytes).buffer));
  }

  /**
   * Captions a photo.
   *
   * @param {Pixels} photo
   * @param {Options} [options]
   * @returns {Promise<Caption>}
   * @throws {RangeError} the length or the seed cannot be
   */
  async caption(photo, options = {}) {
    const words = spell(await this.read(photo, options), this.about.vocabulary);
    const confidence = words.reduce((sum, word) => sum + word.confidence, 0) / Math.max(words.length, 1);
    return { caption: join(words.map(({ word }) => word)), words, confidence };
  }

  /**
   * The tokens of a photo's caption.
   *
   * @param {Pixels} photo
   * @param {Options} [options]
   * @returns {Promise<import("./words.js").Reading>}
   */
  async read(photo, { length, seed = 0 } = {}) {
    const { image_size, positions, dim, longest, sampling, vocabulary } = this.about;
    if (length !== undefined && !(Number.isInteger(length) && length >= 1 && length <= longest)) {
      throw new RangeError(`length=${length} must be a whole number of words, 1 .. ${longest}`);
    }
    if (!(Number.isSafeInteger(seed) && seed >= 0)) {
      throw new RangeError(`seed=${seed} must be a whole number, not negative`);
    }
    const told = length ?? sampling.length;
    const size = positions * dim;
    const fixed = {
      latent: told ? this.lengths.subarray((told - 1) * size, told * size) : new Float32Array(size),
      known: known(told, positions),
    };
    const square = squash(photo, image_size);
    const context = await this.sessions.encode.run({ pixels: this.tensor(planes(square), 1, 3, image_size, image_size) });
    const x0 = await renoise(this.denoiser(context), sampling, (draw) => normal(seed, 0, draw, size), fixed);
    const { logits } = await this.sessions.decode.run({ latent: this.tensor(x0, 1, positions, dim) });
    return read(/** @type {Float32Array} */ (logits.data), vocabulary, told, length !== undefined);
  }

  /**
   * The denoiser with a photo bound.
   *
   * @param {Tensors} context - keys and values of the photo
   * @returns {import("./sampler.js").Denoise}
   */
  denoiser(context) {
    const { positions, dim } = this.about;
    const session = this.sessions.denoise;
    return async (noisy, previous, time) => {
      /** @type {Tensors} */
      const given = {
        ...context,
        noisy: this.tensor(noisy, 1, 1, positions, dim),
        previous: this.tensor(previous, 1, 1, positions, dim),
        time: new this.ort.Tensor("int64", BigInt64Array.of(BigInt(time)), [1, 1]),
      };
      // a denoiser that looks at neither time nor previous prediction has no such inputs
      const feeds = Object.fromEntries(session.inputNames.map((name) => [name, given[name]]));
      const { prediction } = await session.run(feeds);
      return /** @type {Float32Array} */ (prediction.data);
    };
  }

  /**
   * @param {Float32Array} data
   * @param {...number} shape
   */
  tensor(data, ...shape) {
    return new this.ort.Tensor("float32", data, shape);
  }
}
