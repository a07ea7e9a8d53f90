/** The solver that the bundled model ships with: predict captions, clamp them to words, add fresh noise of the next level. */

/**
 * How captions are sampled, as `clearcap export --web` writes it.
 *
 * @typedef {object} Sampling
 * @property {number} start - standard deviation of the noise a caption starts from
 * @property {number[]} times - falling noise levels, at each of which the denoiser is called once
 * @property {number[]} signal - a(t) of each time: what is left of the caption
 * @property {number[]} noise - s(t) of each time: how much noise is added
 * @property {boolean} self_condition - whether each prediction is shown to the next call
 * @property {boolean} clamp - whether each prediction but the last is moved to the words nearest to it
 * @property {boolean} once - whether each word of content is said once
 * @property {number[]} lengths - words of each candidate, unless a length is asked for; 0 leaves it to the denoiser
 * @property {string} select - how one of the candidates is chosen
 * @property {number} length_penalty - above 1 favours longer ones
 * @property {string[]} function_words - words that a chosen caption may well say twice; empty: any word may be
 */

/**
 * Latents known before captions are sampled: whatever is not one of their words.
 *
 * @typedef {object} Fixed
 * @property {Float32Array} latent - [captions, positions, dim]
 * @property {boolean[]} known - [captions, positions]
 */

/**
 * One call of the denoiser, for all captions of a photo.
 *
 * @typedef {(noisy: Float32Array, previous: Float32Array, time: number) => Promise<Float32Array>} Denoise
 */

/**
 * Samples clean latents (`clearcap.sampling.solvers.renoise`; consistency models, Song et al. 2023, algorithm 1).
 *
 * @param {Denoise} denoise
 * @param {Sampling} sampling
 * @param {(draw: number) => Float32Array} randn - standard normal noise of the first drawing, the second ...
 * @param {Fixed} fixed
 * @param {(x0: Float32Array) => Promise<Float32Array>} nearest - latents of the words nearest to predictions
 * @returns {Promise<Float32Array>} - [captions, positions, dim]
 */
export async function renoise(denoise, sampling, randn, fixed, nearest) {
  const { times, signal, noise } = sampling;
  let x = randn(0).map((value) => sampling.start * value);
  /** @type {Float32Array} */
  let x0 = new Float32Array(x.length);
  for (let i = 0; i < times.length; i++) {
    if (i > 0) {
      const clean = x0;
      x = randn(i).map((value, j) => Math.fround(signal[i] * clean[j]) + Math.fround(noise[i] * value));
    }
    const previous = sampling.self_condition ? x0 : new Float32Array(x.length);
    x0 = put(await denoise(put(x, fixed), put(previous, fixed), times[i]), fixed);
    if (sampling.clamp && i < times.length - 1) x0 = await nearest(x0);
  }
  return x0;
}

/**
 * Latents with the known ones in their places.
 *
 * @param {Float32Array} x
 * @param {Fixed} fixed
 * @returns {Float32Array}
 */
function put(x, { latent, known }) {
  const dim = x.length / known.length;
  const out = x.slice();
  known.forEach((is, i) => {
    if (is) out.set(latent.subarray(i * dim, (i + 1) * dim), i * dim);
  });
  return out;
}
