"""CIDEr-D of captions given as word ids, less what people do not say: the reward of self-critical training."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

ORDERS = 4
SIGMA = 6.0  # words; how fast a caption of another length than the reference's loses
WRITTEN = 3  # times that people write three words in a row which are no fault
OFTEN = 0.1
"""Share of the captions with a word that say it again, from which on saying it again is no fault: "a", "and", "of"."""


class CiderReward(nn.Module):
    """CIDEr-D (Vedantam et al. 2015) of captions against each photo's references.

    A caption's end counts as one more word. Else n-grams reward whatever a caption breaks off with ("a man in a"), the
    known fault of captioners trained by this reward. Words that are drawn each for itself come twice more often than
    people say them twice, so a repeated word costs ``repeated``, the less the more often people repeat it. They also
    come from several captions that would each be right ("is in a standing in"), so three words in a row that people
    hardly write cost ``seldom``. N-grams are
    compared pair by pair: captions are short, and that needs no tables that differ from caption to caption.
    """

    lengths: Tensor
    fault: Tensor
    written: Tensor

    def __init__(
        self,
        references: Int[Tensor, "photos most length"],
        vocab: int,
        repeated: float = 0.0,
        text: Int[Tensor, "captions length"] | None = None,
        seldom: float = 0.0,
    ) -> None:
        """Args:
        references: word ids of each photo's captions, -1 behind their ends and in captions that are absent.
        vocab: every id is below it.
        repeated: what a word that people never say twice costs when it is said again, in units of CIDEr-D.
        text: more captions of people, without photos, as wide as ``references``.
        seldom: what three words in a row cost that people wrote less than ``WRITTEN`` times, the end being a word.
        """
        super().__init__()
        self.vocab, self.seldom = vocab, seldom
        people = references.flatten(0, 1)
        self.register_buffer(
            "written", self.triples_of(people if text is None else torch.cat((people, text)))
        )
        self.register_buffer("fault", repeated * (1 - repetition(references, vocab) / OFTEN).clamp_min(0))
        self.log_photos = math.log(len(references))
        words = self.ended(references)
        self.register_buffer("lengths", (words > 0).sum(-1))
        for n, grams in enumerate(self.grams_of(words)):
            keys, photos = document_frequency(grams.flatten(1))
            self.register_buffer(f"grams{n}", grams)
            self.register_buffer(f"keys{n}", keys)
            self.register_buffer(f"log_frequency{n}", photos.float().log())
            _, norm = self.weighed(grams.flatten(0, 1), n)
            self.register_buffer(f"norm{n}", norm.view(grams.shape[:2]))

    @torch.no_grad()
    def forward(
        self, captions: Int[Tensor, "captions length"], photos: Int[Tensor, " captions"]
    ) -> Float[Tensor, " captions"]:
        """CIDEr-D of each caption, 0 to 10, less its repetitions.

        Args:
            captions: word ids, -1 behind their ends.
            photos: which photo's references each caption is compared with.
        """
        words = self.ended(captions)
        theirs = self.lengths[photos]
        total = torch.zeros_like(theirs, dtype=torch.float32)
        for n, grams in enumerate(self.grams_of(words)):
            weight = self.weight(grams, n)
            count, norm = self.weighed(grams, n)
            there = self.get(f"grams{n}")[photos]
            found = (grams[:, None, :, None] == there[:, :, None, :]).sum(
                -1
            )  # of each n-gram, in each reference
            product = (torch.minimum(count[:, None], found) * found * weight[:, None] ** 2).sum(-1)
            total += product / (norm[:, None] * self.get(f"norm{n}")[photos])
        longer = ((words > 0).sum(-1)[:, None] - theirs).float()
        total = total * torch.exp(-(longer**2) / (2 * SIGMA**2)) * (theirs > 0)
        cider = 10 * total.sum(-1) / (theirs > 0).sum(-1).clamp_min(1) / ORDERS
        ordered = captions.sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        cider = cider - (self.fault[ordered[:, 1:].clamp_min(0)] * again).sum(1)
        return cider - self.seldom * self.strange(words)

    def strange(self, words: Int[Tensor, "captions length1"]) -> Int[Tensor, " captions"]:
        """How many triples of words (as ``ended`` gives them) people hardly write."""
        triples = self.grams_of(words)[2]
        place = torch.searchsorted(self.written, triples.contiguous()).clamp(max=len(self.written) - 1)
        return ((self.written[place] != triples) & (triples > 0)).sum(1)

    def triples_of(self, captions: Int[Tensor, "captions length"]) -> Int[Tensor, " triples"]:
        """Three words in a row that people write, each as one number, sorted; 0 among them."""
        triples, times = self.grams_of(self.ended(captions))[2].unique(return_counts=True)
        return triples[(times >= WRITTEN) | (triples == 0)]

    def get(self, name: str) -> Tensor:
        """A buffer."""
        buffer: Tensor = getattr(self, name)
        return buffer

    def ended(self, captions: Int[Tensor, "*captions length"]) -> Int[Tensor, "*captions length1"]:
        """Word ids from 1 on, the end behind them as one more word, then 0; an absent caption is 0 throughout."""
        length = (captions >= 0).sum(-1, keepdim=True)
        words = torch.nn.functional.pad(captions + 1, (0, 1)).clamp_min(0)
        end = torch.where(length > 0, self.vocab + 1, 0)
        return words.scatter(-1, length, end.to(words.dtype))

    def grams_of(self, words: Int[Tensor, "*captions length"]) -> list[Int[Tensor, "*captions length"]]:
        """N-grams of each order as one number each, at the place of their first word; 0 where none begins."""
        base, grams, whole = self.vocab + 2, torch.zeros_like(words), torch.ones_like(words, dtype=torch.bool)
        made = []
        for n in range(ORDERS):
            later = torch.nn.functional.pad(words[..., n:], (0, n))
            whole = whole & (later > 0)
            grams = grams * base + later
            made.append(torch.where(whole, grams, 0))
        return made

    def weight(self, grams: Int[Tensor, "captions length"], order: int) -> Float[Tensor, "captions length"]:
        """log(photos / photos whose references hold the n-gram), at most log(photos)."""
        keys = self.get(f"keys{order}")
        place = torch.searchsorted(keys, grams.contiguous()).clamp(max=len(keys) - 1)
        return self.log_photos - torch.where(
            keys[place] == grams, self.get(f"log_frequency{order}")[place], 0.0
        )

    def weighed(
        self, grams: Int[Tensor, "captions length"], order: int
    ) -> tuple[Int[Tensor, "captions length"], Float[Tensor, " captions"]]:
        """How often a caption has each n-gram, 0 where it is not the first of its kind; and the norm of its vector."""
        same = (grams[:, :, None] == grams[:, None, :]) & (grams[:, :, None] > 0)
        repeated = same.tril(-1).any(-1) | (grams == 0)
        count = same.sum(-1).masked_fill(repeated, 0)
        return count, (count * self.weight(grams, order)).square().sum(-1).sqrt().clamp_min(1e-9)


def document_frequency(grams: Int[Tensor, "photos most"]) -> tuple[Tensor, Tensor]:
    """The n-grams of all photos, sorted, 0 for none among them, and how many photos hold each."""
    held = grams.sort(1).values
    new = torch.ones_like(held, dtype=torch.bool)
    new[:, 1:] = held[:, 1:] != held[:, :-1]
    keys, photos = held[new].unique(return_counts=True)
    return keys, photos


def repetition(captions: Int[Tensor, "*captions length"], vocab: int) -> Float[Tensor, " vocab"]:
    """Of the captions that say a word, the share that say it more than once; 0 for words that none says."""
    ordered = captions.flatten(0, -2).sort(1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    second = ~new
    second[:, 1:] &= new[:, :-1]  # a word's third mention is of the same caption
    said = ordered >= 0
    once = torch.bincount(ordered[new & said], minlength=vocab)
    twice = torch.bincount(ordered[second & said], minlength=vocab)
    return twice / once.clamp_min(1)
