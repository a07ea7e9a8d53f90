import assert from "node:assert/strict";
import { test } from "node:test";
import { addAltText } from "../src/alt.js";

/**
 * What `addAltText` reads of an image.
 *
 * @param {Record<string, string>} attributes
 * @param {number} side
 */
const image = (attributes, side = 300) =>
  /** @type {any} */ ({
    naturalWidth: side,
    naturalHeight: side,
    getAttribute: (/** @type {string} */ name) => attributes[name] ?? null,
    closest: () => null,
  });

test("images get captions; icons, decoration and named ones are left alone; one that fails stops no other", async () => {
  const images = [
    image({}),
    image({ role: "presentation" }),
    image({ "aria-label": "our dog" }),
    image({}, 16),
    image({}),
    image({}),
  ];
  const page = /** @type {any} */ ({ querySelectorAll: () => images });
  let call = 0;
  /** @type {string[]} */
  const faults = [];
  const written = await addAltText(
    page,
    async () => {
      if (++call === 2) throw new Error("cannot be read");
      return { caption: `caption ${call}` };
    },
    { done: (_, caption) => caption instanceof Error && faults.push(caption.message) },
  );
  assert.equal(written, 2);
  assert.deepEqual(images.map(({ alt }) => alt), ["caption 1", undefined, undefined, undefined, undefined, "caption 3"]);
  assert.deepEqual(faults, ["cannot be read"]);
});
