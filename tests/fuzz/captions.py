"""Corpora of every layout, and lists of names and captions; a file of one is changed, and all of it is read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clearcap.data import expand, open_spec
from clearcap.data.check import check
from clearcap.data.stats import statistics
from clearcap.errors import InputError
from clearcap.text.tokenizer import clean_caption
from clearcap.training.encoder.objective import read_captions
from clearcap.training.examples import read_teacher_captions
from tests.fuzz import Kind
from tests.fuzz.mutating import Rng, changed_json, changed_lines, mutated, pick
from tests.fuzz.photos import picture

NAMES = [f"{number:012}.jpg" for number in (9, 25, 30, 74)]
SAID = {name: [f"a dog , {name[9:12]}", 'the "dog" runs'] for name in NAMES}
ROWS = [(name, text) for name, texts in SAID.items() for text in texts]


class Captions(Kind):
    """Folders as the corpora are published, of four photos."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.specs = write_layouts(folder)
        for root in {spec.split(":")[1] for spec in self.specs if not spec.startswith("webdataset")}:
            for name in NAMES:
                for place in ("Images", "", "val2014", "train2014", "images"):
                    (Path(root) / place).mkdir(exist_ok=True)
                    picture("RGB", 1).save(Path(root) / place / name)
        self.good = {
            path: path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix not in (".jpg", ".png")
        }

    def restore(self) -> None:
        for path, data in self.good.items():
            path.write_bytes(data)

    def case(self, rng: Rng) -> tuple[str, Callable[[], str]]:
        root = pick(rng, sorted({path.parent for path in self.good}))
        path = pick(rng, [path for path in self.good if path.parent == root])
        data = self.good[path]
        if path.suffix == ".tar":
            about, new = mutated(rng, data)
        elif path.suffix == ".json":
            about, new = changed_json(rng, data)
        else:
            about, new = changed_lines(rng, data)
        specs = [spec for spec in self.specs if Path(spec.split(":")[1]) in (root, path)]

        def work() -> str:
            path.write_bytes(new)
            try:
                return self._read(path, specs, rng)
            finally:
                path.write_bytes(data)

        return f"{path.relative_to(self.folder)} {about}", work

    def _read(self, path: Path, specs: list[str], rng: Rng) -> str:
        if path.name == "list.txt":
            for entry in expand([f"@{path}"]):
                if isinstance(entry, InputError):
                    raise entry
            return "names"
        if path.name == "teacher.jsonl":
            read_teacher_captions(path)
            return "captions"
        if path.name == "words.csv":
            read_captions(path)
            return "captions"
        spec = pick(rng, specs)
        if rng.random() < 0.3:
            name, place, _ = spec.split(":")
            for line in check(name, place, expected=None, workers=1).lines():
                assert len(line.splitlines()) == 1, line
        corpus = open_spec(spec, expected=None, missing=pick(rng, ("error", "skip", "keep")))
        for photo in corpus:
            for caption in photo.captions:
                clean_caption(caption)
        statistics(corpus)
        return "captions"


def write_layouts(folder: Path) -> list[str]:
    """A folder for every layout; returns the corpora as NAME:ROOT:SPLIT."""
    table = "image,caption\n" + "".join(f'{n},"{t.replace(chr(34), chr(34) * 2)}"\n' for n, t in ROWS)
    splits = {"train": NAMES[:2], "dev": NAMES[2:3], "test": NAMES[3:]}
    lists = {f"Flickr_8k.{split}Images.txt": "\n".join(names) + "\n" for split, names in splits.items()}
    images = [{"id": int(name[:-4]), "file_name": name} for name in NAMES]
    notes = [{"id": n, "image_id": int(name[:-4]), "caption": text} for n, (name, text) in enumerate(ROWS)]
    sentences = {name: [{"raw": text, "tokens": text.split()} for text in SAID[name]] for name in NAMES}
    karpathy = [
        {
            "filename": name,
            "imgid": number,
            "cocoid": int(name[:-4]),
            "filepath": "val2014",
            "split": ("train", "train", "val", "test")[number],
            "sentences": sentences[name],
        }
        for number, name in enumerate(NAMES)
    ]
    plain = [{k: v for k, v in one.items() if k not in ("cocoid", "filepath")} for one in karpathy]
    nocaps = [{**image, "domain": "in-domain"} for image in images]
    lines = [{"image": name, "captions": texts, "split": "train"} for name, texts in SAID.items()]
    files: dict[str, dict[str, Any]] = {
        "flickr8k": {"captions.txt": table, **lists},
        "flickr8k-text": {
            "Flickr8k.token.txt": "".join(f"{n}#0\t{t}\n" for n, t in ROWS[::2]),
            **lists,
        },
        "flickr30k": {"dataset_flickr30k.json": {"images": plain, "dataset": "flickr30k"}},
        "flickr30k-csv": {
            "results.csv": "image_name| comment_number| comment\n"
            + "".join(f"{n}| 0| {t}\n" for n, t in ROWS)
        },
        "coco-karpathy": {"dataset_coco.json": {"images": karpathy, "dataset": "coco"}},
        "coco": {"captions_val2017.json": {"images": images, "annotations": notes}},
        "nocaps": {"nocaps_val_4500_captions.json": {"images": nocaps, "annotations": notes}},
        "stanford-paragraphs": {
            "paragraphs_v1.json": [
                {"image_id": 9, "paragraph": "a dog ."},
                {"image_id": 25, "paragraph": "b"},
            ],
            "train_split.json": [9],
            "val_split.json": [25],
            "test_split.json": [],
        },
        "folder-lines": {"captions.jsonl": "".join(json.dumps(line) + "\n" for line in lines)},
        "folder-meta": {
            "metadata.jsonl": "".join(json.dumps({"file_name": n, "text": t}) + "\n" for n, t in ROWS)
        },
        "folder-table": {"metadata.csv": table.replace("image,caption", "file_name,text")},
        "folder-texts": {name[:-3] + "txt": "\n".join(texts) for name, texts in SAID.items()},
        "lists": {
            "list.txt": "".join(f"{folder}/coco/{name}\n" for name in NAMES),
            "teacher.jsonl": "".join(json.dumps({"photo": n, "captions": t}) + "\n" for n, t in SAID.items()),
            "words.csv": table,
        },
    }
    found = []
    for place, held in files.items():
        root = folder / place
        root.mkdir()
        for name, content in held.items():
            (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
        if place != "lists":
            name = place if place in ("coco-karpathy", "stanford-paragraphs") else place.partition("-")[0]
            found.append(f"{name}:{root}:{SPLITS.get(name, 'all')}")
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "a.tar", "w") as tar:
        photo = io.BytesIO()
        picture("RGB", 1).save(photo, "JPEG")
        for name, data in (
            ("a.jpg", photo.getvalue()),
            ("a.json", json.dumps({"captions": ["a dog"]}).encode()),
            ("b.jpg", photo.getvalue()),
            ("b.txt", b"a cat\ntwo cats"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return [*found, f"webdataset:{folder / 'shards' / 'a.tar'}:all", f"webdataset:{folder / 'shards'}:all"]


SPLITS = {
    "flickr8k": "train",
    "coco-karpathy": "train",
    "coco": "val2017",
    "nocaps": "val",
    "stanford-paragraphs": "train",
}
