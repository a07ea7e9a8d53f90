/**
 * The same as Python, by cases that tests/captioner/test_web.py writes (in the folder that CLEARCAP_CASES names).
 *
 * Captions need a runtime, which `npm ci` installs; the others need nothing.
 */

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { normal } from "../src/philox.js";
import { squash } from "../src/resize.js";
import { join as sentence, read, spell } from "../src/words.js";

const folder = process.env.CLEARCAP_CASES;
const skip = folder ? false : "CLEARCAP_CASES names no folder; run pytest tests/captioner/test_web.py";
const cases = folder ? JSON.parse(readFileSync(join(folder, "cases.json"), "utf8")) : {};

test("noise is Python's", { skip }, () => {
  for (const { seed, stream, draw, numbers } of cases.noise) {
    const drawn = normal(BigInt(seed), stream, draw, numbers.length);
    assert.deepEqual(drawn, Float32Array.from(numbers));
  }
});

test("squashed photos are Pillow's, byte by byte", { skip }, () => {
  for (const { width, height, size, data, square } of cases.squares) {
    assert.deepEqual(squash({ data: Uint8Array.from(data), width, height }, size), Uint8Array.from(square));
  }
});

test("captions are read as Python reads them", { skip }, () => {
  for (const { logits, length, kept, once, ids, confidence, words, caption } of cases.readings) {
    const found = read(Float32Array.from(logits), cases.vocabulary, length, kept, once);
    assert.deepEqual(found.ids, ids);
    found.confidence.forEach((p, i) => assert.ok(Math.abs(p - confidence[i]) < 1e-5));
    const spelt = spell(found, cases.vocabulary);
    assert.deepEqual(spelt.map(({ word }) => word), words);
    assert.equal(sentence(words), caption);
  }
});

const runtime = existsSync(new URL("../node_modules/onnxruntime-node", import.meta.url));
const without = skip || (runtime ? false : "no onnxruntime-node; run npm ci in web/");

test("captions are Python's", { skip: without }, async () => {
  const { open } = await import("../src/node.js");
  const captioner = await open({ model: join(/** @type {string} */ (folder), "model") });
  for (const { width, height, data, seed, length, ids, caption, candidates, confidence } of cases.captions) {
    const photo = { data: Uint8Array.from(data), width, height };
    const options = { seed, length: length ?? undefined };
    const drawn = await captioner.draw(photo, options);
    assert.deepEqual(drawn.map((one) => one.ids), ids);
    const found = await captioner.caption(photo, options);
    assert.deepEqual([found.caption, found.candidates], [caption, candidates]);
    assert.ok(Math.abs(found.confidence - confidence) < 1e-3);
  }
  const { data, width, height } = cases.captions[0];
  const photo = { data: Uint8Array.from(data), width, height };
  await assert.rejects(captioner.caption(photo, { length: 1000 }), /length=1000 must be a whole number of words, 1 \.\. /);
  await assert.rejects(captioner.caption(photo, { seed: -1 }), /seed=-1/);
});
