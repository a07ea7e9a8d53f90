"""Both published systems, small, trained on Flickr8k and asked for a caption: python examples/published_presets.py ROOT

The towers are written by transformers in the hub's format: a BERT that ``pretrain_text`` trains for a moment, and a
DistilBERT, a BLIP and a CLIP with random weights. The presets are used as they are but for sizes, learning rate and
length. Exit status 1 if a loss does not fall or the command line's caption is not the pipeline's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
)

from clearcap import CaptionPipeline
from clearcap.config import load_preset
from clearcap.data.corpus import open_corpus
from clearcap.training.run import train
from clearcap.training.text import PretrainTextConfig, pretrain_text

WIDTH, SIDE, PATCH = 128, 64, 16
SIZES = {"hidden_size": WIDTH, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
PHOTO = {"image_size": SIDE, "patch_size": PATCH}

LADIC = [
    "text.split=2",
    f"vision.tokens={(SIDE // PATCH) ** 2 + 1}",
    f"vision.dim={WIDTH}",
    f"denoiser.width={2 * WIDTH}",
    "denoiser.depth=3",
    "denoiser.heads=4",
    "denoiser.hidden=256",
    "train.photos=16",
]
CLIP_DIFFUSION_LM = [
    f"vision.dim={WIDTH}",
    f"denoiser.width={WIDTH}",
    "denoiser.depth=3",
    "denoiser.heads=4",
    "denoiser.hidden=256",
    "diffusion.levels=10",
]
PRESETS = {
    "ladic-base": ("bert", "blip", LADIC),
    "clip-diffusion-lm-concat": ("distilbert", "clip", CLIP_DIFFUSION_LM),
    "clip-diffusion-lm-add": ("distilbert", "clip", CLIP_DIFFUSION_LM),
}


def take_part(root: Path, out: Path, photos: int) -> Path:
    """The corpus's first photos of each split, as a corpus of their own."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("Images", "captions.txt"):
        if not (out / name).exists():
            (out / name).symlink_to((root / name).resolve())
    for split, share in (("train", photos), ("dev", 20)):
        listed = (root / f"Flickr_8k.{split}Images.txt").read_text().splitlines()[:share]
        (out / f"Flickr_8k.{split}Images.txt").write_text("\n".join(listed) + "\n")
    return out


def write_towers(captions: list[str], out: Path) -> None:
    """Four small towers in the hub's format."""
    text = PretrainTextConfig(width=WIDTH, hidden=256, length=24, steps=150, warmup=20, batch=64)
    pretrain_text(captions, out / "bert", text)
    tokenizer = AutoTokenizer.from_pretrained(out / "bert")
    torch.manual_seed(0)
    distilbert = DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=len(tokenizer), dim=WIDTH, n_layers=1, n_heads=4, hidden_dim=256)
    )
    with torch.no_grad():
        # Trained word embeddings lie apart; at the initial 0.02 noise of deviation 1 would hide them all.
        distilbert.get_input_embeddings().weight.normal_()
    distilbert.save_pretrained(out / "distilbert")
    tokenizer.save_pretrained(out / "distilbert")
    words = {"vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2}  # the text sides are not used
    BlipForConditionalGeneration(
        BlipConfig(
            vision_config=SIZES | PHOTO,
            text_config=SIZES | words | {"encoder_hidden_size": WIDTH, "sep_token_id": 2},
        )
    ).save_pretrained(out / "blip")
    projected = {"projection_dim": WIDTH}
    CLIPModel(
        CLIPConfig(
            vision_config=SIZES | PHOTO | projected,
            text_config=SIZES | words | projected,
            projection_dim=WIDTH,
        )
    ).save_pretrained(out / "clip")


def train_and_check(name: str, corpus: Path, out: Path, steps: int) -> bool:
    """Train one preset, print what each loss did, and caption a photo in two ways."""
    text, vision, sizes = PRESETS[name]
    run = out / name
    train(
        load_preset(
            name,
            [
                *sizes,
                f"text.source={out / text}",
                f"vision.source={out / vision}",
                f"vision.image_size={SIDE}",
                "denoiser.positions=64",
                f"train.steps={steps}",
                "train.lr=1e-3",
                "train.warmup=20",
                "train.log_every=1",
                "train.sample_every=0",
                "train.tracker=none",
                "train.seed=0",
                f"data.corpus=flickr8k:{corpus}:train",
                "data.expected=false",
                f"data.features={out / 'cache' / vision}",
                "data.views=1",
            ],
        ),
        run,
    )
    fine = True
    curve = [json.loads(line) for line in (run / "curves.jsonl").read_text().splitlines()]
    fifth = len(curve) // 5
    for term in ("latent", "caption"):
        losses = [line[term] for line in curve]
        first, last = sum(losses[:fifth]) / fifth, sum(losses[-fifth:]) / fifth
        fine &= last < first
        print(f"{name:25s} {term:8s} first fifth {first:.4f}  last fifth {last:.4f}  step 1 {losses[0]:.4f}")
    photo = str(next(iter(open_corpus("flickr8k", str(corpus), "dev", expected=None))).image.path)
    caption = CaptionPipeline.from_pretrained(run / "model")(photo).caption
    command = [sys.executable, "-m", "clearcap", "caption", photo, "--model", str(run / "model")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"{name:25s} {Path(photo).name}: {caption!r}; the command line says {printed.strip()!r}")
    return fine and printed.strip() == caption


def main() -> int:
    """Run all three presets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="Flickr8k: Images, captions.txt and the official lists")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    parser.add_argument("--photos", type=int, default=1000, help="photos that are trained on, of 6,000")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    corpus = take_part(options.root, options.out / "flickr8k", options.photos)
    photos = open_corpus("flickr8k", str(corpus), "train", expected=None)
    write_towers([caption for photo in photos for caption in photo.captions], options.out)
    fine = [train_and_check(name, corpus, options.out, options.steps) for name in PRESETS]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
