"""A longest-match scanner: many regular expressions compiled to one automaton, built as text needs it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TypeAlias

Characters: TypeAlias = tuple[bool, frozenset[str]]  # (negated, members)
DEAD = -1
_ELEMENT = re.compile(r"\{[A-Z]\w*\}|\{\d+(?:,\d+)?\}|\[\^?(?:\\.|[^\]\\])+\]|\\u\w{4}|\\.|.", re.DOTALL)
_CLASS_MEMBER = re.compile(r"(\\u\w{4}|\\.|[^\\])(?:-(\\u\w{4}|\\.|[^\\]))?", re.DOTALL)
_CONTROL = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}


@dataclass(frozen=True)
class Rule:
    """What to match, and what must follow it without becoming part of the token.

    Letters match either case outside of brackets and only their own inside: ``a[bc]`` matches "Ab", not "aB".
    ``{NAME}`` stands for a named pattern or a named set of characters.
    """

    name: str
    pattern: str
    follow: str = ""


@dataclass(frozen=True)
class Match:
    """The token ``text[start:end]`` of a rule; ``seen`` is one past the last character that mattered."""

    rule: str
    end: int
    seen: int


class _Nodes:
    """A nondeterministic automaton in the making (Thompson 1968): numbered nodes, edges and free moves."""

    def __init__(self, patterns: Mapping[str, str], sets: Mapping[str, frozenset[str]]) -> None:
        self.patterns, self.sets = patterns, sets
        self.edges: list[tuple[int, int] | None] = []  # per node: (characters, next node)
        self.free: list[list[int]] = []
        self.characters: dict[Characters, int] = {}

    def node(self) -> int:
        self.edges.append(None)
        self.free.append([])
        return len(self.edges) - 1

    def add(self, pattern: str, start: int) -> int:
        """Append a pattern after `start`; returns its last node."""
        elements = _ELEMENT.findall(pattern)
        end, rest = self._alternatives(elements, 0, start)
        if rest != len(elements):
            raise ValueError(f"unbalanced parenthesis in {pattern!r}")
        return end

    def _alternatives(self, elements: list[str], at: int, start: int) -> tuple[int, int]:
        end = self.node()
        while True:
            last, at = self._sequence(elements, at, start)
            self.free[last].append(end)
            if at == len(elements) or elements[at] == ")":
                return end, at
            at += 1  # the bar

    def _sequence(self, elements: list[str], at: int, node: int) -> tuple[int, int]:
        while at < len(elements) and elements[at] not in "|)":
            after = self._after(elements, at)
            repeats = self._repeats(elements[after]) if after < len(elements) else None
            low, high = repeats or (1, 1)
            for _ in range(low):
                node = self._one(elements, at, node)
            if high is None:
                loop = self.node()
                self.free[node].append(loop)
                self.free[self._one(elements, at, loop)].append(loop)
                node = loop
            else:
                end = self.node()
                for _ in range(high - low):
                    self.free[node].append(end)
                    node = self._one(elements, at, node)
                self.free[node].append(end)
                node = end
            at = after + (repeats is not None)
        return node, at

    @staticmethod
    def _repeats(element: str) -> tuple[int, int | None] | None:
        """How often, at least and at most, what stands before is repeated; None where `element` is no such sign."""
        if match := re.fullmatch(r"\{(\d+)(?:,(\d+))?\}", element):
            return int(match[1]), int(match[2] or match[1])
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(element)

    @staticmethod
    def _after(elements: list[str], at: int) -> int:
        depth = 0
        while True:
            depth += (elements[at] == "(") - (elements[at] == ")")
            at += 1
            if not depth:
                return at

    def _one(self, elements: list[str], at: int, node: int) -> int:
        element = elements[at]
        if element == "(":
            return self._alternatives(elements, at + 1, node)[0]
        if element[0] == "{" and len(element) > 1 and element[1:-1] in self.patterns:
            return self.add(self.patterns[element[1:-1]], node)
        edge, end = self.node(), self.node()
        self.free[node].append(edge)
        self.edges[edge] = (self.characters.setdefault(self._members(element), len(self.characters)), end)
        return end

    def _members(self, element: str) -> Characters:
        if element[0] == "{" and len(element) > 1:
            return False, self.sets[element[1:-1]]
        if element[0] == "[":
            negated, body = element[1] == "^", element[1:-1].removeprefix("^")
            ends = ((_plain(a), _plain(b or a)) for a, b in _CLASS_MEMBER.findall(body))
            return negated, frozenset(chr(n) for a, b in ends for n in range(ord(a), ord(b) + 1))
        if element == ".":
            return True, frozenset("\n\r\u2028\u2029\v\f\x85")
        return False, either_case(_plain(element))


def _plain(element: str) -> str:
    if len(element) == 6:
        return chr(int(element[2:], 16))
    return _CONTROL.get(element[1], element[1]) if element[0] == "\\" else element


def either_case(character: str) -> frozenset[str]:
    """The spellings of a character that unicode holds for the same letter but for its case."""
    special = {"k": "\u212a", "s": "\u017f", "i": "\u0130\u0131"}  # Kelvin sign, long s, Turkish i
    lower = character.lower()
    return frozenset({lower, character.upper(), *special.get(lower, "")})


class Scanner:
    """Matches the longest text at a position; of rules that match as much, the earliest one wins.

    Args:
        rules: in order of preference.
        patterns: named patterns that rules (and later patterns) may use.
        sets: named sets of characters, likewise.
    """

    def __init__(
        self, rules: Sequence[Rule], patterns: Mapping[str, str], sets: Mapping[str, frozenset[str]]
    ) -> None:
        self.rules = rules
        self._nodes = _Nodes(patterns, sets)
        start = self._nodes.node()
        self._rule_at: dict[int, int] = {}  # last node of a rule -> the rule's place
        for place, rule in enumerate(rules):
            end = self._nodes.add(f"({rule.pattern}){rule.follow and f'({rule.follow})'}", start)
            self._rule_at[end] = place
        self._membership: dict[str, int] = {}  # character -> bit per set of characters
        self._states: dict[frozenset[int], int] = {}
        self._entered: dict[frozenset[int], int] = {}
        self._reached: dict[int, frozenset[int]] = {}
        self._moves: list[list[tuple[int, int]]] = []
        self._by_membership: list[dict[int, int]] = []
        self._accepts: list[int] = []
        self._tables: list[dict[str, int]] = []
        self._growing = Lock()
        self._state(frozenset({start}))

    def match(self, text: str, start: int) -> Match | None:
        """The longest match at a position, or None where no rule matches."""
        tables, accepts, moves = self._tables, self._accepts, self._moves
        state, at, rule, end = 0, start, DEAD, start
        while at < len(text) and moves[state]:
            following = tables[state].get(text[at])
            if following is None:
                following = self._step(state, text[at])
            at += 1
            if following == DEAD:
                seen = at
                break
            state = following
            if accepts[state] != DEAD:
                rule, end = accepts[state], at
        else:
            seen = at + bool(moves[state])  # where more could have matched, the end of the text mattered, too
        if rule == DEAD:
            return None
        if self.rules[rule].follow:
            end = self._split(rule, text, start, end)
        return Match(self.rules[rule].name, end, seen)

    def ends(self, text: str, start: int, stop: int) -> list[int]:
        """Every place up to `stop` where some rule could end a match that begins at `start`, ascending."""
        state, found = 0, [start] if self._accepts[0] != DEAD else []
        for at in range(start, stop):
            state = self._step(state, text[at])
            if state == DEAD:
                break
            if self._accepts[state] != DEAD:
                found.append(at + 1)
        return found

    def _split(self, place: int, text: str, start: int, stop: int) -> int:
        """Where the token ends and what must follow it begins: as late as possible."""
        token, follow = self._parts[place]
        return next(
            end for end in reversed(token.ends(text, start, stop)) if stop in follow.ends(text, end, stop)
        )

    @cached_property
    def _parts(self) -> dict[int, tuple[Scanner, Scanner]]:
        named = self._nodes.patterns, self._nodes.sets
        return {
            place: (Scanner([Rule(r.name, r.pattern)], *named), Scanner([Rule(r.name, r.follow)], *named))
            for place, r in enumerate(self.rules)
            if r.follow
        }

    def _state(self, nodes: frozenset[int]) -> int:
        """The number of the state that stands for these nodes and all they reach without a character."""
        if nodes not in self._entered:
            key = frozenset().union(*map(self._reach, nodes))
            if key not in self._states:
                self._states[key] = len(self._states)
                self._moves.append([edge for node in key if (edge := self._nodes.edges[node])])
                self._accepts.append(
                    min((self._rule_at[node] for node in key if node in self._rule_at), default=DEAD)
                )
                self._tables.append({})
                self._by_membership.append({})
            self._entered[nodes] = self._states[key]
        return self._entered[nodes]

    def _reach(self, start: int) -> frozenset[int]:
        """The nodes with an edge or the end of a rule that a node leads to without a character."""
        if start not in self._reached:
            seen, waiting = {start}, [start]
            while waiting:
                for node in self._nodes.free[waiting.pop()]:
                    if node not in seen:
                        seen.add(node)
                        waiting.append(node)
            useful = (node for node in seen if self._nodes.edges[node] or node in self._rule_at)
            self._reached[start] = frozenset(useful)
        return self._reached[start]

    def _step(self, state: int, character: str) -> int:
        table = self._tables[state]
        if character not in table:
            with self._growing:  # whoever else is matching sees a state once all of it is there
                membership = self._member_of(character)
                known = self._by_membership[state]
                if membership not in known:
                    nodes = frozenset(
                        to for characters, to in self._moves[state] if membership >> characters & 1
                    )
                    known[membership] = self._state(nodes) if nodes else DEAD
                table[character] = known[membership]
        return table[character]

    def _member_of(self, character: str) -> int:
        if character not in self._membership:
            sets = self._nodes.characters.items()
            bits = sum(1 << bit for (negated, members), bit in sets if (character in members) != negated)
            self._membership[character] = bits
        return self._membership[character]
