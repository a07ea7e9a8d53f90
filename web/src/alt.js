/** Alt text for the images of any page: captions where there is none. */

/**
 * Writes alt text, in place, to images that have none.
 *
 * An image with `alt=""` is told to be decoration and is left alone, as is one inside a link or button with a name.
 *
 * @param {ParentNode} page - a document, or part of one
 * @param {(image: HTMLImageElement) => Promise<{caption: string}>} caption - of an image; may fail
 * @param {{smallest?: number, done?: (image: HTMLImageElement, caption: string | Error) => void}} [how] - `smallest`:
 *     pixels a side under which an image is an icon
 * @returns {Promise<number>} - images that were given alt text
 */
export async function addAltText(page, caption, { smallest = 64, done = () => {} } = {}) {
  let written = 0;
  for (const image of withoutAltText(page)) {
    if ((image.naturalWidth && image.naturalWidth < smallest) || (image.naturalHeight && image.naturalHeight < smallest)) {
      continue;
    }
    try {
      const found = await caption(image);
      image.alt = found.caption;
      written++;
      done(image, found.caption);
    } catch (fault) {
      done(image, fault instanceof Error ? fault : new Error(String(fault))); // the others may still be read
    }
  }
  return written;
}

/**
 * Images that say nothing of themselves.
 *
 * @param {ParentNode} page
 * @returns {HTMLImageElement[]}
 */
export function withoutAltText(page) {
  const images = /** @type {NodeListOf<HTMLImageElement>} */ (page.querySelectorAll("img:not([alt])"));
  return [...images].filter(
    (image) =>
      !image.getAttribute("aria-label") &&
      !image.getAttribute("aria-labelledby") &&
      !["presentation", "none"].includes(image.getAttribute("role") ?? "") &&
      image.closest("[aria-hidden=true]") === null,
  );
}
