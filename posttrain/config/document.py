"""Reading one YAML file so that every value remembers its line, and slips get clear sentences.

Scalars follow YAML 1.2: `3e-4` is a number, `on` and `no` are words, `1:30` is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from posttrain.config.yaml_errors import yaml_problem
from posttrain.errors import InputError, Problem

COMMAND_LINE = "command line"
"""What stands in the place of a file name for values that came as overrides."""


@dataclass(slots=True)
class Places:
    """Where each dotted key was written: file and line (no line for the command line)."""

    by_key: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    def of(self, key: str) -> tuple[str, int | None]:
        """The place of a key, or of the nearest key above it that has one; ("", None) without."""
        while key not in self.by_key:
            if not key:
                return "", None
            key = key.rpartition(".")[0]
        return self.by_key[key]

    def shown(self, key: str) -> str:
        """`mine.yaml:29`, or `command line`."""
        file, line = self.of(key)
        return f"{file}:{line}" if line else file

    def below(self, prefix: str) -> Places:
        """The same places with `prefix.` in front of every key (a preset put under a stage)."""
        return Places({join(prefix, key): place for key, place in self.by_key.items()})


def join(*keys: str | int) -> str:
    """`join("stages", "", "sft")` is `stages.sft`."""
    return ".".join(str(key) for key in keys if key != "")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain values, their places, and mistakes that did not stop the reading."""

    data: Any
    places: Places
    problems: tuple[Problem, ...]


def show_path(path: str | Path) -> str:
    """A path as people read it: relative where it lies below the current folder."""
    path = Path(path)
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_document(path: Path, shown: str | None = None) -> Document:
    """Parse a YAML file. Raises InputError where it is missing, no text, or no YAML at all."""
    shown = shown or show_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(
            Problem("bad-yaml", "not UTF-8 text", "", shown, line, "save the file as UTF-8")
        ) from error
    except OSError as error:
        raise InputError(
            Problem("missing-file", f"cannot be read: {error.strerror}", "", shown)
        ) from error
    return parse_document(text, shown)


def parse_document(text: str, shown: str) -> Document:
    """Parse YAML text that came from the file `shown`."""
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise InputError(yaml_problem(error, text, shown)) from error
    except yaml.YAMLError as error:
        message = f"not YAML: {getattr(error, 'reason', None) or error}"
        line = text[: getattr(error, "position", 0)].count("\n") + 1
        raise InputError(Problem("bad-yaml", message, "", shown, line)) from error
    except RecursionError as error:
        raise InputError(Problem("bad-yaml", "nested too deep to be read", "", shown)) from error
    builder = _Builder(shown)
    data = builder.build(node, "") if node is not None else None
    return Document(data, Places(builder.places), tuple(builder.problems))


def parse_value(text: str) -> Any:
    """The value of an override: `1e-5`, `true`, `[a, b]`, `{x: 1}` or plain text.

    Raises ValueError where it opens a bracket or quote that it does not close.
    """
    try:
        document = parse_document(text, COMMAND_LINE)
    except InputError as error:
        raise ValueError(error.message) from error
    return document.data


class _Loader(yaml.SafeLoader):
    """PyYAML's composer with the scalar rules of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*", list("-+0123456789")),
    ("float", _FLOAT + r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+0123456789.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), _first)

_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text.replace("_", "")),
    "float": lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


class _Builder:
    """Turns nodes into plain values, noting the line of every key."""

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self.places: dict[str, tuple[str, int | None]] = {}
        self.problems: list[Problem] = []
        self._open: list[yaml.Node] = []  # the nodes we are inside of: an alias to one never ends

    def build(self, node: yaml.Node, path: str) -> Any:
        line = node.start_mark.line + 1
        self.places.setdefault(path, (self.shown, line))
        if node in self._open:
            self._add("bad-yaml", "an alias (`*name`) stands inside what it names", path, line)
            return None
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, path)
            return self._scalar(node, path)
        finally:
            self._open.pop()

    def _sequence(self, node: yaml.SequenceNode, path: str) -> list[Any]:
        return [self.build(item, join(path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._add("bad-yaml", "a key has to be a word", path, line, "quote it")
                continue
            key, below = key_node.value, join(path, key_node.value)
            if key_node.tag == _TAG + "merge":
                merged |= self._merge(value_node, path)
            elif key in first_line:
                message = f"`{key}` is given twice, first in line {first_line[key]}"
                self._add("duplicate-key", message, path, line, "keep one of the two")
            else:
                first_line[key] = line
                self.places[below] = (self.shown, line)
                result[key] = self.build(value_node, below)
        return merged | result

    def _merge(self, node: yaml.Node, path: str) -> dict[str, Any]:
        """`<<: *name` or `<<: [*one, *two]`; keys of the mapping itself win."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in reversed(nodes):
            value = self.build(part, path)
            if isinstance(value, dict):
                merged |= value
            else:
                line = part.start_mark.line + 1
                self._add("bad-yaml", "`<<` takes a mapping, given by `*name`", path, line)
        return merged

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        make = _SCALARS.get(node.tag.removeprefix(_TAG))
        if make is None:
            line = node.start_mark.line + 1
            self._add(
                "bad-yaml", f"the tag `{node.tag}` means nothing here", path, line, "leave it out"
            )
            return node.value
        try:
            return make(node.value)
        except ValueError:  # an explicit tag on text of another kind: `!!int abc`
            return node.value

    def _add(self, code: str, message: str, path: str, line: int, help: str = "") -> None:
        self.problems.append(Problem(code, message, path, self.shown, line, help))
