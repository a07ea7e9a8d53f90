"""XMP: a photo's description and alternative text, as photo software reads them."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from clearcap.errors import InputError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_META = "adobe:ns:meta/"
_DC = "http://purl.org/dc/elements/1.1/"
_IPTC = "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_PREFIXES = {"x": _META, "rdf": _RDF, "dc": _DC, "Iptc4xmpCore": _IPTC}
PROPERTIES = (
    f"{{{_DC}}}description",
    f"{{{_IPTC}}}AltTextAccessibility",
)  # IPTC Photo Metadata Standard 2021.1


def described(file: Path, caption: str) -> bytes:
    """An XMP packet that says the caption, in whatever language it is, and all that the file says otherwise.

    Args:
        file: the sidecar as it is; it may be missing.
        caption: for ``dc:description`` and ``Iptc4xmpCore:AltTextAccessibility``.

    Raises:
        InputError: the file is no XMP.
    """
    for prefix, address in _PREFIXES.items():
        ElementTree.register_namespace(prefix, address)
    meta, rdf = _read(file) if file.exists() else _empty()
    abouts = rdf.findall(f"{{{_RDF}}}Description")
    about = (
        abouts[0]
        if abouts
        else ElementTree.SubElement(rdf, f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})
    )
    text = "".join(c if c.isprintable() or c in "\t\n" else " " for c in caption)
    for name in PROPERTIES:
        for one in abouts:
            one.attrib.pop(name, None)
        held = next(
            (choice for one in abouts if (choice := one.find(f"{name}/{{{_RDF}}}Alt")) is not None), None
        )
        if held is None:
            held = ElementTree.SubElement(ElementTree.SubElement(about, name), f"{{{_RDF}}}Alt")
        for item in held.findall(f"{{{_RDF}}}li"):
            if item.get(_LANG) == "x-default":  # other languages stay
                held.remove(item)
        item = ElementTree.Element(f"{{{_RDF}}}li", {_LANG: "x-default"})
        item.text = text
        held.insert(0, item)
    ElementTree.indent(meta)
    return (
        '<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'.encode()
        + ElementTree.tostring(meta, encoding="utf-8")
        + b'\n<?xpacket end="w"?>\n'
    )


def _empty() -> tuple[ElementTree.Element, ElementTree.Element]:
    meta = ElementTree.Element(f"{{{_META}}}xmpmeta")
    return meta, ElementTree.SubElement(meta, f"{{{_RDF}}}RDF")


def _read(file: Path) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The whole packet and its RDF, with the file's own prefixes kept. Raises InputError."""
    try:
        for _, (prefix, address) in ElementTree.iterparse(file, events=["start-ns"]):
            if prefix and address not in _PREFIXES.values() and not re.fullmatch(r"ns\d+|xml", prefix):
                ElementTree.register_namespace(prefix, address)
        meta = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError) as error:
        raise InputError(f"{file} is no XMP ({error}); move it away") from error
    name = f"{{{_RDF}}}RDF"
    rdf = meta if meta.tag == name else meta.find(name)
    if rdf is None:
        raise InputError(f"{file} is XML without an rdf:RDF, so no XMP; move it away")
    return meta, rdf
