/** Tokens to words: which token stands where, a length that is kept, pieces joined, spaces left out. */

/**
 * What reading captions needs of a vocabulary.
 *
 * @typedef {object} Vocabulary
 * @property {string[]} pieces - every token's text; an ending starts with "##"
 * @property {number[]} special - tokens that are not words
 * @property {number[]} often - tokens that a caption may well say twice
 * @property {string} whole - "1" for each token that is a word by itself, else "0"
 * @property {{cls: number, sep: number, pad: number, mask?: number}} tokens - that stand around words and for them
 */

/**
 * The most probable token at every position.
 *
 * @typedef {object} Reading
 * @property {number[]} ids
 * @property {number[]} confidence - its probability
 */

/**
 * @typedef {object} Word
 * @property {string} word
 * @property {number} confidence - its probability, the least of its pieces'
 */

/**
 * Whether a position is a word's, in a caption of so many words.
 *
 * @param {number} position
 * @param {number} length - 0: that is not known of any
 * @returns {boolean}
 */
export function isWord(position, length) {
  return position >= 1 && position <= length;
}

/**
 * Captions of given lengths with their words left out, by which the denoiser is told the lengths.
 *
 * @param {readonly number[]} lengths
 * @param {number} positions - of a caption
 * @param {Vocabulary["tokens"]} tokens
 * @returns {number[]} - token ids [captions, positions]
 */
export function blank(lengths, positions, { cls, sep, pad, mask = pad }) {
  return lengths.flatMap((length) =>
    Array.from({ length: positions }, (_, i) => {
      if (i === 0) return cls;
      if (isWord(i, length)) return mask;
      return i === length + 1 ? sep : pad;
    }),
  );
}

/**
 * The most probable word at every position that is not known.
 *
 * @param {Float32Array} logits - [captions, positions, vocabulary]
 * @param {Vocabulary} vocabulary
 * @param {readonly number[]} ids - tokens of the known positions, [captions, positions]
 * @param {readonly boolean[]} known - [captions, positions]
 * @param {number} positions - of a caption
 * @param {boolean} once - say each word of content once
 * @returns {number[]} - token ids [captions, positions]
 */
export function clamp(logits, { pieces, special, often }, ids, known, positions, once) {
  const rows = ids.map((_, i) => {
    const row = logits.slice(i * pieces.length, (i + 1) * pieces.length);
    for (const token of special) row[token] = -Infinity;
    return row;
  });
  for (let start = 0; once && start < rows.length; start += positions) {
    sayOnce(rows.slice(start, start + positions).filter((_, i) => !known[start + i]), often);
  }
  return ids.map((id, i) => (known[i] ? id : argmax(rows[i])));
}

/**
 * Leaves, in place, each word of content at the one of its positions where it is likeliest (Python's `say_once`).
 *
 * @param {Float32Array[]} rows - logits at a caption's words
 * @param {readonly number[]} often - tokens that may be said twice
 */
function sayOnce(rows, often) {
  const free = new Set(often);
  const said = rows.map(argmax);
  for (;;) {
    /** @type {Map<number, number>} */
    const counts = new Map();
    for (const id of said) if (!free.has(id)) counts.set(id, (counts.get(id) ?? 0) + 1);
    const [token, times] = [...counts].reduce((most, one) => (one[1] > most[1] ? one : most), [0, 0]);
    if (times < 2) return;
    const where = said.flatMap((id, i) => (id === token ? [i] : []));
    const doubts = where.map((i) => doubt(rows[i]));
    const surest = where[doubts.indexOf(Math.min(...doubts))];
    for (const i of where) {
      if (i === surest) continue;
      rows[i][token] = -Infinity;
      said[i] = argmax(rows[i]);
    }
  }
}

/**
 * @param {Float32Array} row - logits
 * @returns {number} - one over the probability of the likeliest
 */
function doubt(row) {
  const top = row[argmax(row)];
  return row.reduce((sum, value) => sum + Math.exp(value - top), 0);
}

/**
 * Reads tokens off logits.
 *
 * @param {Float32Array} logits - [positions, vocabulary]
 * @param {Vocabulary} vocabulary
 * @param {number} length - words that the denoiser was told, at positions 1 .. length; 0: none were
 * @param {boolean} kept - read exactly that many words
 * @param {boolean} once - say each word of content once
 * @returns {Reading}
 */
export function read(logits, vocabulary, length, kept, once) {
  const size = vocabulary.pieces.length;
  const all = Array.from({ length: logits.length / size }, (_, i) => {
    const row = logits.slice(i * size, (i + 1) * size);
    if (isWord(i, length)) for (const token of vocabulary.special) row[token] = -Infinity;
    return row;
  });
  if (once) sayOnce(all.slice(1, (length || all.length - 2) + 1), vocabulary.often);
  const rows = all.map(softmax);
  if (kept && length > 0) keepLength(rows, vocabulary, length);
  const ids = rows.map(argmax);
  return { ids, confidence: rows.map((row, i) => row[ids[i]]) };
}

/**
 * @param {Float32Array} logits
 * @returns {Float64Array} - probabilities
 */
function softmax(logits) {
  const out = Float64Array.from(logits);
  let top = -Infinity;
  for (const value of out) if (value > top) top = value;
  let sum = 0;
  for (let i = 0; i < out.length; i++) sum += out[i] = Math.exp(out[i] - top);
  for (let i = 0; i < out.length; i++) out[i] /= sum;
  return out;
}

/**
 * @param {Float32Array | Float64Array} row
 * @returns {number} - of the first of the greatest
 */
function argmax(row) {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i;
  return best;
}

/**
 * Leaves, in place, what keeps a length: one whole word at each of its positions, none elsewhere.
 *
 * A caption that would repeat a word at the next position is read without any pair of words that it has already
 * (`Network.keep_lengths`).
 *
 * @param {Float64Array[]} rows
 * @param {Vocabulary} vocabulary
 * @param {number} length
 */
function keepLength(rows, vocabulary, length) {
  const special = new Set(vocabulary.special);
  const words = rows.slice(1, length + 1);
  rows.forEach((row, i) => {
    for (let id = 0; id < row.length; id++) {
      if (isWord(i, length) ? vocabulary.whole[id] !== "1" : !special.has(id)) row[id] = 0;
    }
  });
  const best = words.map(argmax);
  if (!best.some((id, i) => i > 0 && id === best[i - 1])) return;
  /** @type {Map<number, number[]>} */
  const followers = new Map();
  let previous = best[0];
  for (const row of words.slice(1)) {
    const after = followers.get(previous) ?? [previous];
    followers.set(previous, after);
    for (const id of after) row[id] = 0;
    previous = argmax(row);
    after.push(previous);
  }
}

/**
 * The words that tokens spell: special ones dropped, pieces joined, a word that repeats the one before it said once.
 *
 * @param {Reading} reading
 * @param {Vocabulary} vocabulary
 * @returns {Word[]}
 */
export function spell({ ids, confidence }, vocabulary) {
  /** @type {Word[]} */
  const words = [];
  ids.forEach((id, i) => {
    if (vocabulary.special.includes(id)) return;
    const piece = vocabulary.pieces[id];
    const last = words.at(-1);
    if (piece.startsWith("##") && last) {
      last.word += piece.slice(2);
      last.confidence = Math.min(last.confidence, confidence[i]);
    } else {
      words.push({ word: piece.replace(/^##/, ""), confidence: confidence[i] });
    }
  });
  return words.filter(({ word }, i) => i === 0 || word !== words[i - 1].word);
}

/**
 * Words as a sentence: no space before punctuation, none around a word's hyphen or apostrophe.
 *
 * @param {readonly string[]} words
 * @returns {string}
 */
export function join(words) {
  return words
    .join(" ")
    .replace(/ ([.,?!%])/g, "$1")
    .replace(/ ?(['-]) ?(?=[\p{L}\p{N}_])/gu, "$1");
}
