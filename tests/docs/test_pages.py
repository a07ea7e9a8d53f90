"""The pages without building them: blocks say what becomes of them, links lead somewhere, nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_package import FLOORS

from docs.site import blocks, building, commands, house, reference, source

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)|!\[[^\]\n]*\]\(([^)\s]+)\)")
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md", "LOG.md")


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.M):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-"))
    return found


def dead_links(file: Path) -> list[str]:
    """Links of a Markdown file that lead to no file, or to no heading of one."""
    text = re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.M | re.S)
    faults = []
    for one in LINK.finditer(text):
        target, _, fragment = (one[1] or one[2]).partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        where = (file.parent / target).resolve() if target else file
        generated = (
            where.is_relative_to(building.DOCS) and where.relative_to(building.DOCS).as_posix() in GENERATED
        )
        if generated or (where == building.DOCS / "house.svg"):
            continue
        if not where.exists():
            faults.append(f"{file.name}: {target} is not there")
        elif fragment and where.suffix == ".md" and fragment not in anchors(where.read_text()):
            faults.append(f"{file.name}: {target} has no heading #{fragment}")
    return faults


GENERATED = {
    "settings.md",
    "presets.md",
    *commands.pages(),
    "api/index.md",
    "api/clearcap.md",
    *(f"api/{room}.md" for room in house.rooms()),
    *building.ADOPTED.values(),
}


def test_every_block_of_code_runs_or_says_why_not() -> None:
    pages = building.written_pages()
    assert [fault for name, page in pages.items() for fault in blocks.faults(name, page)] == []
    assert sum(block.verb == "run" for page in pages.values() for block in blocks.blocks(page)) >= 40


def test_no_block_pipes_into_what_may_stop_reading() -> None:
    """A command whose reader has gone ends with an error or not, as time falls, and the site is built or not."""
    for page in building.DOCS.rglob("*.md"):
        for block in blocks.blocks(page.read_text()):
            assert block.verb != "run" or not re.search(r"\|\s*(head|grep -q)\b", block.code), page


def test_reasons_are_of_pages_that_are_there_or_coming() -> None:
    coming = {"browser.md", "languages.md"}
    assert set(blocks.reasons()) - set(building.written_pages()) <= coming


@pytest.mark.parametrize(
    "name", [*OUTSIDE, *sorted(str(p.relative_to(ROOT)) for p in building.DOCS.rglob("*.md"))]
)
def test_links_lead_somewhere(name: str) -> None:
    assert dead_links(ROOT / name) == []


def test_links_into_the_source_are_found() -> None:
    linked: set[Path] = set()
    pages = {
        name: building.linked_to_source(name, page, linked) for name, page in building.written_pages().items()
    }
    assert len(linked) > 20
    assert "source/src/clearcap/sampling/guidance.py.html#L" in pages["papers/ladic.md"]
    assert "](../../src" not in pages["papers/ladic.md"]


def test_a_name_that_moved_is_a_fault() -> None:
    page = "[`guide`](../src/clearcap/sampling/guidance.py#no_such_name)"
    with pytest.raises(source.Unknown, match="defines no no_such_name"):
        building.linked_to_source("house.md", page, set())


def test_a_name_leads_to_its_line() -> None:
    file = ROOT / "src/clearcap/sampling/guidance.py"
    assert file.read_text().splitlines()[source.line_of(file, "guide") - 1].startswith("def guide(")
    preset = ROOT / "src/clearcap/configs/ladic-base.toml"
    assert preset.read_text().splitlines()[source.line_of(preset, "text.split") - 1] == "split = 6"


def test_every_page_is_in_the_navigation() -> None:
    index = (building.DOCS / "index.md").read_text()
    listed = set(re.findall(r"^([\w/-]+\*?)$", index, re.M))
    pages = {name.removesuffix(".md") for name in building.written_pages()} - {"index"}
    assert {
        page for page in pages if not any(page == one or page.startswith(one[:-1]) for one in listed if one)
    } == set()
    assert {one for one in listed if not one.endswith("*")} - pages == {
        "api/index",
        "commands/index",
        "settings",
        "presets",
    }


def test_there_are_enough_pages_and_each_begins_with_its_title() -> None:
    pages = building.written_pages()
    assert len(pages) >= 30
    assert [name for name, page in pages.items() if not page.lstrip().startswith("# ")] == []


def test_every_command_and_option_has_a_line() -> None:
    pages, found = commands.pages(), commands.table_of_commands()
    assert {f"commands/{name}.md" for name in found} | {"commands/index.md"} == set(pages)
    assert "`--candidates`" in pages["commands/caption.md"]
    assert "clearcap bench backends" in pages["commands/bench.md"]


def test_rooms_of_the_picture_are_those_of_the_floors() -> None:
    edges = house.arrows()
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert set(edges) == set(floor) - house.LEFT_OUT
    assert all(floor[below] < floor[room] for room, targets in edges.items() for below in targets)
    assert house.picture().count("<rect") == len(edges) + 1


def test_every_module_is_in_the_reference() -> None:
    pages = "\n".join(reference.pages().values())
    modules = [name for room in house.rooms() for name in house.modules(room)]
    assert len(modules) > 200
    assert [name for name in modules if f".. automodule:: {name}\n" not in pages] == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1400


def test_output_is_shown_without_colours_progress_and_folders(tmp_path: Path) -> None:
    said = f"\x1b[31mred\x1b[0m\n 10%\r 90%\rdone\n{tmp_path}/photo.jpg\n\n"
    assert blocks.shown(said, tmp_path) == "red\ndone\nphoto.jpg"


def test_blocks_run_in_one_folder_and_say_what_they_print() -> None:
    page = (
        "# A page\n\n<!-- file: a.txt -->\n```text\nsome words\n```\n\n"
        "<!-- run -->\n```sh\ncat a.txt; ls photos\n```\n\n"
        "<!-- run: status 3 -->\n```sh\nexit 3\n```\n\n<!-- not run: it waits -->\n```sh\nsleep 100\n```\n"
    )
    made = blocks.rendered("a.md", page)
    assert "```text\nsome words\ncat.jpg\ncoffee.jpg\nrocket.jpg\n```" in made
    assert "*Not run when this page is made: it waits*" in made
    with pytest.raises(RuntimeError, match="status 1"):
        blocks.rendered("a.md", "<!-- run -->\n```sh\nexit 1\n```\n")
    assert blocks.faults("a.md", "```sh\nls\n```\n") == [
        "a.md:1: nothing says whether this block is run; put <!-- run --> before it"
    ]
