/** The captioner of both pages: opened once, through the service worker that keeps it for the next visit. */

import { open, stream } from "./src/browser.js";

const WAIT = 5000; // ms; a browser may refuse the worker (private windows), and the page works without it

/**
 * Opens the captioner that lies beside the page.
 *
 * @param {(share: number) => void} progress - told what share has been loaded
 */
export async function openCaptioner(progress) {
  await controlled();
  const about = await (await fetch("model/captioner.json")).json();
  let loaded = 0;
  const count = (/** @type {number} */ bytes) => progress(Math.min((loaded += bytes) / about.loads, 1));
  // @ts-ignore: lies there once scripts/site.js has put it there
  const ort = await import("./ort/ort.wasm.bundle.min.mjs");
  // @ts-ignore: a script that the page loads first
  const { XzReadableStream } = globalThis["xz-decompress"];
  const packed = await stream(new URL("ort/ort-wasm-simd-threaded.wasm.xz", document.baseURI), count);
  const wasm = new Uint8Array(await new Response(new XzReadableStream(packed)).arrayBuffer());
  return open({ model: "model", ort, wasm, progress: count });
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
