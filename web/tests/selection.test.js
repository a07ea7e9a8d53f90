import assert from "node:assert/strict";
import { test } from "node:test";
import { choose } from "../src/selection.js";

/** @param {...number} confidences */
const candidate = (...confidences) => ({
  caption: "",
  words: confidences.map((confidence, i) => ({ word: `word ${i}`, confidence })),
});

test("the greatest mean of words' logarithms is chosen, however many they are", () => {
  const candidates = [candidate(0.9, 0.4), candidate(0.7, 0.7, 0.7), candidate(), candidate(0.99, 0)];
  assert.equal(choose("confidence", candidates), 1);
});

test("of equals the first is chosen", () => {
  assert.equal(choose("confidence", [candidate(), candidate(0.5), candidate(0.5)]), 1);
});

test("a rule that the page has not is refused", () => {
  assert.throws(() => choose("mbr", [candidate(1)]), /select=mbr is not among confidence/);
});
