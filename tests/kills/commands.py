"""Every command that writes, on models and corpora so small that each takes a second or two."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers as hf
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from clearcap.training.encoder import add
from clearcap.vision.efficientnet import EfficientNetEncoder
from tests.efficientnet_port import state_of_the_port
from tests.kills import Command
from tests.tiny_captioner import CAPTIONS, save_tiny_captioner, seeing_captioner, tiny_captioner

PHOTOS = 8
STUDY = """
asks = "Does more training help?"
paper = "None, Table 0"
base = "tiny.toml"
minutes = 1
against = "short"
decides = "CIDEr-D"
metrics = ["grammar-errors"]
figure = "losses"
seeds = [0, 1]

[[runs]]
name = "short"
settings.train.steps = 4
[[runs]]
name = "long"
settings.train.steps = 8

[[claims]]
says = "more steps score higher"
of = "long"
than = "short"
"""
TRAIN = (
    "steps=12",
    "photos=3",
    "copies=2",
    "warmup=2",
    "log_every=1",
    "save_every=3",
    "tracker=none",
    "lr=0.01",
)


def make_commands(root: Path) -> dict[str, Command]:
    """Everything that the commands read, written to a folder, and the commands."""
    model = save_tiny_captioner(root / "model")
    photos = _write_photos(root / "photos")
    text = _write_text_tower(root / "text")
    teacher = _write_teacher(root / "teacher")
    writer = _write_writer(root / "writer")
    study = _write_study(root / "study", model)
    seeing, tokenizer = seeing_captioner()
    pair = root / "pair"
    seeing.save_pretrained(pair)
    tokenizer.save_pretrained(pair)
    (root / "held_out.txt").write_text("0.png\n")
    torch.manual_seed(0)
    torch.save(state_of_the_port(EfficientNetEncoder(8, 0.1, 1.0, 64)), root / "lite.pth")
    second = EfficientNetEncoder(dim=16, width=0.1, depth=1.0, image_size=64).eval().requires_grad_(False)
    corpus, rest = f"folder:{photos}", [f"train.{word}" for word in TRAIN]
    small = [
        *("text.length=10", "text.split=1", "vision.tokens=4", "vision.dim=16", "vision.image_size=64"),
        *(
            "denoiser.width=32",
            "denoiser.depth=2",
            "denoiser.heads=2",
            "denoiser.hidden=48",
            "sampling.steps=2",
        ),
        *("sampling.length=3", "sampling.min_length=0", "sampling.max_length=0", "data.views=2"),
        *(f"data.corpus={corpus}:train", "data.watch=dev", "train.sample_every=6"),
    ]

    def features(out: Path) -> str:
        return f"data.features={out}/features"

    def named(*words: str, before: tuple[str, ...] = ()) -> Callable[[Path], list[str]]:
        return lambda out: [*before, *words, "--out", str(out)]

    distill = [
        *("distill", f"teacher={teacher}", f"photos={photos}", f"held_out={root}/held_out.txt"),
        *(
            "dim=4",
            "widths=16,16,32,32",
            "depths=0,1,1,1",
            "views=2",
            "words=0",
            "steps=12",
            "minutes=0.0",
            "batch=4",
        ),
        *("sizes=32,0", "switches=0.5", "checkpoint_minutes=0.001", "validate_steps=6", "workers=1"),
    ]
    return {
        "caption": Command(
            lambda out: ["caption", str(photos), "--json", "--model", str(model)], prints=True
        ),
        "evaluate": Command(
            named(
                "evaluate", "--model", str(model), "--data", corpus, "--batch-size", "2", "--shuffle-photos"
            )
        ),
        "table": Command(
            named("table", "--model", str(model), "--data", corpus, "--batch-size", "2", "--steps", "2,3")
        ),
        "export": Command(lambda out: ["export", str(model), str(out)]),
        "export --onnx": Command(lambda out: ["export", str(model), str(out), "--onnx"]),
        "pretrain-text": Command(
            named(
                *("pretrain-text", "--data", f"{corpus}:train", "vocab_size=200", "min_count=1", "length=10"),
                *(
                    "width=16",
                    "depth=2",
                    "split=1",
                    "heads=2",
                    "hidden=32",
                    "steps=30",
                    "batch=8",
                    "save_every=5",
                ),
                "warmup=2",
            )
        ),
        "train": Command(
            lambda out: [
                *("train", "compact", *small, *rest, f"text.source={text}", features(out), "--out", str(out))
            ]
        ),
        "distill": Command(lambda out: [*distill, f"out={out}", f"cache={out}/cache"]),
        "distill-steps": Command(
            named(
                *(
                    "distill-steps",
                    str(model),
                    "--photos",
                    str(photos / "more"),
                    "--watch",
                    f"{corpus}:dev",
                    *rest,
                ),
                "train.sample_every=6",
            )
        ),
        "finetune-encoder": Command(
            named(
                *("finetune-encoder", "--data", f"{corpus}:train", "--watch", f"{corpus}:dev", *rest),
                *(f"weights={root}/lite.pth", "width=0.1", "depth=1.0", "dim=16", "image_size=64", "block=9"),
                *("views=2", "beams=2", "finetune.words=10", "finetune.unlabelled=1", "twin.width=16"),
                *("twin.depth=1", "twin.heads=2", "twin.hidden=16", "twin.length=12", "train.sample_every=6"),
                *("train.optimizer=adamw", "--start", str(model), "--photos", str(photos / "more")),
            )
        ),
        "add-encoder": Command(
            lambda out: [
                *("add-encoder", str(root / "lite.pth"), "compact", *small, *rest, f"train.init={model}"),
                *(features(out), "--out", str(out)),
            ],
            around=lambda: mock.patch.object(add, "imagenet_network", return_value=second),
        ),
        **{
            f"caption --out {kind}": Command(
                lambda out, place=place, more=more: [
                    *("caption", str(photos), "--model", str(model), "--batch-size", "2"),
                    *("--out", str(out / place), *more),
                ]
            )
            for kind, place, more in (
                ("jsonl", "captions.jsonl", ()),
                ("csv", "captions.csv", ()),
                ("parquet", "captions.parquet", ()),
                ("shards", "shards", ("--shard-size", "3")),
            )
        },
        "watch --out": Command(
            lambda out: [
                *("watch", str(photos / "0.png"), "--model", str(model), "--out", str(_made(out) / "a.png"))
            ]
        ),
        "evaluate-fill": Command(
            named(
                "evaluate-fill",
                "--model",
                str(model),
                "--data",
                corpus,
                "--hidden",
                "1,2",
                "--batch-size",
                "2",
            )
        ),
        "remember": Command(named("remember", str(photos), "--model", str(model), "--batch-size", "2")),
        "label": Command(
            named(
                *("label", str(photos), "--teacher", str(writer), "--batch-size", "2", "--beams", "1"),
                *("--max-tokens", "4"),
            )
        ),
        "study": Command(
            named(
                *("study", str(study), "--batch-size", "2", "--subset"),
                *("--data", f"{corpus}:train", "--data", f"{corpus}:dev"),
            )
        ),
        "train-scorer": Command(
            named(
                *("train-scorer", str(model), "--data", f"{corpus}:train", "--watch", f"{corpus}:dev"),
                *("train.steps=12", "train.photos=3", "train.warmup=2", "train.log_every=1"),
                *("train.save_every=3", "train.sample_every=6", "train.tracker=none", "train.bf16=false"),
                *("scorer.width=16", "scorer.depth=1", "scorer.heads=2", "scorer.hidden=32", "scorer.dim=8"),
            )
        ),
        "self-critical": Command(
            named(
                *("self-critical", str(model), "--data", f"{corpus}:train", "--watch", f"{corpus}:dev"),
                *rest,
                *("train.sample_every=6", "train.bf16=false", "kept_photos=2", "samples=2"),
                *(
                    "shortest=3",
                    "longest=6",
                    "student.length=3",
                    "student.min_length=3",
                    "student.max_length=6",
                ),
            )
        ),
        "finetune": Command(
            named(
                *("finetune", str(pair), "--data", f"{corpus}:train", "--watch", f"{corpus}:dev", *rest),
                *("train.sample_every=6", "train.bf16=false", "block=3"),
            )
        ),
        "compute-stats": Command(
            lambda out: ["compute-stats", str(_copied(model, out)), "--data", f"{corpus}:train"]
        ),
    }


def _made(out: Path) -> Path:
    """The folder, made: a picture is written into one that is there."""
    out.mkdir(exist_ok=True)
    return out


def _copied(model: Path, out: Path) -> Path:
    """The folder whose statistics are replaced; a killed command finds it as it left it."""
    if not out.exists():
        shutil.copytree(model, out)
    return out


def _write_study(folder: Path, model: Path) -> Path:
    folder.mkdir()
    tables = {
        "text": {"source": str(model), "split": 1, "length": 10},
        "vision": {"source": str(model), "tokens": 4, "dim": 16, "image_size": 64},
        "denoiser": {"width": 32, "depth": 2, "heads": 2, "hidden": 48},
        "sampling": {"steps": 2},
        "train": {"photos": 3, "copies": 2, "warmup": 2, "log_every": 1, "save_every": 3},
        "data": {"views": 1},
    }
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    (folder / "tiny.toml").write_text("\n".join(lines))
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


def _write_writer(folder: Path) -> Path:
    """A captioner of transformers, which labels photos."""
    _, tokenizer = tiny_captioner()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"bos_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    text |= {"vocab_size": len(tokenizer), "encoder_hidden_size": 16}
    torch.manual_seed(0)
    config = hf.BlipConfig(
        text_config={**sizes, **text},
        vision_config={**sizes, "image_size": 32, "patch_size": 16, "initializer_range": 0.5},
        projection_dim=16,
    )
    hf.BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    hf.BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def _write_photos(folder: Path) -> Path:
    """Photos with captions in two splits, and some without in a folder of their own."""
    rng = np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    lines = []
    for number in range(PHOTOS):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.fromarray(pixels[::-1]).save(folder / "more" / f"more{number}.png")
        captions = [CAPTIONS[number % 4], CAPTIONS[(number + 1) % 4]]
        split = "train" if number < 5 else "dev"
        lines.append(json.dumps({"file_name": f"{number}.png", "captions": captions, "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _write_text_tower(folder: Path) -> Path:
    _, tokenizer = tiny_captioner()
    torch.manual_seed(0)
    sizes = hf.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    hf.BertForMaskedLM(sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _write_teacher(folder: Path) -> Path:
    tower = hf.ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=32,
    )
    hf.ViTModel(tower).save_pretrained(folder)
    return folder


os.environ.setdefault("OMP_NUM_THREADS", "1")
