/** A captioner: photos to captions by four graphs, whatever runs them. */

import { normal } from "./philox.js";
import { planes, squash } from "./resize.js";
import { renoise } from "./sampler.js";
import { choose } from "./selection.js";
import { blank, clamp, isWord, join, read, spell } from "./words.js";

/** @typedef {import("./resize.js").Pixels} Pixels */
/** @typedef {import("./words.js").Word} Word */
/** @typedef {import("onnxruntime-common")} Ort */
/** @typedef {import("onnxruntime-common").InferenceSession} Session */
/** @typedef {Record<string, import("onnxruntime-common").Tensor>} Tensors */
/** @typedef {{encode: Session, denoise: Session, decode: Session, words: Session}} Sessions */

/**
 * What `clearcap export --web` says of a captioner (captioner.json).
 *
 * @typedef {object} About
 * @property {string} format
 * @property {string} stamp - SHA-256 of the weights
 * @property {number | null} megabytes - of the weights; null where they are float32
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
 * @property {number} [length] - words of the caption, kept exactly; default the model's own numbers, nearly always kept
 * @property {number} [seed] - same seed, same caption; default 0
 */

/**
 * @typedef {object} Caption
 * @property {string} caption
 * @property {Word[]} words - each with its probability
 * @property {number} confidence - mean of theirs
 * @property {string[]} candidates - all captions drawn, in their order
 */

/** @typedef {import("./words.js").Reading & import("./selection.js").Candidate} Drawn */

const FORMAT = "4";
const GRAPHS = /** @type {const} */ (["encode", "denoise", "decode", "words"]);

export class Captioner {
  /**
   * @param {About} about
   * @param {Ort} ort
   * @param {Sessions} sessions
   */
  constructor(about, ort, sessions) {
    this.about = about;
    this.ort = ort;
    this.sessions = sessions;
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
    const graphs = await Promise.all(GRAPHS.map((name) => file(`${name}.onnx.gz`)));
    /** @type {[string, Session][]} */
    const opened = [];
    for (const [i, graph] of graphs.entries()) opened.push([GRAPHS[i], await ort.InferenceSession.create(graph, how)]);
    return new Captioner(about, ort, /** @type {Sessions} */ (Object.fromEntries(opened)));
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
    const { drawn, chosen } = await this.read(photo, options);
    const { caption, words } = drawn[chosen];
    const confidence = words.reduce((sum, word) => sum + word.confidence, 0) / Math.max(words.length, 1);
    return { caption, words, confidence, candidates: drawn.map((one) => one.caption) };
  }

  /**
   * A photo's candidates with their tokens, in the order they are drawn, and the index of the one that is said.
   *
   * @param {Pixels} photo
   * @param {Options} [options]
   * @returns {Promise<{drawn: Drawn[], chosen: number}>}
   */
  async read(photo, options = {}) {
    const { select, length_penalty, function_words } = this.about.sampling;
    const drawn = await this.draw(photo, options);
    return { drawn, chosen: choose(select, drawn, function_words, length_penalty) };
  }

  /**
   * A photo's candidates, not yet chosen among.
   *
   * @param {Pixels} photo
   * @param {Options} [options]
   * @returns {Promise<Drawn[]>}
   */
  async draw(photo, { length, seed = 0 } = {}) {
    const { image_size, positions, dim, longest, sampling, vocabulary } = this.about;
    if (length !== undefined && !(Number.isInteger(length) && length >= 1 && length <= longest)) {
      throw new RangeError(`length=${length} must be a whole number of words, 1 .. ${longest}`);
    }
    if (!(Number.isSafeInteger(seed) && seed >= 0)) {
      throw new RangeError(`seed=${seed} must be a whole number, not negative`);
    }
    const lengths = sampling.lengths.map((usual) => length ?? usual);
    const square = squash(photo, image_size);
    const context = await this.sessions.encode.run({ pixels: this.tensor(planes(square), 1, 3, image_size, image_size) });
    const blanks = blank(lengths, positions, vocabulary.tokens);
    const fixed = {
      latent: lengths[0] ? await this.encode(blanks) : new Float32Array(blanks.length * dim),
      known: blanks.map((_, i) => lengths[0] > 0 && !isWord(i % positions, lengths[Math.floor(i / positions)])),
    };
    const x0 = await renoise(this.denoiser(context), sampling, noise(seed, lengths.length, positions * dim), fixed, async (x) =>
      this.encode(clamp(await this.logits(x), vocabulary, blanks, fixed.known, positions, sampling.once)),
    );
    const logits = await this.logits(x0);
    const row = logits.length / lengths.length;
    return lengths.map((told, i) => {
      const reading = read(logits.subarray(i * row, (i + 1) * row), vocabulary, told, length !== undefined, sampling.once);
      const words = spell(reading, vocabulary);
      return { ...reading, words, caption: join(words.map(({ word }) => word)) };
    });
  }

  /**
   * Token logits of latents.
   *
   * @param {Float32Array} latent - [captions, positions, dim]
   * @returns {Promise<Float32Array>} - [captions, positions, vocabulary]
   */
  async logits(latent) {
    const { positions, dim } = this.about;
    const { logits } = await this.sessions.decode.run({
      latent: this.tensor(latent, latent.length / positions / dim, positions, dim),
    });
    return /** @type {Float32Array} */ (logits.data);
  }

  /**
   * Latents of tokens.
   *
   * @param {number[]} ids - [captions, positions]
   * @returns {Promise<Float32Array>} - [captions, positions, dim]
   */
  async encode(ids) {
    const { positions, vocabulary } = this.about;
    const shape = [ids.length / positions, positions];
    const whole = (/** @type {number[]} */ numbers) =>
      new this.ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);
    const { latent } = await this.sessions.words.run({
      ids: whole(ids),
      mask: whole(ids.map((id) => Number(id !== vocabulary.tokens.pad))),
    });
    return /** @type {Float32Array} */ (latent.data);
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
      const copies = noisy.length / positions / dim;
      /** @type {Tensors} */
      const given = {
        ...context,
        noisy: this.tensor(noisy, 1, copies, positions, dim),
        previous: this.tensor(previous, 1, copies, positions, dim),
        time: new this.ort.Tensor("int64", new BigInt64Array(copies).fill(BigInt(time)), [1, copies]),
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

/**
 * Noise of a photo's captions: each has a stream of its own.
 *
 * @param {number} seed
 * @param {number} captions
 * @param {number} size - numbers a caption
 * @returns {(draw: number) => Float32Array}
 */
function noise(seed, captions, size) {
  return (draw) => {
    const out = new Float32Array(captions * size);
    for (let stream = 0; stream < captions; stream++) out.set(normal(seed, stream, draw, size), stream * size);
    return out;
  };
}
