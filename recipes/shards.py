"""A captioner's weights in files of a limited size, as transformers splits them: shards.py MODEL OUT [15MB]"""

from __future__ import annotations

import sys
from pathlib import Path

from clearcap.captioner.model import Captioner

model, out, *size = sys.argv[1:]
Captioner.from_pretrained(model).save_pretrained(Path(out), max_shard_size=size[0] if size else "15MB")
