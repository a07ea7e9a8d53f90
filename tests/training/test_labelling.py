"""Labels by a teacher of transformers: tiny BLIP, GIT and a chat model that sees, saved as the hub has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from tiny_captioner import CAPTIONS

from clearcap.cli.labelling import label as command
from clearcap.data import expand, open_corpus
from clearcap.errors import InputError
from clearcap.text.tokenizer import train_tokenizer
from clearcap.training.labelling import Labelling, Teacher, label

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 32, "patch_size": 16}
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    return {name: make(folder / name) for name, make in (("blip", blip), ("git", git), ("chat", chat))}


def blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = bert()
    ids = {"bos_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    text = {**SIZES, **ids, "vocab_size": len(tokenizer), "pad_token_id": 0, "encoder_hidden_size": 16}
    torch.manual_seed(0)
    config = BlipConfig(
        text_config=text, vision_config={**VISION, "initializer_range": 0.5}, projection_dim=16
    )
    return saved(
        BlipForConditionalGeneration(config),
        BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer),
        folder,
    )


def git(folder: Path) -> Path:
    from transformers import GitConfig, GitForCausalLM, GitProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = bert()
    ids = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    torch.manual_seed(1)
    config = GitConfig(vision_config=VISION, vocab_size=len(tokenizer), pad_token_id=0, **SIZES, **ids)
    return saved(GitForCausalLM(config), GitProcessor(pil_clip(CLIPImageProcessorPil), tokenizer), folder)


def chat(folder: Path) -> Path:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = bert()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    text = {**SIZES, "model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0}
    text |= {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(2)
    config = LlavaConfig(
        vision_config={**VISION, "model_type": "clip_vision_model", "projection_dim": 16},
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    template = (
        "{% for turn in messages %}{% for part in turn['content'] %}{% if part['type'] == 'image' %}<image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    processor = LlavaProcessor(
        pil_clip(CLIPImageProcessorPil),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    return saved(LlavaForConditionalGeneration(config), processor, folder)


def bert() -> Any:
    return train_tokenizer(CAPTIONS, size=120, min_count=1)


def pil_clip(kind: Any) -> Any:
    return kind(size={"height": 32, "width": 32}, do_center_crop=False)


def saved(model: Any, processor: Any, folder: Path) -> Path:
    with torch.no_grad():  # untrained weights of std 0.02 would say one thing of every photo
        for weight in model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "2.png").write_bytes(b"no photo")
    return folder


@pytest.mark.parametrize("kind", ["blip", "git", "chat"])
def test_what_is_written_is_what_transformers_generates(kind: str, teachers: Any, album: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, photo = teachers[kind], Image.open(album / "0.png")
    how = Labelling(str(folder), beams=1, max_tokens=6, prompt="a dog" if kind == "chat" else "")
    both = Teacher(how).write([photo, Image.open(album / "1.png")])
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    text = {"text": "<image>a dog"} if kind == "chat" else {}
    inputs = processor(images=photo, return_tensors="pt", **text)
    with torch.inference_mode():
        ids = model.eval().generate(**inputs, max_new_tokens=6, num_beams=1, do_sample=False)
    if kind == "chat":
        ids = ids[:, inputs["input_ids"].shape[1] :]
    assert both[0] == processor.batch_decode(ids, skip_special_tokens=True)[0].strip() != ""


def test_a_folder_of_captions_comes_out_and_a_stopped_run_goes_on(
    teachers: Any, album: Path, tmp_path: Path
) -> None:
    how = Labelling(str(teachers["git"]), beams=2, max_tokens=6)
    faults: list[InputError] = []
    names = expand([str(album), str(tmp_path / "absent.jpg")])
    assert label(names, how, tmp_path / "whole", batch_size=2, failed=faults.append) == 4
    assert ["2.png" in str(fault) or "absent.jpg" in str(fault) for fault in faults] == [True, True]
    read = open_corpus("folder", tmp_path / "whole")
    assert sorted(Path(photo.image.name).name for photo in read) == ["0.png", "1.png", "3.png", "4.png"]
    assert all(len(photo.captions) == 1 and photo.image.open().size == (30, 40) for photo in read)
    stopped = tmp_path / "stopped"
    label(names[:2], how, stopped, batch_size=1)
    with (stopped / "captions.jsonl").open("a") as file:
        file.write('{"file_name": "cut')  # as a kill leaves it
    label(names, how, stopped, batch_size=1)
    lines = [(out / "captions.jsonl").read_text().splitlines() for out in (stopped, tmp_path / "whole")]
    assert lines[0] == lines[1]
    with pytest.raises(InputError, match="beams"):
        label(names, Labelling(str(teachers["git"]), beams=3, max_tokens=6), stopped)


def test_a_teacher_that_is_none_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be loaded as a captioner"):
        Teacher(Labelling(str(tmp_path)))
    (tmp_path / "captions.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="was not written by clearcap label"):
        label([], Labelling("any"), tmp_path)
    with pytest.raises(InputError, match="beams=0"):
        Labelling("any", beams=0)


def test_the_command_names_what_failed(
    teachers: Any, album: Path, tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    out = tmp_path / "labelled"
    with pytest.raises(typer.Exit) as stopped:
        command([str(album)], str(teachers["blip"]), out, max_tokens=5)
    assert stopped.value.exit_code == 1
    assert sum("2.png" in line for line in caplog.messages) == 1
    assert caplog.messages[-1] == "1 of 5 photos failed"
    assert f"4 photos captioned in {out}" in capsys.readouterr().out
    assert len([json.loads(line) for line in (out / "captions.jsonl").open()]) == 4
