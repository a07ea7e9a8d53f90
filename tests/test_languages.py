"""Any language by a BERT in the hub's format: trained on, captioned with, filled, scored and written, all through."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import clearcap
from PIL import Image
from tiny_captioner import save_tiny_captioner

from clearcap import CaptionPipeline
from clearcap.captioner.hub import CaptionerProcessor, export
from clearcap.cli.evaluate import compare_folders
from clearcap.config import load_preset
from clearcap.data.corpus import open_spec
from clearcap.demo.drafts import Draft, replace_word, rewrite, toggle_lock
from clearcap.errors import InputError
from clearcap.evaluation.run import evaluate, load_evaluation
from clearcap.metrics import score
from clearcap.pipeline.infilling import edit_template, keyword_templates
from clearcap.text.tokenizer import SPECIAL_TOKENS, split_words
from clearcap.training.run import train


@dataclass(frozen=True)
class Language:
    """A language as a test needs it: captions, its vocabulary's tokenizer, and a template to fill."""

    captions: tuple[str, ...]
    pieces: tuple[str, ...]
    tokenizer: dict[str, bool]
    template: str
    contained: str
    scored_by: str


def german() -> Language:
    captions = (
        "Ein großer Hund läuft über die Wiese.",
        "Zwei Mädchen hören Musik, die Straße ist grün.",
        "Ein Fußballspieler schießt einen Ball.",
    )
    words = "Ein großer Hund läuft über die Wiese Zwei Mädchen hören Musik Straße ist grün schießt einen Ball"
    return Language(
        captions,
        (*words.split(), ".", ",", "Fußball", "##spieler", "-", "T", "Shirt"),
        {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": True},
        "Ein ___ läuft über die ___{1,2} .",
        "mädchen",
        "ptb",
    )


def chinese() -> Language:
    captions = ("一个男人在草地上跑。", "两只狗在水里玩。", "妈妈和女孩看红色的球。")
    letters = sorted({letter for caption in captions for letter in caption})
    both = (*letters, *(f"##{letter}" for letter in letters))
    return Language(
        captions,
        both,
        {"do_lower_case": True, "strip_accents": False, "tokenize_chinese_chars": True},
        "一个___在草地___。",
        "妈妈",
        "unicode",
    )


def arabic() -> Language:
    captions = ("رجل يركض على العشب.", "كلبان يلعبان في الماء.", "امرأة تحمل كرةً حمراء، وطفل يضحك.")
    words = "رجل يركض على العشب كلبان يلعبان في الماء امرأة تحمل كرةً حمراء وطفل يضحك"
    return Language(
        captions,
        (*words.split(), ".", "،", "ال", "##عشب"),
        {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": True},
        "رجل ___ في ___{1,2}.",
        "امرأة",
        "unicode",
    )


LANGUAGES = {"German": german(), "Chinese": chinese(), "Arabic": arabic()}


def write_checkpoint(language: Language, folder: Path) -> Path:
    """A BERT as old checkpoints on the hub have it: weights, config.json, vocab.txt and tokenizer_config.json."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    pieces = list(dict.fromkeys((*SPECIAL_TOKENS, *language.pieces)))
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertForMaskedLM(BertConfig(vocab_size=len(pieces), max_position_embeddings=32, **sizes))
    with torch.no_grad():  # pretrained words are told apart by their embeddings
        model.get_input_embeddings().weight.mul_(30)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    told = {"tokenizer_class": "BertTokenizer", "model_max_length": 32, **language.tokenizer}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module", params=LANGUAGES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Language, Path]:
    """The language, and a folder with photos, a captioner trained for three steps on them, and an export of it."""
    language = LANGUAGES[request.param]
    root = tmp_path_factory.mktemp(request.param)
    (root / "photos").mkdir()
    chance = np.random.default_rng(0)
    for split, count in (("train", 4), ("dev", 3)):
        lines = []
        for n in range(count):
            name = f"{split}{n}.png"
            Image.fromarray(chance.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(root / "photos" / name)
            captions = [language.captions[(n + k) % 3] for k in range(2)]
            lines.append(json.dumps({"file_name": name, "captions": captions}, ensure_ascii=False))
        (root / "photos" / f"captions_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    encoder = root / "encoder"
    export(str(save_tiny_captioner(root / "base")), encoder, graphs=False)
    tiny = [
        f"text.source={write_checkpoint(language, root / 'bert')}",
        f"text.words={language.scored_by}",
        *("text.split=1", "text.length=14", "vision.tokens=4", "vision.dim=16", "vision.image_size=64"),
        f"vision.source={encoder}",
        *("denoiser.width=32", "denoiser.depth=1", "denoiser.heads=2", "denoiser.hidden=32"),
        *("sampling.steps=2", "sampling.min_length=0", "sampling.max_length=0", "sampling.length=5"),
        f"data.corpus=folder:{root / 'photos'}:train",
        f"data.features={root / 'features'}",
        *("data.expected=false", "data.views=1", "data.watch_photos=2", "train.tracker=none"),
        *("train.steps=3", "train.photos=2", "train.copies=2", "train.warmup=1", "train.agreement=1"),
        *("train.sample_every=3", "train.neighbour_captions=1"),
    ]
    train(load_preset("compact", tiny), root / "run")
    # Tracing graphs would take longer than all the rest, and they are told nothing of the language.
    export(str(root / "run" / "model"), root / "model", str(encoder), graphs=False)
    return language, root


def alphabet(language: Language) -> set[str]:
    return {letter for caption in language.captions for letter in caption} | set("".join(language.pieces))


def test_a_captioner_writes_and_fills_in_its_language(made: tuple[Language, Path]) -> None:
    language, root = made
    photo = root / "photos" / "dev0.png"
    captioner = CaptionPipeline.from_pretrained(root / "model")
    said = captioner(photo, candidates=4, select="mbr")
    assert said.caption
    assert set(said.caption) <= alphabet(language) | set("[UNK] [MASK]")  # untrained, it may say these
    filled = captioner.fill(photo, language.template, seed=0)
    assert "___" not in filled.text
    assert all(filled.words)
    assert filled.text.startswith(language.template[:2])
    told = captioner(photo, length=4)
    assert len(split_words(told.caption)) <= 4  # pieces of one word count as many, words said twice as one
    first = split_words(language.captions[0])[0]
    kept = captioner.fill(photo, edit_template(language.captions[0], [first]))
    assert split_words(kept.text)[0] == first
    tokenizer = CaptionerProcessor.from_pretrained(root / "model").tokenizer
    for caption in language.captions:  # its own captions come back as they were written
        ids = tokenizer(caption)["input_ids"]
        spelt = CaptionerProcessor.from_pretrained(root / "model").batch_decode([ids])[0]
        assert spelt == caption


def test_a_contained_word_is_found_whatever_its_capitals(made: tuple[Language, Path]) -> None:
    language, root = made
    captioner = CaptionPipeline.from_pretrained(root / "model")
    wanted = keyword_templates([language.contained], 4, 6)
    assert language.contained in captioner.fill(root / "photos" / "dev1.png", wanted).text
    banned = split_words(language.captions[0])[0]
    filled = captioner.fill(root / "photos" / "dev1.png", "___{3}", forbid=[banned.lower()])
    assert banned not in split_words(filled.text)


def test_scores_say_how_words_were_cut(made: tuple[Language, Path], tmp_path: Path) -> None:
    language, root = made
    corpus = open_spec(f"folder:{root / 'photos'}:dev", expected=None)
    found = evaluate(root / "model", corpus, out=tmp_path / "own", shuffle=True)
    assert load_evaluation(tmp_path / "own").to_json() == found.to_json()
    other = "unicode" if language.scored_by == "ptb" else "ptb"
    again = evaluate(root / "model", corpus, out=tmp_path / "other", tokenizer=other)
    told = [one.manifest["metrics"]["tokenizer"] for one in (found, again)]
    assert "PTB" in told[language.scored_by == "unicode"]
    assert told[0] != told[1]
    with pytest.raises(InputError, match=r"with (ptb|unicode), whose scores cannot be compared"):
        compare_folders((tmp_path / "own", tmp_path / "other"), as_json=True)
    assert (tmp_path / "own" / "results.json").read_text(encoding="utf-8").isascii() is False
    with pytest.raises(InputError, match=r"tokenizer 'words'; choose one of ptb, unicode"):
        evaluate(root / "model", corpus, tokenizer="words")


def test_scoring_a_file_says_its_tokenizer(tmp_path: Path) -> None:
    said = {"1": "一个男人在草地上跑", "2": "ein Hund"}
    results = [{"image_id": photo, "caption": caption} for photo, caption in said.items()]
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (tmp_path / "references.json").write_text(
        json.dumps({"1": ["一个男人跑"], "2": ["der Hund"]}), encoding="utf-8"
    )
    command = (
        "score",
        tmp_path / "results.json",
        tmp_path / "references.json",
        "--tokenizer",
        "unicode",
        "--json",
    )
    done = clearcap(*command)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tokenizer"] == "unicode"
    words = {photo: " ".join(split_words(caption)) for photo, caption in said.items()}
    expected = score(words, {"1": ["一 个 男 人 跑"], "2": ["der Hund"]}).corpus
    assert {name: found[name] for name in expected} == expected


def test_files_and_sidecars_hold_the_letters_themselves(made: tuple[Language, Path], tmp_path: Path) -> None:
    _, root = made
    (tmp_path / "a.png").write_bytes((root / "photos" / "dev0.png").read_bytes())
    done = clearcap("caption", tmp_path, "--model", root / "model", "--json", "--sidecar", "txt", "--xmp")
    assert done.returncode == 0, done.stderr
    caption = (tmp_path / "a.txt").read_text(encoding="utf-8").strip()
    assert caption == CaptionPipeline.from_pretrained(root / "model")(root / "photos" / "dev0.png").caption
    assert caption in (tmp_path / "a.xmp").read_text(encoding="utf-8")
    assert not caption.isascii() or root.name.startswith("German")


def test_the_demos_words_can_be_locked_and_replaced(made: tuple[Language, Path]) -> None:
    language, root = made
    captioner = CaptionPipeline.from_pretrained(root / "model", backend="torch")
    words = tuple(split_words(language.captions[0].rstrip(".。")))
    draft = Draft(str(root / "photos" / "dev0.png"), words, (1.0,) * len(words), selected=0)
    assert draft.text == language.captions[0].rstrip(".。")
    draft = toggle_lock(draft)
    written = rewrite(captioner, draft)
    assert written.words[0] == words[0]
    assert len(written.words) == len(words)
    replaced = replace_word(captioner, draft, split_words(language.captions[1])[0])
    assert replaced.words[0] == split_words(language.captions[1])[0]
