/**
 * Noise of captions: numbers that a seed and a stream fix, the same as Python's in every browser.
 *
 * Bits are those of NumPy's `Philox` (Philox4x64-10, Salmon et al. 2011), keyed by seed and stream and counted from the
 * draw; two normal numbers come from each 64 of them by Box and Muller's transform.
 */

const WORD = (1n << 64n) - 1n;
const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const ROUNDS = 10;

/**
 * The first `count` words that `np.random.Philox(key=key, counter=counter).random_raw` gives.
 *
 * @param {readonly [bigint, bigint]} key
 * @param {readonly [bigint, bigint, bigint, bigint]} counter - lowest word first; counted up before each block
 * @param {number} count
 * @returns {BigUint64Array}
 */
export function philox(key, counter, count) {
  const words = new BigUint64Array(count);
  let place = counter[0] | (counter[1] << 64n) | (counter[2] << 128n) | (counter[3] << 192n);
  for (let start = 0; start < count; start += 4) {
    place = BigInt.asUintN(256, place + 1n);
    const block = cipher(key, place);
    for (let i = 0; i < 4 && start + i < count; i++) words[start + i] = block[i];
  }
  return words;
}

/**
 * One block of four words.
 *
 * @param {readonly [bigint, bigint]} key
 * @param {bigint} place - the counter, of 256 bits
 * @returns {[bigint, bigint, bigint, bigint]}
 */
function cipher(key, place) {
  let [k0, k1] = key;
  let [a, b, c, d] = [0n, 64n, 128n, 192n].map((shift) => (place >> shift) & WORD);
  for (let round = 0; round < ROUNDS; round++) {
    if (round > 0) {
      k0 = (k0 + WEYL[0]) & WORD;
      k1 = (k1 + WEYL[1]) & WORD;
    }
    const left = MULTIPLIERS[0] * a;
    const right = MULTIPLIERS[1] * c;
    [a, b, c, d] = [(right >> 64n) ^ b ^ k0, right & WORD, (left >> 64n) ^ d ^ k1, left & WORD];
  }
  return [a, b, c, d];
}

/**
 * Standard normal numbers that depend on the arguments alone.
 *
 * @param {number | bigint} seed - a whole number, not negative
 * @param {number | bigint} stream - which caption
 * @param {number} draw - which drawing of its noise, from 0
 * @param {number} count
 * @returns {Float32Array}
 */
export function normal(seed, stream, draw, count) {
  const key = /** @type {[bigint, bigint]} */ ([BigInt(seed) & WORD, BigInt(stream) & WORD]);
  const bits = philox(key, [0n, 0n, 0n, BigInt(draw)], Math.ceil(count / 2));
  const numbers = new Float32Array(count);
  for (let i = 0; i < bits.length; i++) {
    const radius = Math.sqrt(-2 * Math.log((Number(bits[i] >> 32n) + 0.5) / 2 ** 32));
    const angle = Number(bits[i] & 0xffffffffn) * ((2 * Math.PI) / 2 ** 32);
    numbers[2 * i] = radius * Math.cos(angle);
    if (2 * i + 1 < count) numbers[2 * i + 1] = radius * Math.sin(angle);
  }
  return numbers;
}
