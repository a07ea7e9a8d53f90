"""Sharing a captioner: transformers' Auto classes, its processor, its model card, and the way to the hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoProcessor, BatchFeature, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.processing_utils import ProcessorMixin

from clearcap.captioner.folder import (
    FREQUENCY,
    INDEX,
    SAMPLES,
    WEIGHTS,
    Loading,
    bundled_folder,
    find_folder,
    frequency_file,
    is_sharded,
    read_settings,
    training_curves,
)
from clearcap.captioner.model import (
    PROCESSOR_FILE,
    Captioner,
    CaptionerConfig,
    load_captioner,
    load_tokenizer,
    processor_settings,
    save_processor,
)
from clearcap.captioner.sharing import KEY, PARTS, Shares, digest_of
from clearcap.config import SamplingConfig, sampling_with
from clearcap.data.images import each_photo, open_image, to_square
from clearcap.data.writing import whole_folder, write_text
from clearcap.errors import InputError
from clearcap.sampling.selection import choose
from clearcap.text.tokenizer import WordPieces, clean_caption, decode_caption, encode_captions

TASK = "image-captioning"


def check_settled(options: Mapping[str, Any], settled: Mapping[str, Sequence[Any]]) -> None:
    """Raise InputError unless options are known and ask for what is done anyway."""
    for name, value in options.items():
        if value not in settled.get(name, ()):
            known = ", ".join(f"{one}={can[0]}" for one, can in settled.items())
            raise InputError(f"{name}={value!r} cannot be honoured; leave it out (known are {known})")


class CaptionerProcessor(ProcessorMixin):
    """Photos to pixel values, captions to ids, and drawn ids back to captions."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        image_size: int = 224,
        length: int = 20,
        max_words: int = 30,
        keep_period: bool = False,
    ) -> None:
        """Args:
        tokenizer: the text space's.
        image_size: photos are squashed to this many pixels a side.
        length: positions of a caption.
        max_words: words of a caption that are kept.
        keep_period: keep the full stop at a caption's end.
        """
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.length = length
        self.max_words = max_words
        self.keep_period = keep_period

    @classmethod
    def of(cls, captioner: Captioner, tokenizer: Any) -> CaptionerProcessor:
        """The processor that fits a captioner.

        Args:
            captioner: the model.
            tokenizer: its tokenizer, or that of a ``CaptionPipeline``.
        """
        whole = tokenizer.bert() if isinstance(tokenizer, WordPieces) else tokenizer
        return cls(whole, **processor_settings(captioner.config))

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: str | None = "pt",
        **options: Any,
    ) -> BatchFeature:
        """``pixel_values`` [photos, 3, size, size] in 0..1 of photos, ``input_ids`` and mask of captions.

        Args:
            images: a photo of any kind that ``clearcap.data.open_image`` knows, or several.
            text: a caption or a list of them.
            return_tensors: "pt" or "np".
            options: transformers' own, as far as they say what is done anyway (``padding=True``).

        Raises:
            InputError: neither is given, a photo cannot be read, or an option cannot be honoured.
        """
        check_settled(options, {"padding": (True, "max_length"), "truncation": (True,)})
        if return_tensors not in ("pt", "np", None):
            raise InputError(f"return_tensors={return_tensors!r} is not known; pass pt or np")
        if images is None and text is None:
            raise InputError("nothing to process; pass images or text")
        features: dict[str, Any] = {}
        if images is not None:
            photos = np.stack([to_square(open_image(one), self.image_size) for one in each_photo(images)])
            features["pixel_values"] = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
        if text is not None:
            captions = [text] if isinstance(text, str) else list(text)
            cleaned = [clean_caption(caption, self.max_words, self.keep_period) for caption in captions]
            ids, mask = encode_captions(self.tokenizer, cleaned, self.length)
            features |= {"input_ids": ids, "attention_mask": mask}
        if return_tensors == "np":
            features = {name: tensor.numpy() for name, tensor in features.items()}
        return BatchFeature(features)

    def batch_decode(self, ids: Any, special_ids: Sequence[int] = (), **options: Any) -> list[str]:
        """Captions of predicted tokens [captions, length]; special tokens and repeated words are dropped.

        Raises:
            InputError: an option asks for something else.
        """
        check_settled(
            options, {"skip_special_tokens": (True,), "clean_up_tokenization_spaces": (True, False, None)}
        )
        hidden = {*self.tokenizer.all_special_ids, *special_ids}
        rows = torch.as_tensor(ids).tolist()
        return [decode_caption(self.tokenizer, row, hidden).text for row in rows]

    def save_pretrained(
        self, save_directory: str | Path, push_to_hub: bool = False, **unused: Any
    ) -> list[str]:
        """Write tokenizer and settings.

        Raises:
            InputError: asked to push; ``push`` uploads the whole model at once.
        """
        if push_to_hub:
            raise InputError(
                "a processor is shared with its model; use clearcap.captioner.hub.push on the saved folder"
            )
        names = ("image_size", "length", "max_words", "keep_period")
        settings = {name: getattr(self, name) for name in names}
        return [str(save_processor(self.tokenizer, settings, Path(save_directory)))]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> CaptionerProcessor:
        """Read what ``save_pretrained`` wrote, from a folder or the hub; without it, what the captioner there needs.

        Args:
            pretrained_model_name_or_path: folder or hub name.
            options: where from, as for ``Captioner.from_pretrained``.

        Raises:
            InputError: nothing there, or an unknown option.
        """
        folder = find_folder(str(pretrained_model_name_or_path), **Loading.of(**options).hub)
        try:
            settings = json.loads((folder / PROCESSOR_FILE).read_text())
        except FileNotFoundError:
            settings = processor_settings(CaptionerConfig.from_dict(read_settings(folder)))
        except (OSError, ValueError) as fault:
            raise InputError(
                f"{folder / PROCESSOR_FILE}: cannot be read ({fault}); fetch the file again"
            ) from fault
        known = {name: settings[name] for name in ("image_size", "length", "keep_period")}
        known["max_words"] = settings.get("max_words", 30)  # files before 0.1.0's paragraphs have none
        return cls(load_tokenizer(folder), **known)


class ImageCaptioning(Pipeline):
    """transformers' pipeline of the task ``image-captioning``: ``pipeline(TASK, model=FOLDER)(photo)``.

    A result is ``[{"generated_text": caption}]``. Arguments of a call are those of ``clearcap.CaptionPipeline``:
    ``seed`` and fields of ``SamplingConfig``.
    """

    _load_processor: Any = True  # the only one of them that captioners have
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    model: Any
    processor: Any

    def _sanitize_parameters(self, **how: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, how, {name: value for name, value in how.items() if name != "seed"}

    def preprocess(self, input_: Any, **unused: Any) -> Any:
        """Pixel values of one photo."""
        return {"photos": self.processor(images=input_)["pixel_values"]}  # a name that transformers batches

    def _forward(self, photo: Any, seed: int = 0, **how: Any) -> dict[str, Any]:  # type: ignore[override]
        sampling = sampling_with(self.model.defaults, how)
        generated = self.model.generate(photo["photos"].to(self.model.dtype), seed=seed, sampling=sampling)
        return {"ids": generated.ids, "confidence": generated.confidence}

    def postprocess(self, model_outputs: Any, **how: Any) -> list[dict[str, str]]:
        """The caption that the sampling settings choose."""
        tokenizer, special = self.processor.tokenizer, self.model.text.special_ids
        read = [
            decode_caption(tokenizer, ids, special, trust)
            for ids, trust in zip(
                *(model_outputs[name][0].tolist() for name in ("ids", "confidence")), strict=True
            )
        ]
        captions, sampling = [one.text for one in read], sampling_with(self.model.defaults, how)
        trust = [one.confidence for one in read]
        best = choose(
            captions,
            sampling.select,
            confidences=trust,
            utility=sampling.utility,
            function_words=self.model.function_words,
            length_penalty=sampling.length_penalty,
        )
        return [{"generated_text": captions[best]}]


def register() -> None:
    """Make transformers' Auto classes and ``pipeline`` know captioners; importing this module does it."""
    AutoConfig.register(CaptionerConfig.model_type, CaptionerConfig, exist_ok=True)
    AutoModel.register(CaptionerConfig, Captioner, exist_ok=True)
    AutoProcessor.register(CaptionerConfig, CaptionerProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        ships = {"model": (str(bundled_folder()), "main")}
        PIPELINE_REGISTRY.register_pipeline(
            TASK, ImageCaptioning, pt_model=AutoModel, default=ships, type="image"
        )


@dataclass(frozen=True)
class CardFacts:
    """What a model card must say that the model cannot tell.

    Attributes:
        name: the model's.
        data: what it was trained on.
        command: that trained it.
        scores: measured, by name ("BLEU-4 on Flickr8k dev").
        evaluation: the command that measured them.
        limits: what it gets wrong.
        licence: of the weights.
    """

    name: str
    data: str
    command: str
    scores: Mapping[str, float] = field(default_factory=dict)
    evaluation: str = ""
    limits: str = (
        "Captions name what is common in the training photos; rare objects, counts and text are often wrong."
    )
    licence: str = "apache-2.0"


def model_card(captioner: Captioner, folder: Path, facts: CardFacts) -> str:
    """A model card in the hub's format.

    Args:
        captioner: the model.
        folder: its saved files, whose hashes the card lists.
        facts: data, command, scores.
    """
    parts = {"text space": captioner.text, "image encoder": captioner.vision, "denoiser": captioner.denoiser}
    sizes = [
        f"| {name} | {sum(p.numel() for p in part.parameters()) / 1e6:.1f}M |" for name, part in parts.items()
    ]
    scores = [f"| {name} | {value:.4f} |" for name, value in facts.scores.items()]
    hashes = [f"| `{file.name}` | `{sha256(file)}` |" for file in sorted(folder.glob("*.safetensors"))]
    how: SamplingConfig = captioner.defaults
    sampling = f"solver={how.solver}, steps={how.steps}, guidance={how.guidance}"
    lines = [
        "---",
        f"license: {facts.licence}",
        "library_name: clearcap",
        "pipeline_tag: image-to-text",
        "tags: [image-captioning, diffusion, clearcap]",
        "---",
        f"# {facts.name}",
        "",
        "A diffusion image captioner: all words at once, refined from noise.",
        "",
        "```python",
        "from clearcap import CaptionPipeline",
        f'print(CaptionPipeline.from_pretrained("{facts.name}")("photo.jpg").caption)',
        "```",
        "",
        "## Parts",
        "| part | parameters |",
        "| --- | --- |",
        *sizes,
        "",
        f"Default sampling: {sampling}.",
        "",
        "## Training",
        f"Data: {facts.data}",
        "",
        "```",
        facts.command,
        "```",
        "",
        *(["## Scores", "| score | value |", "| --- | --- |", *scores, ""] if scores else []),
        *(["Measured with:", "", "```", facts.evaluation, "```", ""] if facts.evaluation else []),
        "## Limits",
        facts.limits,
        "",
        "## Files",
        "| file | SHA-256 |",
        "| --- | --- |",
        *hashes,
    ]
    return "\n".join(lines) + "\n"


def save_for_hub(captioner: Captioner, tokenizer: Any, folder: Path, facts: CardFacts) -> None:
    """Everything a shared model consists of: weights, settings, processor, card."""
    with whole_folder(folder) as fresh:
        captioner.save_pretrained(fresh)
        CaptionerProcessor.of(captioner, tokenizer).save_pretrained(fresh)
        write_text(fresh / "README.md", model_card(captioner, fresh, facts))


def push(folder: Path, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a saved captioner to the model hub.

    Args:
        folder: what ``save_for_hub`` wrote.
        name: owner/name on the hub; made where it does not exist.
        private: whether it is made private.
        token: default is the one that ``hf auth login`` stored.

    Returns:
        The address of the commit.

    Raises:
        InputError: the folder is not a whole model.
    """
    weights = INDEX if is_sharded(folder) else WEIGHTS
    missing = [f for f in ("config.json", weights, "README.md") if not (folder / f).is_file()]
    if missing:
        raise InputError(
            f"{folder}: {', '.join(missing)} missing; write it with clearcap.captioner.hub.save_for_hub first"
        )
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(name, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a clearcap model"))


def export(
    source: str,
    out: Path,
    shares: str = "",
    *,
    graphs: bool = True,
    sampling: Mapping[str, Any] | None = None,
) -> None:
    """Write a captioner for distribution: weights in float16 (computed with in float32), statistics in float32.

    Graphs that share the weights go with it, with which onnxruntime captions where there is no torch, and the curves
    of its training run, for the reports of ``clearcap evaluate``.

    Args:
        source: folder or hub name of a captioner.
        out: folder to write.
        shares: folder or name of an exported captioner to which ``out`` will keep its place; parts equal to its are
            left out.
        graphs: whether graphs are written.
        sampling: settings that it samples with, in place of those it was saved with.

    Raises:
        InputError: there is no such captioner, or the extra ``onnx`` is not installed.
    """
    from safetensors.torch import load_file, save_file

    from clearcap.captioner.onnx.export import add_graphs, require_onnx

    if graphs:
        require_onnx()

    captioner, tokenizer = load_captioner(source)
    trained = {name for name, _ in captioner.named_parameters()}
    state = {
        name: (tensor.half() if name in trained and tensor.ndim > 1 else tensor).contiguous()
        for name, tensor in captioner.state_dict().items()
    }
    captioner.config.sampling = dataclasses.asdict(sampling_with(captioner.defaults, sampling or {}))
    if shares:
        held = find_folder(shares)
        parts = same_parts(state, load_file(held / WEIGHTS))
        if not parts:
            raise InputError(f"{shares} and {source} have no part in common; export without shares")
        common = Shares(os.path.relpath(held, out), parts, digest_of(held / WEIGHTS, parts))
        setattr(captioner.config, KEY, common.settings())
        state = {name: tensor for name, tensor in state.items() if not common.holds(name)}
    with whole_folder(out) as fresh:
        captioner.config.save_pretrained(fresh)
        save_processor(tokenizer, processor_settings(captioner.config), fresh)
        save_file(state, fresh / "model.safetensors", metadata={"format": "pt"})
        if frequency := frequency_file(source):
            (fresh / FREQUENCY).write_bytes(frequency.read_bytes())
        if curves := training_curves(source):
            for file in (curves, curves.with_name(SAMPLES)):
                if file.is_file():
                    (fresh / file.name).write_bytes(file.read_bytes())
        if graphs:
            add_graphs(fresh)


def same_parts(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The parts of a captioner, of all whose tensors another captioner has the same."""

    def of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in state.items() if name.partition(".")[0] == part}

    return tuple(
        part
        for part in PARTS
        if of(mine, part).keys() == of(theirs, part).keys()
        and all(torch.equal(tensor, theirs[name]) for name, tensor in of(mine, part).items())
    )


def sha256(file: Path) -> str:
    """Hash of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


register()
