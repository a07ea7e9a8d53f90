/** The choice among a photo's candidates (`clearcap.sampling.selection`). */

/**
 * @typedef {object} Candidate
 * @property {string} caption
 * @property {import("./words.js").Word[]} words
 */

/**
 * What each rule gives a candidate, the higher the better.
 *
 * @type {Record<string, (candidate: Candidate, lengthPenalty: number) => number>}
 */
const RULES = { confidence };

/**
 * Index of the candidate that a rule likes best; of equals the first. One that says a word of content twice is chosen
 * only where all do.
 *
 * @param {string} rule
 * @param {readonly Candidate[]} candidates
 * @param {readonly string[]} functionWords - that a caption may well say twice; empty: any word may be
 * @param {number} lengthPenalty - of the confidence; above 1 favours longer captions
 * @returns {number}
 * @throws {Error} the rule is not one of this package's
 */
export function choose(rule, candidates, functionWords, lengthPenalty) {
  if (!(rule in RULES)) throw new Error(`select=${rule} is not among ${Object.keys(RULES)}; export the model again`);
  const known = new Set(functionWords);
  const once = candidates.filter(({ caption }) => !saysTwice(caption, known));
  const left = once.length ? once : candidates;
  const values = left.map((candidate) => RULES[rule](candidate, lengthPenalty));
  return candidates.indexOf(left[values.indexOf(Math.max(...values))]);
}

/**
 * @param {string} caption
 * @param {ReadonlySet<string>} functionWords
 * @returns {boolean} - whether it says a word of content twice
 */
function saysTwice(caption, functionWords) {
  const content = caption.toLowerCase().split(" ").filter((word) => !functionWords.has(word));
  return functionWords.size > 0 && new Set(content).size < content.length;
}

/**
 * The words' probabilities multiplied, to the power of 1 / words ** lengthPenalty: at 1 their geometric mean; 0 without
 * words.
 *
 * @param {Candidate} candidate
 * @param {number} lengthPenalty
 * @returns {number}
 */
function confidence({ words }, lengthPenalty) {
  if (words.length === 0) return 0;
  const logarithms = words.map((word) => Math.log(Math.max(word.confidence, 1e-12)));
  return Math.exp(logarithms.reduce((sum, one) => sum + one, 0) / words.length ** lengthPenalty);
}
