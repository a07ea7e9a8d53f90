"""The page itself: three tabs of Gradio's parts, and what happens when they are used."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import gradio as gr

from clearcap.demo import drafts, folder, showing
from clearcap.demo.drafts import Draft
from clearcap.pipeline import CaptionPipeline, InputError, Watched
from clearcap.pipeline.trajectory import Frame

if TYPE_CHECKING:
    from clearcap.config import SamplingConfig

HERE = Path(__file__).parent
PAUSE = 1.6  # seconds that a caption takes to appear at least, so that it can be watched
ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,
    "concurrency_id": "captioner",
    "show_progress": "hidden",
}
TITLE = (
    "<h1>clearcap</h1><p>Captions by diffusion: all words at once, refined from noise. "
    "Click a word to see where it looks, and to change it.</p>"
)
CLICKS = """
let last = null;
element.addEventListener('click', (event) => {
    const button = event.target.closest('[data-%(name)s]');
    if (!button) return;
    last = button.dataset.%(name)s;
    trigger('select', {value: last});
});
watch('value', () => {
    if (last === null || document.activeElement !== document.body) return;
    element.querySelector(`[data-%(name)s="${CSS.escape(last)}"]`)?.focus();  // the button was drawn anew
});
"""
DESCRIBE = """
watch('value', () => {
    const caption = element.querySelector('[data-caption]')?.dataset.caption ?? 'The photo';
    document.querySelectorAll('.cc-photo .image-container img').forEach((photo) => { photo.alt = caption; });
});
"""
EDITS = """
element.addEventListener('change', (event) => {
    const field = event.target.closest('[data-row]');
    if (field) trigger('select', {value: field.dataset.row, text: field.value});
});
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a visitor may ask for.

    Attributes:
        steps: of one caption.
        candidates: of one photo.
        photos: of one folder.
    """

    steps: int = 50
    candidates: int = 12
    photos: int = 200


class Models:
    """The captioners that the page offers, each loaded when it is first asked for."""

    def __init__(self, names: Sequence[str]) -> None:
        """Args:
        names: folders or hub names, the first one loaded now.

        Raises:
            InputError: the first one cannot be loaded.
        """
        self.names = tuple(dict.fromkeys(names))
        self._loaded: dict[str, CaptionPipeline] = {}
        self.of(self.names[0])

    def of(self, name: str) -> CaptionPipeline:
        """The captioner of a name. Raises InputError where the page does not offer it or it cannot be loaded."""
        if name not in self.names:
            raise InputError(f"{name!r} is not offered here; choose one of {', '.join(self.names)}")
        if name not in self._loaded:  # in torch, whose attention can be looked at
            self._loaded[name] = CaptionPipeline.from_pretrained(name, backend="prepacked")
        return self._loaded[name]


def build_page(models: Models, examples: Sequence[Path], limits: Limits | None = None) -> gr.Blocks:
    """The page, not yet served.

    Args:
        models: that it offers.
        examples: photos to try.
        limits: of what a visitor may ask for.
    """
    limits = limits or Limits()
    with gr.Blocks(
        title="clearcap", analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)
    ) as page:
        gr.HTML(TITLE, elem_classes="cc-title")
        with gr.Tabs():
            with gr.Tab("One photo"):
                photo_tab(models, examples, limits)
            with gr.Tab("Compare"):
                compare_tab(models, limits)
            with gr.Tab("Folder"):
                folder_tab(models, limits)
    return page


def photo_tab(models: Models, examples: Sequence[Path], limits: Limits) -> None:
    """A photo, the settings, its caption coming out of the noise, and its words to be changed."""
    defaults = models.of(models.names[0]).sampling()
    draft = gr.State(None)
    with gr.Row(elem_classes="cc-main"):
        with gr.Column(elem_classes="cc-photo"):
            photo = photo_input("Photo: drop, paste, or take one")
            if examples:
                shown = gr.HTML(example_buttons(models, examples), js_on_load=CLICKS % {"name": "example"})

                def example(event: gr.EventData) -> str:
                    return str(examples[int(_told(event)["value"])])

                shown.select(example, None, photo, **_QUICK)
            caption = gr.Button("Caption again", variant="primary")
        with gr.Column(elem_classes="cc-result"):
            card = gr.HTML(
                '<p class="cc-note">Give it a photo, or try an example.</p>',
                js_on_load=CLICKS % {"name": "word"} + DESCRIBE,
                elem_id="caption",
            )
            with gr.Row(visible=False) as edit:
                lock = gr.Button("Lock", size="sm", min_width=90)
                forbid = gr.Button("Forbid", size="sm", min_width=90)
                rewrite = gr.Button("Rewrite the rest", size="sm", variant="primary", min_width=140)
            with gr.Row(visible=False) as panel:
                with gr.Column(min_width=220):
                    look = gr.HTML(elem_id="look")
                with gr.Column(min_width=220):
                    others = gr.HTML(js_on_load=CLICKS % {"name": "alternative"}, elem_id="alternatives")
                    instead = gr.Textbox(label="Or your own word", max_lines=1, submit_btn="Replace")
            steps_shown = gr.HTML(elem_id="steps")
            chosen = gr.HTML(elem_id="candidates")
            command = gr.HTML(elem_id="command")
        with gr.Column(elem_classes="cc-settings"), gr.Accordion("Settings", open=True):
            model = model_choice(models, "Model")
            most = limits.candidates
            length = gr.Slider(0, 18, 0, step=1, label="Length", info="words; 0: as the model sees fit")
            steps = gr.Slider(1, limits.steps, defaults.steps, step=1, label="Steps", info="out of the noise")
            candidates = gr.Slider(
                1,
                most,
                min(max(6, defaults.candidates), most),
                step=1,
                label="Candidates",
                info="to choose among",
            )
            diversity = gr.Slider(0, most, 0, step=1, label="Diversity", info="captions unlike each other")
            seed = gr.Slider(0, 999, 0, step=1, label="Seed", info="same seed, same caption")
    settings = [model, length, steps, candidates, diversity, seed]
    outputs = [card, steps_shown, chosen, command, draft, edit, panel, look, others]

    def run(photo: str | None, name: str, *asked: int) -> Iterator[dict[Any, Any]]:
        if photo is None:
            yield {card: "", steps_shown: "", chosen: "", command: "", draft: None, **_hidden(edit, panel)}
            return
        try:
            for part in captioned(models.of(name), photo, *asked):
                if isinstance(part, Finished):
                    yield finished(part)
                else:
                    yield {card: part, **_hidden(edit, panel), steps_shown: "", chosen: "", command: ""}
        except InputError as fault:
            html = showing.fault(fault, photo, Path(photo).name)
            yield {card: html, steps_shown: "", chosen: "", command: "", draft: None, **_hidden(edit, panel)}

    def finished(part: Finished) -> dict[Any, Any]:
        result, path = part.watched.result, part.watched.result.image
        words, trust = [w for w, _ in result.words], [p for _, p in result.words]
        made = Draft(path, tuple(words), tuple(trust), seed=part.flags["seed"])
        count = part.flags.get("diverse")
        return {
            card: showing.caption_card(made),
            steps_shown: showing.steps_list(part.frames),
            chosen: showing.candidates_list(
                part.watched, part.sampling, result.diverse(count) if count else ()
            ),
            command: showing.command(["caption", Path(path).name, *flags(part.flags)]),
            draft: made,
            edit: gr.Row(visible=True),
        }

    def changed(made: Draft, after: Callable[[CaptionPipeline, Draft], Draft], name: str) -> dict[Any, Any]:
        """What the page shows once the draft was changed; where it cannot be, one line and the draft as it was."""
        if made is None:
            return {card: '<p class="cc-note">Give it a photo first.</p>'}
        pipeline = models.of(name)
        try:
            new = after(pipeline, made)
            seen: dict[Any, Any] = {panel: gr.Row(visible=new.selected >= 0)}
            if new.selected >= 0:
                seen[look], seen[others] = showing.word_panel(pipeline, new)
                seen[lock] = "Unlock" if new.selected in new.locked else "Lock"
                seen[forbid] = "Allow" if new.word in new.forbidden else "Forbid"
            return {card: showing.caption_card(new), draft: new, **seen}
        except InputError as fault:
            told = showing.fault(fault, made.photo, Path(made.photo).name)
            return {card: showing.caption_card(made, told)}

    def rewritten(made: Draft, name: str) -> dict[Any, Any]:
        shown = changed(made, drafts.rewrite, name)
        if draft in shown:
            how = {**drafts.REWRITE, "seed": made.seed, "forbid": made.forbidden}
            words = ["fill", Path(made.photo).name, drafts.template_of(made), *flags(how)]
            shown[command] = showing.command(words)
        return shown

    def select(made: Draft, name: str, event: gr.EventData) -> dict[Any, Any]:
        place = int(_told(event)["value"])
        return changed(made, lambda _, d: dataclasses.replace(d, selected=place), name)

    def take(made: Draft, name: str, event: gr.EventData) -> dict[Any, Any]:
        word = str(_told(event)["value"])
        return changed(made, lambda pipeline, d: drafts.replace_word(pipeline, d, word), name)

    ways = [card, draft, panel, look, others, lock, forbid]
    for trigger in (photo.change, caption.click):
        trigger(run, [photo, *settings], outputs, **ONE_AT_A_TIME, trigger_mode="always_last")
    card.select(select, [draft, model], ways, **ONE_AT_A_TIME)
    others.select(take, [draft, model], ways, **ONE_AT_A_TIME)
    lock.click(
        lambda d, name: changed(d, lambda _, d: drafts.toggle_lock(d), name),
        [draft, model],
        ways,
        **ONE_AT_A_TIME,
    )
    forbid.click(
        lambda d, name: changed(d, lambda _, d: drafts.toggle_forbidden(d), name),
        [draft, model],
        ways,
        **ONE_AT_A_TIME,
    )
    instead.submit(
        lambda d, name, text: changed(d, lambda pipeline, d: drafts.replace_word(pipeline, d, text), name),
        [draft, model, instead],
        ways,
        **ONE_AT_A_TIME,
    )
    rewrite.click(rewritten, [draft, model], [*ways, command], **ONE_AT_A_TIME)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A caption that came out of the noise.

    Attributes:
        watched: it and the other candidates.
        frames: what the chosen one said, noise first.
        sampling: the settings in full.
        flags: those that were asked for, as options of ``clearcap caption``.
    """

    watched: Watched
    frames: list[Frame]
    sampling: SamplingConfig
    flags: dict[str, Any]


def captioned(
    pipeline: CaptionPipeline, photo: str, length: int, steps: int, candidates: int, diversity: int, seed: int
) -> Iterator[str | Finished]:
    """A caption as it comes out of the noise: HTML after each step, then what came out.

    Raises:
        InputError: the photo cannot be read, or a setting cannot be.
    """
    how = {"steps": int(steps), "candidates": max(int(candidates), int(diversity))}
    if length:
        how["length"] = int(length)
    sampling = pipeline.sampling(**how)
    seen: list[Sequence[Frame]] = []
    pause = PAUSE / (sampling.steps + 1)
    for part in streamed(lambda show: pipeline.watch(photo, show, seed=int(seed), **how)):
        if isinstance(part, Watched):
            asked = {**how, "seed": int(seed)} | ({"diverse": int(diversity)} if diversity else {})
            yield Finished(part, [step[part.chosen] for step in seen], sampling, asked)
            return
        seen.append(part)
        yield showing.growing_card(part[pipeline.choose(*said(part), sampling)], sampling.steps)
        time.sleep(pause)


def said(frames: Sequence[Frame]) -> tuple[list[str], list[list[float]]]:
    """The captions of frames, and the probabilities of their words."""
    return [frame.text for frame in frames], [[p for _, p in frame.words] for frame in frames]


def streamed(work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
    """What ``work`` tells while it runs in a thread of its own, then what it returns. Raises what it raises."""
    told: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

    def run() -> None:
        try:
            told.put((True, work(lambda part: told.put((False, part)))))
        except Exception as fault:  # raised again where it is waited for
            told.put((True, fault))

    Thread(target=run, daemon=True).start()
    done = False
    while not done:
        done, part = told.get()
        if isinstance(part, Exception):
            raise part
        yield part


def compare_tab(models: Models, limits: Limits) -> None:
    """Two models, or one at two numbers of steps, side by side."""
    photo = photo_input("Photo to compare on")
    sides = []
    with gr.Row():
        for label, name in (("A", models.names[0]), ("B", models.names[-1])):
            with gr.Column(min_width=260):
                model = gr.Dropdown(list(models.names), value=name, label=f"Model {label}")
                count = models.of(models.names[0]).sampling().steps
                steps = gr.Slider(1, limits.steps, count, step=1, label=f"Steps of {label}")
                sides.append((model, steps, gr.HTML(elem_id=f"side-{label.lower()}")))
    seed = gr.Slider(0, 999, 0, step=1, label="Seed of both")
    go = gr.Button("Compare", variant="primary")

    def compare(photo: str | None, seed: int, *asked: Any) -> list[str]:
        if photo is None:
            return ['<p class="cc-note">Give it a photo first.</p>', ""]
        return [
            side(models, photo, name, int(steps), int(seed))
            for name, steps in zip(asked[::2], asked[1::2], strict=True)
        ]

    asked = [part for model, steps, _ in sides for part in (model, steps)]
    for trigger in (photo.change, go.click):
        trigger(compare, [photo, seed, *asked], [html for *_, html in sides], **ONE_AT_A_TIME)


def side(models: Models, photo: str, name: str, steps: int, seed: int) -> str:
    """What one model says of a photo, and how long it took."""
    try:
        pipeline = models.of(name)
        began = time.perf_counter()
        result = pipeline(photo, steps=steps, seed=seed)
    except InputError as fault:
        return showing.fault(fault, photo, Path(photo).name)
    ms = 1000 * (time.perf_counter() - began)
    steps_told = "1 step" if steps == 1 else f"{steps} steps"
    return (
        f'<p class="cc-side">{showing.line(result.words)}</p>'
        f'<p class="cc-note">{escape(name)}, {steps_told}: {ms:.0f} ms, {result.confidence:.0%} sure</p>'
    )


def folder_tab(models: Models, limits: Limits) -> None:
    """Many photos: progress, a table to edit, files to take away."""
    rows, place = gr.State([]), gr.State("", delete_callback=remove_folder)
    with gr.Row():
        files = gr.File(
            file_count="multiple",
            label=f"Photos, {limits.photos} at most",
            height=150,
            elem_classes="cc-files",
        )
        with gr.Column(min_width=240):
            model = model_choice(models, "Model for the folder")
            whole = gr.UploadButton("Choose a folder", file_count="directory")
            go = gr.Button("Caption all", variant="primary")
    bar = gr.HTML(elem_id="progress")
    listed = gr.HTML(js_on_load=EDITS, elem_id="table")
    with gr.Row(visible=False) as taken:
        buttons = [
            gr.DownloadButton(f"Download {name}", size="sm") for name in ("CSV", "JSONL", "sidecars (zip)")
        ]

    def run(photos: list[str] | None, name: str, where: str) -> Iterator[dict[Any, Any]]:
        photos = [str(photo) for photo in photos or []]
        if not 0 < len(photos) <= limits.photos:
            told = f"{len(photos)} photos; choose 1 to {limits.photos}"
            yield {bar: showing.fault(InputError(told)), listed: "", rows: [], taken: gr.Row(visible=False)}
            return
        done: list[folder.Row] = []
        yield {bar: folder.progress(0, len(photos), 0), listed: "", taken: gr.Row(visible=False)}
        began = time.monotonic()
        try:
            for row in folder.caption_all(models.of(name), photos, seed=0):
                done.append(row)
                shown: dict[Any, Any] = {bar: folder.progress(len(done), len(photos), _failed(done))}
                if time.monotonic() - began > 1:  # the whole table is sent anew
                    shown[listed], began = folder.table(done), time.monotonic()
                yield shown
        except InputError as fault:  # of the model: photos have theirs in the table
            yield {bar: showing.fault(fault), rows: []}
            return
        where = where or tempfile.mkdtemp(prefix="clearcap-")
        yield {
            listed: folder.table(done),
            rows: done,
            place: where,
            taken: gr.Row(visible=True),
            **dict(zip(buttons, folder.downloads(done, Path(where)), strict=True)),
        }

    def edited(done: list[folder.Row], where: str, event: gr.EventData) -> dict[Any, Any]:
        told = _told(event)
        at, text = int(told["value"]), " ".join(str(told["text"]).split())
        done = [*done[:at], dataclasses.replace(done[at], caption=text, confidence=None), *done[at + 1 :]]
        return {rows: done, **dict(zip(buttons, folder.downloads(done, Path(where)), strict=True))}

    outputs = [bar, listed, rows, place, taken, *buttons]
    go.click(run, [files, model, place], outputs, **ONE_AT_A_TIME)
    whole.upload(lambda photos: photos, whole, files, **_QUICK).then(
        run, [files, model, place], outputs, **ONE_AT_A_TIME
    )
    listed.select(edited, [rows, place], [rows, *buttons], **_QUICK)


_QUICK: dict[str, Any] = {"show_progress": "hidden"}


def model_choice(models: Models, label: str) -> gr.Dropdown:
    """A list of the models; hidden where there is one."""
    return gr.Dropdown(
        list(models.names), value=models.names[0], label=label, visible=len(models.names) > 1 or "hidden"
    )


def photo_input(label: str) -> gr.Image:
    """Where a photo is dropped, pasted, taken or chosen; its value is the uploaded file, untouched."""
    photo: Any = gr.Image(
        label=label, type="filepath", sources=["upload", "clipboard", "webcam"], height=320, buttons=[]
    )
    # On the part itself, for Gradio writes a file beside every class made of one of its own; parts whose properties are
    # changed while a page is open are made anew, so only this one's value may be.
    photo.preprocess = lambda given: None if given is None else given.path  # what reads it says what is wrong
    return photo


def example_buttons(models: Models, examples: Sequence[Path]) -> str:
    """Example photos as buttons; their alternative text is what the model says of them."""
    pipeline = models.of(models.names[0])
    buttons = "".join(
        f'<button type="button" data-example="{i}"><img src="{folder.thumbnail(str(path))}" '
        f'alt="Example: {escape(pipeline(path).caption)}"></button>'
        for i, path in enumerate(examples)
    )
    return f'<div class="cc-examples" role="group" aria-label="Example photos">{buttons}</div>'


def flags(how: dict[str, Any]) -> list[str]:
    """Settings as the command line spells them."""
    words: list[str] = []
    for name, value in how.items():
        if name == "spacing":
            words += ["--set", f"spacing={value}"]
        elif isinstance(value, (list, tuple)):
            words += [part for one in value for part in (f"--{name}", one)]
        else:
            words += [f"--{name}", str(value)]
    return words


def remove_folder(path: str) -> None:
    """Remove a visitor's files once nobody has the page open any more; "" is none."""
    if path:
        shutil.rmtree(path, ignore_errors=True)


def _told(event: gr.EventData) -> dict[str, Any]:
    """What a part of the page says of what was done to it."""
    return dict(event._data)


def _hidden(*parts: Any) -> dict[Any, Any]:
    return {part: gr.Row(visible=False) for part in parts}


def _failed(rows: Sequence[folder.Row]) -> int:
    return sum(bool(row.fault) for row in rows)
