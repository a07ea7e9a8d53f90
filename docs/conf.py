"""Sphinx's settings; ``python -m docs.site`` puts the pages together and calls it."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from clearcap.config import __version__  # noqa: E402

project, release, version = "clearcap", __version__, __version__
copyright = "the clearcap authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["photos/*"]
language = "en"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
myst_url_schemes = {"http": None, "https": None, "mailto": None}

html_theme = "furo"
html_title = f"clearcap {release}"
html_static_path: list[str] = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}

autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "__init__"}
autodoc_mock_imports = ["timm", "ai_edge_litert", "ray", "webdataset", "pillow_heif", "fsspec", "datasets"]
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype, napoleon_use_ivar = False, True
autodoc_inherit_docstrings = False  # what torch says of its own methods
python_maximum_signature_line_length = 100
maximum_signature_line_length = 100
suppress_warnings = [
    "autodoc.mocked_object",
    "misc.highlighting_failure",  # answers that a page cuts short are no JSON
    "ref.python",  # words of shapes that are names of other things, too
]


def tidy(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings that begin with "Args:" have their arguments indented, as napoleon expects them."""
    if lines and lines[0].strip() == "Args:":
        end = next((n for n, line in enumerate(lines) if n and not line.strip()), len(lines))
        lines[1:end] = [f"    {line}" for line in lines[1:end]]
    for n, line in enumerate(lines):
        lines[n] = re.sub(r"(?<![`\w*])\*(\w)", r"\\*\1", line)


def mathml(writer: Any, node: Any, block: bool) -> None:
    """A formula as MathML, which browsers draw by themselves."""
    from docutils import nodes
    from docutils.utils.math.latex2mathml import tex2mathml

    text = tex2mathml(node.astext(), as_block=block).replace(
        ' xmlns="http://www.w3.org/1998/Math/MathML"', ""
    )
    text = re.sub(r"&(?!amp;|lt;|gt;|#)\w+;", lambda entity: html.unescape(entity[0]), text)
    made = ElementTree.fromstring(text)
    for one in made.iter():
        if (
            one.tag == "munderover" and len(one) == 3 and (one[2].text or "") in "\u02c6\u02c9"
        ):  # a hat, not a limit
            base, below, hat = list(one)
            one.tag = "msub"
            for part in (base, below, hat):
                one.remove(part)
            over = ElementTree.SubElement(one, "mover")
            over.extend([base, hat])
            one.append(below)
        elif one.tag == "msub" and len(one) and one[0].tag == "munder":  # what stands under a brace
            one.tag = "munder"
    writer.body.append(ElementTree.tostring(made, encoding="unicode"))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Register what the settings above name."""
    app.connect("autodoc-process-docstring", tidy, priority=100)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda writer, node: mathml(writer, node, False), None),
        block_renderers=(lambda writer, node: mathml(writer, node, True), None),
    )
