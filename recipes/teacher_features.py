"""The targets of a distillation as an image-feature cache: python recipes/teacher_features.py TARGETS FEATURES

So a denoiser can be trained on the teacher's own features while the encoder is still learning to predict them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from clearcap.training.encoder.targets import TargetStore


def main(targets: Path, features: Path) -> None:
    """Write ``features``, in the layout of ``clearcap.data.features``."""
    store = TargetStore(targets)
    features.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(
        targets / "tokens.npy", features / "tokens.npy"
    )  # the same array [views, photos, tokens, dim]
    about = {"photos": [photo.name for photo in store.photos], "source": store.teacher}
    (features / "index.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
