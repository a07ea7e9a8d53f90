"""What evaluations of a split share: a captioner, the photos, and a folder that a killed run goes on in."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Hashable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxtyping import Float

from clearcap.captioner.folder import find_folder, weight_files
from clearcap.captioner.onnx import GRAPHS, graph_file, is_exported
from clearcap.config import asks_for_length
from clearcap.data.reading import member, read_json
from clearcap.data.records import Corpus
from clearcap.data.threads import set_threads, threads
from clearcap.data.writing import whole_file, write_json
from clearcap.errors import InputError
from clearcap.evaluation.journal import Journal, Kind
from clearcap.pipeline import CaptionPipeline
from clearcap.pipeline.memory import Memory
from clearcap.pipeline.pipeline import checked_seed

Progress = Callable[[int, int, str], None]
"""(work done, work in all, what is going on)."""
_TAKEN_OVER = ("model",)  # the same weights under another path are the same model


class Session:
    """A captioner that is evaluated on a split, computing with as many threads as the folder was begun with.

    Attributes:
        pipeline: the captioner, loaded as the command line does.
        sampling: how it is sampled from.
        kept_lengths: whether that asks for captions of a length, which is kept to the word as by a pipeline.
        photos: of the split.
        references: photo -> references.
    """

    def __init__(
        self,
        model: str | Path | None,
        corpus: Corpus,
        *,
        out: str | Path | None,
        limit: int | None,
        batch_size: int,
        how: dict[str, Any],
        in_torch: bool = False,
        clip: str | Path | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Load the captioner.

        Args:
            model: folder or hub name; None or "default" is the bundled model.
            corpus: the split.
            out: folder for what is found; None keeps nothing.
            limit: only the first photos of the split.
            batch_size: photos at once.
            how: fields of ``SamplingConfig`` that differ from the model's own.
            in_torch: whether the captioner must be torch's where it has weights for that.
            clip: folder or hub name of a CLIP or scorer that candidates may be chosen by.
            memory: captioned photos that help.

        Raises:
            InputError: no such model or setting, or no photo.
        """
        if limit is not None and limit < 1:
            raise InputError(f"limit={limit} leaves no photo to score; pass at least 1")
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be at least 1")
        self.photos = list(corpus.photos[:limit])
        self.references = {photo.id: photo.captions for photo in self.photos}
        self.batch_size = batch_size
        backend = (
            "prepacked" if in_torch and not is_exported(find_folder(str(model or "default"))) else "fast"
        )
        self.pipeline = CaptionPipeline.from_pretrained(model, backend=backend, clip=clip, memory=memory)
        self.sampling = self.pipeline.sampling(**how)
        self.kept_lengths = asks_for_length(how)
        self._model, self._corpus = model, corpus
        self._folder = None if out is None else Path(out)
        self._threads = threads()

    def __enter__(self) -> Session:
        set_threads(self._begun_with())
        return self

    def __exit__(self, *error: object) -> None:
        set_threads(self._threads)

    def _begun_with(self) -> int:
        """Threads of the run that began in this folder, on which last digits depend; without one, as they are."""
        path = self.file("manifest.json")
        if path is None or not path.is_file():
            return self._threads
        return int(member(read_json(path, "choose another folder"), "threads", int, str(path)))

    def claim(self, **settings: Any) -> dict[str, Any]:
        """Make the folder of this evaluation, or find that it is the folder of this one already.

        Args:
            settings: what the manifest says besides the model, the photos, and where it ran.

        Returns:
            The manifest to go by: the one in the folder, where there is one.

        Raises:
            InputError: it holds another evaluation, or files of something else.
        """
        if "seed" in settings:
            checked_seed(settings["seed"])
        libraries = ("clearcap", *self.pipeline.captioner.libraries, "pillow", "numpy")
        texts = json.dumps([[photo, list(captions)] for photo, captions in self.references.items()])
        manifest = {
            "model": str(self._model or "default"),
            "model_sha256": weights_digest(self._model),
            "corpus": self._corpus.name,
            "split": self._corpus.split,
            "photos": len(self.photos),
            "references": sum(len(captions) for captions in self.references.values()),
            "references_sha256": hashlib.sha256(texts.encode()).hexdigest(),
            **settings,
            "device": str(self.pipeline.device).partition(":")[0],
            "threads": threads(),
            "versions": {name: version(name) for name in libraries},
        }
        return manifest if self._folder is None else _claimed(self._folder, manifest)

    def file(self, name: str) -> Path | None:
        """A file of the folder."""
        return None if self._folder is None else self._folder / name

    def journal(self, name: str, kind: type[Kind], keys: Sequence[Hashable], batch: int = 1) -> Journal[Kind]:
        """Records in a file of the folder; arguments and errors as for `Journal`."""
        return Journal(self.file(name), kind, keys, batch)

    def save(self, value: Any, name: str) -> None:
        """Write JSON into the folder."""
        if self._folder is not None:
            write_json(self._folder / name, value)

    def tokens(
        self, progress: Callable[[int], None], batch_size: int | None = None, kept_in: Path | None = None
    ) -> tuple[Float[Any, "photos tokens dim"], float]:
        """Image tokens of the photos, from the folder where they are kept already.

        Args:
            progress: told how many photos each batch added.
            batch_size: photos at once; by default the session's.
            kept_in: the file, where evaluations of captioners that share an image encoder share it.

        Returns:
            Tokens and the milliseconds a photo took, decoding included.

        Raises:
            InputError: a photo cannot be read, or the file is another's.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file, save_file

        file, captioner = kept_in or self.file("tokens.safetensors"), self.pipeline.captioner
        if file is not None and file.is_file():
            try:
                kept = load_file(file)
                tokens, ms = kept["tokens"], float(kept["ms"])
            except (SafetensorError, KeyError) as error:
                raise InputError(f"{file} cannot be read ({error}); delete it to encode again") from error
            if len(tokens) != len(self.photos):
                raise InputError(
                    f"{file} holds {len(tokens)} photos, not {len(self.photos)}; choose another folder"
                )
            progress(len(self.photos))
            return captioner.asarray(tokens, captioner.dtype), ms
        started = time.perf_counter()
        images = (photo.image for photo in self.photos)
        tokens = self.pipeline.encode_all(images, batch_size=batch_size or self.batch_size, progress=progress)
        ms = 1000 * (time.perf_counter() - started) / len(self.photos)
        if file is not None:
            with whole_file(file) as fresh:
                save_file({"tokens": torch.as_tensor(tokens).float().cpu(), "ms": torch.tensor(ms)}, fresh)
        return tokens, ms


class Tally:
    """Adds up work and tells it on."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, work: int, what: str) -> None:
        """So much more of it is done."""
        self._done += work
        self._progress(self._done, self._total, what)


def _claimed(out: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    path = out / "manifest.json"
    if path.is_file():
        held = read_json(path, "choose another folder")
        for key in [*manifest, *held]:
            if key not in _TAKEN_OVER and held.get(key) != manifest.get(key):
                was, now = _difference(held.get(key), manifest.get(key))
                raise InputError(
                    f"{out} holds an evaluation with {key} {was}, not {now}; choose another folder or delete it"
                )
        return {**manifest, **{key: held[key] for key in _TAKEN_OVER if key in held}}
    if (out / "captions.jsonl").exists():
        raise InputError(f"{out} holds captions.jsonl without manifest.json; choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, manifest)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder") from error
    return manifest


def _difference(held: Any, wanted: Any) -> tuple[str, str]:
    if isinstance(held, dict) and isinstance(wanted, dict):
        keys = [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]
        held, wanted = ({key: side.get(key) for key in keys} for side in (held, wanted))
    return json.dumps(held), json.dumps(wanted)


def weights_digest(model: str | Path | None) -> str:
    """SHA-256 of a model's model.safetensors, as sha256sum prints it, or of its graphs one after another.

    Raises:
        InputError: the model has neither.
    """
    folder = find_folder(str(model or "default"))
    files = [graph_file(folder, graph) for graph in GRAPHS] if is_exported(folder) else weight_files(folder)
    try:
        return hashlib.sha256(b"".join(one.read_bytes() for one in files)).hexdigest()
    except OSError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); fetch the model again"
        ) from error
