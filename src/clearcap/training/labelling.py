"""Captions of photos by a captioner of transformers, as a folder that a captioner of one's own is trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from clearcap.config import number
from clearcap.data.images import open_image
from clearcap.data.paths import Entry
from clearcap.data.reading import member, read_json, read_jsonl
from clearcap.data.writing import make_folder, whole_lines, write_json
from clearcap.errors import InputError
from clearcap.training.checkpoint import check_settings

CAPTIONS, SETTINGS = "captions.jsonl", "label.json"
PROMPTS = {"florence2": "<CAPTION>"}  # what a kind of model is told where nothing else is asked for
CHAT_PROMPT = "Describe the image in one short sentence."


@dataclass(frozen=True)
class Labelling:
    """How a teacher writes captions.

    Attributes:
        teacher: hub name or folder of a captioner of transformers.
        prompt: what it is told; "" is what suits its kind.
        beams: of its search; 1 is greedy.
        max_tokens: of a caption.
    """

    teacher: str
    prompt: str = ""
    beams: int = 3
    max_tokens: int = 40

    def __post_init__(self) -> None:
        number("beams", self.beams, int, 1)
        number("max_tokens", self.max_tokens, int, 1)


class Teacher:
    """A captioner of transformers: BLIP, GIT, Florence-2, a vision-encoder-decoder, or a chat model that sees."""

    def __init__(self, how: Labelling, device: str | torch.device | None = None) -> None:
        """Load it.

        Args:
            how: its name and how it writes.
            device: where it runs; None is a GPU if there is one, else the CPU.

        Raises:
            InputError: there is no such model, or it does not write about photos.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            self.processor: Any = AutoProcessor.from_pretrained(how.teacher)
            model: Any = AutoModelForImageTextToText.from_pretrained(how.teacher)
        except (OSError, ValueError, ImportError, KeyError) as fault:
            reason = (str(fault).strip() or type(fault).__name__).splitlines()[0]
            raise InputError(
                f"{how.teacher} could not be loaded as a captioner of transformers ({reason}); pass a model of "
                "image-text-to-text on the hub or a folder in its format"
            ) from fault
        self.model = model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.chats = bool(getattr(self.processor, "chat_template", None))
        usual = CHAT_PROMPT if self.chats else PROMPTS.get(model.config.model_type, "")
        self.prompt, self.beams, self.max_tokens = how.prompt or usual, how.beams, how.max_tokens

    @torch.inference_mode()
    def write(self, photos: Sequence[Image.Image]) -> list[str]:
        """A caption of each photo, on one line; "" where it has nothing to say."""
        inputs = self._inputs(photos).to(self.model.device)
        ids = self.model.generate(
            **inputs, num_beams=self.beams, do_sample=False, max_new_tokens=self.max_tokens
        )
        told = inputs.get("input_ids")
        if told is not None and torch.equal(ids[:, : told.shape[1]], told):
            ids = ids[:, told.shape[1] :]  # a decoder alone repeats what it was told
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _inputs(self, photos: Sequence[Image.Image]) -> Any:
        if self.chats:
            turns = [
                [
                    {
                        "role": "user",
                        "content": [{"type": "image", "image": photo}, {"type": "text", "text": self.prompt}],
                    }
                ]
                for photo in photos
            ]
            how = {"padding": True, "padding_side": "left"}  # what is written follows the last token
            return self.processor.apply_chat_template(
                turns,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                add_generation_prompt=True,
                processor_kwargs=how,
            )
        text = {"text": [self.prompt] * len(photos)} if self.prompt else {}
        return self.processor(images=list(photos), return_tensors="pt", **text)


def label(
    photos: Iterable[Entry],
    how: Labelling,
    out: Path,
    *,
    batch_size: int = 8,
    device: str | None = None,
    failed: Callable[[InputError], None] = lambda fault: None,
    progress: Callable[[int], None] = lambda photos: None,
) -> int:
    """Write a teacher's captions of photos into ``out/captions.jsonl``, which ``folder:OUT:all`` reads.

    A line is written as soon as its photo is captioned, and a run that was stopped goes on: photos that have a line are
    not read again; those that failed are tried again.

    Args:
        photos: files, as ``clearcap.data.expand`` gives them.
        how: the teacher and how it writes.
        out: folder; it holds names of the photos, not copies.
        batch_size: photos written about at once.
        device: where the teacher runs.
        failed: told of each photo that cannot be captioned.
        progress: told how many photos were done.

    Returns:
        Photos that have a caption now.

    Raises:
        InputError: no such teacher, or ``out`` holds captions of another.
    """
    batch_size = number("batch_size", batch_size, int, 1)
    told, settings = out / CAPTIONS, out / SETTINGS
    make_folder(out)
    if settings.is_file():
        check_settings(out, read_json(settings), asdict(how))
    elif told.exists():
        raise InputError(f"{told} was not written by clearcap label; choose another folder")
    done = (
        {member(line, "file_name", str, where) for where, line in read_jsonl(told)}
        if whole_lines(told)
        else set()
    )
    teacher = Teacher(how, device)
    write_json(settings, asdict(how))
    progress(len(done))
    with told.open("a", encoding="utf-8") as lines:
        wanted = _files(photos, out, done, failed)
        while group := list(islice(wanted, batch_size)):
            opened = []
            for name, path in group:
                try:
                    opened.append((name, open_image(path)))
                except InputError as fault:
                    failed(InputError(f"{path}: {fault}" if str(path) not in str(fault) else str(fault)))
            for name, caption in _written(teacher, opened, failed):
                lines.write(json.dumps({"file_name": name, "captions": [caption]}, ensure_ascii=False) + "\n")
                done.add(name)
            lines.flush()
            progress(len(group))
    return len(done)


def _files(
    photos: Iterable[Entry], out: Path, done: set[str], failed: Callable[[InputError], None]
) -> Iterator[tuple[str, str]]:
    """The name that each photo without a caption has from the folder, and its path."""
    seen = set(done)
    for photo in photos:
        if isinstance(photo, InputError):
            failed(photo)
        elif not isinstance(photo, str) or not Path(photo).is_file():
            failed(InputError(f"{photo}: is no file, which a folder of captions can name; fetch it first"))
        else:
            name = Path(os.path.relpath(photo, out)).as_posix()
            if name not in seen:
                seen.add(name)
                yield name, photo


def _written(
    teacher: Teacher, photos: Sequence[tuple[str, Image.Image]], failed: Callable[[InputError], None]
) -> Iterator[tuple[str, str]]:
    """Names and captions; where the teacher fails, photos are tried one by one and the fault is that photo's."""
    if not photos:
        return
    try:
        captions = teacher.write([photo for _, photo in photos])
    except Exception as fault:  # whatever somebody else's model raises
        if len(photos) > 1:
            for one in photos:
                yield from _written(teacher, [one], failed)
            return
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())
        failed(InputError(f"{photos[0][0]}: the teacher fails on it ({reason})"))
        return
    for (name, _), caption in zip(photos, captions, strict=True):
        if caption:
            yield name, caption
        else:
            failed(InputError(f"{name}: the teacher says nothing of it"))
