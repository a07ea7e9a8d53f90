"""Errors of colour and grammar of captioners, by the rules of docs/studies.md.

``python -m benchmarks.wording --data flickr8k:DIR:dev --model default`` captions the first photos of a split and counts
colours that no reference names, those among them that the region the word looks at does not have either, and mistakes
of grammar by kind.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from clearcap import CaptionPipeline
from clearcap.data.corpus import open_spec
from clearcap.data.images import to_square
from clearcap.evaluation.colours import doubtful_colours
from clearcap.metrics.tokenizer import tokenize
from clearcap.metrics.wording import COLOURS, faults_of


def main(
    data: Annotated[str, typer.Option(help="corpus as NAME:ROOT:SPLIT")],
    model: Annotated[str, typer.Option(help="folder or hub name")] = "default",
    limit: Annotated[int, typer.Option(help="photos")] = 200,
    seed: Annotated[int, typer.Option(help="of the captions")] = 0,
) -> None:
    """Print the counts as JSON."""
    pipeline = CaptionPipeline.from_pretrained(model, backend="prepacked")
    photos = open_spec(data, expected=None).photos[:limit]
    captions = [result.caption for result in pipeline([photo.image for photo in photos], seed=seed)]
    grammar = Counter(fault for words in tokenize(captions) for fault in faults_of(words))
    named = doubtful = unsupported = wrong = 0
    for photo, caption in zip(photos, captions, strict=True):
        named += sum(word in COLOURS for word in caption.split())
        pixels = to_square(photo.image.open(), pipeline.image_size)
        found = doubtful_colours(pipeline, pixels, caption, photo.captions)
        doubtful += len(found)
        unsupported += sum(not supported for _, supported in found)
        wrong += any(not supported for _, supported in found)
    print(
        json.dumps(
            {
                "model": model,
                "captions": len(captions),
                "colour words": named,
                "in no reference": doubtful,
                "nor in the region": unsupported,
                "captions with such a colour": wrong,
                "grammar": dict(grammar),
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
