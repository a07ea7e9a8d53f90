"""The API reference: a page for each room, with every public name of it."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.site import house

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "clearcap"


def pages() -> dict[str, str]:
    """Markdown by path: an index, the front door, and a page for each room."""
    known = house.rooms()
    made = {f"api/{room}.md": page(room) for room in known}
    made["api/clearcap.md"] = FRONT
    level = house.floors(house.arrows())
    order = sorted(known, key=lambda room: (-level[room], room))
    made["api/index.md"] = "\n".join(
        [
            "# API reference",
            "",
            "Made from the docstrings, which a test holds to be complete: every public name of every module has one.",
            "[`clearcap`](clearcap.md) is what most programs need; it follows the usual promise, that old names go on",
            "for one version with a warning. The rooms below it are for those who build on parts of it; their names",
            "may change with a line in the [changelog](../changelog.md).",
            "",
            "Shapes stand in the signatures: `Float[Tensor, 'photos tokens dim']` is a tensor of three axes, and the",
            "same word is the same number throughout a signature. `Array` is NumPy's or torch's. Whatever is wrong",
            "with an input is an `InputError`, which is a `ValueError` ([errors](errors.md)).",
            "",
            "| room | what it is |",
            "|---|---|",
            "| [clearcap](clearcap.md) | The front door |",
            *(f"| [{room}]({room}.md) | {house.markdown(house.sentence(known[room]))} |" for room in order),
            "",
            ":::{toctree}",
            ":hidden:",
            "",
            "clearcap",
            *order,
            ":::",
            "",
        ]
    )
    return made


FRONT = """# clearcap

```{eval-rst}
.. currentmodule:: clearcap

.. autoclass:: clearcap.CaptionPipeline
   :members:
   :special-members: __call__
   :no-index:

.. autoclass:: clearcap.CaptionResult
   :members:
   :no-index:

.. autoclass:: clearcap.Captioner
   :members:
   :no-index:

.. autoclass:: clearcap.CaptionerConfig
   :members:
   :no-index:
```
"""


def page(room: str) -> str:
    """A room's page."""
    file = house.rooms()[room]
    lines = [f"# clearcap.{room}", "", house.markdown(house.sentence(file)), "", "```{eval-rst}"]
    for module in house.modules(room):
        lines += [".. rubric:: " + module, "   :heading-level: 2", "", f".. automodule:: {module}"]
        lines += [
            "   :members:",
            "   :ignore-module-all:",
            "   :member-order: bysource",
            "   :show-inheritance:",
            "",
        ]
    return "\n".join([*lines, "```", ""])


def public_names(module: Path) -> dict[str, ast.AST]:
    """A module's public classes, functions and methods by dotted name, with their syntax."""
    found: dict[str, ast.AST] = {}

    def walk(body: list[ast.stmt], above: str) -> None:
        for node in body:
            named = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            if named and not node.name.startswith("_"):
                found[above + node.name] = node
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{above}{node.name}.")

    walk(ast.parse(module.read_text()).body, "")
    return found
