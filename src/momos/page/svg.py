"""Matplotlib's SVG in fewer bytes, with nothing lost that a reader sees.

Most bytes of its files are digits that nobody sees, ids that nothing refers to, and one style
written at every element. Only what Matplotlib writes is understood here.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, groupby, product
from string import ascii_letters
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from momos.page import svg_numbers

SVG, XLINK = "http://www.w3.org/2000/svg", "{http://www.w3.org/1999/xlink}"
HREF = f"{XLINK}href"
UNSEEN = ("metadata", "title", "desc")  # elements that draw nothing
LENGTHS = ("x", "y", "width", "height")
NOT_INHERITED = {"opacity", "clip-path"}  # of what Matplotlib says in a style
DEFAULTS = re.compile(r"\s*\*\{([^{}]*)\}\s*")  # the one rule of Matplotlib's style sheets
REFERENCE = re.compile(r"#([\w.-]+)")


def minified(svg: str) -> str:
    """The same picture in fewer bytes, its attributes in single quotes.

    A picture without Matplotlib's style sheet stays as it is. Raises ElementTree.ParseError for
    text that is not XML.
    """
    root = ElementTree.fromstring(svg)
    sheets = list(root.iter(f"{{{SVG}}}style"))
    defaults = [DEFAULTS.fullmatch(sheet.text or "") for sheet in sheets]
    if len(defaults) != 1 or defaults[0] is None:
        return svg
    _round_attributes(root)
    _normalise_styles(root)
    _inherit(root, defaults[0][1])
    _drop_overridden(root)
    definitions = _gather_definitions(root)
    _share_texts(root, definitions)
    _shorten_ids(root)
    _drop_unseen(root)
    _group_alike(root)
    _name_styles(root, sheets[0])
    return "".join(_written(root))


def _tag(element: Element) -> str:
    return element.tag.removeprefix(f"{{{SVG}}}")


def _targets(root: Element) -> dict[str, Element]:
    return {element.attrib["id"]: element for element in root.iter() if "id" in element.attrib}


def _round_attributes(root: Element) -> None:
    for element in root.iter():
        given = element.attrib
        for name in LENGTHS:
            if svg_numbers.NUMBER.fullmatch(given.get(name, "")):
                given[name] = svg_numbers.short_number(given[name])
        if "d" in given:
            given["d"] = svg_numbers.short_path(given["d"])
        if "transform" in given:
            given["transform"] = svg_numbers.short_transform(given["transform"])
            _place_by_position(element)


def _place_by_position(use: Element) -> None:
    """Give an element that is used elsewhere, and only moved, x and y in place of a transform."""
    moved = re.fullmatch(r"translate\(([^ )]+) ([^ )]+)\)", use.attrib["transform"])
    if _tag(use) == "use" and moved and not {"x", "y"} & set(use.attrib):
        del use.attrib["transform"]
        for name, value in zip("xy", moved.groups(), strict=True):
            if value != "0":
                use.attrib[name] = value


# Styles


def _declarations(style: str) -> dict[str, str]:
    """A style's properties and values: "fill: none; stroke-width: 0.8" for instance."""
    parts = [part.partition(":") for part in style.split(";") if part.strip()]
    return {name.strip(): value.strip() for name, _, value in parts}


def _set_style(element: Element, declarations: dict[str, str]) -> None:
    element.attrib.pop("style", None)
    if declarations:
        text = ";".join(f"{name}:{value}" for name, value in declarations.items())
        element.attrib["style"] = svg_numbers.ZERO_BEFORE_POINT.sub("", text)


def _style(element: Element) -> dict[str, str]:
    return _declarations(element.attrib.get("style", ""))


def _normalise_styles(root: Element) -> None:
    """Say in each element's style how it looks, its clip path too, without spaces."""
    for element in root.iter():
        clip = element.attrib.pop("clip-path", None)
        _set_style(element, _style(element) | ({"clip-path": clip} if clip else {}))


def _inherit(root: Element, defaults: str) -> None:
    """Matplotlib's rule for all elements becomes the root's style, which all elements inherit.

    Under the rule, a shape does not inherit these properties from a group or from where it is
    used. So they are dropped there, and styles may then move from shapes to groups.
    """
    rule = _declarations(defaults)
    for element in root.iter():
        if _tag(element) in ("g", "use"):
            style = _style(element)
            _set_style(element, {name: style[name] for name in style if name not in rule})
    _set_style(root, rule)


def _drop_overridden(root: Element) -> None:
    """Drop from where a path is used the properties that the path sets itself."""
    targets = _targets(root)
    for use in root.iter(f"{{{SVG}}}use"):
        target = targets.get(use.attrib.get(HREF, "").removeprefix("#"))
        if target is not None and _tag(target) == "path":
            own = set(_style(target)) - NOT_INHERITED
            style = _style(use)
            _set_style(use, {name: style[name] for name in style if name not in own})


def _name_styles(root: Element, sheet: Element) -> None:
    """Make classes of the styles that occur twice, the most frequent ones with short names."""
    styles = [element.attrib["style"] for element in root.iter() if "style" in element.attrib]
    repeated = [style for style, times in Counter(styles).most_common() if times > 1]
    names = dict(zip(repeated, _names(), strict=False))
    for element in root.iter():
        if element.attrib.get("style") in names:
            element.attrib["class"] = names[element.attrib.pop("style")]
    sheet.attrib.clear()
    sheet.text = "".join(f".{name}{{{style}}}" for style, name in names.items())


# Ids


def _shorten_ids(root: Element) -> None:
    """Give ids that are referred to short names, the most frequent the shortest; drop others."""
    ids = set(_targets(root))
    frequent = [name for name, _ in Counter(_references(root)).most_common() if name in ids]
    short = dict(zip(frequent, _names(), strict=False))
    for element in root.iter():
        old = element.attrib.pop("id", "")
        if old in short:
            element.attrib["id"] = short[old]
        for name in {"style", HREF} & set(element.attrib):
            element.attrib[name] = REFERENCE.sub(
                lambda one: "#" + short.get(one[1], one[1]), element.attrib[name]
            )


def _references(root: Element) -> Iterator[str]:
    for element in root.iter():
        for name in ("style", HREF):
            yield from REFERENCE.findall(element.attrib.get(name, ""))


def _names() -> Iterator[str]:
    """a, b, .., Z, aa, ab, .."""
    for length in count(1):
        yield from map("".join, product(ascii_letters, repeat=length))


# Structure


def _drop_unseen(parent: Element) -> None:
    """Drop metadata, groups without content, and groups that only hold their content together."""
    for child in list(parent):
        _drop_unseen(child)
        is_empty = _tag(child) in ("g", "defs") and not len(child)
        if is_empty or _tag(child) in UNSEEN:
            parent.remove(child)
        elif _tag(child) == "g" and not child.attrib:
            place = list(parent).index(child)
            parent[place : place + 1] = list(child)


def _gather_definitions(root: Element) -> Element:
    """Move all that is only used elsewhere to one element at the top; returns that element."""
    together = Element(f"{{{SVG}}}defs")
    for parent in list(root.iter()):
        for child in list(parent):
            if _tag(child) == "defs":
                together.extend(list(child))
                parent.remove(child)
    root.insert(0, together)
    return together


def _share_texts(root: Element, definitions: Element) -> None:
    """Define a text that occurs twice, which is a group of used glyphs, and use it twice."""
    occurrences: dict[str, list[Element]] = {}
    for group in root.iter(f"{{{SVG}}}g"):
        if "transform" in group.attrib and all(_tag(child) == "use" for child in group):
            content = "".join(part for child in group for part in _written(child))
            occurrences.setdefault(content, []).append(group)
    for number, groups in enumerate(occurrences.values()):
        if len(groups) > 1:
            name = f"text-{number}"
            shared = Element(f"{{{SVG}}}g", {"id": name})
            shared.extend(list(groups[0]))
            definitions.append(shared)
            for group in groups:
                group[:] = []
                group.tag = f"{{{SVG}}}use"
                group.attrib[HREF] = f"#{name}"


def _group_alike(parent: Element) -> None:
    """Say a style that neighbours share at one group around them. Definitions stay as they are."""
    if _tag(parent) == "defs":
        return
    for child in parent:
        _group_alike(child)
    runs = [list(run) for _, run in groupby(parent, key=_shared_style)]
    parent[:] = [element for run in runs for element in _grouped(run)]


def _shared_style(element: Element) -> str:
    """The style that a group may take over from it and its neighbours, or a name of its own.

    Opacity acts on a group as a whole, and a clip path is placed by the element's own transform.
    """
    style, others = _style(element), set(element.attrib) - {"style"}
    is_placed = bool({"transform", "x", "y"} & others)
    if not style or "opacity" in style or "id" in others or "clip-path" in style and is_placed:
        return str(id(element))
    return element.attrib["style"]


def _grouped(run: list[Element]) -> Iterable[Element]:
    if len(run) == 1:
        return run
    group = Element(f"{{{SVG}}}g", {"style": run[0].attrib["style"]})
    for element in run:
        del element.attrib["style"]
        is_plain_group = _tag(element) == "g" and not element.attrib
        group.extend(list(element) if is_plain_group else [element])
    return [group]


def _written(element: Element) -> Iterator[str]:
    tag = _tag(element)
    space = f" xmlns='{SVG}'" if tag == "svg" else ""
    attributes = "".join(
        f" {name.removeprefix(XLINK)}='{escape(value, {chr(39): '&#39;'})}'"
        for name, value in element.attrib.items()
    )
    text = escape(element.text or "") if (element.text or "").strip() else ""
    if not text and not len(element):
        yield f"<{tag}{space}{attributes}/>"
        return
    yield f"<{tag}{space}{attributes}>{text}"
    for child in element:
        yield from _written(child)
    yield f"</{tag}>"
