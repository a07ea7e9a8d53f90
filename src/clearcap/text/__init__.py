"""Text spaces: how a caption becomes a latent, and a latent a caption."""

from clearcap.text.spaces import SplitBertSpace, TextSpace, build_split_bert, word_positions
from clearcap.text.tokens import clean_caption, encode_captions, train_tokenizer

__all__ = [
    "SplitBertSpace",
    "TextSpace",
    "build_split_bert",
    "clean_caption",
    "encode_captions",
    "train_tokenizer",
    "word_positions",
]
