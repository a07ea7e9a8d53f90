"""Losses and measures of distillation against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clearcap.errors import InputError
from clearcap.training.encoder import objective


def test_feature_loss(generator):
    a, b = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    square = sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / 30
    pairs = [*zip(a.view(6, 5), b.view(6, 5), strict=True), *zip(a.mean(1), b.mean(1), strict=True)]
    cosines = [(x @ y / (x.norm() * y.norm())).item() for x, y in pairs]
    expected = square + 1 - sum(cosines[:6]) / 6 + 1 - sum(cosines[6:]) / 2
    assert objective.feature_loss(a, b).item() == pytest.approx(expected, rel=1e-5)


def test_class_loss_is_the_divergence_from_the_teacher(generator):
    student, teacher = torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator)
    p, q = torch.softmax(teacher / 3, -1), torch.softmax(student / 3, -1)
    expected = (p * (p / q).log()).sum() / 2
    torch.testing.assert_close(objective.class_loss(student, teacher, 3.0), expected)
    assert objective.class_loss(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_word_loss_skips_photos_without_captions(generator):
    logits, targets = torch.randn(3, 4, generator=generator), torch.rand(3, 4, generator=generator)
    known = torch.tensor([True, False, True])
    q = torch.sigmoid(logits)
    entropy = -(targets * q.log() + (1 - targets) * (1 - q).log()).sum(-1)
    torch.testing.assert_close(objective.word_loss(logits, targets, known), (entropy[0] + entropy[2]) / 2)
    assert objective.word_loss(logits, targets, known & False).item() == 0


def test_words_are_counted_by_caption_and_shared_by_photo():
    captions = {"a": ["A dog, a dog .", "dog runs"], "b": ["Two dogs", "a cat"]}
    vocabulary = objective.frequent_words((t for ts in captions.values() for t in ts), 3)
    assert vocabulary == ["a", "dog", "cat"] or set(vocabulary[:2]) == {"a", "dog"}
    shares = objective.word_shares(captions, ["b", "c", "a"], ["a", "dog", "runs"])
    np.testing.assert_allclose(shares[[0, 2]], [[0.5, 0, 0], [0.5, 1, 0.5]])
    assert np.isnan(shares[1]).all()


def test_captions_file(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text('image,caption\na.jpg,"A dog, running ."\na.jpg,Two\n')
    assert objective.read_captions(path) == {"a.jpg": ["A dog, running .", "Two"]}
    path.write_text("file,text\na,b\n")
    with pytest.raises(InputError, match=r"captions\.txt line 2 has no 'image'"):
        objective.read_captions(path)
    path.write_bytes(b"image,caption\na.jpg,\xff\n")
    with pytest.raises(InputError, match=r"captions\.txt: byte 20 is not UTF-8"):
        objective.read_captions(path)


def test_agreement(generator):
    targets = torch.randn(5, 3, 4, generator=generator)
    perfect = objective.agreement(targets, targets)
    assert perfect["r2"] == pytest.approx(1)
    assert perfect["cosine"] == pytest.approx(1)
    mean = targets.mean((0, 1)).expand_as(targets)
    assert objective.agreement(mean, targets)["r2"] == pytest.approx(0, abs=1e-6)


def test_mean_average_precision_by_hand():
    scores = np.array([[0.9, 0.1, 0.3], [0.8, 0.2, 0.2], [0.7, 0.3, 0.1]], np.float32)
    present = np.array([[True, True, False], [False, False, False], [True, False, False]])
    # first word: ranks 1 and 3 -> (1 + 2/3) / 2; second: rank 3 -> 1/3; third never occurs
    assert objective.mean_average_precision(scores, present) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)


def test_augmentation_moves_tokens_with_the_photo(generator):
    """One bright cell a photo, one bright token: wherever the cell goes, the token goes."""
    images, targets = torch.zeros(64, 3, 64, 64), torch.zeros(64, 16, 2)
    for row in range(64):
        top, left = divmod(row % 16, 4)
        images[row, :, 16 * top : 16 * top + 16, 16 * left : 16 * left + 16] = 1
        targets[row, row % 16] = 1
    before = targets.clone()
    images, targets = objective.augment(images, targets, 4, generator)
    brightness = torch.nn.functional.avg_pool2d(images, 16).mean(1).flatten(1)
    kept = brightness.max(1).values > 0.7  # the bright cell may have been cut out
    assert kept.sum() > 40
    assert (brightness.argmax(1) == targets[..., 0].argmax(1))[kept].all()
    assert not torch.equal(targets, before)
    assert images.min() >= 0
    assert images.max() <= 1
