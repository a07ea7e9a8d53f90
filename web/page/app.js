/** The page: photos that are chosen, dropped or pasted get a caption each. */

import { openCaptioner } from "./opening.js";
import { pixels } from "./src/browser.js";

const state = element("state");
const photos = /** @type {HTMLInputElement} */ (element("photos"));
const length = /** @type {HTMLInputElement} */ (element("length"));
const seed = /** @type {HTMLInputElement} */ (element("seed"));
const loaded = /** @type {HTMLProgressElement} */ (element("loaded"));

/** @type {Promise<import("./src/captioner.js").Captioner>} */
export const opening = openCaptioner((share) => (loaded.value = share));
/** @type {Promise<unknown>} */
let last = opening; // photos take their turn

opening.then(
  (captioner) => {
    length.max = String(captioner.about.longest);
    photos.disabled = false;
    loaded.hidden = true;
    state.textContent = "Ready.";
    document.body.dataset.ready = "yes";
  },
  (fault) => (state.textContent = `This browser cannot caption: ${fault.message}`),
);

photos.addEventListener("change", () => add(photos.files));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  add(event.dataTransfer?.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData?.files));

/** @param {Iterable<File> | null | undefined} files */
function add(files) {
  for (const file of files ?? []) {
    const item = document.createElement("figure");
    const image = Object.assign(document.createElement("img"), { src: URL.createObjectURL(file), alt: file.name });
    const text = Object.assign(document.createElement("figcaption"), { textContent: "…" });
    item.append(image, text);
    element("captions").prepend(item);
    last = last.then(() => show(file, image, text));
  }
}

/**
 * @param {File} file
 * @param {HTMLImageElement} image
 * @param {HTMLElement} text
 */
async function show(file, image, text) {
  try {
    const captioner = await opening;
    const photo = await pixels(file);
    const began = performance.now();
    const found = await captioner.caption(photo, {
      length: length.value ? length.valueAsNumber : undefined,
      seed: seed.valueAsNumber,
    });
    image.alt = found.caption;
    text.replaceChildren(
      ...found.words.flatMap(({ word, confidence }) => {
        const shown = Object.assign(document.createElement("span"), {
          textContent: word,
          title: `${Math.round(100 * confidence)}%`,
        });
        return [shown, " "];
      }),
    );
    text.dataset.caption = found.caption;
    state.textContent = `${file.name}: ${Math.round(performance.now() - began)} ms.`;
  } catch (fault) {
    text.textContent = `${file.name}: ${fault instanceof Error ? fault.message : fault}`;
  }
}

/** @param {string} id */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
