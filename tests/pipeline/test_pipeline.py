"""Photos of every kind through the real pipeline and the real command line, with a tiny saved model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import clearcap
from PIL import Image
from tiny_captioner import save_tiny_captioner, tiny_captioner
from torch import nn
from towers import write_clip_scorer

from clearcap.bench.latency import sample_photo
from clearcap.captioner.loading import Unfilled
from clearcap.captioner.model import load_captioner
from clearcap.data.images import open_image, to_square
from clearcap.errors import InputError, RenamedWarning
from clearcap.pipeline import CaptionPipeline
from clearcap.sampling.selection import diverse


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good photos of awkward kinds and bad files of likely kinds."""
    folder = tmp_path_factory.mktemp("album")
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(folder / f"plain{i}.jpg")
    Image.fromarray(rng.integers(0, 256, (48, 80, 4), dtype=np.uint8)).save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 256, (48, 80, 4), dtype=np.uint8), "CMYK").save(folder / "cmyk.jpg")
    upright = Image.open(folder / "plain0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "rotated.png", exif=exif)
    (folder / "corrupt.jpg").write_bytes((folder / "plain1.jpg").read_bytes()[:200])
    (folder / "text.jpg").write_text("not a photo")
    return folder


BAD = {"corrupt.jpg", "text.jpg"}


def test_folder_with_bad_files_captions_every_good_one(model: Path, album: Path) -> None:
    done = clearcap("caption", str(album), "--model", str(model), "--json", "--batch-size", "4")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    names = {Path(line["image"]).name for line in lines}
    assert names == {path.name for path in album.iterdir()} - BAD
    assert all(set(line) == {"image", "caption", "confidence", "words"} for line in lines)
    for bad in BAD:
        naming = [line for line in done.stderr.splitlines() if bad in line]
        assert len(naming) == 1, done.stderr
    assert "Traceback" not in done.stderr


def test_upright_and_rotated_by_exif_get_the_same_caption(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    png = Image.open(album / "plain0.jpg")
    assert pipeline(str(album / "rotated.png")).caption == pipeline(png).caption


def test_batch_of_one_equals_its_row_in_a_batch_of_many(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    paths = sorted(str(path) for path in album.iterdir() if path.name not in BAD)
    together = pipeline(paths, batch_size=9, candidates=3)
    assert len({result.caption for result in together}) > 1
    for path, result in zip(paths, together, strict=True):
        alone = pipeline(path, candidates=3)
        assert (alone.caption, alone.candidates) == (result.caption, result.candidates)
        assert alone.confidence == pytest.approx(result.confidence, abs=1e-5)


def test_paths_arrays_images_and_tensors_agree(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    image = Image.open(album / "alpha.png").convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    assert len({pipeline(photo).caption for photo in (image, array, tensor)}) == 1


def test_seed_decides(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    photo = str(album / "plain2.jpg")
    one = pipeline(photo, candidates=8, seed=3)
    assert one == pipeline(photo, candidates=8, seed=3)
    assert one.candidates != pipeline(photo, candidates=8, seed=4).candidates


def test_saved_and_loaded_model_is_the_same(model: Path) -> None:
    captioner, tokenizer = tiny_captioner()
    again, vocabulary = load_captioner(str(model))
    assert vocabulary.get_vocab() == tokenizer.get_vocab()
    for (name, mine), (other, theirs) in zip(
        captioner.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(mine, theirs), name


def test_the_pipeline_draws_what_the_captioner_draws(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    captioner, tokenizer = load_captioner(str(model))
    photo = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    captioner.vision = captioner.vision.folded()  # as the pipeline does
    ours, theirs = pipeline.captioner.generate(photo, seed=5), captioner.generate(photo, seed=5)
    assert torch.equal(ours.ids, theirs.ids)
    assert torch.equal(ours.confidence, theirs.confidence)
    wrapped = CaptionPipeline(captioner, tokenizer)
    assert wrapped(str(album / "plain3.jpg"), candidates=4) == pipeline(
        str(album / "plain3.jpg"), candidates=4
    )
    blanks = "a ___ dog ___ ."
    assert wrapped.fill(str(album / "plain3.jpg"), blanks) == pipeline.fill(str(album / "plain3.jpg"), blanks)


def test_prepacked_weights_say_the_same(model: Path, album: Path) -> None:
    paths = [str(album / f"plain{i}.jpg") for i in (0, 2)]
    plain, prepacked = (
        CaptionPipeline.from_pretrained(model, backend=name) for name in ("torch", "prepacked")
    )
    for one, other in zip(plain(paths, candidates=3), prepacked(paths, candidates=3), strict=True):
        assert one.candidates == other.candidates
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_denoiser_says_the_same(model: Path, album: Path) -> None:
    """In a process of its own: torch.compile does not see through the type checks that tests run under."""
    code = """
import sys
from clearcap import CaptionPipeline
model, photo = sys.argv[1:]
for backend in ("torch", "compiled"):
    print(CaptionPipeline.from_pretrained(model, backend=backend)(photo, candidates=2).candidates)
"""
    command = [sys.executable, "-c", code, str(model), str(album / "plain1.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    plain, compiled = done.stdout.splitlines()
    assert plain == compiled


def test_loading_skips_initial_weights_and_leaves_none_unread(model: Path) -> None:
    torch.use_deterministic_algorithms(True)  # memory that nothing wrote holds NaN then
    try:
        captioner = CaptionPipeline.from_pretrained(model).captioner
        held = [*captioner.parameters(), *captioner.buffers()]
        assert all(bool(tensor.isfinite().all()) for tensor in held)
        with Unfilled():
            assert nn.Linear(3, 3).weight.isnan().all()  # so the NaNs would have been seen
            assert nn.init.trunc_normal_(torch.full((9,), 5.0)).abs().max() <= 2  # repeats until in range
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("fault", ["truncated", "missing tensor", "foreign", "nothing"])
def test_bad_checkpoints_name_file_and_fault(model: Path, tmp_path: Path, fault: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    if fault == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif fault == "missing tensor":
        state = load_file(weights)
        state.pop("denoiser.position")
        save_file(state, weights)
    elif fault == "foreign":
        (folder / "config.json").write_text('{"model_type": "blip"}')
    else:
        weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors|config\.json") as caught:
        load_captioner(str(folder))
    assert "\n" not in str(caught.value)


def test_an_asked_length_is_that_of_every_candidate(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    pipeline.captioner.defaults = replace(pipeline.captioner.defaults, length=3, min_length=2, max_length=5)
    four = range(4)
    assert [pipeline.sampling().length_of(i) for i in four] == [3, 2, 4, 5]
    assert [pipeline.sampling(length=7, candidates=4).length_of(i) for i in four] == [7] * 4
    assert [pipeline.sampling(length=0).length_of(i) for i in four] == [0] * 4
    assert [pipeline.sampling(length=4, max_length=5).length_of(i) for i in four] == [4, 5, 4, 5]
    special = pipeline.captioner.text.special_ids
    image = pipeline.encode(album / "plain0.jpg")
    drawn = pipeline.captioner.generate(image=image, sampling=pipeline.sampling(length=6, candidates=4))
    assert not torch.isin(drawn.ids[0, :, 1:7], torch.tensor(special)).any()


def test_a_clip_chooses_the_caption_most_like_the_photo(tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    folder, photo = write_clip_scorer(tmp_path), sample_photo()
    result = CaptionPipeline.from_pretrained(clip=folder)(photo, candidates=8, select="similarity")
    assert len(set(result.candidates)) > 4
    clip, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    inputs = processor(
        text=[f"A photo depicts {caption}" for caption in result.candidates],
        images=[to_square(open_image(photo), 224)],
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=40,
    )
    with torch.inference_mode():
        similarity = clip(**inputs).logits_per_image[0]
    assert result.caption == result.candidates[int(similarity.argmax())]
    bare = save_tiny_captioner(tmp_path / "bare")  # a model without a scorer
    with pytest.raises(InputError, match="--clip"):
        CaptionPipeline.from_pretrained(bare)(photo, candidates=2, select="similarity")


def test_diverse_captions_are_candidates_unlike_each_other() -> None:
    done = clearcap("caption", sample_photo(), "--diverse", "3", "--json")
    told = json.loads(done.stdout)
    result = CaptionPipeline.from_pretrained()(sample_photo(), candidates=10)
    assert told["diverse"] == [result.candidates[i] for i in diverse(result.candidates, 3)]
    assert len(set(told["diverse"])) == 3
    assert clearcap("caption", sample_photo(), "--diverse", "3").stdout.splitlines() == told["diverse"]
    refused = clearcap("caption", sample_photo(), "--diverse", "3", "--candidates", "2")
    assert refused.returncode == 1
    assert "sample more" in refused.stderr


def test_any_sampling_setting_from_the_command_line() -> None:
    how = {"refine": 2, "refine_time": 0.8, "spacing": "trailing", "noise_factor": 4.0}
    told = [word for key, value in how.items() for word in ("--set", f"{key}={value}")]
    done = clearcap("caption", sample_photo(), *told, "--seed", "5", "--json")
    pipeline = CaptionPipeline.from_pretrained(backend="fast")
    assert json.loads(done.stdout) == pipeline(sample_photo(), seed=5, **how).to_json() | {
        "image": str(sample_photo())
    }
    assert json.loads(done.stdout)["confidence"] != pipeline(sample_photo(), seed=5).to_json()["confidence"]
    refused = clearcap("caption", sample_photo(), "--set", "refine_tim=1")
    assert refused.returncode == 1
    assert "unknown setting 'refine_tim'" in refused.stderr


def test_unknown_setting_and_impossible_steps(model: Path, album: Path) -> None:
    pipeline = CaptionPipeline.from_pretrained(model)
    with pytest.raises(InputError, match="unknown sampling setting 'step'"):
        pipeline(str(album / "plain0.jpg"), step=3)
    with pytest.raises(InputError, match="1000 noise levels"):
        pipeline(str(album / "plain0.jpg"), steps=2000)


def test_missing_model_is_one_line() -> None:
    done = clearcap("caption", "x.jpg", "--model", "/no/such/folder")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "/no/such/folder" in done.stderr


def test_diffusers_arguments_are_ours(model: Path, album: Path) -> None:
    pipeline, photo = CaptionPipeline.from_pretrained(model), str(album / "plain4.jpg")
    ours = pipeline(photo, steps=3, guidance=2.5, seed=11, candidates=4)
    generator = torch.Generator().manual_seed(11)
    theirs = {"num_inference_steps": 3, "guidance_scale": 2.5, "generator": generator}
    assert pipeline(photo, **theirs, candidates=4) == ours
    assert pipeline([photo], **theirs, candidates=4) == [ours]
    assert pipeline(photo, **theirs | {"num_inference_steps": 1}, candidates=4) != ours
    assert pipeline(photo, **theirs | {"generator": None}, candidates=4) != ours
    blanks, few = "a ___ dog ___ .", {"guidance": 2.5, "steps": 3}
    named = {"guidance_scale": 2.5, "num_inference_steps": 3}
    assert pipeline.fill(photo, blanks, **named) == pipeline.fill(photo, blanks, **few)
    assert pipeline.fill(photo, blanks, guidance_scale=None) == pipeline.fill(photo, blanks, guidance=0.0)
    assert len(pipeline.trajectory(photo, num_inference_steps=3)) == 3


def test_the_old_name_of_a_backend_warns(model: Path) -> None:
    with pytest.warns(RenamedWarning, match="'packed' is called 'prepacked' now"):
        CaptionPipeline.from_pretrained(model, backend="packed")
    with pytest.raises(InputError, match="unknown backend 'pack'"):
        CaptionPipeline.from_pretrained(model, backend="pack")
