"""Every folder that an obvious call saves opens everywhere, and says the same."""

from __future__ import annotations

import copy
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_captioner import save_tiny_captioner
from transformers import AutoConfig, AutoModel, AutoProcessor, BertConfig, BertModel, pipeline

from clearcap import Captioner, CaptionerConfig, CaptionPipeline
from clearcap.captioner.folder import BUNDLED, bundled_model
from clearcap.captioner.hub import CaptionerProcessor, CardFacts, save_for_hub
from clearcap.errors import InputError
from clearcap.text.tokenizer import encode_captions

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("model"))


def saved(way: str, folder: Path, out: Path) -> Path:
    if way == "Captioner":
        Captioner.from_pretrained(folder).save_pretrained(out)
    elif way == "AutoModel":
        AutoModel.from_pretrained(str(folder)).save_pretrained(str(out))
    elif way == "CaptionPipeline":
        CaptionPipeline.from_pretrained(folder, backend="prepacked").save_pretrained(out)
    else:
        facts = CardFacts("someone/model", "data", "command")
        save_for_hub(
            Captioner.from_pretrained(folder), CaptionPipeline.from_pretrained(folder).tokenizer, out, facts
        )
    return out


@pytest.mark.parametrize("way", ["Captioner", "AutoModel", "CaptionPipeline", "save_for_hub"])
def test_what_one_call_saves_every_loader_opens(way: str, folder: Path, tmp_path: Path) -> None:
    out = saved(way, folder, tmp_path / "out")
    expected = CaptionPipeline.from_pretrained(folder)(PHOTO, candidates=3)
    assert CaptionPipeline.from_pretrained(out)(PHOTO, candidates=3) == expected
    assert isinstance(AutoConfig.from_pretrained(out), CaptionerConfig)
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert isinstance(model, Captioner)
    assert isinstance(processor, CaptionerProcessor)
    said = model.generate(**processor(images=PHOTO)).ids[0]
    assert processor.batch_decode(said, model.text.special_ids) == [expected.candidates[0]]
    again = saved(way, out, tmp_path / "again")
    assert CaptionPipeline.from_pretrained(again)(PHOTO, candidates=3) == expected


def test_saved_over_itself_after_captions_were_encoded_it_is_the_same(tmp_path: Path) -> None:
    place = save_tiny_captioner(tmp_path / "model")
    saved = []
    for _ in range(3):
        captioner = Captioner.from_pretrained(place)
        encode_captions(captioner.tokenizer, ["a dog runs on the grass", "a cat"], 6)
        captioner.save_pretrained(place)
        saved.append({file.name: file.read_bytes() for file in place.iterdir()})
    assert saved[0] == saved[1] == saved[2]


def test_a_captioner_without_a_tokenizer_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    captioner = Captioner.from_pretrained(folder)
    captioner.tokenizer = None
    captioner.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"holds no tokenizer\.json.*tokenizer\.save_pretrained\(folder\)"):
        CaptionPipeline.from_pretrained(tmp_path)
    assert Captioner.from_pretrained(tmp_path).tokenizer is None
    loaded = CaptionPipeline.from_pretrained(folder)
    with pytest.raises(InputError, match="was not loaded from a folder"):
        CaptionPipeline(loaded.captioner, loaded.tokenizer).save_pretrained(tmp_path)


@pytest.mark.parametrize("way", ["Captioner", "CaptionPipeline"])
def test_weights_in_several_files_open_as_bert_s_do(way: str, folder: Path, tmp_path: Path) -> None:
    sizes = BertConfig(
        vocab_size=200, hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=64
    )
    BertModel(sizes).save_pretrained(tmp_path / "bert", max_shard_size="4KB")
    assert (tmp_path / "bert" / "model.safetensors.index.json").is_file()
    BertModel.from_pretrained(tmp_path / "bert")
    loaded: Any = Captioner if way == "Captioner" else CaptionPipeline
    loaded.from_pretrained(folder).save_pretrained(tmp_path / "out", max_shard_size="20KB")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    expected = CaptionPipeline.from_pretrained(folder)(PHOTO, candidates=3)
    assert CaptionPipeline.from_pretrained(tmp_path / "out")(PHOTO, candidates=3) == expected
    for again in (Captioner.from_pretrained(tmp_path / "out"), AutoModel.from_pretrained(tmp_path / "out")):
        again.save_pretrained(tmp_path / "out")  # in one file: those before are gone
        assert [file.name for file in (tmp_path / "out").glob("model*")] == ["model.safetensors"]
    assert CaptionPipeline.from_pretrained(tmp_path / "out")(PHOTO, candidates=3) == expected


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ("[", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"weight_map": 3}', "cannot be read"),
        ('{"weight_map": {"a": "../x"}}', "names '../x', which is no file beside it"),
        ('{"weight_map": {"a": "model-1.safetensors"}}', r"model-1\.safetensors: cannot be read"),
    ],
)
def test_a_bad_index_of_weights_is_one_line(index: str, fault: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").unlink()
    (tmp_path / "bad" / "model.safetensors.index.json").write_text(index)
    for loader in (Captioner, CaptionPipeline):
        with pytest.raises(InputError, match=fault) as caught:
            loader.from_pretrained(tmp_path / "bad")
        assert "\n" not in str(caught.value)


def test_places_that_cannot_be_written_are_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for loaded in (Captioner.from_pretrained(folder), CaptionPipeline.from_pretrained(folder)):
        with pytest.raises(InputError, match="file is a file, not a folder"):
            loaded.save_pretrained(tmp_path / "file")
        with pytest.raises(InputError, match="no folder can be made there"):
            loaded.save_pretrained(tmp_path / "file" / "below")
        with pytest.raises(InputError, match="variant='fp16': captioners are loaded without one"):
            loaded.save_pretrained(tmp_path / "out", variant="fp16")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", BUNDLED)
def test_models_that_ship_have_a_processor_and_a_task(name: str) -> None:
    place = bundled_model(name)
    assert isinstance(AutoProcessor.from_pretrained(place), CaptionerProcessor)
    ours = CaptionPipeline.from_pretrained(name)
    theirs = pipeline("image-captioning", model=str(place))
    assert theirs(PHOTO) == [{"generated_text": ours(PHOTO).caption}]
    assert theirs(PHOTO, seed=3, steps=2, guidance_scale=0.5) == [
        {"generated_text": ours(PHOTO, seed=3, steps=2, guidance=0.5).caption}
    ]
    assert len(theirs([PHOTO, PHOTO], batch_size=2)) == 2
    with pytest.raises(InputError, match="unknown sampling setting 'num_beams'"):
        theirs(PHOTO, num_beams=4)


def test_the_task_has_a_model_of_its_own() -> None:
    assert Path(pipeline("image-captioning").model.config._name_or_path or bundled_model()) == bundled_model()


def test_the_model_that_ships_is_copied_and_saved_as_it_runs(tmp_path: Path) -> None:
    loaded = CaptionPipeline.from_pretrained()
    assert loaded.captioner.libraries == ("onnxruntime",)
    expected = loaded(PHOTO)
    for again in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert again(PHOTO) == expected
    loaded.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).dtype == torch.float32
    again = CaptionPipeline.from_pretrained(tmp_path)(PHOTO)
    assert again.candidates == expected.candidates


@pytest.mark.parametrize("backend", ["torch", "prepacked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_pickles_and_copies(
    backend: str, dtype: torch.dtype, folder: Path, tmp_path: Path
) -> None:
    loaded = CaptionPipeline.from_pretrained(folder, backend=backend, dtype=dtype)
    expected = loaded(PHOTO, candidates=4)
    for again in (copy.copy(loaded), copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert again(PHOTO, candidates=4) == expected
    assert loaded(PHOTO, candidates=4) == expected


def test_a_pickled_pipeline_works_in_another_process(tmp_path: Path) -> None:
    loaded = CaptionPipeline.from_pretrained(backend="prepacked")
    (tmp_path / "it").write_bytes(pickle.dumps(loaded))
    PHOTO.save(tmp_path / "a.png")
    code = "import pickle; print(pickle.load(open('it', 'rb'))('a.png').caption)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == loaded(PHOTO).caption


def test_a_pipeline_moves_and_casts(folder: Path) -> None:
    loaded = CaptionPipeline.from_pretrained(folder)
    assert (loaded.device.type, loaded.dtype) == ("cpu", torch.float32)
    assert loaded.to(torch.bfloat16) is loaded
    assert loaded.dtype == torch.bfloat16
    assert loaded(PHOTO).caption
    with pytest.raises(InputError, match="cannot be moved or cast"):
        CaptionPipeline.from_pretrained(folder, backend="prepacked").to("cpu", torch.bfloat16)
