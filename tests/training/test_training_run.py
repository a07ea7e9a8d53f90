"""Training for real: a tiny corpus, real processes, a real kill."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clearcap.config import load_preset
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.training.text import PretrainTextConfig, pretrain_text
from tests.commands import clearcap, kill_when, started

CAPTIONS = [
    "a red square on a wall",
    "the red wall",
    "a blue circle in the sky",
    "blue sky and sea",
    "a dog runs left",
]
STEPS = 40


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of eight photos in two splits, and a text space trained on its captions."""
    root = tmp_path_factory.mktemp("workshop")
    (root / "flickr" / "Images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines, names = ["image,caption"], [f"photo{i}.jpg" for i in range(8)]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            root / "flickr" / "Images" / name
        )
        lines += [f"{name},{CAPTIONS[(i + j) % len(CAPTIONS)]}" for j in range(5)]
    (root / "flickr" / "captions.txt").write_text("\n".join(lines) + "\n")
    (root / "flickr" / "Flickr_8k.trainImages.txt").write_text("\n".join(names[:6]) + "\n")
    (root / "flickr" / "Flickr_8k.devImages.txt").write_text("\n".join(names[6:]) + "\n")
    config = PretrainTextConfig(
        vocab_size=200,
        min_count=1,
        length=10,
        width=16,
        depth=2,
        split=1,
        heads=2,
        hidden=32,
        steps=20,
        batch=8,
        warmup=2,
    )
    pretrain_text(CAPTIONS * 4, root / "text", config)
    (root / "tiny.toml").write_text(
        f"""
[text]
source = "{root}/text"
split = 1
length = 10
[vision]
tokens = 4
dim = 16
image_size = 64
[denoiser]
width = 32
depth = 2
heads = 2
hidden = 48
dropout = 0.1
[sampling]
steps = 3
[data]
root = "{root}/flickr"
views = 2
[train]
steps = {STEPS}
photos = 3
copies = 2
warmup = 4
log_every = 1
save_every = 5
sample_every = 20
optimizer = "muon"
tracker = "none"
"""
    )
    return root


def command(root: Path, out: str) -> list[str]:
    words = ["train", str(root / "tiny.toml"), f"data.features={root}/{out}-features", "data.expected=false"]
    return [*words, "--out", str(root / out)]


def run_train(root: Path, out: str) -> None:
    done = clearcap(*command(root, out))
    assert done.returncode == 0, done.stderr


def test_killed_and_resumed_equals_never_killed(workshop: Path) -> None:
    run_train(workshop, "whole")
    killed = started(command(workshop, "killed"), workshop / "killed.log")
    kill_when(killed, (workshop / "killed" / "checkpoint" / "progress.json").is_file)
    reached = json.loads((workshop / "killed" / "checkpoint" / "progress.json").read_text())["step"]
    assert 0 < reached < STEPS
    run_train(workshop, "killed")
    expected = load_file(workshop / "whole" / "checkpoint" / "state.safetensors")
    actual = load_file(workshop / "killed" / "checkpoint" / "state.safetensors")
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name

    def losses(out: str) -> list[tuple[float, float]]:
        lines = (workshop / out / "curves.jsonl").read_text().splitlines()
        return [(line["latent"], line["caption"]) for line in map(json.loads, lines)]

    assert losses("whole") == losses("killed")
    assert len(losses("whole")) == STEPS
    assert losses("whole")[-1][1] < losses("whole")[0][1]
    photo = workshop / "flickr" / "Images" / "photo7.jpg"
    captions = [
        CaptionPipeline.from_pretrained(workshop / out / "model")(str(photo)) for out in ("whole", "killed")
    ]
    assert captions[0] == captions[1]


def test_preset_of_the_wrong_shape_names_the_setting(workshop: Path) -> None:
    with pytest.raises(ValueError, match=r"denoiser\.width=30 is not a multiple of heads=4"):
        load_preset("compact", ["denoiser.width=30"])
    with pytest.raises(ValueError, match=r"unknown setting 'lrr'"):
        load_preset("compact", ["train.lrr=1"])
    with pytest.raises(ValueError, match="must be of type float"):
        load_preset("compact", ['train.lr="fast"'])
    with pytest.raises(ValueError, match="no preset 'compakt'"):
        load_preset("compakt")


def test_training_goes_on_from_a_saved_captioner(workshop: Path) -> None:
    from clearcap.captioner.model import load_folder
    from clearcap.captioner.towers import continue_captioner

    saved = workshop / "whole" / "model"
    if not saved.is_dir():
        run_train(workshop, "whole")
    asked = [f"train.init={saved}", "diffusion.noise_factor=3.0"]
    captioner, tokenizer = continue_captioner(load_preset(str(workshop / "tiny.toml"), asked))
    assert captioner.objective.noise_factor == captioner.config.diffusion["noise_factor"] == 3.0
    before = load_folder(saved).state_dict()
    for name, tensor in captioner.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert tokenizer("a dog")["input_ids"]
    with pytest.raises(InputError, match=r"denoiser\.depth=2, not 3; pass denoiser\.depth=2"):
        continue_captioner(load_preset(str(workshop / "tiny.toml"), [*asked, "denoiser.depth=3"]))


def test_a_folder_of_texts_beside_photos_is_trained_on_as_the_same_folder_with_a_table(
    workshop: Path, tmp_path: Path
) -> None:
    """Folders called train and val are the splits of both."""
    photos = sorted((workshop / "flickr" / "Images").iterdir())
    for kind in ("texts", "table"):
        for number, photo in enumerate(photos):
            home = tmp_path / kind / ("train" if number < 6 else "val")
            home.mkdir(parents=True, exist_ok=True)
            (home / photo.name).write_bytes(photo.read_bytes())
            captions = [CAPTIONS[number % 5], CAPTIONS[(number + 1) % 5]]
            if kind == "texts":
                (home / photo.name).with_suffix(".txt").write_text("\n".join(captions))
                continue
            with (home / "metadata.jsonl").open("a") as file:
                file.writelines(
                    json.dumps({"file_name": photo.name, "text": text}) + "\n" for text in captions
                )
    preset = (workshop / "tiny.toml").read_text().replace(f'root = "{workshop}/flickr"', "")
    (tmp_path / "own.toml").write_text(preset)
    for kind in ("texts", "table"):
        words = ["train", tmp_path / "own.toml", "train.steps=3"]
        words += [
            f"data.corpus=folder:{tmp_path / kind}:train",
            f"data.features={tmp_path / kind}-features",
        ]
        done = clearcap(*words, "--out", tmp_path / f"{kind}-out")
        assert done.returncode == 0, done.stderr
    states = [
        load_file(tmp_path / f"{kind}-out" / "checkpoint" / "state.safetensors")
        for kind in ("texts", "table")
    ]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert states[0].keys() == states[1].keys()
