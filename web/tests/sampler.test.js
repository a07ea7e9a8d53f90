import assert from "node:assert/strict";
import { test } from "node:test";
import { renoise } from "../src/sampler.js";

const SAMPLING = {
  start: 2,
  times: [999, 500],
  signal: [0.001, 0.5],
  noise: [2, 0.25],
  self_condition: true,
  clamp: false,
  once: false,
  lengths: [1],
  select: "confidence",
  length_penalty: 1,
  function_words: [],
};
const NOTHING = { latent: new Float32Array(3), known: [false, false, false] };
const same = async (/** @type {Float32Array} */ x0) => x0;

/** A denoiser that notes what it is given and predicts 3 everywhere, then 4. */
function noting() {
  /** @type {{noisy: number[], previous: number[], time: number}[]} */
  const calls = [];
  /** @type {import("../src/sampler.js").Denoise} */
  const denoise = async (noisy, previous, time) => {
    calls.push({ noisy: [...noisy], previous: [...previous], time });
    return new Float32Array(noisy.length).fill(2 + calls.length);
  };
  return { calls, denoise };
}

test("noise is scaled, a prediction noised again and shown, known latents put in their places", async () => {
  const { calls, denoise } = noting();
  const fixed = { latent: Float32Array.of(7, 0, 8), known: [true, false, true] };
  const draws = [Float32Array.of(1, 2, 3), Float32Array.of(4, 8, 12)];
  const x0 = await renoise(denoise, SAMPLING, (draw) => draws[draw], fixed, same);
  assert.deepEqual(calls, [
    { noisy: [7, 4, 8], previous: [7, 0, 8], time: 999 },
    { noisy: [7, 0.5 * 3 + 0.25 * 8, 8], previous: [7, 3, 8], time: 500 },
  ]);
  assert.deepEqual([...x0], [7, 4, 8]);
});

test("without self-conditioning no prediction is shown; without a length nothing is known", async () => {
  const { calls, denoise } = noting();
  await renoise(denoise, { ...SAMPLING, self_condition: false }, () => new Float32Array(3), NOTHING, same);
  assert.deepEqual(calls[1].previous, [0, 0, 0]);
  assert.deepEqual(calls[1].noisy, [1.5, 1.5, 1.5]);
});

test("clamping moves each prediction but the last", async () => {
  const { calls, denoise } = noting();
  const moved = async (/** @type {Float32Array} */ x0) => x0.map((value) => value + 10);
  const x0 = await renoise(denoise, { ...SAMPLING, clamp: true }, () => new Float32Array(3), NOTHING, moved);
  assert.deepEqual(calls[1].previous, [13, 13, 13]);
  assert.deepEqual([...x0], [4, 4, 4]);
});
