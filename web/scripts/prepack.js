/** What a package needs beside the code, before `npm pack`: a model, the licence. */

import { copyFileSync, existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(dirname(fileURLToPath(import.meta.url)));
if (!existsSync(join(here, "model", "captioner.json"))) {
  console.error("web/model is empty; write it first: clearcap export default web/model --web");
  process.exit(1);
}
for (const name of ["LICENSE", "NOTICE"]) copyFileSync(join(here, "..", name), join(here, name));
