"""Captions of photos that are not here, as a corpus: text_captions.py DATA OUT

DATA/text holds files of lines {"photo": ..., "captions": [...]}; DATA/coco/keep_out.txt names photos of COCO whose
captions nothing is trained on, so they are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

data, out = map(Path, sys.argv[1:])
kept_out = {int(name) for name in (data / "coco" / "keep_out.txt").read_text().split()}
out.mkdir(parents=True, exist_ok=True)
written = 0
with (out / "captions.new").open("w") as lines:
    for file in sorted((data / "text").glob("*_en.jsonl")):
        for line in map(json.loads, file.open()):
            if file.name.startswith("coco") and int(line["photo"]) in kept_out:
                continue
            lines.write(
                json.dumps({"file_name": f"{line['photo']}.jpg", "captions": line["captions"]}) + "\n"
            )
            written += 1
(out / "captions.new").rename(out / "captions.jsonl")
print(f"captions of {written} photos")
