"""Plain data between a candidate and the tests that judge it. Runs as text on both sides.

Values are None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset, in one
another, and the built-in types themselves; subclasses arrive as these. Whatever else there is stays
where it is and is sent as a number that stands for it. What arrives was built here, so nothing of
the sender's code comes along: no `__eq__`, no `__bool__`. Frames longer than MOST_BYTES are
refused.

Each value is one letter, then its content; lengths and counts are 4 bytes, little-endian.
"""

from __future__ import annotations

import builtins
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MOST_BYTES = 8 << 20
_LENGTH = struct.Struct("<I")
_FLOAT = struct.Struct("<d")
_PAIR = struct.Struct("<dd")
_GROUPS = {b"l": list, b"t": tuple, b"s": set, b"z": frozenset}
_TYPES = {n: t for n, t in vars(builtins).items() if isinstance(t, type) and n[0] != "_"}
_NAMES = {each: name for name, each in _TYPES.items()}
_CONSTANTS = {b"N": None, b"T": True, b"F": False}


class Malformed(Exception):
    """What arrived is not plain data."""


def encode(value: Any, number_of: Callable[[Any], int]) -> bytes:
    """Raises RecursionError for what is nested too deeply, or in itself."""
    parts: list[bytes] = []
    _write(value, number_of, parts.append)
    return b"".join(parts)


def decode(content: bytes, stand_in: Callable[[int], Any]) -> Any:
    """Raises Malformed, and RecursionError for what is nested too deeply."""
    try:
        value, end = _read(content, 0, stand_in)
    except (struct.error, UnicodeDecodeError, TypeError) as error:  # TypeError: unhashable
        raise Malformed(str(error)) from error
    if end != len(content):
        raise Malformed("too long")
    return value


def send(descriptor: int, content: bytes) -> None:
    left = memoryview(_LENGTH.pack(len(content)) + content)
    while left:
        left = left[os.write(descriptor, left) :]


def receive(descriptor: int) -> bytes | None:
    """The next frame; None where the other side has closed. Raises Malformed."""
    header = _exactly(descriptor, _LENGTH.size)
    if header is None:
        return None
    (size,) = _LENGTH.unpack(header)
    if size > MOST_BYTES:
        raise Malformed(f"more than {MOST_BYTES >> 20} MiB in one value")
    return _exactly(descriptor, size)


def _exactly(descriptor: int, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        part = os.read(descriptor, min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return bytes(content)


def _write(value: Any, number_of: Callable[[Any], int], put: Callable[[bytes], None]) -> None:
    if value is None or value is True or value is False:
        put(b"N" if value is None else b"T" if value else b"F")
    elif isinstance(value, int):
        _put_bytes(
            b"i", int(value).to_bytes(value.bit_length() // 8 + 1, "little", signed=True), put
        )
    elif isinstance(value, float):
        put(b"f" + _FLOAT.pack(value))
    elif isinstance(value, complex):
        put(b"c" + _PAIR.pack(value.real, value.imag))
    elif isinstance(value, str):
        _put_bytes(b"u", value.encode("utf-8", "surrogatepass"), put)
    elif isinstance(value, bytes):
        _put_bytes(b"b", bytes(value), put)
    elif isinstance(value, dict):
        put(b"d" + _LENGTH.pack(len(value)))
        for key, item in value.items():
            _write(key, number_of, put)
            _write(item, number_of, put)
    elif isinstance(value, (list, tuple, set, frozenset)):
        kind = next(letter for letter, group in _GROUPS.items() if isinstance(value, group))
        put(kind + _LENGTH.pack(len(value)))
        for item in value:
            _write(item, number_of, put)
    elif isinstance(value, type) and value in _NAMES:
        _put_bytes(b"y", _NAMES[value].encode(), put)
    else:
        put(b"o" + _LENGTH.pack(number_of(value)))


def _put_bytes(kind: bytes, content: bytes, put: Callable[[bytes], None]) -> None:
    put(kind + _LENGTH.pack(len(content)))
    put(content)


def _read(content: bytes, at: int, stand_in: Callable[[int], Any]) -> tuple[Any, int]:
    kind = content[at : at + 1]
    at += 1
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at
    if kind == b"f":
        return _FLOAT.unpack_from(content, at)[0], at + _FLOAT.size
    if kind == b"c":
        return complex(*_PAIR.unpack_from(content, at)), at + _PAIR.size
    (size,) = _LENGTH.unpack_from(content, at)
    at += _LENGTH.size
    if kind == b"o":
        return stand_in(size), at
    if size > len(content) - at:
        raise Malformed("cut short")
    if kind in (b"i", b"u", b"b", b"y"):
        return _scalar(kind, content[at : at + size]), at + size
    if kind != b"d" and kind not in _GROUPS:
        raise Malformed(f"unknown kind {kind!r}")
    items = []
    for _ in range(2 * size if kind == b"d" else size):
        item, at = _read(content, at, stand_in)
        items.append(item)
    if kind == b"d":
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return _GROUPS[kind](items), at


def _scalar(kind: bytes, content: bytes) -> int | str | bytes | type:
    if kind == b"i":
        return int.from_bytes(content, "little", signed=True)
    if kind == b"b":
        return content
    text = content.decode("utf-8", "surrogatepass")
    if kind == b"u":
        return text
    if text not in _TYPES:
        raise Malformed("no built-in type")
    return _TYPES[text]
