import assert from "node:assert/strict";
import { test } from "node:test";
import { kernel, planes, squash } from "../src/resize.js";

test("the weights of each pixel add up to one", () => {
  for (const [from, to] of [
    [500, 224],
    [100, 224],
    [225, 224],
    [1, 224],
  ]) {
    const { reach, count, weights } = kernel(from, to);
    for (let i = 0; i < to; i++) {
      const sum = weights.subarray(i * reach, i * reach + count[i]).reduce((total, weight) => total + weight, 0);
      assert.ok(Math.abs(sum - 2 ** 22) <= count[i], `${from} to ${to}, pixel ${i}: ${sum}`);
    }
  }
});

test("one colour stays that colour, alpha is not read", () => {
  const data = new Uint8Array(37 * 53 * 4);
  for (let i = 0; i < data.length; i += 4) data.set([10, 200, 255, i % 256], i);
  const square = squash({ data, width: 37, height: 53 }, 8);
  assert.deepEqual([...square], Array(64).fill([10, 200, 255]).flat());
});

test("a photo of the size asked for stays as it is", () => {
  const data = Uint8Array.from({ length: 5 * 5 * 3 }, (_, i) => (i * 89) % 256);
  assert.deepEqual(squash({ data, width: 5, height: 5 }, 5), data);
});

test("planes are red, green and blue in 0..1", () => {
  assert.deepEqual([...planes(Uint8Array.of(255, 0, 51, 0, 255, 102))], [1, 0, 0, 1, Math.fround(0.2), Math.fround(0.4)]);
});

test("bytes that are no pixels of that size are refused", () => {
  assert.throws(() => squash({ data: new Uint8Array(10), width: 2, height: 2 }, 4), /10 bytes are no 2 x 2 pixels/);
  assert.throws(() => squash({ data: new Uint8Array(0), width: 0, height: 0 }, 4), RangeError);
});
