"""The captions of a language as training takes them: language_captions.py DATA OUT

DATA is a folder corpus with captions_train.jsonl and captions_dev.jsonl and, if wanted, captions without photos in
text.jsonl, in lines {"captions": [...]}. OUT/captions is the same corpus, OUT/text a corpus of all captions that may be
learned from. People leave capitals out: words are written as most others write them, and every caption begins with a
capital, if its script has any. Captions of dev stay as they are.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

WORD = re.compile(r"\w+")
SURE = 0.7  # share of a word's spellings that is the spelling


def spellings(captions: Iterable[str]) -> dict[str, str]:
    """How most people write a word, by the word without its case ("weissen" and "weißen" are one word then).

    Counted behind the first word of captions that have capitals there. Words that are written otherwise too often, as
    "Paar" and "paar" are, stay as they are, so they are not here.
    """
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for caption in captions:
        words = WORD.findall(caption)[1:]
        if any(word != word.lower() for word in words):
            for word in words:
                seen[word.casefold()][word] += 1
    most = {word: (*times.most_common(1)[0], times.total()) for word, times in seen.items()}
    return {word: spelling for word, (spelling, n, total) in most.items() if n >= SURE * total}


def recased(caption: str, known: dict[str, str]) -> str:
    """A caption whose words are written as most people write them, with a capital at its head.

    A capital that somebody wrote stays: verbs and adjectives become nouns ("beim Spielen").
    """

    def written(found: re.Match[str]) -> str:
        word = found.group()
        spelling = known.get(word.casefold(), word)
        return spelling[:1].upper() + spelling[1:] if word[0].isupper() else spelling

    caption = WORD.sub(written, caption)
    return caption[:1].upper() + caption[1:]


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of lines; none where there is no file."""
    if file.is_file():
        with file.open(encoding="utf-8") as opened:
            yield from map(json.loads, opened)


def write(file: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write records as lines, whole or not at all, and count them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh, written = file.with_suffix(".new"), 0
    with fresh.open("w", encoding="utf-8") as opened:
        for record in records:
            opened.write(json.dumps(record, ensure_ascii=False) + "\n")
            written += 1
    fresh.rename(file)
    return written


def main(data: Path, out: Path) -> None:
    """Write both corpora."""
    train, text = [*lines(data / "captions_train.jsonl")], [*lines(data / "text.jsonl")]
    dev = [*lines(data / "captions_dev.jsonl")]
    known = spellings(caption for record in train + text for caption in record["captions"])
    kept_out = {caption for record in dev for caption in record["captions"]}

    def told(record: dict[str, Any]) -> list[str]:
        return [recased(caption.strip(), known) for caption in record["captions"] if caption.strip()]

    def photo(record: dict[str, Any]) -> dict[str, str]:
        name = record["file_name"]
        return {"file_name": str((data / name).absolute()), "image_id": name}

    write(out / "captions" / "captions_train.jsonl", ({**photo(one), "captions": told(one)} for one in train))
    write(
        out / "captions" / "captions_dev.jsonl",
        ({**photo(one), "captions": one["captions"]} for one in dev),
    )
    unseen = (
        {"file_name": f"{n}.jpg", "captions": learned}
        for n, one in enumerate(text)
        if (learned := told({"captions": [c for c in one["captions"] if c not in kept_out]}))
    )
    print(f"{len(train)} photos, captions of {write(out / 'text' / 'captions.jsonl', unseen)} others")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
