/**
 * Puts the page together: `node scripts/site.js MODEL OUT`.
 *
 * MODEL is a folder that `clearcap export --web` wrote; OUT can be served by any static server.
 */

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(dirname(fileURLToPath(import.meta.url)));
const ORT = ["ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"];
const PYTHON = process.env.PYTHON ?? "python3"; // whose standard library writes xz, as Node's does not
const XZ = "import lzma, sys; sys.stdout.buffer.write(lzma.compress(sys.stdin.buffer.read(), preset=9 | lzma.PRESET_EXTREME))";
const LARGE = 1_000_000; // bytes; larger files are kept by the service worker when a page loads them

/**
 * @param {string} folder
 * @returns {string[]} - every file in it
 */
function filesOf(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .sort();
}

/**
 * @param {string} model
 * @param {string} out
 */
export function site(model, out) {
  rmSync(out, { recursive: true, force: true });
  mkdirSync(join(out, "ort"), { recursive: true });
  for (const name of ["page", "src"]) cpSync(join(HERE, name), name === "page" ? out : join(out, name), { recursive: true });
  cpSync(model, join(out, "model"), { recursive: true });
  const runtime = dirname(createRequire(import.meta.url).resolve("onnxruntime-web/wasm"));
  cpSync(join(runtime, ORT[0]), join(out, "ort", ORT[0]));
  const wasm = readFileSync(join(runtime, ORT[1]));
  writeFileSync(join(out, "ort", `${ORT[1]}.xz`), execFileSync(PYTHON, ["-c", XZ], { input: wasm, maxBuffer: wasm.length }));
  const xz = createRequire(import.meta.url).resolve("xz-decompress");
  cpSync(xz.replace(/\.js$/, ".min.js"), join(out, "ort", "xz-decompress.min.js"));

  const large = (/** @type {string} */ name) => /^(model|ort)\/.*\.(gz|xz)$/.test(name);
  const sizes = filesOf(out).filter(large).map((name) => statSync(join(out, name)).size);
  const about = join(out, "model", "captioner.json");
  const loads = sizes.reduce((sum, size) => sum + size, statSync(about).size);
  writeFileSync(about, JSON.stringify({ ...JSON.parse(readFileSync(about, "utf8")), loads }));

  const digest = createHash("sha256");
  for (const name of filesOf(out)) digest.update(name).update(readFileSync(join(out, name)));
  const small = filesOf(out).filter((name) => name !== "sw.js" && statSync(join(out, name)).size < LARGE && !large(name));
  const worker = readFileSync(join(out, "sw.js"), "utf8")
    .replace("$VERSION", `clearcap-${digest.digest("hex").slice(0, 16)}`)
    .replace('["$FILES"]', JSON.stringify(small));
  writeFileSync(join(out, "sw.js"), worker);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [model, out] = process.argv.slice(2);
  if (!model || !out) {
    console.error("node scripts/site.js MODEL OUT");
    process.exit(2);
  }
  site(model, out);
}
