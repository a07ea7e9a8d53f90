"""What a JSON value must be, and the sentence where it is something else."""

from __future__ import annotations

import re

import pytest

from clearcap.data.reading import as_kind, member
from clearcap.errors import InputError


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("x", str),
        (3, int),
        (0.5, float),
        (3, float),
        ([], list),
        ({}, dict),
        (3, (int, str)),
        (3, (str, float)),
    ],
)
def test_a_value_of_its_kind_is_given_back(value: object, kind: type | tuple[type, ...]) -> None:
    assert as_kind(value, kind, "here") is value


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("0.5", float, "here is of type str; it must be a number"),
        (None, float, "here is of type NoneType; it must be a number"),
        (True, float, "here is of type bool; it must be a number"),
        (0.5, int, "here is of type float; it must be an integer"),
        (True, int, "here is of type bool; it must be an integer"),
        (0.5, (int, str), "here is of type float; it must be an integer or a string"),
        ([], (str, float), "here is of type list; it must be a string or a number"),
    ],
)
def test_any_other_kind_is_one_sentence(value: object, kind: type | tuple[type, ...], said: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        as_kind(value, kind, "here")


def test_a_member_is_named_where_it_is_missing_or_of_another_kind() -> None:
    assert member({"seconds": 2}, "seconds", float, "timing.json") == 2
    with pytest.raises(InputError, match=r"^timing\.json has no 'seconds' \(it has 'photos'\); add it$"):
        member({"photos": 2}, "seconds", float, "timing.json")
    with pytest.raises(InputError, match=r"^timing\.json: 'seconds' is of type str; it must be a number$"):
        member({"seconds": "2"}, "seconds", float, "timing.json")
