"""Result files against reference files of every layout, and folders of finished evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from clearcap.data import open_corpus
from clearcap.evaluation import evaluate, load_evaluation, read_references, read_results, score_captions
from clearcap.evaluation.files import join
from tests.fuzz import Kind
from tests.fuzz.captions import NAMES, ROWS, SAID
from tests.fuzz.mutating import Rng, changed_json, changed_lines, pick
from tests.fuzz.photos import picture
from tests.tiny_captioner import save_tiny_captioner


class Results(Kind):
    """Either file is changed; what is read is matched and scored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        given = {name: f"a dog runs on {name[9:12]}" for name in NAMES}
        by_id = [{"image_id": int(name[:-4]), "caption": text} for name, text in given.items()]
        images = [{"id": int(name[:-4]), "file_name": name} for name in NAMES]
        notes = [
            {"id": n, "image_id": int(name[:-4]), "caption": text} for n, (name, text) in enumerate(ROWS)
        ]
        karpathy = [
            {
                "filename": name,
                "cocoid": int(name[:-4]),
                "split": "val",
                "sentences": [{"raw": text} for text in SAID[name]],
            }
            for name in NAMES
        ]
        quoted = [(name, text.replace('"', '""')) for name, text in ROWS]
        results = {
            "coco.json": json.dumps(by_id),
            "names.json": json.dumps([{"file_name": n, "caption": t} for n, t in given.items()]),
            "lines.jsonl": "".join(json.dumps(one) + "\n" for one in by_id),
            "table.csv": "image_id,caption\n" + "".join(f"{n},{t}\n" for n, t in given.items()),
        }
        references = {
            "annotations.json": json.dumps({"images": images, "annotations": notes}),
            "karpathy.json": json.dumps({"images": karpathy}),
            "by_photo.json": json.dumps(SAID),
            "lines.jsonl": "".join(json.dumps({"image": n, "captions": t}) + "\n" for n, t in SAID.items()),
            "table.csv": "image,caption\n" + "".join(f'{n},"{t}"\n' for n, t in quoted),
        }
        for place, files in (("results", results), ("references", references)):
            (folder / place).mkdir()
            for name, text in files.items():
                (folder / place / name).write_text(text)
        photos = folder / "photos"
        photos.mkdir()
        for seed, name in enumerate(NAMES):
            picture("RGB", seed).save(photos / name)
        (photos / "captions.jsonl").write_text(references["lines.jsonl"])
        model, self.out = save_tiny_captioner(folder / "model"), folder / "out"
        self.corpus = open_corpus("folder", photos)
        self.how = {"batch_size": 2, "seed": 3, "steps": 2, "out": self.out}
        self.evaluate = lambda: evaluate(model, self.corpus, **self.how)
        self.evaluate()
        self.good = {
            path: path.read_bytes()
            for place in ("results", "references", "out")
            for path in sorted((folder / place).iterdir())
        }

    def restore(self) -> None:
        for path, data in self.good.items():
            path.write_bytes(data)

    def case(self, rng: Rng) -> tuple[str, Callable[[], str]]:
        place = pick(rng, ("results", "results", "references", "references", "out"))
        path = pick(rng, [path for path in self.good if path.parent.name == place])
        change = changed_json if path.suffix == ".json" else changed_lines
        about, new = change(rng, self.good[path])

        def work() -> str:
            path.write_bytes(new)
            try:
                return self._read(path, rng)
            finally:
                self.restore()

        return f"{place}/{path.name} {about}", work

    def _read(self, path: Path, rng: Rng) -> str:
        if path.parent == self.out:
            if rng.random() < 0.5:
                load_evaluation(self.out).to_json()
            else:
                self.evaluate()
            return "scores"
        files = {
            place: pick(rng, [one for one in self.good if one.parent.name == place])
            for place in ("results", "references")
        } | {path.parent.name: path}
        found, known = read_results(files["results"]), read_references(files["references"])
        held = join(found, known, subset=bool(rng.random() < 0.5))
        score_captions(*held)
        return "scores"
