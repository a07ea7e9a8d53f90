"""Record what the bundled models say, or compare with a recording made on this machine before."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clearcap.captioner.folder import BUNDLED, bundled_folder
from clearcap.captioner.onnx.export import add_graphs
from tests.recording import COMMITTED, committed, record


def one_line_each(found: dict[str, Any]) -> str:
    """The committed recording as JSON, each of its captions' entries a line."""
    said = ",\n ".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in found["said"].items())
    head = ",\n ".join(f"{json.dumps(name)}: {json.dumps(found[name])}" for name in ("processor", "losses"))
    return f'{{{head},\n "said": {{\n {said}\n }}\n}}\n'


def main() -> int:
    """Exit status 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write")
    parser.add_argument("--against", type=Path, help="recording to compare with, bit for bit")
    parser.add_argument(
        "--commit",
        action="store_true",
        help="write the graphs of all bundled weights and the committed recording, and nothing else",
    )
    asked = parser.parse_args()
    if asked.commit:
        for model in BUNDLED:
            add_graphs(bundled_folder(model))
        COMMITTED.write_text(one_line_each(committed()))
        return 0
    found = record()
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if not asked.against:
        return 0
    before = json.loads(asked.against.read_text())
    differing = [name for name in before if before[name] != found.get(name)]
    for name in differing:
        print(f"{name}: {before[name]} became {found.get(name)}")
    print(f"{len(before) - len(differing)} of {len(before)} recordings replayed bit for bit")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
