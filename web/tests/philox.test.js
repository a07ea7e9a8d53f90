import assert from "node:assert/strict";
import { test } from "node:test";
import { normal, philox } from "../src/philox.js";

/** Random123's known answers (Salmon et al. 2011, kat_vectors): counter, key, words; ours counts before it draws. */
const KNOWN = [
  {
    counter: [0x243f6a8885a308d2n, 0x13198a2e03707344n, 0xa4093822299f31d0n, 0x082efa98ec4e6c89n],
    key: [0x452821e638d01377n, 0xbe5466cf34e90c6cn],
    words: [0xa528f45403e61d95n, 0x38c72dbd566e9788n, 0xa5a1610e72fd18b5n, 0x57bd43b5e52b7fe6n],
  },
  {
    counter: [(1n << 64n) - 2n, (1n << 64n) - 1n, (1n << 64n) - 1n, (1n << 64n) - 1n],
    key: [(1n << 64n) - 1n, (1n << 64n) - 1n],
    words: [0x87b092c3013fe90bn, 0x438c3c67be8d0224n, 0x9cc7d7c69cd777b6n, 0xa09caebf594f0ba0n],
  },
  {
    counter: [(1n << 64n) - 1n, (1n << 64n) - 1n, (1n << 64n) - 1n, (1n << 64n) - 1n], // counts round to 0
    key: [0n, 0n],
    words: [0x16554d9eca36314cn, 0xdb20fe9d672d0fdcn, 0xd7e772cee186176bn, 0x7e68b68aec7ba23bn],
  },
];

test("bits are Philox's known answers", () => {
  for (const { counter, key, words } of KNOWN) {
    const drawn = philox(/** @type {any} */ (key), /** @type {any} */ (counter), 4);
    assert.deepEqual([...drawn], words);
  }
});

test("fewer numbers are the first of more, also an odd count", () => {
  assert.deepEqual(normal(3, 1, 0, 7), normal(3, 1, 0, 100).slice(0, 7));
});

test("seed, stream and draw each give other numbers", () => {
  const drawn = [normal(0, 0, 0, 4), normal(1, 0, 0, 4), normal(0, 1, 0, 4), normal(0, 0, 1, 4)].map(String);
  assert.equal(new Set(drawn).size, 4);
});

test("numbers are standard normal", () => {
  const drawn = normal(0, 0, 0, 100_000);
  const mean = drawn.reduce((sum, x) => sum + x, 0) / drawn.length;
  const variance = drawn.reduce((sum, x) => sum + x * x, 0) / drawn.length - mean ** 2;
  assert.ok(Math.abs(mean) < 0.01, `mean ${mean}`); // three deviations of the mean
  assert.ok(Math.abs(variance - 1) < 0.014, `variance ${variance}`);
});
