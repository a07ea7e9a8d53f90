/**
 * Keeps all that the page fetches, so that it works without a network after one visit.
 *
 * Answers say that the page is isolated, which lets a browser give it threads, from the second visit on.
 */

const VERSION = "$VERSION"; // put there by scripts/site.js, as is the next line
const FILES = /** @type {string[]} */ (JSON.parse('["$FILES"]')); // the small ones; what a page loads is kept as it comes
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const worker = /** @type {any} */ (globalThis);

worker.addEventListener("install", (/** @type {any} */ event) => {
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(FILES)));
  worker.skipWaiting();
});

worker.addEventListener("activate", (/** @type {any} */ event) => {
  event.waitUntil(dropOthers().then(() => worker.clients.claim()));
});

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  const { method, url } = event.request;
  if (method === "GET" && new URL(url).origin === worker.location.origin) event.respondWith(answer(event.request));
});

async function dropOthers() {
  const names = await caches.keys();
  await Promise.all(names.filter((name) => name.startsWith("clearcap-") && name !== VERSION).map((name) => caches.delete(name)));
}

/**
 * @param {Request} request
 * @returns {Promise<Response>}
 */
async function answer(request) {
  const cache = await caches.open(VERSION);
  const address = new URL(request.url);
  address.search = "";
  if (address.pathname.endsWith("/")) address.pathname += "index.html";
  let found = await cache.match(address);
  if (!found) {
    found = await fetch(request);
    if (found.ok) await cache.put(address, found.clone());
  }
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(ISOLATED)) headers.set(name, value);
  return new Response(found.body, { status: found.status, statusText: found.statusText, headers });
}
