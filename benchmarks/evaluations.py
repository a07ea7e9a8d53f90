"""Quality and time of finished evaluations, read from their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearcap.data.reading import as_kind, member, read_json
from clearcap.evaluation.files import number


@dataclass(frozen=True)
class Quality:
    """An evaluation.

    Attributes:
        name: the folder's.
        label: steps, guidance, candidates and the like.
        cider: CIDEr-D of the corpus, with its 95% interval from ``low`` to ``high``.
        seconds: per photo, reading included, in the run that evaluated it.
    """

    name: str
    label: str
    cider: float
    low: float
    high: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "label": self.label,
            "CIDEr-D": self.cider,
            "interval": [self.low, self.high],
            "seconds": self.seconds,
        }


def read_quality(folder: Path) -> Quality:
    """What ``clearcap evaluate --out`` wrote in a folder, not scored again.

    Raises:
        InputError: the folder holds no finished evaluation, or one without CIDEr-D.
    """
    file, clock = folder / "evaluation.json", folder / "timing.json"
    remedy = "name the folder of a finished clearcap evaluate --out"
    found, timing = (as_kind(read_json(path, remedy), dict, str(path)) for path in (file, clock))
    manifest = member(found, "manifest", dict, str(file))
    low, high = member(member(found, "intervals", dict, str(file)), "CIDEr-D", list, str(file))
    refine = int(member(manifest, "sampling", dict, str(file)).get("refine", 0))
    candidates = int(number(manifest, "candidates", str(file)))
    parts = [f"{int(number(manifest, 'steps', str(file)))} steps"]
    parts += [f"guidance {manifest['guidance']:g}"] if manifest.get("guidance") else []
    parts += ["Back&Refine"] if refine else []
    parts += [f"MBR of {candidates}"] if candidates > 1 else []
    return Quality(
        folder.name,
        ", ".join(parts),
        number(found, "CIDEr-D", str(file)),
        float(low),
        float(high),
        number(timing, "seconds", str(clock)) / number(timing, "photos", str(clock)),
    )
