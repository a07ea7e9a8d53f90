"""The scanner against Python's own regular expressions."""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearcap.metrics.lexer import Rule, Scanner, either_case


@pytest.mark.parametrize(
    ("pattern", "python"),
    [
        ("ab*c?", "(?i:ab*c?)"),
        ("(a|bc)+", "(?i:(a|bc)+)"),
        ("a{2,3}b{2}", "(?i:a{2,3}b{2})"),
        (r"[^ab]c|\.", r"[^ab](?i:c)|\."),
        (r"[a-b]+\n?", r"[a-b]+\n?"),
        ("(a?(b|c){1,2})*A", "(?i:(a?(b|c){1,2})*A)"),
    ],
)
@given(text=st.text("aAbBcC.\n ", max_size=7))
def test_longest_match_is_the_longest_prefix_python_matches(pattern: str, python: str, text: str) -> None:
    lengths = [n for n in range(len(text) + 1) if re.fullmatch(python, text[:n])]
    match = Scanner([Rule("rule", pattern)], {}, {}).match(text, 0)
    assert (match.end if match else 0) == max(lengths, default=0)


def test_longest_rule_wins_then_the_earliest() -> None:
    scanner = Scanner(
        [Rule("short", "ab"), Rule("long", "{LETTERS}"), Rule("late", "ab")], {"LETTERS": "[a-z]+"}, {}
    )
    assert scanner.match("ab", 0).rule == "short"
    assert scanner.match("abc", 0).rule == "long"
    assert scanner.match("1", 0) is None


def test_what_must_follow_is_not_part_of_the_token() -> None:
    scanner = Scanner([Rule("stem", "[a-z]+", "(ing)?!")], {}, {})
    assert scanner.match("sitting!", 0).end == len("sitting")  # as late as possible
    assert scanner.match("sitting", 0) is None


def test_seen_tells_how_far_the_decision_looked() -> None:
    scanner = Scanner([Rule("a", "a"), Rule("abc", "abc")], {}, {})
    match = scanner.match("abx", 0)
    assert (match.rule, match.end, match.seen) == ("a", 1, 3)
    assert (
        scanner.match("ab", 0).seen == 3
    )  # one past the end: another character could have changed the match
    assert scanner.match("abc", 0).seen == 3


def test_unbalanced_patterns_are_refused() -> None:
    with pytest.raises(ValueError, match="unbalanced"):
        Scanner([Rule("rule", "a)b")], {}, {})


def test_letters_match_either_case_including_their_unicode_relatives() -> None:
    assert either_case("k") == {"k", "K", "\u212a"}


def test_threads_that_match_at_once_find_what_one_finds() -> None:
    pattern = "(a|b|c|d){1,12}(e|f){2,9}g?"
    texts = [
        bin(i)[2:].translate({48: "ab"[i % 2], 49: "cd"[i % 3 > 0]}) + "effeg"[: i % 6] for i in range(300)
    ]
    alone = Scanner([Rule("rule", pattern)], {}, {})
    expected = [alone.match(text, 0) for text in texts]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            shared = Scanner([Rule("rule", pattern)], {}, {})
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(shared.match, texts, repeat(0))) == expected
    finally:
        sys.setswitchinterval(interval)
