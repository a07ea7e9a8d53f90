"""Links into the source: names are looked up when the site is built, so that a link is right or the build fails."""

from __future__ import annotations

import ast
import html
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]*)\]\((?P<target>(?:\.\./)+[\w./-]+)(?:#(?P<name>[\w.-]+))?\)")
TABLE = re.compile(r"^\[([\w.-]+)\]")


class Unknown(Exception):
    """A file or a name that is not there, in one line."""


def line_of(file: Path, name: str) -> int:
    """The line at which a name is defined.

    Args:
        file: a Python module or a TOML file.
        name: dotted: a class, function, method, attribute or constant; in TOML a table and a key.

    Raises:
        Unknown: the file has no such name.
    """
    found = _toml_lines(file) if file.suffix == ".toml" else _python_lines(file)
    if name not in found:
        raise Unknown(f"{file.relative_to(ROOT)} defines no {name}")
    return found[name]


@cache
def _python_lines(file: Path) -> dict[str, int]:
    found: dict[str, int] = {}

    def walk(body: list[ast.stmt], above: str) -> None:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found[above + node.name] = node.lineno
                walk(node.body, f"{above}{node.name}.")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        found.setdefault(above + target.id, node.lineno)

    walk(ast.parse(file.read_text()).body, "")
    return found


@cache
def _toml_lines(file: Path) -> dict[str, int]:
    found, table = {}, ""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if head := TABLE.match(line):
            table = head[1]
            found[table] = number
        elif key := re.match(r"([\w.-]+)\s*=", line):
            found[f"{table}.{key[1]}".lstrip(".")] = number
    return found


def page_of(file: Path) -> str:
    """Where the site shows a file of the repository, from its top."""
    return f"source/{file.relative_to(ROOT).as_posix()}.html"


def written(file: Path) -> str:
    """A file as a page of its own, with an anchor ``L12`` at every line."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import TextLexer, get_lexer_for_filename
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_for_filename(file.name)
    except ClassNotFound:
        lexer = TextLexer()
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    body = (
        highlight(file.read_text(), lexer, formatter)
        .replace('id="L-', 'id="L')
        .replace('href="#L-', 'href="#L')
    )
    body = body.replace('name="L-', 'name="L')
    name = file.relative_to(ROOT).as_posix()
    top = "../" * (len(Path(page_of(file)).parts) - 1)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(name)} - clearcap</title><style>{formatter.get_style_defs('.highlight')}"
        "body{font-family:system-ui,sans-serif;margin:1rem}pre{overflow-x:auto;font-size:.85rem}"
        ".linenos{color:#767676;text-decoration:none}:target{background:#fff3b0}</style></head><body>"
        f"<p><a href='{top}index.html'>clearcap</a> / {html.escape(name)}</p>{body}</body></html>\n"
    )
