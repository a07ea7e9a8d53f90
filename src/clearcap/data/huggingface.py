"""A Hugging Face data set, by name or saved to disk."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearcap.data.images import PhotoFile, PhotoSource, Stream
from clearcap.data.records import Corpus, CorpusReader, Listed, Strictness, choose_split, verified
from clearcap.errors import InputError

IMAGE_COLUMNS = ("image", "img", "photo", "jpg", "image_path", "file_name")
_CAPTION_COLUMNS = ("captions", "caption", "sentences", "sentence", "raw", "alt_text", "text")
_ID_COLUMNS = ("image_id", "img_id", "cocoid", "imgid", "id", "filename", "file_name")


@dataclass(frozen=True, eq=False)
class TableCell(PhotoSource):
    """The encoded photo in one row of a data set's image column."""

    table: Any  # a datasets.Dataset of this one column, not decoded
    row: int
    label: str

    @property
    def name(self) -> str:
        """The column and the row."""
        return f"{self.label} row {self.row}"

    def stream(self) -> Stream:
        """The photo's bytes, or its file. Raises InputError where the row holds none."""
        (cell,) = self.table[self.row].values()
        if isinstance(cell, Mapping) and cell.get("bytes"):
            return io.BytesIO(cell["bytes"])
        path = cell.get("path") if isinstance(cell, Mapping) else cell
        if not path:
            raise InputError(f"{self.name} holds no photo; leave the row out")
        return PhotoFile(Path(path)).stream()


def read_huggingface(
    root: Path,
    split: str,
    strictness: Strictness,
    *,
    config: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    id_column: str | None = None,
) -> Corpus:
    """A data set from the Hugging Face hub or from disk (extra `data`: the `datasets` library).

    Args:
        root: a folder written by `save_to_disk`, a folder or name `load_dataset` understands.
        split: as the data set calls it.
        strictness: what is expected and where problems go.
        config: the data set's configuration, where it has several.
        image_column: holds the photo (or its path); by default image, img, photo ...
        caption_column: one caption, a list of them, or the beginning of columns numbered caption_0, caption_1
            ...; by default captions, caption, sentences ...
        id_column: by default image_id, img_id ..., or else the row number. Rows that share an id are one
            photo where each row has one caption.
    """
    data = _load(root, split, config)
    title = root.as_posix()
    columns = list(data.column_names)
    image = find_column("image", image_column, IMAGE_COLUMNS, columns, title)
    captions = _caption_columns(caption_column, columns, title)
    id = find_column("id", id_column, _ID_COLUMNS, [c for c in columns if c != image], title, needed=False)
    listed = _listed(data, title, image, captions, id)
    return verified("huggingface", split, listed, strictness)


def _load(root: Path, split: str, config: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "Hugging Face data sets need the datasets library; pip install 'clearcap[data]'"
        ) from error
    saved = (root / "dataset_info.json").is_file() or (root / "dataset_dict.json").is_file()
    try:
        if not saved:
            name = str(root) if root.exists() else root.as_posix()
            return datasets.load_dataset(name, config, split=split)
        data = datasets.load_from_disk(str(root))
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        fault = " ".join(str(error).split())
        raise InputError(
            f"{root}: split {split!r} cannot be loaded ({fault}); check name and split"
        ) from error
    if isinstance(data, datasets.DatasetDict):
        return data[choose_split(str(root), split, list(data))]
    own = str(data.split) if data.split is not None else "all"
    if split not in (own, "all"):
        raise InputError(f"{root} holds the split {own!r}, not {split!r}; ask for that or for 'all'")
    return data


def _listed(data: Any, title: str, image: str, captions: list[str], id: str | None) -> list[Listed]:
    import datasets

    images = data.select_columns([image])
    if isinstance(data.features[image], datasets.Image):
        images = images.cast_column(image, datasets.Image(decode=False))
    ids = [str(value) for value in data[id]] if id else [str(row) for row in range(len(data))]
    alone: dict[str, list[str]] = {}  # captions of rows that have one each, by photo
    listed = []
    for row, (name, record) in enumerate(zip(ids, data.select_columns(captions), strict=True)):
        values = [record[column] for column in captions]
        found: Any = _flattened(values[0]) if len(values) == 1 else values
        if len(values) == 1 and isinstance(values[0], str):
            if name in alone:
                alone[name].append(values[0])
                continue
            found = alone[name] = [values[0]]
        listed.append(Listed(name, TableCell(images, row, title), found, f"{title} row {row}"))
    return listed


def _flattened(value: object) -> object:
    """A caption as a list of one; sentence objects, as in Karpathy's files, as their raw text."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [one["raw"] if isinstance(one, Mapping) and "raw" in one else one for one in value]
    return value


def _caption_columns(given: str | None, columns: Sequence[str], title: str) -> list[str]:
    prefix = given or "caption"
    numbered = [column for column in columns if re.fullmatch(rf"{re.escape(prefix)}_?\d+", column)]
    if numbered and prefix not in columns:
        return sorted(numbered, key=lambda column: int(re.findall(r"\d+$", column)[0]))
    return [find_column("caption", given, _CAPTION_COLUMNS, columns, title)]


def find_column(
    what: str,
    given: str | None,
    usual: Sequence[str],
    columns: Sequence[str],
    title: str,
    needed: bool = True,
) -> Any:
    """The column of a table that holds what is wanted: the one given, or the first of the usual. Raises InputError."""
    wanted = [given] if given else usual
    column = next((name for name in wanted if name in columns), None)
    if column is None and (needed or given):
        raise InputError(f"{title} has the columns {', '.join(columns)}; name one with {what}_column=")
    return column


HUGGINGFACE = CorpusReader(read_huggingface, ("train",))
