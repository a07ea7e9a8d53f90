"""Watching: frames say what the solver predicted, and pictures of them can be opened."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console
from tiny_captioner import photos, tiny_captioner

from clearcap.errors import InputError
from clearcap.pipeline.trajectory import animate, colour, plot, save_picture, table, trajectory
from clearcap.text.tokenizer import decode_caption


def test_the_last_frame_is_the_caption_and_each_frame_its_prediction() -> None:
    captioner, tokenizer = tiny_captioner()
    steps: list[tuple[int, int, torch.Tensor]] = []

    def watch(step: int, t: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append((step, t, tensors["latents"]))
        return {}

    drawn = captioner.generate(image=photos(1), seed=4, callback_on_step_end=watch)
    seen = []
    frames = trajectory(captioner, tokenizer, photos(1), seed=4, show=lambda f: seen.append(len(f)))
    assert [(f.index, f.t) for f in frames] == [(step, t) for step, t, _ in steps]
    assert seen == [1, 2, 3, 4, 5, 6]
    special = captioner.text.special_ids
    said = decode_caption(tokenizer, drawn.ids[0, 0].tolist(), special, drawn.confidence[0, 0].tolist())
    assert frames[-1].words == tuple(zip(said.words, said.confidence, strict=True))
    assert frames[-1].text == said.text
    for frame, (_, _, x0) in zip(frames, steps, strict=True):
        p = captioner.text.decode(x0)[0].softmax(-1)
        pieces = tokenizer.convert_ids_to_tokens(p.argmax(-1).tolist())
        assert [token or "special" for token, _ in frame.tokens] == [
            "special" if i in special else piece
            for i, piece in zip(p.argmax(-1).tolist(), pieces, strict=True)
        ]
        torch.testing.assert_close(torch.tensor([c for _, c in frame.tokens]), p.amax(-1))


def test_back_and_refine_shows_both_runs() -> None:
    captioner, tokenizer = tiny_captioner()
    how = replace(captioner.defaults, refine=1, candidates=5)
    frames = trajectory(captioner, tokenizer, photos(1), sampling=how)
    assert [f.index for f in frames] == list(range(10))
    assert [f.t for f in frames] == [999, 832, 666, 500, 999, 832, 666, 500, 333, 166]


def test_a_picture_and_a_gif(tmp_path: Path) -> None:
    captioner, tokenizer = tiny_captioner()
    frames = trajectory(captioner, tokenizer, photos(1))
    photo = Image.new("RGB", (60, 40), "blue")
    save_picture(frames, tmp_path / "a.png", photo)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 300
    save_picture(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == len(frames)
    figure = plot(frames)
    words = {text.get_text() for text in figure.axes[0].texts}
    assert {token for frame in frames for token, _ in frame.tokens} <= words | {""}
    assert len({picture.size for picture in animate(frames[:3], photo)}) == 1


def test_the_terminal_table_shows_every_word() -> None:
    captioner, tokenizer = tiny_captioner()
    frames = trajectory(captioner, tokenizer, photos(1))
    out = io.StringIO()
    Console(file=out, width=200).print(table(frames, rows=8))
    lines = out.getvalue().splitlines()
    assert len(lines) == 9
    for frame, line in zip(frames, lines[1 : len(frames) + 1], strict=True):
        assert " ".join(word for word, _ in frame.words) in line


def test_colours_run_from_red_to_green() -> None:
    assert [colour(p) for p in (0.0, 0.5, 1.0)] == [(200, 60, 50), (196, 130, 0), (30, 140, 70)]
    assert colour(-1.0) == colour(0.0)
    assert colour(2.0) == colour(1.0)


def test_a_suffix_that_cannot_be_written(tmp_path: Path) -> None:
    captioner, tokenizer = tiny_captioner()
    frames = trajectory(captioner, tokenizer, photos(1))
    with pytest.raises(InputError, match=r"\.png, \.svg, \.pdf or \.gif"):
        save_picture(frames, tmp_path / "a.txt")
    with pytest.raises(InputError, match="no steps"):
        plot([])
