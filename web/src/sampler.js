/** The solver that the bundled model ships with: predict the caption, add fresh noise of the next level. */

/**
 * How captions are sampled, as `clearcap export --web` writes it.
 *
 * @typedef {object} Sampling
 * @property {number} start - standard deviation of the noise a caption starts from
 * @property {number[]} times - falling noise levels, at each of which the denoiser is called once
 * @property {number[]} signal - a(t) of each time: what is left of the caption
 * @property {number[]} noise - s(t) of each time: how much noise is added
 * @property {boolean} self_condition - whether each prediction is shown to the next call
 * @property {number} length - words of a caption, unless another length is asked for; 0 leaves it to the denoiser
 */

/**
 * Latents known before a caption is sampled: whatever is not one of its words.
 *
 * @typedef {object} Fixed
 * @property {Float32Array} latent - [positions, dim]
 * @property {boolean[]} known - [positions]
 */

/**
 * One call of the denoiser.
 *
 * @typedef {(noisy: Float32Array, previous: Float32Array, time: number) => Promise<Float32Array>} Denoise
 */

/**
 * Which positions a length fixes: all but the words at positions 1 .. length.
 *
 * @param {number} length
 * @param {number} positions
 * @returns {boolean[]}
 */
export function known(length, positions) {
  return Array.from({ length: positions }, (_, i) => length > 0 && !(i >= 1 && i <= length));
}

/**
 * Samples a clean latent (`clearcap.sampling.solvers.renoise`; consistency models, Song et al. 2023, algorithm 1).
 *
 * @param {Denoise} denoise
 * @param {Sampling} sampling
 * @param {(draw: number) => Float32Array} randn - standard normal noise of the first drawing, the second ...
 * @param {Fixed} fixed
 * @returns {Promise<Float32Array>} - [positions, dim]
 */
export async function renoise(denoise, sampling, randn, fixed) {
  const { times, signal, noise } = sampling;
  let x = randn(0).map((value) => sampling.start * value);
  /** @type {Float32Array} */
  let x0 = new Float32Array(x.length);
  for (let i = 0; i < times.length; i++) {
    if (i > 0) {
      const fresh = randn(i);
      const clean = x0;
      x = fresh.map((value, j) => Math.fround(signal[i] * clean[j]) + Math.fround(noise[i] * value));
    }
    const previous = sampling.self_condition ? x0 : new Float32Array(x.length);
    x0 = put(await denoise(put(x, fixed), put(previous, fixed), times[i]), fixed);
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
