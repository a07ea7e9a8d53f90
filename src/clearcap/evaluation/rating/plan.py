"""What is rated: photos with the captions of several systems, in an order that tells nobody whose they are."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clearcap.config import number
from clearcap.data.reading import as_kind, member, read_json
from clearcap.data.records import CaptionedPhoto
from clearcap.data.writing import make_folder, whole_file, write_json
from clearcap.errors import InputError
from clearcap.evaluation.files import join, read_results

SCALES = ("fluency", "accuracy", "conciseness")
"""What LaDiC's Table 2 asks of people, each from 1 (bad) to 5 (good)."""
POINTS = range(1, 6)
SIDE = 800  # pixels of a photo's longer side on the page, at most
PLAN = "plan.json"


@dataclass(frozen=True)
class Item:
    """One caption of one photo; systems that say the same share it.

    Attributes:
        photo: place of the photo.
        caption: what is shown.
        systems: who wrote it.
    """

    photo: int
    caption: str
    systems: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A rating.

    Attributes:
        systems: names, in the order of the report.
        photos: ids.
        items: captions, by photo.
        seed: of every order.
    """

    systems: tuple[str, ...]
    photos: tuple[str, ...]
    items: tuple[Item, ...]
    seed: int

    def shown_to(self, rater: str) -> list[tuple[int, list[int]]]:
        """Photos with their items' numbers, in an order of the rater's own, always the same."""
        chance = random.Random(f"{self.seed} {rater}")
        shown = [
            (photo, [n for n, item in enumerate(self.items) if item.photo == photo])
            for photo in range(len(self.photos))
        ]
        chance.shuffle(shown)
        for _, items in shown:
            chance.shuffle(items)
        return shown


def make_plan(
    photos: Sequence[CaptionedPhoto], results: Mapping[str, Path], out: Path, *, count: int, seed: int
) -> Plan:
    """Choose photos that every system captions, copy them to ``out/photos``, and write ``out/plan.json``.

    Args:
        photos: of the corpus.
        results: system -> its result file, in any layout that ``clearcap score`` reads.
        out: folder of the rating.
        count: photos; fewer where fewer are captioned by all.
        seed: of the choice and of every order.

    Raises:
        InputError: fewer than two systems, a file that cannot be read, or no photo that all caption.
    """
    if len(results) < 2:
        raise InputError(f"{len(results)} systems leave nothing to compare; pass --system NAME=FILE for each")
    count, seed = int(number("photos", count, int, 1)), int(number("seed", seed, int, 0))
    references = {photo.id: photo.captions for photo in photos}
    said = {
        name: join(read_results(path), references, names=(str(path), "the corpus"), subset=True)[0]
        for name, path in results.items()
    }
    common = [photo for photo in photos if all(photo.id in one for one in said.values())]
    if not common:
        raise InputError(f"{', '.join(said)} caption no photo in common; pass result files of one split")
    chosen = random.Random(seed).sample(common, min(count, len(common)))
    items: list[Item] = []
    for place, photo in enumerate(chosen):
        by_caption: dict[str, list[str]] = {}
        for name, captions in said.items():
            by_caption.setdefault(captions[photo.id].strip(), []).append(name)
        items += [Item(place, caption, tuple(names)) for caption, names in by_caption.items()]
    random.Random(f"{seed} items").shuffle(items)  # so that no number on the page tells whose it is
    plan = Plan(tuple(said), tuple(photo.id for photo in chosen), tuple(items), seed)
    make_folder(out / "photos")
    for place, photo in enumerate(chosen):
        picture = photo.image.open()
        picture.thumbnail((SIDE, SIDE))
        with whole_file(photo_file(out, place)) as fresh:
            picture.save(fresh, quality=90)
    write_json(out / PLAN, asdict(plan))
    return plan


def open_plan(out: Path) -> Plan:
    """The plan of a folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path, remedy = (
        out / PLAN,
        "begin a rating there: clearcap rate --data ... --system NAME=FILE ... --out DIR",
    )
    found = as_kind(read_json(path, remedy), dict, str(path))
    names = as_kind(member(found, "systems", list, str(path)), list, str(path))
    items = [
        Item(
            int(member(one, "photo", int, str(path))),
            str(member(one, "caption", str, str(path))),
            tuple(member(one, "systems", list, str(path))),
        )
        for one in member(found, "items", list, str(path))
    ]
    photos = tuple(map(str, member(found, "photos", list, str(path))))
    return Plan(tuple(names), photos, tuple(items), int(member(found, "seed", int, str(path))))


def photo_file(out: Path, photo: int) -> Path:
    """A photo of the plan."""
    return out / "photos" / f"{photo}.jpg"
