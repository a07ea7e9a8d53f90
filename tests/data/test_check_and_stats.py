"""`check` finds what is planted, and `statistics` counts what can be counted by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from layouts import photo, write_photos
from PIL import Image
from test_corpora import write_lines

from clearcap.data import open_corpus
from clearcap.data.check import check
from clearcap.data.stats import Statistics, plot, statistics, words
from clearcap.errors import InputError


def test_check_of_a_sound_corpus(flickr8k: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = check(
        "flickr8k", flickr8k, expected=None, progress=lambda done, total: steps.append((done, total))
    )
    assert report.ok
    assert [(s.split, s.photos, s.captions) for s in report.splits] == [
        ("train", 4, 20),
        ("dev", 2, 10),
        ("test", 2, 10),
    ]
    assert steps == [(n, 8) for n in range(1, 9)]
    assert report.lines() == [
        "train: 4 photos, 20 captions",
        "dev: 2 photos, 10 captions",
        "test: 2 photos, 10 captions",
    ]


def test_check_finds_what_is_planted(flickr8k: Path) -> None:
    images = flickr8k / "Images"
    shutil.copy(images / "97_a.jpg", images / "98_b.jpg")  # twice in train
    pixels = np.asarray(Image.open(images / "99_c.jpg"))
    Image.fromarray(pixels).save(images / "101_e.jpg", "PNG")  # the same pixels in another file, in dev
    (images / "103_g.jpg").unlink()
    (images / "104_h.jpg").write_text("no photo")
    (flickr8k / "Flickr_8k.devImages.txt").open("a").write("97_a.jpg\n")
    report = check("flickr8k", flickr8k, expected=None)
    assert not report.ok
    assert report.duplicates == ()  # the pair stands in dev too
    assert set(report.leaks) == {
        ("train/97_a.jpg", "train/98_b.jpg", "dev/97_a.jpg"),
        ("train/99_c.jpg", "dev/101_e.jpg"),
    }
    assert [len(split.unreadable) for split in report.splits] == [0, 0, 2]
    missing, text = report.splits[2].unreadable
    assert "103_g.jpg: no such file" in missing
    assert "104_h.jpg is not an image" in text
    assert [problem.split(";")[0] for problem in report.problems] == [
        "flickr8k train: 1 photo (97_a.jpg) also in the dev split",
        "flickr8k dev: 1 photo (97_a.jpg) also in the train split",
    ]
    assert "leak: the same photo is train/99_c.jpg and dev/101_e.jpg" in report.lines()
    assert report.lines(most=1).count("... and 1 more") == 2


def test_check_goes_on_after_a_split_that_cannot_be_read(flickr8k: Path) -> None:
    (flickr8k / "Flickr_8k.devImages.txt").unlink()
    report = check("flickr8k", flickr8k, expected=None)
    assert [split.split for split in report.splits] == ["train", "test"]
    assert len(report.problems) == 1
    assert "Flickr_8k.devImages.txt: no such file" in report.problems[0]
    with pytest.raises(InputError, match="unknown corpus"):
        check("flickr9k", flickr8k)


def test_a_duplicate_inside_a_split_is_reported_and_no_fault(shared: Path, tmp_path: Path) -> None:
    """The pair of Flickr8k's training split that is the same photo, among fifty others."""
    pair = ["2851198725_37b6027625.jpg", "3050606344_af711c726c.jpg"]
    images = shared / "data/flickr8k/Images"
    names = [*pair, *(path.name for path in sorted(images.iterdir())[:50])]
    write_lines(tmp_path / "captions.jsonl", [{"file_name": name, "captions": ["one"]} for name in names])
    report = check("folder", tmp_path, photos=str(images))
    assert report.ok
    assert report.duplicates == (tuple(f"all/{name}" for name in pair),)


@pytest.fixture
def counted(tmp_path: Path) -> Statistics:
    write_photos(tmp_path, ["a.jpg", "b.jpg"])
    photo(0, 48, 32).save(tmp_path / "c.jpg")
    write_lines(
        tmp_path / "captions.jsonl",
        [
            {"file_name": "a.jpg", "captions": ["A dog runs .", "a Dog in a t-shirt, isn't it?"]},
            {"file_name": "b.jpg", "captions": ["Two dogs"]},
            {"file_name": "c.jpg", "captions": ["42 dogs !"]},
        ],
    )
    return statistics(open_corpus("folder", tmp_path))


def test_statistics(counted: Statistics) -> None:
    assert (counted.photos, counted.captions, counted.words) == (3, 4, 14)
    assert counted.lengths == {2: 2, 3: 1, 7: 1}
    assert counted.captions_per_photo == {1: 2, 2: 1}
    assert (counted.vocabulary, counted.once) == (10, 7)
    assert counted.common[:3] == (("a", 3), ("dog", 2), ("dogs", 2))
    assert counted.growth == ((0, 0), (1, 3), (2, 7), (3, 9), (4, 10))
    assert counted.sizes == {(24, 16): 2, (48, 32): 1}
    assert counted.mean_length == 3.5
    assert [counted.length_at(share) for share in (0.5, 0.75, 0.76)] == [2, 3, 7]
    assert words("Don’t_panic, it's 2 o'clock -- naïve") == [
        "don’t",
        "panic",
        "it's",
        "2",
        "o'clock",
        "naïve",
    ]


def test_the_picture(counted: Statistics, tmp_path: Path) -> None:
    plot(counted, tmp_path / "stats.png")
    picture = Image.open(tmp_path / "stats.png").convert("L")
    assert picture.size == (1320, 960)
    assert np.asarray(picture).std() > 10  # something is drawn
    with pytest.raises(InputError, match="cannot be written"):
        plot(counted, tmp_path / "no/stats.png")
    with pytest.raises(InputError, match="cannot be written"):
        plot(counted, tmp_path / "stats.docx")


def test_real_statistics(shared: Path) -> None:
    found = statistics(open_corpus("flickr8k", shared / "data/flickr8k", "dev"))
    assert (found.photos, found.captions) == (1000, 5000)
    assert found.captions_per_photo == {5: 1000}
    assert found.sizes == {(224, 224): 1000}
    assert found.unreadable == ()
    assert found.common[0][0] == "a"
    assert found.growth[-1] == (5000, found.vocabulary)
