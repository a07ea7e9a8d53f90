"""``python -m docs.site``: put the pages together, run their code, build the site, check its links."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from docs.site.building import assemble, broken, finish

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Build the site; exit status 1 with every fault in one line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "site", help="folder of the static files"
    )
    parser.add_argument("--run", default="*", help="pages whose code is run, a glob; '' none")
    asked = parser.parse_args()
    source = asked.out.parent / f"{asked.out.name}-source"
    for folder in (source, asked.out):
        shutil.rmtree(folder, ignore_errors=True)
    linked = assemble(source, run=asked.run, told=lambda line: print(f"running {line}", flush=True))
    options = ["-b", "html", "--fail-on-warning", "--keep-going", "--quiet", "-d", str(source) + "-trees"]
    done = subprocess.run([sys.executable, "-m", "sphinx", *options, str(source), str(asked.out)], cwd=ROOT)
    if done.returncode:
        return done.returncode
    finish(asked.out, linked)
    faults = broken(asked.out)
    print(*faults, sep="\n", end="\n" if faults else "")
    pages = sum(1 for _ in asked.out.rglob("*.html"))
    print(f"{asked.out}: {pages} pages, {len(faults)} dead links")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
