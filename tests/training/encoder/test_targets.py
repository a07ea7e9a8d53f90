"""Teachers and the store of what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clearcap.errors import InputError
from clearcap.training.encoder.targets import (
    TargetStore,
    build_targets,
    draw_view,
    fit_basis,
    list_photos,
    read_photo,
)
from clearcap.training.encoder.teacher import load_teacher
from clearcap.vision.transformers import load_pretrained

TFLITE = "weights/mobilenet_edgetpu_224_1.0_uint8.tflite"


def test_basis_is_a_half_whitened_pca():
    random = np.random.default_rng(0)
    features = random.normal(size=(4000, 6)) * [5, 3, 2, 1, 0.5, 0.1] @ random.normal(size=(6, 6)) + 7
    basis = fit_basis(features.astype(np.float32), 4)
    projected = basis.project(features.astype(np.float32)[:, None])[:, 0]
    covariance = np.cov(projected, rowvar=False)
    singular = np.linalg.svd(features - features.mean(0), compute_uv=False)[:4] / np.sqrt(3999)
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.diag(covariance), singular / singular.mean(), rtol=1e-3)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-3)
    with pytest.raises(InputError, match="dim=9"):
        fit_basis(features, 9)


def test_views_are_the_photo_and_repeatable_crops_of_it():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    np.testing.assert_array_equal(
        draw_view(photo, 32, 0, 1), np.asarray(photo.resize((32, 32), Image.Resampling.BICUBIC))
    )
    views = [draw_view(photo, 32, view, 1) for view in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()


def test_pretrained_teacher_gives_patch_tokens(checkpoint, generator):
    folder, _ = checkpoint("registers")
    teacher, encoder = load_teacher(folder), load_pretrained(folder)
    images = torch.randint(256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        expected = encoder(images.permute(0, 3, 1, 2) / 255)[:, 5:]
    np.testing.assert_allclose(
        teacher.outputs(images.numpy()).features, expected.numpy(), rtol=1e-5, atol=1e-6
    )
    assert (teacher.grid, teacher.dim, teacher.classes) == (2, 16, 0)


def test_store_holds_what_the_teacher_says(checkpoint, photos, tmp_path):
    source = str(checkpoint("dinov2")[0])
    paths, seen = list_photos([photos]), []
    held_out = frozenset({"03.png"})
    options = {"teacher": source, "views": 2, "dim": 8, "seed": 5}
    store = build_targets(tmp_path / "store", paths, held_out, **options, report=lambda *n: seen.append(n))
    assert seen[-1] == (23, 23)
    assert store.done.sum(1).tolist() == [12, 11]
    assert not store.done[1, 3]
    image = draw_view(read_photo(paths[7]), 32, 1, seed=5 * 1_000_003 + 7)
    np.testing.assert_array_equal(store.images[1, 7], image)
    features = load_teacher(source).outputs(image[None]).features
    np.testing.assert_allclose(store.tokens[1, 7], store.basis.project(features)[0], rtol=2e-3, atol=2e-3)
    others = np.stack([draw_view(read_photo(path), 32, 0, 5) for path in paths if path.name not in held_out])
    mean = load_teacher(source).outputs(others).features.mean((0, 1))
    np.testing.assert_allclose(store.basis.mean, mean, rtol=1e-4, atol=1e-5)  # without the held-out photo
    with pytest.raises(InputError, match="other photos or settings"):
        build_targets(tmp_path / "store", paths[1:], held_out, **options)


def test_an_interrupted_store_is_completed(checkpoint, photos, tmp_path):
    source = str(checkpoint("dinov2")[0])
    paths = list_photos([photos])
    options = {"held_out": frozenset(), "teacher": source, "views": 1, "dim": 8}
    whole = np.array(build_targets(tmp_path / "store", paths, **options).tokens)
    half = TargetStore(tmp_path / "store", writable=True)
    half.tokens[0, 4:9], half.done[0, 4:9] = 0, False
    half.tokens[0, 0] = 1  # filled already, so left alone
    done = []
    again = build_targets(tmp_path / "store", paths, **options, report=lambda *n: done.append(n))
    assert done == [(7, 12), (12, 12)]
    np.testing.assert_array_equal(again.tokens[0, 1:], whole[0, 1:])
    assert (again.tokens[0, 0] == 1).all()


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list_photos([tmp_path / "absent"])
    with pytest.raises(InputError, match="no photo inside"):
        list_photos([tmp_path])
    (tmp_path / "a.jpg").write_text("not a photo")
    with pytest.raises(InputError, match=r"a\.jpg: not a readable photo"):
        read_photo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="no distillation targets"):
        TargetStore(tmp_path)
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(InputError, match="no such teacher file"):
        load_teacher(tmp_path / "absent.tflite")
    (tmp_path / "a.tflite").write_text("not a model")
    with pytest.raises(InputError, match="not a TensorFlow Lite model"):
        load_teacher(tmp_path / "a.tflite")


@pytest.mark.shared
def test_tflite_teacher_reads_the_tensors_its_notes_name(shared):
    """The last map is tensor 191 and the logits are tensor 196, read with every tensor preserved."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    photo = sorted((shared / "data/coco/unlabelled").iterdir())[0]
    image = np.asarray(read_photo(photo))
    teacher = load_teacher(shared / TFLITE)
    output = teacher.outputs(image[None])
    with pytest.warns(UserWarning, match="preserve_all_tensors"):
        plain = interpreter.Interpreter(str(shared / TFLITE), experimental_preserve_all_tensors=True)
    plain.allocate_tensors()
    plain.set_tensor(plain.get_input_details()[0]["index"], image[None])
    plain.invoke()
    expected = plain.get_tensor(191).reshape(49, 1280) * np.float32(0.17056527733802795)
    np.testing.assert_allclose(output.features[0], expected, rtol=1e-6)
    softmax = plain.get_tensor(plain.get_output_details()[0]["index"])[0] / 256
    own = np.exp(output.logits[0]) / np.exp(output.logits[0]).sum()
    np.testing.assert_allclose(own, softmax, atol=1 / 128)
    assert (teacher.grid, teacher.dim, teacher.classes, teacher.image_size) == (7, 1280, 1001, 224)
