"""A whole run: photos from anywhere into one file, a folder of shards, or files beside the photos."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from clearcap.bulk.file import Tally, write_captions
from clearcap.bulk.formats import FORMATS, Row, format_of
from clearcap.bulk.journal import read_run
from clearcap.bulk.shards import JOURNALS, begin_shards, end_shards, shard_name
from clearcap.bulk.sidecars import Sidecars
from clearcap.bulk.sources import Item
from clearcap.bulk.wording import Wording
from clearcap.config import LENGTHS, __version__, number, own_names
from clearcap.data.threads import threads
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline, CaptionResult
from clearcap.pipeline.pipeline import cpu_batch

# suffixes that mean a file, of a kind that captions are not written as, and no folder
OTHER_FILES = (
    ".arrow", ".db", ".feather", ".gz", ".html", ".json", ".ndjson", ".npy", ".ods", ".pq", ".sqlite", ".tar", ".tsv",
    ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml", ".zip", ".zst",
)  # fmt: skip
MOST_AT_ONCE = 1024  # photos a batch that ``auto`` tries on a GPU


@dataclass(frozen=True)
class Output:
    """What a run writes.

    Attributes:
        out: a ``.jsonl``, ``.csv`` or ``.parquet`` file, or a folder of such shards; None writes sidecars alone.
        sidecars: kinds of files beside each photo: "txt", "json", "xmp".
        overwrite: whether what is there is replaced.
        skip_existing: whether rows that are there are kept, and those of other photos added.
        shard_size: photos a shard of a folder.
        shard_format: "jsonl", "csv" or "parquet", of the shards.
        wording: what is written of a caption.
        diverse: captions of a photo that are written, unlike each other; 0 is the chosen one.
    """

    out: Path | None = None
    sidecars: tuple[str, ...] = ()
    overwrite: bool = False
    skip_existing: bool = False
    shard_size: int = 10_000
    shard_format: str = "parquet"
    wording: Wording = field(default_factory=Wording)
    diverse: int = 0

    def __post_init__(self) -> None:
        number("shard_size", self.shard_size, int, 1)
        number("diverse", self.diverse, int, 0)
        if self.overwrite and self.skip_existing:
            raise InputError("overwrite and skip_existing exclude each other; pass one")
        if self.out is None and not self.sidecars:
            raise InputError("nothing to write; name a file, a folder, or sidecars")
        Sidecars(self.sidecars)
        if f".{self.shard_format}" not in FORMATS:
            raise InputError(
                f"shard_format={self.shard_format!r}; choose {', '.join(one[1:] for one in FORMATS)}"
            )
        if self.out is None:
            return
        if self.is_folder:
            if self.skip_existing:
                raise InputError(
                    f"{self.out}: a run into a folder keeps whole shards as it is; leave --skip-existing out, "
                    "or write new photos into a folder of their own"
                )
            if self.out.suffix.lower() in OTHER_FILES and not self.out.is_dir():
                raise InputError(
                    f"{self.out}: captions are written as {', '.join(FORMATS)}; choose one of them, or a name without "
                    "suffix for a folder of shards"
                )
            if self.out.is_file():
                raise InputError(f"{self.out} is a file, and no {', '.join(FORMATS)}; choose another name")
        elif self.out.is_dir():
            raise InputError(f"{self.out} is a folder; rename it, or choose a name without suffix for shards")
        suffix = f".{self.shard_format}" if self.is_folder else self.out.suffix
        format_of(Path(f"x{suffix}"))
        if self.diverse and suffix.lower() != ".jsonl":
            raise InputError(f"diverse captions are lists, which {suffix} files do not hold; write .jsonl")

    @property
    def is_folder(self) -> bool:
        """Whether ``out`` is a folder of shards: it has no suffix of a file of captions."""
        return self.out is not None and self.out.suffix.lower() not in FORMATS


@dataclass(frozen=True)
class Sampling:
    """How captions are sampled, as ``CaptionPipeline.stream`` takes it.

    Attributes:
        how: sampling settings.
        seed: same seed, same captions.
        batch_size: photos at once; None is chosen for the device and the number of candidates.
        workers: threads that decode photos; None is one a core.
        at_once: batches captioned at the same time; None is one a core on a CPU.
    """

    how: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int | None = None
    workers: int | None = None
    at_once: int | None = None


@dataclass(frozen=True)
class Summary:
    """What became of a run.

    Attributes:
        photos: seen.
        captions: that are written now.
        failures: photos that could not be captioned.
        found: photos that an earlier run had done.
        batch_size: photos at once.
        seconds: this run took.
    """

    photos: int
    captions: int
    failures: int
    found: int
    batch_size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Photos a second of this run."""
        return (self.photos - self.found) / self.seconds if self.seconds else 0.0


class Run:
    """Captions from photos to files: ``Run(pipeline, Output(Path("captions.jsonl")))(Sources(["photos"]))``."""

    def __init__(
        self,
        pipeline: CaptionPipeline,
        output: Output,
        sampling: Sampling | None = None,
        model: str = "",
    ) -> None:
        """Args:
        pipeline: what captions.
        output: what is written.
        sampling: how captions are sampled.
        model: what the journal calls the model; default is where it was loaded from.

        Raises:
            InputError: settings that cannot be, before any work.
        """
        self.pipeline, self.output, self.sampling = pipeline, output, sampling or Sampling()
        on_cpu = str(pipeline.device) == "cpu"
        cores = os.cpu_count() or 1
        self.workers = self.sampling.workers or min(16, max(4, cores))
        self.at_once = self.sampling.at_once or (threads() if on_cpu else 1)
        self.batch_size = self.sampling.batch_size or self._recorded_batch() or self._best_batch()
        self.sidecars = Sidecars(output.sidecars, output.overwrite)
        run = {
            "clearcap": __version__,
            "model": model or str(pipeline.source),
            "backend": type(pipeline.captioner.denoiser).__name__,
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "sampling": asdict(pipeline.sampling(**self.sampling.how)),
            "length_kept": not LENGTHS.isdisjoint(own_names(self.sampling.how)),
            "seed": self.sampling.seed,
            "batch_size": self.batch_size,
            "wording": asdict(output.wording),
            "diverse": output.diverse,
        }
        if pipeline.memory:
            run["memory"] = pipeline.memory.described()
        self.run: dict[str, Any] = json.loads(json.dumps(run))  # as a journal gives it back

    def __call__(self, sources: Iterable[Item], told: Any = lambda tally, fault: None) -> Summary:
        """Run, or go on.

        Args:
            sources: the photos.
            told: called with a ``Tally`` after each photo, and the fault where it has no caption.

        Raises:
            InputError: what is there is in the way, or cannot be written.
        """
        began = time.perf_counter()
        tally = Tally(told=told)
        items = map(self._checked, sources)
        out = self.output.out
        if out is None:
            self._beside(items, tally)
        elif self.output.is_folder:
            self._shards(out, iter(sources), tally)
        else:
            journal = out.with_name(f"{out.name}.journal")
            how = {"overwrite": self.output.overwrite, "skip_existing": self.output.skip_existing}
            write_captions(out, journal, self.run, items, self.rows, tally, batch=self.batch_size, **how)
        seconds = time.perf_counter() - began
        return Summary(tally.photos, tally.captions, tally.failures, tally.found, self.batch_size, seconds)

    def rows(self, items: Iterable[Item]) -> Iterator[Row | InputError]:
        """A row, or a fault, for each photo; files beside the photo are written before its row is given."""
        taken: deque[Item] = deque()

        def photos() -> Iterator[Any]:
            for item in items:
                taken.append(item)
                yield item.photo

        results = self.pipeline.stream(
            photos(),
            batch_size=self.batch_size,
            seed=self.sampling.seed,
            workers=self.workers,
            at_once=self.at_once,
            **self.sampling.how,
        )
        for result in results:
            item = taken.popleft()
            yield result if isinstance(result, InputError) else self._row(item, result)

    def _row(self, item: Item, result: CaptionResult) -> Row:
        wording = self.output.wording
        texts = result.diverse(self.output.diverse) if self.output.diverse else [result.caption]
        captions = [wording(text, item.name, result.confidence) for text in texts]
        row = result.to_json() | {
            "image": item.name,
            "caption": wording(result.caption, item.name, result.confidence),
        }
        if self.output.diverse:
            row["diverse"] = captions
        if self.sidecars.kinds and item.file is not None:
            self.sidecars.write(item.file, row, captions)
        return row

    def _checked(self, item: Item) -> Item:
        if self.sidecars.kinds and item.file is None and not isinstance(item.photo, InputError):
            fault = f"{item.name} is no file of its own to write beside; leave sidecars out and pass --out"
            return Item(item.name, InputError(fault))
        return item

    def _beside(self, items: Iterator[Item], tally: Tally) -> None:
        def wanted() -> Iterator[Item]:
            for item in items:
                if item.file is not None and not self.sidecars.missing(item.file):
                    tally.add(1, 0, found=True)
                else:
                    yield item

        for result in self.rows(wanted()):
            failed = isinstance(result, InputError)
            tally.add(1, int(failed), fault=result if isinstance(result, InputError) else None)

    def _shards(self, folder: Path, items: Iterator[Item], tally: Tally) -> None:
        begin_shards(folder, self.run, self.output.overwrite)
        shard = 0
        while (first := next(items, None)) is not None:
            rest = islice(items, self.output.shard_size - 1)
            self.write_shard(shard, chain([first], rest), tally)
            shard += 1
        end_shards(folder, shard, self.output.shard_format)

    def write_shard(self, shard: int, items: Iterator[Item], tally: Tally, patience: float = 0.0) -> None:
        """Write one shard of a folder, or go on with it.

        Args:
            shard: its number.
            items: its photos.
            tally: counts them.
            patience: seconds to wait for another process that is writing it.

        Raises:
            InputError: what is there is in the way, or cannot be written.
        """
        folder = self.output.out
        assert folder is not None
        name = shard_name(shard, self.output.shard_format)
        write_captions(
            folder / name,
            folder / JOURNALS / f"{name}.journal",
            self.run | {"shard_size": self.output.shard_size},
            map(self._checked, items),
            self.rows,
            tally,
            batch=self.batch_size,
            patience=patience,
        )

    def _recorded_batch(self) -> int | None:
        """The batch size of the run that is gone on with, whose rows' last digits may depend on it."""
        out = self.output.out
        if out is None or self.sampling.batch_size:
            return None
        journal = out.with_name(f"{out.name}.journal")
        if self.output.is_folder:
            journal = out / JOURNALS / f"{shard_name(0, self.output.shard_format)}.journal"
        recorded = (read_run(journal) or {}).get("batch_size")
        return recorded if isinstance(recorded, int) and recorded > 0 else None

    def _best_batch(self) -> int:
        """Photos at once: 4 to 16 on a CPU; doubled on a GPU while that gains a twentieth, and its memory lasts."""
        if not str(self.pipeline.device).startswith("cuda"):
            return cpu_batch(self.pipeline.sampling(**self.sampling.how).candidates)
        import torch

        size, best = 16, 0.0
        photo = torch.rand(1, 3, self.pipeline.image_size, self.pipeline.image_size)
        while size <= MOST_AT_ONCE:
            pixels = photo.expand(size, -1, -1, -1).to(self.pipeline.device, self.pipeline.dtype)
            try:
                for _ in range(2):  # the first of a shape is slower
                    torch.cuda.synchronize()
                    began = time.perf_counter()
                    sampling = self.pipeline.sampling(**self.sampling.how)
                    self.pipeline.captioner.generate(pixels, sampling=sampling)
                    torch.cuda.synchronize()
                    rate = size / (time.perf_counter() - began)
            except torch.cuda.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            if rate < 1.05 * best:
                break
            best, size = rate, size * 2
        return max(16, size // 2)
