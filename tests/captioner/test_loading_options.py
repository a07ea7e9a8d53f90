"""Options of ``from_pretrained``: honoured as transformers' own model does, or refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_captioner import save_tiny_captioner
from transformers import AutoModel, BertConfig, BertModel

import clearcap.captioner.hub
from clearcap import Captioner, CaptionPipeline
from clearcap.captioner.hub import CaptionerProcessor
from clearcap.errors import InputError

OURS = (Captioner, AutoModel, CaptionPipeline)
NAME = "someone/model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_captioner(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"), seed=0)


def save_bert(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=20, **sizes)).save_pretrained(folder)
    return folder


def cache(folder: Path, revisions: dict[str, Path]) -> Path:
    """A hub cache as huggingface_hub lays it out, with a commit for each revision."""
    repository = folder / f"models--{NAME.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for number, (revision, source) in enumerate(revisions.items()):
        commit = f"{number + 1:x}" * 40
        (repository / "refs" / revision).write_text(commit)
        shutil.copytree(source, repository / "snapshots" / commit)
    return folder


def weights(model: Any) -> torch.Tensor:
    network = model.captioner if isinstance(model, CaptionPipeline) else model
    return torch.cat([weight.detach().float().flatten() for weight in network.parameters()])


@pytest.mark.parametrize("loader", OURS)
@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.bfloat16},
        {"dtype": "bfloat16"},
        {"torch_dtype": "float16"},
        {"torch_dtype": torch.float64},
        {"dtype": "auto"},
        {},
        {"device_map": "cpu"},
        {"device_map": "auto"},
        {"device_map": {"": "cpu"}},
        {"device_map": torch.device("cpu"), "dtype": "float16"},
        {"local_files_only": True, "revision": "v9", "token": "t", "force_download": True},
        {"use_safetensors": True, "trust_remote_code": True, "low_cpu_mem_usage": True},
        {"attn_implementation": "sdpa"},
    ],
)
def test_a_folder_is_loaded_as_bert_is(
    loader: Any, options: dict[str, Any], folder: Path, bert: Path
) -> None:
    theirs, ours = BertModel.from_pretrained(bert, **options), loader.from_pretrained(folder, **options)
    assert ours.dtype == theirs.dtype
    assert ours.device == theirs.device


@pytest.mark.parametrize("loader", OURS)
def test_a_revision_is_the_one_that_is_loaded(loader: Any, tmp_path: Path) -> None:
    ours = {name: save_tiny_captioner(tmp_path / name, seed) for seed, name in enumerate(("main", "v1"))}
    theirs = {name: save_bert(tmp_path / f"bert-{name}", seed) for seed, name in enumerate(("main", "v1"))}
    for revisions, load, there in (
        (theirs, BertModel.from_pretrained, "theirs"),
        (ours, loader.from_pretrained, "ours"),
    ):
        at = {"cache_dir": cache(tmp_path / there, revisions), "local_files_only": True}
        found = {name: weights(load(NAME, revision=name, **at)) for name in revisions}
        for name, source in revisions.items():
            assert torch.equal(found[name], weights(load(source)))
        assert not torch.equal(found["main"], found["v1"])
        assert torch.equal(found["main"], weights(load(NAME, **at)))
        assert torch.equal(found["v1"], weights(load(NAME, revision="2" * 40, **at)))
        with pytest.raises((OSError, InputError)):
            load(NAME, revision="v2", **at)
        with pytest.raises((OSError, InputError)):
            load(NAME, cache_dir=tmp_path / "empty", local_files_only=True)


def test_what_is_passed_to_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def recorded(name: str, **options: Any) -> str:
        seen.update(options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", recorded)
    asked = {
        "revision": "v1",
        "cache_dir": "c",
        "token": "t",
        "local_files_only": True,
        "force_download": True,
    }
    for loader in (Captioner, CaptionPipeline, CaptionerProcessor):
        seen.clear()
        loader.from_pretrained(NAME, **asked)
        assert seen.items() >= asked.items()


@pytest.mark.parametrize("loader", OURS)
def test_a_subfolder(loader: Any, tmp_path: Path) -> None:
    inner = save_tiny_captioner(tmp_path / "all" / "inner")
    found = loader.from_pretrained(tmp_path / "all", subfolder="inner")
    assert torch.equal(weights(found), weights(loader.from_pretrained(inner)))


@pytest.mark.parametrize("loader", [Captioner, CaptionPipeline])
@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"nonsense": 1}, "unknown option 'nonsense'"),
        ({"low_gpu_mem": True}, "unknown option 'low_gpu_mem'"),
        ({"attn_implementation": "eager"}, "attn_implementation='eager'"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation='flash_attention_2'"),
        ({"output_loading_info": True}, "output_loading_info=True"),
        ({"use_safetensors": False}, "use_safetensors=False"),
        ({"quantization_config": {}}, "unknown option 'quantization_config'"),
        ({"dtype": "banana"}, "dtype='banana'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"torch_dtype": torch.int64}, "dtype=torch.int64"),
        ({"dtype": "float16", "torch_dtype": "float16"}, "say the same twice"),
        ({"device_map": {"text": "cpu", "denoiser": "cuda"}}, "not split over devices"),
        ({"device_map": "gpu"}, "device='gpu' cannot be used"),
        ({"device": "gpu"}, "device='gpu' cannot be used"),
        ({"device": "cpu", "device_map": "auto"}, "say the same twice"),
        ({"device": "meta"}, "device='meta' cannot be used"),
        ({"device": ""}, "device='' cannot be used"),
        ({"device_map": ""}, "device='' cannot be used"),
        ({"device_map": []}, "device='[]' cannot be used"),
        ({"device_map": -1}, "device='-1' cannot be used"),
    ],
)
def test_what_cannot_be_honoured_is_one_line(
    loader: Any, options: dict[str, Any], fault: str, folder: Path
) -> None:
    with pytest.raises(InputError) as caught:
        loader.from_pretrained(folder, **options)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_model_does_not_drop_an_attention(folder: Path) -> None:
    assert clearcap.captioner.hub.TASK
    with pytest.raises(InputError, match="attn_implementation='eager'"):
        AutoModel.from_pretrained(folder, attn_implementation="eager")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", 0, "cuda:1"])
def test_a_device_that_is_not_there_is_one_line(device: Any, folder: Path, bert: Path) -> None:
    with pytest.raises((RuntimeError, AssertionError)):
        BertModel.from_pretrained(bert, device_map=device)
    for loader in OURS:
        with pytest.raises(InputError, match=f"device='{device}' cannot be used"):
            loader.from_pretrained(folder, device_map=device)


@pytest.mark.parametrize(
    "place",
    [("gpu",), (torch.int8,), (3,), ("float16",), *([] if torch.cuda.is_available() else [("cuda",)])],
)
def test_a_pipeline_that_cannot_be_moved_says_so_in_one_line(
    place: tuple[Any, ...], folder: Path, bert: Path
) -> None:
    with pytest.raises((RuntimeError, AssertionError, TypeError)):
        BertModel.from_pretrained(bert).to(*place)
    with pytest.raises(InputError, match=rf"to\({place[0]}\) cannot be done \(.+\); pass cpu") as caught:
        CaptionPipeline.from_pretrained(folder).to(*place)
    assert "\n" not in str(caught.value)


def test_no_name_is_not_the_model_that_ships() -> None:
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        CaptionPipeline.from_pretrained("")


def test_settings_given_are_those_used(folder: Path) -> None:
    config = Captioner.from_pretrained(folder).config
    config.sampling["steps"] = 3
    assert Captioner.from_pretrained(folder, config=config).defaults.steps == 3
    assert AutoModel.from_pretrained(folder, config=config).defaults.steps == 3


def test_settings_may_lie_in_a_folder_of_their_own_as_bert_s(
    folder: Path, bert: Path, tmp_path: Path
) -> None:
    for load, source in ((BertModel.from_pretrained, bert), (Captioner.from_pretrained, folder)):
        config = load(source).config
        if source == folder:
            config.sampling["steps"] = 3
        config.save_pretrained(tmp_path / source.name)
        found = load(source, config=str(tmp_path / source.name))
        assert type(found.config) is type(config)
    assert found.defaults.steps == 3
    with pytest.raises(InputError, match="model_type is 'bert', not a captioner"):
        Captioner.from_pretrained(folder, config=bert)


def test_a_model_saved_in_bfloat16_is_loaded_so_as_bert_is(folder: Path, bert: Path, tmp_path: Path) -> None:
    for load, source in ((BertModel.from_pretrained, bert), (Captioner.from_pretrained, folder)):
        load(source, dtype="bfloat16").save_pretrained(tmp_path / source.name)
        assert load(tmp_path / source.name).dtype == torch.bfloat16
        assert load(tmp_path / source.name, dtype="float32").dtype == torch.float32
    pipeline = CaptionPipeline.from_pretrained(tmp_path / folder.name)
    assert pipeline.dtype == torch.float32
    assert CaptionPipeline.from_pretrained(tmp_path / folder.name, dtype="auto").dtype == torch.bfloat16
