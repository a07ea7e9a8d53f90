"""The site's source, put together of pages and files of the repository, and the built site's links, checked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache, partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

from docs.site import blocks, commands, house, reference, source, studies

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ADOPTED = {  # files of the repository that are pages of the site, too
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "LOG.md": "log.md",
    "SECURITY.md": "reporting.md",
    "src/clearcap/model/README.md": "model.md",
}
MARKDOWN_LINK = re.compile(r"(?P<text>\]\()(?P<target>[^)\s]+)\)")
FIGURES = re.compile(r"<!-- figures -->\n(.*?)<!-- /figures -->", re.S)
INSERTED = {  # marks of pages, and what is put in their place
    "<!-- the rooms -->": house.table,
    "<!-- the studies -->": lambda: studies.tables(),
    "<!-- the figures -->": lambda: figures(),
}
PATTERN = re.compile(r"^([\w/-]+\*)\n", re.M)  # in a list of pages
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)


def written_pages() -> dict[str, str]:
    """The pages that people wrote, by path below ``docs``; adopted files among them, their links as seen from there."""
    found = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
    for file, name in ADOPTED.items():
        if (ROOT / file).is_file():
            text = FRONT_MATTER.sub("", (ROOT / file).read_text())
            found[name] = MARKDOWN_LINK.sub(partial(_seen_from_docs, file=ROOT / file), text)
    return found


def _seen_from_docs(link: re.Match[str], file: Path) -> str:
    """A link of an adopted file as a page in ``docs`` would write it."""
    target, fragment = urldefrag(link["target"])
    if not target or "://" in target:
        return link[0]
    for base in (file.parent, ROOT):
        if (base / target).exists():
            path = (base / target).resolve()
            inside = path.is_relative_to(DOCS)
            relative = path.relative_to(DOCS) if inside else Path("..") / path.relative_to(ROOT)
            return f"{link['text']}{relative.as_posix()}{'#' + fragment if fragment else ''})"
    return link[0]


def figures() -> str:
    """The README's table of scores and the commands that gave them."""
    found = FIGURES.search((ROOT / "README.md").read_text())
    if found is None:
        raise RuntimeError("README.md: no table between <!-- figures --> and <!-- /figures -->")
    return found[1].replace("```sh", "<!-- not run: the data sets do not ship -->\n```sh")


def generated_pages() -> dict[str, str]:
    """The pages that are made from the package, by path."""
    return {
        **commands.pages(),
        **reference.pages(),
        "settings.md": commands.settings_page(),
        "presets.md": commands.presets_page(),
    }


def linked_to_source(name: str, page: str, linked: set[Path]) -> str:
    """A page whose links to files outside ``docs`` lead to pages of the site.

    Args:
        name: its path below ``docs``.
        page: its Markdown.
        linked: the files that are linked to are added here.

    Raises:
        source.Unknown: a file or a name in one is not there.
    """
    here = (DOCS / name).parent
    top = "../" * (len(Path(name).parts) - 1)

    def one(found: re.Match[str]) -> str:
        file = (here / found["target"]).resolve()
        if file.is_relative_to(DOCS):
            return found[0]
        relative = file.relative_to(ROOT).as_posix()
        if relative in ADOPTED:
            fragment = f"#{found['name']}" if found["name"] else ""
            return f"[{found['text']}]({top}{ADOPTED[relative]}{fragment})"
        if not file.is_file():
            raise source.Unknown(f"docs/{name} links to {relative}, which is not there")
        linked.add(file)
        line = f"#L{source.line_of(file, found['name'])}" if found["name"] else ""
        return f'<a href="{top}{source.page_of(file)}{line}">{found["text"]}</a>'

    return source.LINK.sub(one, page)


def _listed(pattern: str, pages: dict[str, str]) -> str:
    """The pages that a pattern of the index stands for, a line each."""
    return "".join(
        f"{Path(name).with_suffix('')}\n" for name in sorted(pages) if fnmatch(name, pattern + ".md")
    )


def assemble(out: Path, run: str = "*", told: Callable[[str], None] = lambda line: None) -> set[Path]:
    """Write the site's source.

    Args:
        out: folder to write.
        run: the pages whose code is run, as a glob; "" none.
        told: is told of each block that begins to run.

    Returns:
        The files of the repository that pages link to.

    Raises:
        RuntimeError: a block failed, or is not marked; a link leads nowhere.
    """
    linked: set[Path] = set()
    written = written_pages()
    faults = [fault for name, page in written.items() for fault in blocks.faults(name, page)]
    if faults:
        raise RuntimeError("\n".join(faults))
    made = generated_pages()
    for name, page in (written | made).items():
        for mark, text in INSERTED.items():
            if mark in page:
                page = page.replace(mark, text())
        page = linked_to_source(name, page, linked) if name not in made else page
        page = PATTERN.sub(lambda found: _listed(found[1], written), page) if name == "index.md" else page
        try:
            page = blocks.rendered(name, page, fnmatch(name, run) and name not in made, told)
        except RuntimeError as fault:
            faults.append(f"{name}: {fault}")
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page)
    for file in DOCS.rglob("*"):
        if file.suffix in (".png", ".gif", ".jpg", ".css") or file.name == "conf.py":
            target = out / file.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    (out / "house.svg").write_text(house.picture())
    if faults:
        raise RuntimeError("\n".join(faults))
    return linked


def finish(site: Path, linked: set[Path]) -> None:
    """Add the pages of source files to a built site, and say to hosts that it needs no building."""
    (site / ".nojekyll").touch()
    for file in linked:
        target = site / source.page_of(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.written(file))


class _Links(HTMLParser):
    """What a page links to, and the anchors it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note links, pictures, scripts and anchors."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append(value)
            elif value and (name == "id" or (name == "name" and tag == "a")):
                self.anchors.add(value)


@cache
def _read(page: Path) -> _Links:
    found = _Links()
    found.feed(page.read_text())
    return found


def broken(site: Path) -> list[str]:
    """Links of a built site that lead to no file or no anchor of it, and files it would fetch from elsewhere."""
    faults = []
    for page in sorted(site.rglob("*.html")):
        for link in _read(page).links:
            address, fragment = urldefrag(link)
            if address.startswith(("http://", "https://", "mailto:", "data:", "javascript:")):
                continue
            target = (page.parent / unquote(address.partition("?")[0])).resolve() if address else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                faults.append(f"{page.relative_to(site)}: {link} is not there")
            elif fragment and target.suffix == ".html" and unquote(fragment) not in _read(target).anchors:
                faults.append(f"{page.relative_to(site)}: {link} has no such anchor")
        for fetched in re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text()
        ):
            if 'rel="canonical"' not in fetched:
                faults.append(f"{page.relative_to(site)}: fetches {fetched} from elsewhere")
    return faults
