"""Public names are documented, with shapes and errors."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import clearcap
from docs.site.reference import public_names

PACKAGE = Path(clearcap.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
BARE = {"Tensor", "np.ndarray", "Array"}
"""Annotations of arrays that say no shape."""


def raised_in(node: ast.AST) -> bool:
    """Whether a function raises something itself, functions within it left out."""
    todo = list(ast.iter_child_nodes(node))
    while todo:
        one = todo.pop()
        if (
            isinstance(one, ast.Raise)
            and one.exc is not None
            and "NotImplementedError" not in ast.unparse(one)
        ):
            return True
        if not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(one)
    return False


def test_every_module_and_public_name_is_documented() -> None:
    missing = [
        str(file.relative_to(PACKAGE))
        for file in MODULES
        if not ast.get_docstring(ast.parse(file.read_text()))
    ]
    names = 0
    for file in MODULES:
        for name, node in public_names(file).items():
            names += 1
            if not ast.get_docstring(node):  # type: ignore[arg-type]
                missing.append(f"{file.relative_to(PACKAGE)}: {name}")
    assert missing == []
    assert names > 1400


def test_what_raises_says_so() -> None:
    silent = []
    for file in MODULES:
        if file.parent.name == "cli":  # a command's errors are a line and status 1, all alike
            continue
        for name, node in public_names(file).items():
            if isinstance(node, ast.ClassDef) or not raised_in(node):
                continue
            told = ast.get_docstring(node) or ""  # type: ignore[arg-type]
            if not re.search(r"[Rr]aise|errors? as|InputError", told):
                silent.append(f"{file.relative_to(PACKAGE)}: {name}")
    assert silent == []


@pytest.mark.parametrize("name", [name for name in clearcap.__all__ if not name.startswith("__")])
def test_the_front_door_says_arguments_results_and_errors(name: str) -> None:
    kind = getattr(clearcap, name)
    assert len(inspect.getdoc(kind) or "") > 30
    for member, function in inspect.getmembers(kind, inspect.isroutine):
        own = str(getattr(function, "__module__", "")).startswith("clearcap")
        if (member.startswith("_") and member != "__call__") or not own:
            continue
        told = inspect.getdoc(function) or ""
        assert told, f"{name}.{member}"
        signature = inspect.signature(function)
        asked = [one for one in signature.parameters if one not in ("self", "cls", "args", "kwargs", "_")]
        if len(asked) > 2:
            missing = [one for one in asked if not re.search(rf"\b{one}\b", told)]
            assert not missing or "as for" in told or "as transformers" in told, (
                f"{name}.{member} is silent on {missing}"
            )


def test_arrays_of_interfaces_have_shapes() -> None:
    """Whatever a part from outside must take or give says its shape, in its type or in brackets."""
    unsaid = []
    for room in ("text/interface.py", "vision/interface.py", "denoiser/interface.py", "metrics/interface.py"):
        for name, node in public_names(PACKAGE / room).items():
            if isinstance(node, ast.ClassDef):
                continue
            told = ast.get_docstring(node) or ""  # type: ignore[arg-type]
            arguments = node.args.args + node.args.kwonlyargs  # type: ignore[attr-defined]
            bare = [one.arg for one in arguments if one.annotation and ast.unparse(one.annotation) in BARE]
            if bare and "[" not in told:
                unsaid.append(f"{room}: {name}: {bare}")
    assert unsaid == []
