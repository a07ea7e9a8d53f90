#!/usr/bin/env bash
# The pictures of the README and the docs, made anew with the bundled model: bash recipes/pictures.sh
# With SHARED=FOLDER also a contact sheet of Flickr8k's dev split, the highest and the lowest CIDEr-D (in results/, for
# its photos may not be published). PYTHON is the interpreter; the page's picture needs the extra demo, playwright and chromium.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
photo=$("$PYTHON" -c 'import matplotlib; print(matplotlib.get_data_path())')/sample_data/grace_hopper.jpg

"$PYTHON" recipes/three.py docs/three.jpg
"$PYTHON" -m clearcap watch "$photo" --steps 10 --noise --out docs/watch.gif
"$PYTHON" -m clearcap watch "$photo" --attention docs/attention.png
if [ -n "${SHARED:-}" ]; then
    "$PYTHON" -m clearcap evaluate --data "flickr8k:$SHARED/data/flickr8k:dev" --report results/dev
    echo "results/dev: the report, its contact sheet beside it"
fi
"$PYTHON" -m benchmarks.demo --picture docs/demo.png
