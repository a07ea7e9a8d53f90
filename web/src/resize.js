/**
 * Photos squashed to a square as Pillow does it (`Image.resize`, bicubic): antialiased, in integers, rounded to 8 bits
 * after each of the two passes. A canvas' own scaling gives other pixels in every browser.
 */

/**
 * Decoded pixels.
 *
 * @typedef {object} Pixels
 * @property {Uint8Array | Uint8ClampedArray} data - rows of pixels, 3 (RGB) or 4 (RGBA, alpha ignored) bytes each
 * @property {number} width
 * @property {number} height
 */

/**
 * Where the pixels of one side come from.
 *
 * @typedef {object} Kernel
 * @property {number} reach - greatest number of source pixels of one pixel
 * @property {Int32Array} first - the first source pixel of each pixel
 * @property {Int32Array} count - how many source pixels each pixel has
 * @property {Int32Array} weights - `reach` weights for each pixel, in units of 2^-22
 */

const BITS = 22; // 32, less 8 of a pixel and 2 for the sums of a filter with negative lobes
const SUPPORT = 2; // of the filter, in pixels
const A = -0.5;

/**
 * Keys' cubic convolution filter.
 *
 * @param {number} x
 * @returns {number}
 */
function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * A;
  return 0;
}

/**
 * The weights that bring one side from `from` pixels to `to`.
 *
 * @param {number} from
 * @param {number} to
 * @returns {Kernel}
 */
export function kernel(from, to) {
  const scale = from / to;
  const wide = Math.max(scale, 1);
  const support = SUPPORT * wide;
  const reach = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(to);
  const count = new Int32Array(to);
  const weights = new Int32Array(to * reach);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const low = Math.max(Math.trunc(centre - support + 0.5), 0);
    const high = Math.min(Math.trunc(centre + support + 0.5), from);
    /** @type {number[]} */
    const raw = [];
    for (let x = low; x < high; x++) raw.push(bicubic((x - centre + 0.5) * (1 / wide)));
    const sum = raw.reduce((total, weight) => total + weight, 0);
    first[i] = low;
    count[i] = high - low;
    raw.forEach((weight, x) => {
      const share = (sum === 0 ? weight : weight / sum) * 2 ** BITS;
      weights[i * reach + x] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
  }
  return { reach, first, count, weights };
}

/**
 * The whole photo squashed to `size` x `size` RGB pixels, never cropped: the same bytes as Python's `to_square`.
 *
 * Rows are resampled first, which shows in the rounding, as by Pillow up to 12 (13 begins with columns in some photos).
 *
 * @param {Pixels} photo
 * @param {number} size
 * @returns {Uint8Array} - size * size * 3 bytes
 * @throws {RangeError} the photo has no pixels, or not as many bytes as its size says
 */
export function squash({ data, width, height }, size) {
  const step = data.length / (width * height);
  if (!(width > 0 && height > 0 && (step === 3 || step === 4))) {
    throw new RangeError(`${data.length} bytes are no ${width} x ${height} pixels of 3 or 4 bytes; pass decoded pixels`);
  }
  const [columns, rows] = [kernel(width, size), kernel(height, size)];
  const across = resample(data, step, height, columns, width, size);
  const down = resample(transposed(across, 3, height, size), 3, size, rows, height, size);
  return transposed(down, 3, size, size);
}

/**
 * Rows of pixels, each brought to another width.
 *
 * @param {Uint8Array | Uint8ClampedArray} data
 * @param {number} step - bytes a pixel, of which the first three are read
 * @param {number} rows
 * @param {Kernel} how
 * @param {number} width - of the rows
 * @param {number} to - width they are brought to
 * @returns {Uint8Array} - RGB
 */
function resample(data, step, rows, { reach, first, count, weights }, width, to) {
  const out = new Uint8Array(rows * to * 3);
  const half = 1 << (BITS - 1);
  const whole = width === to; // Pillow leaves such a side as it is
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < to; x++, at += 3) {
      let [r, g, b] = [half, half, half];
      let from = (y * width + (whole ? x : first[x])) * step;
      if (whole) {
        out.set(data.subarray(from, from + 3), at);
        continue;
      }
      for (let k = x * reach, end = k + count[x]; k < end; k++, from += step) {
        r += data[from] * weights[k];
        g += data[from + 1] * weights[k];
        b += data[from + 2] * weights[k];
      }
      out[at] = byte(r >> BITS);
      out[at + 1] = byte(g >> BITS);
      out[at + 2] = byte(b >> BITS);
    }
  }
  return out;
}

/**
 * @param {number} level
 * @returns {number}
 */
function byte(level) {
  return level < 0 ? 0 : level > 255 ? 255 : level;
}

/**
 * Rows of pixels as columns of RGB ones.
 *
 * @param {Uint8Array | Uint8ClampedArray} data
 * @param {number} step - bytes a pixel
 * @param {number} rows
 * @param {number} columns
 * @returns {Uint8Array}
 */
function transposed(data, step, rows, columns) {
  const out = new Uint8Array(rows * columns * 3);
  for (let y = 0, from = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, from += step) {
      const at = (x * rows + y) * 3;
      out[at] = data[from];
      out[at + 1] = data[from + 1];
      out[at + 2] = data[from + 2];
    }
  }
  return out;
}

/**
 * Square RGB bytes as the encoder's input: planes of red, green and blue in 0..1.
 *
 * @param {Uint8Array} square
 * @returns {Float32Array}
 */
export function planes(square) {
  const area = square.length / 3;
  const out = new Float32Array(square.length);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) out[c * area + i] = Math.fround(square[3 * i + c]) / 255;
  }
  return out;
}
