/** The choice among a photo's candidates (`clearcap.sampling.selection`). */

/**
 * @typedef {object} Candidate
 * @property {string} caption
 * @property {import("./words.js").Word[]} words
 */

/**
 * What each rule gives a candidate, the higher the better.
 *
 * @type {Record<string, (candidate: Candidate) => number>}
 */
const RULES = { confidence: meanConfidence };

/**
 * Index of the candidate that a rule likes best; of equals the first.
 *
 * @param {string} rule
 * @param {readonly Candidate[]} candidates
 * @returns {number}
 * @throws {Error} the rule is not one of this package's
 */
export function choose(rule, candidates) {
  if (!(rule in RULES)) throw new Error(`select=${rule} is not among ${Object.keys(RULES)}; export the model again`);
  const values = candidates.map(RULES[rule]);
  return values.indexOf(Math.max(...values));
}

/**
 * The geometric mean of the words' probabilities; 0 without words.
 *
 * @param {Candidate} candidate
 * @returns {number}
 */
function meanConfidence({ words }) {
  if (words.length === 0) return 0;
  const logarithms = words.map(({ confidence }) => Math.log(Math.max(confidence, 1e-12)));
  return Math.exp(logarithms.reduce((sum, one) => sum + one, 0) / words.length);
}
