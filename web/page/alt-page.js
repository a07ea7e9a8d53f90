/** The page that gives a saved page's images alt text. */

import { openCaptioner } from "./opening.js";
import { addAltText } from "./src/alt.js";
import { pixels } from "./src/browser.js";

const state = element("state");
const files = /** @type {HTMLInputElement} */ (element("files"));
const html = /** @type {HTMLTextAreaElement} */ (element("html"));
const save = /** @type {HTMLAnchorElement} */ (element("save"));
const loaded = /** @type {HTMLProgressElement} */ (element("loaded"));

const opening = openCaptioner((share) => (loaded.value = share));
opening.then(
  () => {
    files.disabled = false;
    loaded.hidden = true;
    state.textContent = "Ready.";
    document.body.dataset.ready = "yes";
  },
  (fault) => (state.textContent = `This browser cannot caption: ${fault.message}`),
);
files.addEventListener("change", () => describe([...(files.files ?? [])]));

/** @param {File[]} chosen */
async function describe(chosen) {
  const page = chosen.find(({ name }) => /\.html?$/i.test(name));
  if (!page) {
    state.textContent = "Choose an .html file with the images that it shows.";
    return;
  }
  const captioner = await opening;
  const parsed = new DOMParser().parseFromString(await page.text(), "text/html");
  /** @type {string[]} */
  const failed = [];
  const written = await addAltText(parsed, async (image) => captioner.caption(await pixels(await shown(image, chosen))), {
    done: (image, caption) => {
      if (caption instanceof Error) failed.push(`${image.getAttribute("src")?.slice(0, 60)} (${caption.message})`);
    },
  });
  html.value = `<!doctype html>\n${parsed.documentElement.outerHTML}\n`;
  save.href = URL.createObjectURL(new Blob([html.value], { type: "text/html" }));
  save.download = page.name;
  save.hidden = false;
  state.textContent = `${written} images were given alt text${failed.length ? `; not read: ${failed.join(", ")}` : "."}`;
}

/**
 * What an image of a saved page shows: inside it, or a chosen file of the same name.
 *
 * @param {HTMLImageElement} image
 * @param {File[]} chosen
 * @returns {Promise<Blob>}
 */
async function shown(image, chosen) {
  const source = image.getAttribute("src") ?? "";
  if (source.startsWith("data:")) return (await fetch(source)).blob();
  const name = decodeURIComponent(source.split(/[?#]/)[0].split("/").at(-1) ?? "");
  const file = chosen.find((one) => one.name === name);
  if (!file) throw new Error("choose this image with the page");
  return file;
}

/** @param {string} id */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
