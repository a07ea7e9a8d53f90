"""Exported graphs against the captioner they were written from: the same numbers, the same tokens, clear errors."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import clearcap
from PIL import Image
from tiny_captioner import tiny_captioner

from clearcap.captioner.folder import shares_of, weight_files
from clearcap.captioner.hub import export
from clearcap.captioner.model import Captioner, CaptionerConfig, load_captioner
from clearcap.captioner.network import Network
from clearcap.captioner.onnx import GRAPHS
from clearcap.captioner.onnx.int8 import LOSS, WEIGHT_STEPS, quantize, quantize_columns
from clearcap.captioner.onnx.runtime import GraphModel, denoiser_inputs
from clearcap.captioner.onnx.weights import LEAST
from clearcap.captioner.sharing import stored
from clearcap.data.images import PhotoFile
from clearcap.data.records import CaptionedPhoto
from clearcap.data.threads import set_threads
from clearcap.errors import InputError
from clearcap.pipeline import CaptionPipeline
from clearcap.sampling.guidance import guided

needed = "onnxruntime, onnx and onnxscript are not installed; pip install 'clearcap[onnx]'"
pytest.importorskip("onnxruntime", reason=needed)
pytest.importorskip("onnxscript", reason=needed)
from clearcap.bench.backends import Backend, compare_backends  # noqa: E402
from clearcap.captioner.onnx.export import export_graphs  # noqa: E402


def save(captioner: Captioner, tokenizer: Any, folder: Path) -> Path:
    captioner.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    captioner, tokenizer = tiny_captioner()
    captioner = copy.deepcopy(captioner)
    with torch.no_grad():
        captioner.vision.head.weight.mul_(200)  # or every photo is told the same
    return save(captioner, tokenizer, tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_graphs(str(trained), folder)
    return folder


@pytest.fixture(scope="module")
def int8(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "model"
    done = clearcap("export", str(trained), str(folder), "--onnx", "--int8")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def torch_pipeline(trained: Path) -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(trained)


@pytest.fixture(scope="module")
def onnx_pipeline(exported: Path) -> CaptionPipeline:
    return CaptionPipeline.from_pretrained(exported)


def tensor(x: Any) -> torch.Tensor:
    """Of whatever array a captioner gives."""
    return torch.as_tensor(x)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_graphs_compute_what_the_networks_do(
    torch_pipeline: CaptionPipeline, onnx_pipeline: CaptionPipeline, pixels: torch.Tensor
) -> None:
    mine, theirs = torch_pipeline.captioner, onnx_pipeline.captioner
    views = [one.image_context(one.encode_image(one.asarray(pixels))) for one in (mine, theirs)]
    assert len(views[0]) == len(views[1]) == 2
    nothing = [one.denoiser.null_context() for one in (mine, theirs)]
    for a, b in zip([*views[0], *nothing[0]], [*views[1], *nothing[1]], strict=True):
        torch.testing.assert_close(a, tuple(map(tensor, b)), atol=1e-5, rtol=1e-5)
    x, x_self = (torch.randn(10, 10, 24, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    t = torch.arange(10) * 100
    outputs = [
        tensor(one.denoiser(*map(one.asarray, (x, x_self, t)), view))
        for one, view in zip((mine, theirs), views, strict=True)
    ]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    logits = [tensor(one.logits(one.asarray(x))) for one in (mine, theirs)]
    scale = float(logits[0].abs().max())  # products sum up in another order, which shows in the last digits
    torch.testing.assert_close(*logits, atol=1e-5 * scale, rtol=0)
    ids = torch.tensor([[2, 5, 6, 7, 3, 0, 0, 0, 0, 0], [2, 8, 9, 6, 5, 7, 8, 3, 0, 0]])
    latents = [
        tensor(one.text.encode(one.asarray(ids), one.asarray((ids != 0).long()))) for one in (mine, theirs)
    ]
    torch.testing.assert_close(*latents, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_guidance_runs_both_branches_in_one_batch(
    torch_pipeline: CaptionPipeline, onnx_pipeline: CaptionPipeline, pixels: torch.Tensor
) -> None:
    x = torch.randn(15, 10, 24, generator=torch.Generator().manual_seed(3))
    found = []
    for one in (torch_pipeline.captioner, onnx_pipeline.captioner):
        view = one.image_context(one.encode_image(one.asarray(pixels)))
        denoise = guided(one.denoiser, one.noise(1.0), view, 1.5)
        shown = map(one.asarray, (x, torch.zeros_like(x), torch.full((15,), 500)))
        found.append(tensor(denoise(*shown)))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"guidance": 0.0},
        {"solver": "ddim", "candidates": 3},
        {"solver": "renoise", "refine": 1, "candidates": 2},
        {"solver": "ddpm", "early_exit": 2},
        {"solver": "renoise", "steps": 3, "clamp": True, "length": 5, "min_length": 4, "candidates": 2},
    ],
)
def test_same_token_ids(
    torch_pipeline: CaptionPipeline, onnx_pipeline: CaptionPipeline, pixels: torch.Tensor, how: dict[str, Any]
) -> None:
    said = []
    for seed in range(4):
        mine, theirs = (
            one.captioner.generate(one.captioner.asarray(pixels), seed=seed, sampling=one.sampling(**how))
            for one in (torch_pipeline, onnx_pipeline)
        )
        assert isinstance(theirs.ids, np.ndarray)
        assert torch.equal(mine.ids, tensor(theirs.ids))
        torch.testing.assert_close(mine.confidence, tensor(theirs.confidence), atol=1e-4, rtol=1e-4)
        said.append(mine.ids[:, 0])
    assert len(torch.cat(said).unique(dim=0)) > 1


@pytest.mark.parametrize("kind", ["exported", "int8"])
def test_batch_of_one_equals_its_row(kind: str, request: pytest.FixtureRequest, pixels: torch.Tensor) -> None:
    captioner = CaptionPipeline.from_pretrained(request.getfixturevalue(kind)).captioner
    loud = (pixels * torch.tensor([1, 1e-2, 1.0, 0.5, 0.1]).view(5, 1, 1, 1)).numpy()
    together = captioner.generate(loud, seed=1)
    for row in range(5):
        assert np.array_equal(captioner.generate(loud[row : row + 1], seed=1).ids[0], together.ids[row])


def test_batches_at_once_have_a_thread_each(exported: Path) -> None:
    """Not the threads of one session, for which they would wait in turn."""
    set_threads(2)
    pipeline = CaptionPipeline.from_pretrained(exported)
    graph, used = pipeline.captioner.denoiser.graph, set()

    def noted(*arguments: Any) -> Any:
        used.add(graph.session.get_session_options().intra_op_num_threads)
        return graph(*arguments)

    photos = list(np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8))
    pipeline.captioner.denoiser.graph = noted
    alone = pipeline(photos, batch_size=2)
    assert used == {2}
    used.clear()
    together = list(pipeline.stream(photos, batch_size=2, at_once=2))
    assert used == {1}
    assert [one.caption for one in together] == [one.caption for one in alone]
    assert graph.session.get_session_options().intra_op_num_threads == 2  # for those who come after


def test_fill_keeps_the_fixed_words_of_the_torch_captioner(
    torch_pipeline: CaptionPipeline, onnx_pipeline: CaptionPipeline
) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    filled = [one.fill(photo, "a ___ dog ___ the ___", seed=0) for one in (torch_pipeline, onnx_pipeline)]
    assert filled[0].text == filled[1].text
    assert filled[1].text.split()[2] == "dog"


@torch.inference_mode()
def test_int8_is_close_and_smaller(
    int8: Path, exported: Path, torch_pipeline: CaptionPipeline, pixels: torch.Tensor
) -> None:
    captioner = CaptionPipeline.from_pretrained(int8).captioner
    assert captioner.denoiser.graph.weights == "int8"
    wanted = torch_pipeline.captioner.image_context(torch_pipeline.captioner.encode_image(pixels))
    found = captioner.image_context(captioner.encode_image(pixels.numpy()))
    for a, b in zip(wanted, found, strict=True):
        for one, other in zip(a, b, strict=True):
            assert 0 < (one - tensor(other)).norm() / one.norm() < 0.05
    assert (int8 / "denoise.onnx").stat().st_size < (exported / "denoise.onnx").stat().st_size


def test_int8_weights_are_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    weight[:, 2] = 0
    rounded, rest, scale = quantize_columns(weight)
    assert rounded.dtype == rest.dtype == np.int8
    assert np.all(np.abs(rounded * scale - weight) <= scale / 2 + 1e-7)
    assert np.all(np.abs((rounded + rest / (2 * WEIGHT_STEPS)) * scale - weight) <= scale / 252 + 1e-7)


def test_no_sum_of_two_int8_products_can_leave_16_bits(int8: Path) -> None:
    """What x86 without VNNI saturates: activations of 0 .. 255 times two neighbouring weights, in 16 bits."""
    import onnx

    multiplied = 0
    for name in GRAPHS:
        graph = onnx.load(int8 / f"{name}.onnx").graph
        weights = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        stored = {key: value for key, value in weights.items() if value.dtype == np.int8}
        assert stored or name == "words"
        for value in stored.values():
            assert np.abs(value.astype(np.int64)).max() <= WEIGHT_STEPS
            assert 2 * 255 * np.abs(value.astype(np.int64)).max() <= 2**15 - 1
        for node in graph.node:
            if node.op_type == "MatMulIntegerToFloat":
                assert node.input[1] in stored
                multiplied += 1
    assert multiplied


@torch.inference_mode()
def test_int8_denoiser_is_close(int8: Path, onnx_pipeline: CaptionPipeline, pixels: torch.Tensor) -> None:
    captioner, exact = CaptionPipeline.from_pretrained(int8).captioner, onnx_pipeline.captioner
    view = exact.image_context(exact.encode_image(pixels.numpy()))
    x = np.random.default_rng(4).standard_normal((5, 10, 24), np.float32)
    wanted, found = (
        one.denoiser(x, np.zeros_like(x), np.full((5,), 500), view) for one in (exact, captioner)
    )
    assert 0 < np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 2 * LOSS


def test_products_stay_float32_where_no_loss_is_allowed(exported: Path, tmp_path: Path) -> None:
    samples = denoiser_inputs(exported)
    computed = [
        quantize(exported / "denoise.onnx", tmp_path / "x.onnx", samples, loss) for loss in (0.0, LOSS, 1.0)
    ]
    assert computed == sorted(computed)
    assert computed[0] == 0 < computed[-1]


def test_fused_denoiser_and_word_embeddings_are_exported_too(tmp_path: Path) -> None:
    _, tokenizer = tiny_captioner()
    torch.manual_seed(0)
    config = CaptionerConfig(
        text={"kind": "embedding", "length": 8},
        vision={"kind": "compact", "tokens": 1, "dim": 16, "image_size": 32},
        denoiser={"kind": "concat", "width": 24, "depth": 2, "heads": 2, "hidden": 32},
        sampling={"solver": "plain", "steps": 3},
        tower={"widths": [8, 8, 8, 16], "depths": [0, 1, 1, 1], "mixers": 1, "heads": 2},
        bert={"vocab_size": len(tokenizer), "dim": 24},
        tokens={"pad": 0, "cls": 2, "sep": 3, "filler": 0},
    )
    trained = save(Captioner(config).eval(), tokenizer, tmp_path / "trained")
    export_graphs(str(trained), tmp_path / "graphs")
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    captioners = [
        CaptionPipeline.from_pretrained(tmp_path / name).captioner for name in ("trained", "graphs")
    ]
    drawn = [one.generate(one.asarray(pixels), seed=0) for one in captioners]
    assert len(drawn[0].ids.unique()) > 1
    assert torch.equal(drawn[0].ids, tensor(drawn[1].ids))


def test_a_pair_of_encoders_is_exported_too(tmp_path: Path) -> None:
    tiny, tokenizer = tiny_captioner()
    config = copy.deepcopy(tiny.config)
    config.vision = {**config.vision, "kind": "pair"}
    config.tower = {"compact": config.tower, "efficientnet": {"width": 0.1, "depth": 0.5}}
    torch.manual_seed(0)
    captioner = Captioner(config).eval()
    for part, trained in ((captioner.text, tiny.text), (captioner.denoiser, tiny.denoiser)):
        part.load_state_dict(trained.state_dict())
    with torch.no_grad():
        captioner.vision.efficientnet.project.weight.mul_(200)  # or every photo is told the same
    export_graphs(str(save(captioner, tokenizer, tmp_path / "trained")), tmp_path / "graphs")
    pixels = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    captioners = [
        CaptionPipeline.from_pretrained(tmp_path / name).captioner for name in ("trained", "graphs")
    ]
    drawn = [one.generate(one.asarray(pixels), seed=2) for one in captioners]  # a seed whose captions differ
    assert len({tuple(row) for row in drawn[0].ids.flatten(0, 1).tolist()}) > 1
    assert torch.equal(drawn[0].ids, tensor(drawn[1].ids))


@pytest.fixture(scope="module")
def shared_weights(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``clearcap export`` writes: weights in float16, of which most lie in the folder above, and graphs.

    The weights that the folder does not share are its own.
    """
    root = tmp_path_factory.mktemp("shared") / "model"
    export(str(trained), root, graphs=False)
    captioner, tokenizer = load_captioner(str(root))
    with torch.no_grad():
        captioner.denoiser.head.weight.mul_(1.5)
    student = save(captioner, tokenizer, tmp_path_factory.mktemp("student"))
    export(str(student), root / "student", str(root))
    assert len(weight_files(root / "student")) == 2
    return root / "student"


def same_captions(folder: Path, pixels: torch.Tensor, how: dict[str, Any]) -> None:
    drawn = []
    for backend in ("torch", "onnx"):
        pipeline = CaptionPipeline.from_pretrained(folder, backend=backend)
        captioner, sampling = pipeline.captioner, pipeline.sampling(**how)
        given = captioner.asarray(pixels)
        found = [captioner.generate(given, seed=seed, sampling=sampling).ids for seed in range(4)]
        drawn.append(torch.cat([tensor(ids) for ids in found]))
    assert len(drawn[0][:, 0].unique(dim=0)) > 1
    assert torch.equal(*drawn)


@pytest.mark.parametrize("how", [{}, {"candidates": 3, "refine": 1, "early_exit": 1}])
def test_graphs_share_the_weights_beside_them(
    shared_weights: Path, pixels: torch.Tensor, how: dict[str, Any]
) -> None:
    import onnx

    same_captions(shared_weights, pixels, how)
    files = set()
    for name in GRAPHS:
        graph = onnx.load(shared_weights / f"{name}.onnx", load_external_data=False).graph
        own = [one for one in graph.initializer if not one.external_data]
        assert max((int(np.prod(one.dims)) for one in own), default=0) < LEAST
        files |= {one.external_data[0].value for one in graph.initializer if one.external_data}
    assert files == {"model.safetensors", "../model.safetensors"}


def change(file: Path, part: str) -> None:
    """Another bit in the first weight of a part."""
    begin = next(begin for name, _, begin in stored(file) if name.startswith(part))
    changed = bytearray(file.read_bytes())
    changed[begin] ^= 1
    file.write_bytes(changed)


def test_graphs_of_other_weights_are_refused(shared_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_weights.parent, tmp_path / "model")
    folder = tmp_path / "model" / "student"
    change(folder / "model.safetensors", "denoiser")
    with pytest.raises(InputError, match=r"written for other weights .* clearcap export"):
        CaptionPipeline.from_pretrained(folder, backend="onnx")


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_only_the_parts_that_are_shared_must_stay(shared_weights: Path, tmp_path: Path, backend: str) -> None:
    shutil.copytree(shared_weights.parent, tmp_path / "model")
    folder = tmp_path / "model" / "student"
    shares = shares_of(folder)
    assert shares
    assert shares.parts == ("text", "vision")
    change(folder.parent / "model.safetensors", "denoiser")  # a new denoiser beside the encoder of before
    CaptionPipeline.from_pretrained(folder, backend=backend)
    change(folder.parent / "model.safetensors", "vision")
    with pytest.raises(InputError, match=r"text and vision weights are others .* from one release"):
        CaptionPipeline.from_pretrained(folder, backend=backend)


@pytest.mark.parametrize("said", ["..", {"folder": ".."}, {"folder": "..", "parts": ["eyes"], "sha256": ""}])
def test_what_is_shared_must_be_said_whole(shared_weights: Path, tmp_path: Path, said: Any) -> None:
    shutil.copytree(shared_weights.parent, tmp_path / "model")
    folder = tmp_path / "model" / "student"
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "shares": said}))
    for backend in ("onnx", "torch"):
        with pytest.raises(InputError, match=r"config\.json: 'shares' .* save the captioner again"):
            CaptionPipeline.from_pretrained(folder, backend=backend)


def test_graphs_are_chosen_unless_torch_is_asked_for(shared_weights: Path, trained: Path) -> None:
    load = CaptionPipeline.from_pretrained
    for chosen in (load(shared_weights), load(shared_weights, backend="fast")):
        assert isinstance(chosen.captioner, GraphModel)
    for chosen in (
        load(shared_weights, device="cpu"),
        load(shared_weights, dtype="float64"),
        load(shared_weights, backend="prepacked"),
        load(trained),
    ):
        assert isinstance(chosen.captioner, Network)


def test_graphs_that_ship_belong_to_the_weights_that_ship() -> None:
    assert isinstance(CaptionPipeline.from_pretrained(backend="onnx").captioner, GraphModel)


def test_command_line_captions_with_graphs(int8: Path, tmp_path: Path) -> None:
    assert {file.stem for file in int8.glob("*.onnx")} == set(GRAPHS)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photo)
    done = clearcap("caption", str(photo), "--model", str(int8))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == CaptionPipeline.from_pretrained(int8)(photo).caption


@pytest.mark.parametrize("fault", ["absent", "truncated", "no graph", "swapped", "another captioner's"])
def test_bad_graphs_are_one_line(exported: Path, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    file = folder / "denoise.onnx"
    if fault == "absent":
        file.unlink()
    elif fault == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif fault == "no graph":
        file.write_text("not a graph")
    elif fault == "swapped":
        shutil.copy(folder / "decode.onnx", file)
    else:
        import onnx

        model = onnx.load(file)
        for entry in model.metadata_props:
            if entry.key == "clearcap.stamp":
                entry.value = "0" * 64
        onnx.save(model, file)
    with pytest.raises(InputError, match=r"denoise\.onnx") as caught:
        CaptionPipeline.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert "clearcap export --onnx" in str(caught.value)


def test_what_graphs_cannot_do_is_one_line(exported: Path, trained: Path) -> None:
    with pytest.raises(InputError, match="leave device and dtype out"):
        CaptionPipeline.from_pretrained(exported, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="leave device and dtype out"):
        CaptionPipeline.from_pretrained(exported, device="cuda")
    with pytest.raises(InputError, match=r"encode\.onnx: absent"):
        CaptionPipeline.from_pretrained(trained, backend="onnx")
    with pytest.raises(InputError, match="pass the trained model"):
        load_captioner(str(exported))
    with pytest.raises(InputError, match="choose one of torch, prepacked, compiled, onnx, fast"):
        CaptionPipeline.from_pretrained(exported, backend="tflite")


def test_fast_is_graphs_where_a_folder_holds_them_and_packed_torch_elsewhere(
    exported: Path, trained: Path
) -> None:
    denoisers = [
        CaptionPipeline.from_pretrained(folder, backend="fast").captioner.denoiser
        for folder in (exported, trained)
    ]
    assert [type(denoiser).__name__ for denoiser in denoisers] == ["GraphDenoiser", "KeptNull"]


def test_backends_are_compared_with_the_first(
    trained: Path, exported: Path, int8: Path, tmp_path: Path
) -> None:
    backends = {
        name: Backend(CaptionPipeline.from_pretrained(folder))
        for name, folder in {"torch": trained, "onnx": exported, "int8": int8}.items()
    }
    rng = np.random.default_rng(2)
    corpus = []
    for number in range(5):
        file = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
        corpus.append(
            CaptionedPhoto(str(number), PhotoFile(file), ("a dog runs", f"photo {number} of a dog"))
        )
    rows = compare_backends(backends, tmp_path / "0.png", corpus, batch_size=2, repeats=2, steps=3)
    assert [row.name for row in rows] == list(backends)
    first, second, third = rows
    assert (first.tokens, first.photos) == (second.tokens, second.photos) == (1.0, 5)
    assert first.loss == second.loss == (0.0, 0.0, 0.0)
    assert third.tokens is not None
    assert 0 < third.tokens <= 1
    for row in rows:
        assert row.alone.wall > 0
        assert row.alone.cpu > 0
        assert row.together is not None
        assert row.together.wall > 0
    read_alone = CaptionPipeline.from_pretrained(trained)([one.image for one in corpus], steps=3)
    assert [one.caption for one in read_alone] == list(backends["torch"].captions.values())


def test_backends_without_a_corpus_are_timed_only(trained: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "red").save(photo)
    (row,) = compare_backends({"torch": Backend(CaptionPipeline.from_pretrained(trained))}, photo, repeats=1)
    assert row.alone.wall > 0
    assert set(row.to_json()) == {"name", "alone"}
