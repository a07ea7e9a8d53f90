"""Views drawn within the step: what they are, whose answers they come with, and in which axes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import save_file

from clearcap.errors import InputError
from clearcap.training.encoder.batches import Split, to_unit
from clearcap.training.encoder.live import LiveData, drawn, recoloured
from clearcap.training.encoder.targets import list_photos
from clearcap.training.encoder.teacher import load_teacher
from clearcap.training.encoder.tflite import TfliteNetwork
from clearcap.vision.compact import CompactEncoder
from clearcap.vision.transformers import load_pretrained

TFLITE = "weights/mobilenet_edgetpu_224_1.0_uint8.tflite"
CPU = torch.device("cpu")


@pytest.fixture
def live(photos, tmp_path):
    """Twelve photos of 64 pixels before a tiny ViT of four tokens; 00 held out, 01 without a caption."""
    captions = {f"{i:02}.png": [f"a dog number {['one', 'two'][i % 2]}"] for i in range(12) if i != 1}
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    source = str(tmp_path / "teacher")
    hf.ViTModel(hf.ViTConfig(**tower, image_size=64, patch_size=32)).save_pretrained(source)

    def build(seed=0, init=""):
        files = list_photos([photos])
        split = Split([file.name for file in files], {"00.png"}, captions, set(captions), 5)
        return LiveData(split, files, source, 4, seed, init, CPU)

    build.source = source
    return build


def test_views_are_crops_stretched_to_the_whole():
    """Of a photo that holds its own coordinates, whose crops say what they are crops of."""
    ramp = torch.arange(64, dtype=torch.uint8)
    photo = torch.stack((ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)))
    views = 255 * drawn(photo.byte().expand(400, 3, 64, 64), torch.Generator().manual_seed(0))
    x, y = views[:, 0, 32], views[:, 1, :, 32]  # along the middle row, down the middle column
    # Pixels 16 and 47 are 31 apart; inside, a crop's values grow by its share of the side a pixel.
    width, height = (x[:, 47] - x[:, 16]) / 31, (y[:, 47] - y[:, 16]) / 31
    assert (width < 0).float().mean().item() == pytest.approx(0.5, abs=0.08)  # mirrored
    assert (height > 0).all()
    area, aspect = width.abs() * height, width.abs() / height
    assert area.min() > 0.3
    assert area.max() < 1.01
    assert (area > 0.999).float().mean().item() == pytest.approx(0.2, abs=0.07)  # whole photos
    assert aspect.min() > 0.74
    assert aspect.max() < 1.34
    whole = (area > 0.999) & (width > 0)
    torch.testing.assert_close(views[whole][0], photo.float(), atol=1e-3, rtol=0)
    left = x.min(1).values - width.abs() / 2  # the crop's own edge, half a pixel of the view outside
    assert (left > -1).all()
    assert (x.max(1).values < 63.001).all()


def test_colours_change_one_after_another():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = recoloured(images, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)

    def around_one(amount, channels=1):
        return 1 + amount * (2 * torch.rand(4, channels, 1, generator=generator) - 1)[..., None]

    saturation, contrast, brightness, gain = (
        around_one(0.2),
        around_one(0.2),
        around_one(0.2),
        around_one(0.15, 3),
    )
    grey = images.mean(1, keepdim=True)
    expected = grey + (images - grey) * saturation
    middle = grey.mean((2, 3), keepdim=True)
    expected = middle + (expected - middle) * contrast
    torch.testing.assert_close(found, (expected * brightness * gain).clamp(0, 1))


def test_the_teacher_answers_about_the_very_pixels(live):
    data = live()
    batch = data.batch(3, 8)
    teacher = load_pretrained(live.source)
    with torch.no_grad():
        features = teacher(batch.images)[:, teacher.prefix_tokens :]
    torch.testing.assert_close(batch.tokens, (features - data.mean) @ data.components)
    again = data.batch(3, 8)
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
    assert not torch.equal(batch.images, data.batch(4, 8).images)
    assert 0 not in torch.cat([data.split.rows_of(step, 11, 0) for step in range(3)])
    with pytest.raises(InputError, match="11 photos to train on, fewer than batch=12"):
        data.batch(0, 12)


def test_mixtures_have_the_words_of_both_photos(live):
    """Each photo one brightness of its own: a view's brightness tells its share, and so its words."""
    data = live()
    data.photos = (10 * torch.arange(1, 13, dtype=torch.uint8))[:, None, None, None].expand_as(data.photos)
    column = data.split.vocabulary.index("two")  # said of odd photos alone
    mixed = unknown = 0
    for step in range(40):
        rows, batch = data.split.rows_of(step, 8, 0), data.batch(step, 8)
        own, other = data.words[rows, column], data.words[rows.roll(1), column]
        share = batch.words[:, column]
        between = (share >= torch.minimum(own, other)) & (share <= torch.maximum(own, other))
        assert between.all()
        pure = (own != other) & (share == own)
        mixed += ((own != other) & (share != own)).sum().item()
        nameless = rows == 1
        assert not batch.known[nameless].any()
        unknown += (~batch.known & ~nameless).sum().item()
        assert batch.known[pure & (rows != 1)].all()
    assert mixed > 40
    assert unknown > 5  # mixed with the photo that has no caption


def test_targets_are_turned_to_the_axes_of_the_encoder_gone_on_from(live, tmp_path):
    torch.manual_seed(0)
    encoder = CompactEncoder(4, (16, 16, 32, 32), (0, 1, 1, 1), image_size=64)
    encoder.eval()

    def write(name):
        (tmp_path / name).mkdir()
        tensors = {k: v.contiguous() for k, v in encoder.state_dict().items()}
        save_file(tensors, tmp_path / name / "encoder.safetensors")
        (tmp_path / name / "encoder.json").write_text(json.dumps({"encoder": encoder.settings()}))
        return str(tmp_path / name)

    first = live(init=write("plain"))
    rotation, _ = torch.linalg.qr(torch.randn(4, 4))
    with torch.no_grad():
        encoder.head.weight.copy_(rotation @ encoder.head.weight)
        encoder.head.bias.copy_(rotation @ encoder.head.bias)
    second, plain = live(init=write("turned")), live()
    torch.testing.assert_close(second.components, first.components @ rotation.T, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain.components, first.components, atol=1e-2)
    # A rotation: lengths and angles between photos are those of the plain basis.
    torch.testing.assert_close(first.components @ first.components.T, plain.components @ plain.components.T)


def test_held_out_photos_are_whole(live):
    data = live()
    images, tokens, logits = data.held(5)
    shown = list(images)
    assert [len(part) for part in shown] == [1]
    torch.testing.assert_close(shown[0], to_unit(data.photos[:1]))
    assert tokens.shape == (1, data.grid**2, 4)
    assert logits.shape == (1, 0)


def test_tflite_network_agrees_with_the_interpreter(shared):
    """On real photos, up to what rounding every activation to a byte costs."""
    pytest.importorskip("ai_edge_litert")
    files = sorted((shared / "data/flickr8k/Images").glob("*.jpg"))[:12]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    expected = load_teacher(shared / TFLITE).outputs(images)
    network = TfliteNetwork(shared / TFLITE)
    with torch.inference_mode():
        features, logits = network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)
    assert (network.image_size, logits.shape[1]) == (224, 1001)
    assert features.shape == expected.features.shape
    for found, wanted, least in ((features, expected.features, 0.98), (logits, expected.logits, 0.985)):
        assert np.corrcoef(found.flatten().numpy(), wanted.flatten())[0, 1] > least
    first = logits.topk(3).indices.numpy()
    assert np.mean([top in row for top, row in zip(expected.logits.argmax(1), first, strict=True)]) > 0.9


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "a.tflite").write_bytes(b"0000nope")
    with pytest.raises(InputError, match="not a TensorFlow Lite model"):
        TfliteNetwork(tmp_path / "a.tflite")
