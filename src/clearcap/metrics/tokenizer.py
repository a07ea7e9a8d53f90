"""Captions to tokens exactly as COCO captioning does it: Stanford's PTBTokenizer, lower case, no punctuation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from clearcap.config import texts
from clearcap.metrics import ptb

# Tokens that pycocoevalcap removes. Brackets stay and count as words: it looks for "-LRB-", but the tokens are
# in lower case by then.
PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
BRACKETS = {"(": "-LRB-", ")": "-RRB-", "{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-"}
KEPT_CHUNKS = 500_000  # memory bound of the memory of chunks, far above any caption corpus's vocabulary

_LINE_BREAKS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))
_FRACTIONS = str.maketrans({"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"})
_MONEY = str.maketrans({"¢": "cents", "£": "#"} | dict.fromkeys("\x80¤₠€", "$"))
_ROUND = str.maketrans({"(": "-LRB-", ")": "-RRB-"})
_QUOTES = dict.fromkeys("\x91‘‛‹", "`") | dict.fromkeys("\x92’›", "'")
_QUOTES |= dict.fromkeys("\x93“«", "``") | dict.fromkeys("\x94”»", "''")
_CLOSING = str.maketrans(_QUOTES | {'"': "''"})
_OPENING = str.maketrans(_QUOTES | {'"': "``", "'": "`"})
_AMPERSAND = re.compile("&amp;", re.IGNORECASE)
_BEYOND_BASIC_PLANE = re.compile("[\U00010000-\U0010ffff]")
_OTHER_SPACES = "\t\xa0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u3000"
_ODD_SPACE = re.compile(r"[^\S \n]")
_SIGMA_LETTERS = r"(?:(?![\u3400-\u9fff\uf900-\ufaff])[\w\u0300-\u036f])+"
_SIGMA_WORD = re.compile(
    rf"{_SIGMA_LETTERS}(?:(?<!\d)[-'\".\xad\u058a\u2010-\u2015\u2027](?=[^\W\d_]){_SIGMA_LETTERS})*"
)
_HALF = re.compile("[\ud800-\udfff]")

Memory = dict[str, tuple[str, ...]]  # chunk between blanks -> its tokens without punctuation
_inner: Memory = {}  # chunks before a space that are cut alike whatever comes after it
_final: Memory = {}  # the same for chunks at the end of a caption


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """Tokens of each caption, as pycocoevalcap's PTBTokenizer gives them for the same list.

    The captions are the lines of one text, as they are for the Java program: in the rare case of an
    abbreviation at the end of a caption ("vitamin D."), the first word of the next caption decides whether
    the full stop belongs to it. Three things differ on purpose: line breaks other than the plain one count as
    spaces (Java breaks the line there, which shifts every later caption); a caption ends where it ends, even
    inside of an unclosed tag; the last caption is followed by a line break like all others.

    Returns:
        One list a caption; empty for a caption without words. Tokens hold no plain space.
    """
    lines = [caption.translate(_LINE_BREAKS) for caption in texts("captions", captions)]
    text = "".join(line + "\n" for line in lines)
    if _BEYOND_BASIC_PLANE.search(text):  # Java's characters are halves there
        text = _BEYOND_BASIC_PLANE.sub(_halves, text)
        lines = text.split("\n")[:-1]
    if len(_inner) + len(_final) > KEPT_CHUNKS:
        _inner.clear()
        _final.clear()
    odd = _ODD_SPACE.search(text) is not None
    start, tokens = 0, []
    for line in lines:
        if odd and _ODD_SPACE.search(line):
            found = _without_punctuation(list(_scan_line(text, start, start + len(line), {}, {})))
        else:
            found = _line_tokens(text, line, start)
        tokens.append(found)
        start += len(line) + 1
    return tokens


def _line_tokens(text: str, line: str, start: int) -> list[str]:
    chunks = line.split(" ")
    last = chunks.pop()
    try:
        return [*chain.from_iterable(map(_inner.__getitem__, chunks)), *_final[last]]
    except KeyError:
        found = _scan_line(text, start, start + len(line), _inner, _final)
        return [token for token in found if token not in PUNCTUATION]


def _scan_line(text: str, start: int, stop: int, inner: Memory, final: Memory) -> Iterator[str]:
    """Cut one line, chunk by chunk; chunks that were cut without a look at what follows are remembered.

    Tokens that come from the memory lack punctuation, others have it.
    """
    scanner = ptb.scanner()
    while start <= stop:
        end = text.find(" ", start, stop)
        end, memory = (stop, final) if end < 0 else (end, inner)
        chunk = text[start:end]
        if chunk in memory:
            yield from memory[chunk]
            start = _after_spaces(text, end)
            continue
        tokens: list[str] = []
        seen = at = start
        while at < end:
            match = scanner.match(text, at)
            if match is None:
                raise AssertionError(f"no rule matches {text[at]!r}")
            token, at = _token(match.rule, text[at : match.end], at)
            seen = max(seen, match.seen)
            tokens += filter(None, token.split(" "))
        if at == end and seen <= end + 1:
            memory[chunk] = tuple(token for token in tokens if token not in PUNCTUATION)
        yield from tokens
        start = _after_spaces(text, at) if at == end else at


def _after_spaces(text: str, at: int) -> int:
    """Past the blank at the end of a chunk and the odd spaces after it, which belong to the same gap."""
    at += 1
    while at < len(text) and text[at] in _OTHER_SPACES:
        at += 1
    return at


def _without_punctuation(tokens: list[str]) -> list[str]:
    if tokens and tokens[-1][-1].isspace():  # a web address that ends in an odd space: lost at the line's end
        tokens = " ".join(tokens).rstrip().split(" ")
    return [token for token in tokens if token and token not in PUNCTUATION]


def _token(rule: str, text: str, start: int) -> tuple[str, int]:
    """The token that stands for a matched text, and where the next match begins."""
    end = start + len(text)
    if rule.startswith("split"):  # "cannot", "gonna": two words
        end -= int(rule[-1])
        text = text[: end - start]
    elif rule == "sentence":  # the full stop ends an abbreviation and the sentence: it is read twice
        end -= 1
        text = text[:1] if len(text) == 2 else text
    else:
        text = _SPELLING[rule](text)
    return _lower(_whole(text) if _HALF.search(text) else text), end


def _without_soft_hyphens(text: str) -> str:
    return text.replace("\xad", "") or "-"


def _hard_spaces(text: str) -> str:
    return text.replace(" ", "\xa0")


def _plain_quotes(text: str) -> str:
    return text.replace("&apos;", "'").replace("&quot;", '"')


_SPELLING: dict[str, Callable[[str], str]] = {  # kind of token (a rule of `ptb.RULES`) -> how it is written
    "plain": str,
    "word": _without_soft_hyphens,
    "soft": _without_soft_hyphens,
    "tag": _hard_spaces,
    "spaced": _hard_spaces,
    "phone": lambda text: _hard_spaces(text).translate(_ROUND),
    "ampersand": lambda text: _AMPERSAND.sub("&", text),
    "closing": lambda text: _plain_quotes(text).translate(_CLOSING),
    "opening": lambda text: _plain_quotes(text).translate(_OPENING),
    "fraction": lambda text: text.translate(_FRACTIONS),
    "money": lambda text: text.translate(_MONEY),
    "smiley": lambda text: text.translate(_ROUND),
    "bracket": lambda text: BRACKETS[text],
    "dash": lambda text: "--",
    "hyphens": lambda text: "--" if len(text) in (3, 4) else text,
    "dots": lambda text: "...",
    "<": lambda text: "<",
    ">": lambda text: ">",
    "skip": lambda text: "",
}


def _lower(text: str) -> str:
    """Lower case with Java's choice of the final sigma: the last letter with a case in its word."""
    if "Σ" not in text:
        return text.lower()

    def word(match: re.Match[str]) -> str:
        cased = [c.lower() != c.upper() for c in match.group()]
        finals = (any(cased[:i]) and not any(cased[i + 1 :]) for i in range(len(cased)))
        letters = zip(match.group(), finals, strict=True)
        return "".join(("ς" if final else "σ") if c == "Σ" else c for c, final in letters)

    return _SIGMA_WORD.sub(word, text).lower()


def _halves(match: re.Match[str]) -> str:
    """A character beyond the basic plane as the two surrogates Java holds it in."""
    code = ord(match.group()) - 0x10000
    return chr(0xD800 + (code >> 10)) + chr(0xDC00 + (code & 0x3FF))


def _whole(text: str) -> str:
    """Join pairs of surrogates; Java writes one without its other half as a question mark."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return _HALF.sub("?", joined)
