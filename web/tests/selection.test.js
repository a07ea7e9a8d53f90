import assert from "node:assert/strict";
import { test } from "node:test";
import { choose } from "../src/selection.js";

/**
 * @param {string} caption
 * @param {...number} confidences
 */
const candidate = (caption, ...confidences) => ({
  caption,
  words: confidences.map((confidence, i) => ({ word: `word ${i}`, confidence })),
});

test("the greatest mean of words' logarithms is chosen, however many they are", () => {
  const candidates = [candidate("", 0.9, 0.4), candidate("", 0.7, 0.7, 0.7), candidate(""), candidate("", 0.99, 0)];
  assert.equal(choose("confidence", candidates, [], 1), 1);
});

test("a length penalty above 1 favours longer captions", () => {
  const candidates = [candidate("", 0.9, 0.8), candidate("", 0.85, 0.8, 0.86, 0.8)]; // logarithms -0.3285 and -0.7596
  assert.deepEqual([0, 1, 1.2, 1.3].map((penalty) => choose("confidence", candidates, [], penalty)), [0, 0, 0, 1]);
});

test("of equals the first is chosen", () => {
  assert.equal(choose("confidence", [candidate(""), candidate("", 0.5), candidate("", 0.5)], [], 1), 1);
});

test("who says a word of content twice is chosen only where all do", () => {
  const repeating = [candidate("a dog and a dog", 0.9), candidate("A man and the Man", 0.95)];
  const candidates = [...repeating, candidate("a dog and a cat", 0.8)];
  assert.equal(choose("confidence", candidates, ["a", "and", "the"], 1), 2);
  assert.equal(choose("confidence", repeating, ["a", "and", "the"], 1), 1);
  assert.equal(choose("confidence", candidates, [], 1), 1);
});

test("a rule that the page has not is refused", () => {
  assert.throws(() => choose("mbr", [candidate("", 1)], [], 1), /select=mbr is not among confidence/);
});
