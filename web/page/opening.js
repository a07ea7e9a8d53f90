/** The captioner of both pages: opened once, through the service worker that keeps it for the next visit. */

import { open } from "./src/browser.js";

const WAIT = 5000; // ms; a browser may refuse the worker (private windows), and the page works without it

/**
 * Opens the captioner that lies beside the page.
 *
 * @param {(share: number) => void} progress - told what share has been loaded
 */
export async function openCaptioner(progress) {
  await controlled();
  const about = await (await fetch("model/captioner.json")).json();
  const [wasm, total] = ["ort/ort-wasm-simd-threaded.wasm.gz", about.loads];
  let loaded = 0;
  return open({
    model: "model",
    // @ts-ignore: lies there once scripts/site.js has put it there
    ort: await import("./ort/ort.wasm.bundle.min.mjs"),
    wasm,
    progress: (bytes) => progress(Math.min((loaded += bytes) / total, 1)),
  });
}

/** Waits until the service worker sees what the page fetches, so that all of it is kept and nothing fetched twice. */
async function controlled() {
  const workers = navigator.serviceWorker;
  if (!workers || workers.controller) return;
  const taken = new Promise((done) => workers.addEventListener("controllerchange", done, { once: true }));
  try {
    await workers.register("sw.js");
  } catch {
    return;
  }
  await Promise.race([taken, new Promise((done) => setTimeout(done, WAIT))]);
}
