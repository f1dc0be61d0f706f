"""One record of a journal as bytes, and back.

A header (magic, crc32 of what follows the crc, payload length, kind) and a payload: which sample,
then one array after the other: token ids (int32), log-probs (float32, the bits that the engine
computed), versions (int32), mask (uint8), text (UTF-8). All little-endian.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from dataclasses import dataclass
from typing import Literal, get_args

from posttrain.rollout.samples import Partial, SampleKey
from posttrain.types import Lane

MAGIC = b"PTJ1"
HEADER = struct.Struct("<4sIIB3x")  # magic, crc32, payload length, kind
# lane, finish, sample, draw, from_token, start_version, tokens, bytes of text
WHO = struct.Struct("<BB2xiqIiII")
BYTES_PER_TOKEN = 4 + 4 + 4 + 1
CRC_START = 8  # the crc covers everything behind itself
FINISHED, PROGRESS = 1, 2
LANES: tuple[Lane, ...] = get_args(Lane)
FINISHES: tuple[Literal["stop", "length"], ...] = ("stop", "length")


@dataclass(frozen=True, slots=True)
class Record:
    """One sample, whole (FINISHED), or its tokens from one position on (PROGRESS)."""

    kind: int
    key: SampleKey
    from_token: int
    tokens: Partial
    mask: tuple[int, ...]
    text: str
    finish: Literal["stop", "length"]


def encode(record: Record) -> bytes:
    """The whole record, header included. Log-probs are rounded to float32."""
    lane, draw, sample = record.key
    tokens, text = record.tokens, record.text.encode()
    count = len(tokens.token_ids)
    payload = WHO.pack(
        LANES.index(lane),
        FINISHES.index(record.finish),
        sample,
        draw,
        record.from_token,
        tokens.start_version,
        count,
        len(text),
    )
    payload += struct.pack(f"<{count}i{count}f", *tokens.token_ids, *tokens.logprobs)
    payload += struct.pack(f"<{count}i", *tokens.versions) + bytes(record.mask)
    covered = HEADER.pack(MAGIC, 0, len(payload) + len(text), record.kind)[CRC_START:]
    crc = zlib.crc32(text, zlib.crc32(payload, zlib.crc32(covered)))
    return MAGIC + struct.pack("<I", crc) + covered + payload + text


def decode(data: bytes | mmap.mmap, offset: int, size: int) -> tuple[Record, int] | None:
    """The record at `offset` of `size` bytes, and where it ends; None where there is no whole and
    sound one.
    """
    begin = offset + HEADER.size
    if begin > size:
        return None
    magic, crc, length, kind = HEADER.unpack_from(data, offset)
    end = begin + length
    if magic != MAGIC or kind not in (FINISHED, PROGRESS) or end > size or length < WHO.size:
        return None
    if zlib.crc32(data[offset + CRC_START : end]) != crc:
        return None
    lane, finish, sample, draw, from_token, start, count, num_text = WHO.unpack_from(data, begin)
    if length != WHO.size + BYTES_PER_TOKEN * count + num_text:
        return None
    numbers = struct.unpack_from(f"<{count}i{count}f{count}i{count}B", data, begin + WHO.size)
    token_ids, logprobs, versions, mask = (numbers[i * count : (i + 1) * count] for i in range(4))
    record = Record(
        kind,
        (LANES[lane], draw, sample),
        from_token,
        Partial(token_ids, logprobs, versions, start),
        mask,
        data[end - num_text : end].decode(),
        FINISHES[finish],
    )
    return record, end
