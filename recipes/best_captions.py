"""Each photo's best caption by its people's: best_captions.py MODEL TEACHER FEATURES TEXT OUT NAME:ROOT:SPLIT...

Of a captioner's candidates and of what a teacher wrote (TEACHER, as for data.teacher_captions) that caption is kept
which self-critical training would reward most. OUT has the same form as TEACHER. FEATURES is the cache of the photos'
image tokens by MODEL's encoder, of which the first view is captioned; TEXT a corpus that says what people write.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from rich.console import Console

from clearcap.captioner.model import load_captioner
from clearcap.data.corpus import open_spec
from clearcap.data.features import open_features
from clearcap.data.writing import whole_lines
from clearcap.pipeline import CaptionPipeline
from clearcap.training.examples import read_teacher_captions
from clearcap.training.log import progress_bar
from clearcap.training.run import captions_of
from clearcap.training.self_critical.reward import CiderReward
from clearcap.training.self_critical.run import references_of, word_rows

BATCH = 16  # photos
REPEATED, SELDOM = 0.6, 0.25  # what faults cost, in CIDEr-D: see SelfCriticalConfig

model, teacher, features, text, out, *data = sys.argv[1:]
photos = [photo for spec in data for photo in open_spec(spec, expected=None).photos]
pipeline = CaptionPipeline.from_pretrained(model, backend="prepacked", device="cpu")
network, sampling, (_, tokenizer) = pipeline.captioner, pipeline.sampling(), load_captioner(model)
vocab, written = len(tokenizer), word_rows(captions_of([text]), tokenizer)
reward = CiderReward(references_of(photos, tokenizer), vocab, REPEATED, written, SELDOM)
told, whole, tokens = (
    read_teacher_captions(Path(teacher)),
    pipeline.whole_words(),
    open_features(Path(features)),
)
rows = tokens.rows([photo.id for photo in photos])
done = len(whole_lines(Path(out)))

with progress_bar(Console(stderr=True)) as progress:
    task = progress.add_task("captioning", total=len(photos), completed=done)
    with open(out, "a") as file:
        for start in range(done, len(photos), BATCH):
            some, places = photos[start : start + BATCH], rows[start : start + BATCH]
            image = tokens.gather(torch.zeros_like(places), places).float()
            drawn = pipeline.decode(network.generate(image=image, sampling=sampling, whole_words=whole))
            for number, (photo, own) in enumerate(zip(some, drawn, strict=True), start):
                said = [*dict.fromkeys([*(one.text for one in own), *told.get(str(photo.id), ())])]
                about = torch.full((len(said),), number)
                best = int(reward(word_rows(said, tokenizer), about).argmax())
                file.write(json.dumps({"photo": photo.id, "captions": [said[best]]}) + "\n")
            file.flush()
            os.fsync(file.fileno())
            progress.advance(task, len(some))
