import assert from "node:assert/strict";
import { test } from "node:test";
import { blank, clamp, join, read, spell } from "../src/words.js";

const VOCABULARY = {
  pieces: ["[PAD]", "[SEP]", "a", "dog", "##gy", "run", "-", "."],
  special: [0, 1],
  whole: "00110100",
  often: [0, 1, 2],
  tokens: { cls: 20, sep: 1, pad: 0, mask: 21 },
};

/** @param {{[id: number]: number | undefined}[]} rows - of each position, logits by token */
function logits(rows) {
  const size = VOCABULARY.pieces.length;
  const out = new Float32Array(rows.length * size).fill(-10);
  rows.forEach((row, i) => Object.entries(row).forEach(([id, value]) => (out[i * size + Number(id)] = value ?? -10)));
  return out;
}

test("pieces are joined, special tokens and repeated words left out", () => {
  const ids = [1, 2, 3, 4, 3, 4, 5, 0];
  const words = spell({ ids, confidence: [1, 0.9, 0.8, 0.5, 0.7, 0.6, 0.4, 1] }, VOCABULARY);
  assert.deepEqual(words, [
    { word: "a", confidence: 0.9 },
    { word: "doggy", confidence: 0.5 },
    { word: "run", confidence: 0.4 },
  ]);
});

test("captions of told lengths are blank where their words will be", () => {
  assert.deepEqual(blank([2, 0], 5, VOCABULARY.tokens), [20, 21, 21, 1, 0, 20, 1, 0, 0, 0]);
});

test("predictions are moved to words, and known tokens stay", () => {
  const found = clamp(logits([{ 2: 9 }, { 0: 5, 3: 4 }, { 5: 1, 2: 1 }]), VOCABULARY, [20, 21, 21], [true, false, false], 3, false);
  assert.deepEqual(found, [20, 3, 2]);
});

test("no special token is read where a word was told to be", () => {
  const rows = [{ 1: 5 }, { 0: 5, 3: 4 }, { 0: 5, 3: 4 }];
  assert.deepEqual(read(logits(rows), VOCABULARY, 1, false, false).ids, [1, 3, 0]);
  assert.deepEqual(read(logits(rows), VOCABULARY, 0, false, false).ids, [1, 0, 0]);
});

test("a length is kept: whole words, and no word twice in a row", () => {
  const rows = [{ 2: 5, 1: 4 }, { 4: 5, 3: 4 }, { 3: 5, 5: 4 }, { 2: 5, 0: 1 }];
  const { ids } = read(logits(rows), VOCABULARY, 2, true, false);
  assert.deepEqual(ids, [1, 3, 5, 0]);
  assert.deepEqual(spell({ ids, confidence: [1, 1, 1, 1] }, VOCABULARY).length, 2);
});

test("a word of content is said where it is likeliest, a function word twice", () => {
  const rows = [{ 3: 5, 5: 4 }, { 3: 9, 5: 1 }, { 2: 5 }, { 2: 5 }];
  assert.deepEqual(clamp(logits(rows), VOCABULARY, [21, 21, 21, 21], [false, false, false, false], 4, true), [5, 3, 2, 2]);
  assert.deepEqual(clamp(logits(rows), VOCABULARY, [21, 21, 21, 21], [false, false, false, false], 2, true), [5, 3, 2, 2]);
  assert.deepEqual(clamp(logits(rows), VOCABULARY, [21, 21, 21, 21], [false, false, false, false], 1, true), [3, 3, 2, 2]);
  assert.deepEqual(clamp(logits(rows), VOCABULARY, [21, 3, 21, 21], [false, true, false, false], 4, true), [3, 3, 2, 2]);
  assert.deepEqual(read(logits([{ 1: 9 }, ...rows, { 1: 9 }]), VOCABULARY, 4, false, true).ids, [1, 5, 3, 2, 2, 1]);
});

test("probabilities add up to one over the words alone", () => {
  const { confidence } = read(logits([{}, { 2: 0, 3: 0, 0: 50 }]), VOCABULARY, 1, false, false);
  assert.ok(Math.abs(confidence[1] - 0.5) < 1e-3);
});

test("sentences have no space before punctuation or round hyphens", () => {
  assert.equal(join(["a", "t", "-", "shirt", ".", "dog", "'", "s", "?"]), "a t-shirt. dog's?");
});
