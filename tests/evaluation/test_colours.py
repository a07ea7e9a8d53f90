"""Colours of pixels and of regions, and which colour words neither references nor the photo support."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clearcap import CaptionPipeline
from clearcap.evaluation.colours import NAMES, colours_of, dominant_colours, doubtful_colours

PLAIN = {
    "black": (10, 10, 12), "white": (250, 250, 248), "red": (200, 20, 20), "blue": (30, 60, 200),
    "green": (40, 140, 50), "yellow": (240, 220, 40), "orange": (245, 130, 20), "brown": (110, 70, 40),
    "pink": (250, 160, 190), "purple": (130, 40, 160), "gray": (128, 128, 128),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_plain_colours_are_called_by_their_names(name: str) -> None:
    photo = np.full((3, 4, 3), PLAIN[name], np.uint8)
    assert set(colours_of(photo).ravel().tolist()) == {NAMES.index(name)}


def test_a_region_has_the_colours_of_its_part_of_the_photo() -> None:
    photo = np.full((80, 80, 3), PLAIN["green"], np.uint8)
    photo[:40, :40] = PLAIN["red"]
    heat = np.zeros((4, 4))
    heat[:2, :2] = 1.0
    assert dominant_colours(photo, heat) == {"red"}
    assert dominant_colours(photo, 1 - heat) == {"green"}


def test_a_colour_word_is_doubtful_where_no_reference_names_it() -> None:
    pipeline = CaptionPipeline.from_pretrained(backend="prepacked")
    photo = np.asarray(Image.new("RGB", (pipeline.image_size,) * 2, PLAIN["red"]))
    caption = "a man in a red shirt and blue pants"
    assert doubtful_colours(pipeline, photo, caption, ["a red and navy flag"]) == []  # navy is blue
    assert doubtful_colours(pipeline, photo, caption, ["a man"]) == [("red", True), ("blue", False)]
