"""What the page shows, as HTML: words coloured by how sure they are, steps, candidates, and where a word looks."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from PIL.Image import Image

from clearcap.demo.drafts import Draft, counted
from clearcap.pipeline import CaptionPipeline, InputError, Watched
from clearcap.pipeline.trajectory import Frame, colour
from clearcap.pipeline.words import lit, place_of

if TYPE_CHECKING:
    from clearcap.config import SamplingConfig

RULES = {
    "mbr": "it agrees most with the others (minimum Bayes risk; the value is its mean {utility} against them)",
    "confidence": "the model is surest of its words (the value is their geometric mean)",
    "similarity": "a CLIP finds it most like the photo (the value is that similarity)",
}


def shade(p: float) -> str:
    """The CSS colour of a probability."""
    return "--c:rgb({},{},{})".format(*colour(p))


def line(words: Sequence[tuple[str, float]]) -> str:
    """Words tinted by their probabilities."""
    return " ".join(f'<span class="cc-tint" style="{shade(p)}">{escape(word)}</span>' for word, p in words)


def fault(error: InputError, path: str = "", name: str = "") -> str:
    """An error as one line, about the photo's own name rather than the path it was uploaded to."""
    text = " ".join(str(error).split())
    return f'<p class="cc-fault" role="alert">{escape(text.replace(path, name) if path else text)}</p>'


def caption_card(draft: Draft, note: str = "") -> str:
    """The caption as buttons, one a word."""
    buttons = []
    for place, (word, p) in enumerate(zip(draft.words, draft.trust, strict=True)):
        states = [
            name
            for name, holds in (
                ("locked", place in draft.locked),
                ("forbidden", word in draft.forbidden),
                ("given", p == 1.0 and place in draft.locked),
            )
            if holds
        ]
        told = "given" if "given" in states else f"{p:.0%}"
        mark = "🔒" if "locked" in states else "⊘" if "forbidden" in states else ""
        buttons.append(
            f'<button type="button" class="cc-word {" ".join(states)}" data-word="{place}" '
            f'data-spelt="{escape(word)}" style="{shade(p)}" '
            f'aria-pressed="{str(place == draft.selected).lower()}" '
            f'aria-label="{escape(word)}, {", ".join([told, *states[:1]])}">{escape(word)}'
            f'<small aria-hidden="true">{mark} {told}</small></button>'
        )
    return (
        f'<div class="cc-words" role="group" aria-label="Caption, word by word" '
        f'data-caption="{escape(draft.text)}">{"".join(buttons)}</div>{note}'
    )


def growing_card(frame: Frame, steps: int) -> str:
    """The caption at a step, on its way."""
    words = "".join(
        f'<span class="cc-word" style="{shade(p)}">{escape(word)}<small>{p:.0%}</small></span>'
        for word, p in frame.words
    )
    what = "pure noise, read as words" if frame.index < 0 else f"step {frame.index + 1} of {steps}"
    return f'<div class="cc-words cc-growing">{words}</div><p class="cc-note">{what}</p>'


def steps_list(frames: Sequence[Frame]) -> str:
    """One line a step, noise first."""
    rows = "".join(
        f"<li><span>{'noise' if frame.index < 0 else f'step {frame.index + 1}'}</span>"
        f"<p>{line(frame.words)}</p></li>"
        for frame in frames
    )
    legend = '<p class="cc-legend"><span>a guess</span><i aria-hidden="true"></i><span>certain</span></p>'
    return f'<h2>Out of the noise</h2><ol class="cc-steps">{rows}</ol>{legend}'


def candidates_list(watched: Watched, sampling: SamplingConfig, different: Sequence[str] = ()) -> str:
    """The candidates, what each is worth, which one was chosen and why; then those that differ."""
    captions = watched.result.candidates
    if len(captions) == 1:
        return '<p class="cc-note">One candidate, so nothing to choose among.</p>'
    top = max(1e-9, *watched.values)
    rows = []
    for text, places in sorted(counted(captions), key=lambda row: -watched.values[row[1][0]]):
        value, chosen = watched.values[places[0]], watched.chosen in places
        times = f" <small>said {len(places)} times</small>" if len(places) > 1 else ""
        rows.append(
            f"<li{' class=chosen' if chosen else ''}><p>{escape(text)}{times}"
            f"{' <strong>chosen</strong>' if chosen else ''}</p>"
            f'<span class="cc-bar" aria-hidden="true"><i style="width:{max(0, value) / top:.0%}"></i></span>'
            f"<span>{value:.3f}</span></li>"
        )
    told = RULES.get(sampling.select, "the rule {select} gave it the highest value").format(
        utility={"bleu": "BLEU-4", "cider": "CIDEr-D"}[sampling.utility], select=escape(sampling.select)
    )
    html = (
        f'<h2>Candidates</h2><ol class="cc-candidates">{"".join(rows)}</ol>'
        f'<p class="cc-note">Chosen because {told}.</p>'
    )
    if different:
        html += "<h2>Unlike each other</h2><ol class=cc-different>" + "".join(
            f"<li>{escape(text)}</li>" for text in different
        )
        html += "</ol>"
    return html


def word_panel(pipeline: CaptionPipeline, draft: Draft) -> tuple[str, str]:
    """Where the chosen word looks, and what else could stand in its place.

    Raises:
        InputError: no word is chosen, or the model cannot show it.
    """
    word = draft.word
    looks = pipeline.attention(draft.photo, draft.text)
    heat = looks.beside_the_others()[draft.selected]
    where = place_of(heat)
    picture = (
        f'<figure class="cc-look"><img src="{picture_uri(lit(draft.photo, heat))}" '
        f'alt="The photo, lit where the word “{escape(word)}” looks: most at the {where}">'
        f"<figcaption>Lit where <b>{escape(word)}</b> looks more than the caption's other words do: most at the "
        f"{where}.</figcaption></figure>"
    )
    choices = pipeline.alternatives(draft.photo, draft.text, seed=draft.seed, count=6)[draft.selected]
    buttons = "".join(
        f'<button type="button" class="cc-alternative" data-alternative="{escape(other)}" style="{shade(p)}" '
        f'aria-label="replace by {escape(other)}, {p:.1%}">{escape(other)} <small>{p:.1%}</small></button>'
        for other, p in choices
        if other != word
    )
    return picture, (
        f"<h3>Instead of “{escape(word)}”</h3>"
        f'<div class="cc-alternatives" role="group" aria-label="Alternatives">{buttons}</div>'
    )


def picture_uri(picture: Image) -> str:
    """A picture within the page itself."""
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def command(words: Sequence[str]) -> str:
    """The command line that gives the same."""
    return (
        "<h2>The same from the command line</h2>"
        f'<pre class="cc-command" tabindex="0"><code>{escape("clearcap " + shlex.join(words))}</code></pre>'
    )
