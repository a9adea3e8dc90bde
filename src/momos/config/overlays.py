"""Profiles: a settings file may lie on another, its base, and say only what differs.

An overlay names its base in its first key, `base: base.yaml`, a file of the same folder. Mappings
merge key by key. Lists and scalars (null among them) replace the base's. A mapping that is marked
`!replace` replaces the base's as a whole: no entry of the base is left in it.

    base: base.yaml
    profile: mine
    train: {epochs: 3}                # the other settings of `train` are the base's
    methods: !replace                 # no other methods
      baseline: {bits: 32}

The complete text keeps the base's order and comments, so that params.yaml explains every key.
A comment of the overlay takes the place of the base's.
"""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

from momos.config.numbers import read_yaml
from momos.settings import suggestion

BASE = "base"  # the overlay's key that names the file below it
REPLACE = "!replace"
# Sections that hold entries by names of their own choice.
NAMED_ENTRIES = ("models", "methods", "language_models")
HAS_BASE = re.compile(rf"^{BASE}\s*:", re.MULTILINE)
COMMENT = re.compile(r"(?:^|\s)(#.*)$")


class _Edit(NamedTuple):
    """One change of a text: these characters are replaced."""

    start: int
    end: int
    text: str


def profile_settings(name: str, folder: Path = Path("profiles")) -> dict:
    """All settings of the profile `name`, those of its base among them.

    Raises ValueError as `read_settings` does.
    """
    return read_settings(folder / f"{name}.yaml")


def read_settings(path: Path) -> dict:
    """All settings of a file, those of its base among them.

    Raises ValueError naming a file that is no YAML mapping and a key that the base does not have,
    FileNotFoundError for a missing file.
    """
    return parse_settings(complete_text(path), path)


def complete_text(path: Path) -> str:
    """The file's text, merged with its base's; unchanged if it has no base. Errors as above."""
    text = path.read_text(encoding="utf-8")
    if not HAS_BASE.search(text):
        return text
    overlay = _compose(text, path)
    base_name = next(value.value for key, value in overlay.value if key.value == BASE)
    base_path = path.parent / str(base_name)
    if not base_path.is_file() or base_path == path:
        raise ValueError(f"{path}: {BASE} must be another file beside it, got {base_name!r}")
    base_text = complete_text(base_path)
    own = [pair for pair in overlay.value if pair[0].value != BASE]
    marks = (overlay.start_mark, overlay.end_mark, overlay.flow_style)
    merge = _Merge(base_text, text, path)
    merge.mappings(_compose(base_text, base_path), yaml.MappingNode(overlay.tag, own, *marks), ())
    return _header(text) + merge.result().removeprefix(_header(base_text))


def parse_settings(text: str, path: Path) -> dict:
    """The settings of a text. path: of its file, for errors. Raises ValueError, see above."""
    try:
        values = read_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of sections, got {type(values).__name__}")
    return values


@functools.lru_cache(maxsize=32)  # a profile's base is composed for each of its methods
def _compose(text: str, path: Path) -> yaml.MappingNode:
    """The text as nodes that know where they stand in it. They are shared: nobody changes them."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(node, yaml.MappingNode):
        kind = "NoneType" if node is None else type(read_yaml(text)).__name__
        raise ValueError(f"{path} must hold a mapping of sections, got {kind}")
    return node


def _header(text: str) -> str:
    """The comment at the top of a file."""
    lines = text.splitlines(keepends=True)
    size = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:size])


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _content_end(node: yaml.Node) -> int:
    """Where a value ends, without the comments and blank lines after it."""
    if _is_block(node) and node.value:
        last = node.value[-1]
        return _content_end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


class _Entry:
    """A key and its value as they are written: `key: inline # comment`, then lines of a block."""

    def __init__(self, text: str, key: yaml.Node, value: yaml.Node) -> None:
        self.key, self.start, self.end = key.value, key.start_mark.index, _content_end(value)
        after_key = key.end_mark.index + 1
        if _is_block(value):
            first_line_end = _line_end(text, after_key)
            tail = text[after_key:first_line_end]
            head = COMMENT.sub("", tail)
            self.end = _line_end(text, self.end)
            self.block = text[first_line_end : self.end]
        else:
            head, tail = text[after_key : self.end], text[self.end : _line_end(text, self.end)]
            self.block = ""
        comment = COMMENT.search(tail)
        self.comment = comment[1] if comment else ""
        self.inline = head.replace(REPLACE, "", 1).strip()

    def write(self, comment: str) -> str:
        """The lines of this entry, with this comment behind its key and value."""
        inline = f" {self.inline}" if self.inline else ""
        return f"{self.key}:{inline}{f' {comment}' if comment else ''}{self.block}"


class _Merge:
    """Collects what an overlay changes in the text of its base."""

    def __init__(self, base_text: str, text: str, path: Path) -> None:
        self.base_text, self.text, self.path = base_text, text, path
        self.edits: list[_Edit] = []

    def mappings(
        self, base: yaml.MappingNode, overlay: yaml.MappingNode, where: tuple[str, ...]
    ) -> None:
        """Put the overlay's entries into the base's mapping that `where` leads to."""
        self.check_indent(base, overlay, where)
        known = {key.value: (key, value) for key, value in base.value}
        for key, value in overlay.value:
            if key.value not in known:
                self.check_new(key.value, known, where)
                self.add(base, key, value)
                continue
            below = known[key.value]
            whole = value.tag == REPLACE
            if all(isinstance(node, yaml.MappingNode) for node in (value, below[1])) and not whole:
                self.mappings(below[1], value, (*where, key.value))
            else:
                self.replace(base, below, (key, value))

    def check_indent(
        self, base: yaml.MappingNode, overlay: yaml.MappingNode, where: tuple[str, ...]
    ) -> None:
        """Raises ValueError for lines that would lie elsewhere in the base than in the overlay."""
        wanted, got = base.start_mark.column, overlay.start_mark.column
        if _is_block(base) and _is_block(overlay) and wanted != got:
            raise ValueError(
                f"{self.path}: {'.'.join(where)} must be indented by {wanted} spaces, got {got}"
            )

    def check_new(self, key: str, known: Iterable[str], where: tuple[str, ...]) -> None:
        """Raises ValueError for a key that only a base can introduce: a section, or a setting."""
        if len(where) == 0 or (len(where) == 1 and where[0] not in NAMED_ENTRIES):
            kind = "unknown key" if where else "unknown section"
            raise ValueError(
                f"{self.path}: {'.'.join((*where, key))}: {kind}{suggestion(key, known)};"
                f" expected {', '.join(known)}"
            )

    def replace(
        self,
        mapping: yaml.MappingNode,
        below: tuple[yaml.Node, yaml.Node],
        above: tuple[yaml.Node, yaml.Node],
    ) -> None:
        """The overlay's entry in place of the base's."""
        old, new = _Entry(self.base_text, *below), _Entry(self.text, *above)
        if mapping.flow_style:  # one line: what stands behind the braces is not this entry's
            self.edits.append(_Edit(old.start, old.end, new.write("")))
            return
        end = _line_end(self.base_text, old.end)
        self.edits.append(_Edit(old.start, end, new.write(new.comment or old.comment)))

    def add(self, mapping: yaml.MappingNode, key: yaml.Node, value: yaml.Node) -> None:
        """A new entry behind the last one of the base's mapping."""
        new = _Entry(self.text, key, value)
        if mapping.flow_style:
            end = mapping.end_mark.index - 1
            comma = ", " if mapping.value else ""
            self.edits.append(_Edit(end, end, comma + new.write("")))
            return
        end = _line_end(self.base_text, _content_end(mapping))
        indent = " " * mapping.start_mark.column
        self.edits.append(_Edit(end, end, f"\n{indent}{new.write(new.comment)}"))

    def result(self) -> str:
        """The base's text with all changes."""
        parts: list[str] = []
        position = 0
        for edit in sorted(self.edits, key=lambda edit: (edit.start, edit.end)):
            parts += [self.base_text[position : edit.start], edit.text]
            position = edit.end
        return "".join([*parts, self.base_text[position:]])
