"""Reads the zip that a `.skops` file is, and the zips of sparse matrices in it; unpacks nothing that lies about itself.

Python's zipfile believes the directory at a zip's end, and unpacks all that a member holds before it cuts it off at
the size which the directory gives.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from webapp.errors import Invalid
from webapp.intake.skops_reading import refusals

GIB = 1024**3
MIB = 1024**2
UNPACKED_BYTES = 2 * GIB
# Deflate packs zeros 1,030 to 1. Below this size, that is not worth a refusal.
BOMB_RATIO, BOMB_BYTES = 1000, 16 * MIB
# More need zip64, which is not read.
MOST_MEMBERS = 65_534
CHUNK_BYTES = 1 * MIB

SCHEMA = "schema.json"
MEMBER = re.compile(r"schema\.json|[0-9A-Za-z-]{1,64}\.(npy|npz|bin)")
SPARSE_MEMBER = re.compile(r"(data|indices|indptr|shape|format|_is_array)\.npy")

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_ZIP64_SIZES = struct.Struct("<HHQQ")
_LOCAL_SIGN, _CENTRAL_SIGN, _END_SIGN = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_ZIP64_LOCATOR_SIGN, _ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
_STORED, _DEFLATED = 0, 8
# Nothing special, and a name in UTF-8: no encryption, no sizes behind the data.
_FLAGS = (0, 0x800)
_SIZE_ELSEWHERE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a zip, as the directory at the zip's end describes it."""

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int
    # Where its data begin; known once the header in front of them was read.
    begin: int = 0

    @property
    def end(self) -> int:
        """Give where its data end."""
        return self.begin + self.packed


def members(content: bytes, named: re.Pattern[str]) -> dict[str, Member]:
    """List the members of a zip; they lie one behind the other from the first byte to the directory."""
    if not content.startswith(_LOCAL_SIGN):
        raise refusals.damaged("", "It does not begin with a zip's first member.")
    count, begin, end = _directory(content)
    found: dict[str, Member] = {}
    for packed in _entries(content, count, begin, end):
        if packed.name in found or not named.fullmatch(packed.name):
            raise refusals.damaged(
                packed.name, "The zip holds a member of this name twice, or one that skops does not write."
            )
        found[packed.name] = packed
    _check_sizes(found)
    return _laid_out(content, found, begin)


def _directory(content: bytes) -> tuple[int, int, int]:
    """Give the number of members, and where the directory begins and ends."""
    at = len(content) - _END.size
    if at < 0 or not content.startswith(_END_SIGN, at):
        raise _no_directory_at_the_end(content)
    _, disk, first_disk, here, count, size, begin, comment = _END.unpack_from(content, at)
    locator = at - _ZIP64_LOCATOR_BYTES
    if disk or first_disk or comment or here != count or content.startswith(_ZIP64_LOCATOR_SIGN, max(locator, 0)):
        raise refusals.damaged("", "The zip is written in a way that skops does not write.")
    if begin + size != at:
        raise refusals.damaged("", "There are bytes in front of the zip, or its directory is not where it says.")
    if not 0 < count <= MOST_MEMBERS:
        raise refusals.too_large("", f"The zip holds {count} members; at most {MOST_MEMBERS} are read.")
    return count, begin, at


def _no_directory_at_the_end(content: bytes) -> Invalid:
    at = content.rfind(_END_SIGN)
    if 0 <= at <= len(content) - _END.size:
        *_, size, begin, _ = _END.unpack_from(content, at)
        if begin + size == at:
            return refusals.damaged("", "There are bytes behind the end of the zip.")
    return refusals.truncated()


def _entries(content: bytes, count: int, at: int, end: int) -> Iterator[Member]:
    for _ in range(count):
        if at + _CENTRAL.size > end:
            raise refusals.damaged("", "The zip's directory is shorter than it says.")
        sign, _, _, flags, method, _, _, crc, packed, size, *rest = _CENTRAL.unpack_from(content, at)
        name_length, extra, comment, disk, _, _, header = rest
        name = content[at + _CENTRAL.size : at + _CENTRAL.size + name_length].decode("latin-1")
        if sign != _CENTRAL_SIGN or extra or comment or disk:
            raise refusals.damaged(name, "The zip's directory is written in a way that skops does not write.")
        if flags not in _FLAGS or method not in (_STORED, _DEFLATED):
            raise refusals.damaged(name, "It is encrypted, or packed in a way that is not read; write the file again.")
        yield Member(name, flags, method, crc, packed, size, header)
        at += _CENTRAL.size + name_length
    if at != end:
        raise refusals.damaged("", "The zip's directory is longer than it says.")


def _check_sizes(members: Mapping[str, Member]) -> None:
    for packed in members.values():
        if packed.method == _STORED and packed.size != packed.packed:
            raise refusals.damaged(packed.name, "It is stored as it is, and yet has two sizes.")
        if packed.size > max(BOMB_BYTES, BOMB_RATIO * packed.packed):
            raise refusals.too_large(packed.name, f"{packed.packed} bytes claim to unpack to {packed.size}.")
    total = sum(packed.size for packed in members.values())
    if total > UNPACKED_BYTES:
        raise refusals.too_large(
            "", f"The file unpacks to {total} bytes, which is more than {UNPACKED_BYTES // GIB} GiB."
        )


def _laid_out(content: bytes, members: Mapping[str, Member], end: int) -> dict[str, Member]:
    """Find the data of each member; no two may overlap, and nothing may lie between them."""
    at = 0
    found = {}
    for packed in sorted(members.values(), key=lambda one: one.header):
        if packed.header != at:
            raise refusals.damaged(packed.name, "Members of the zip overlap, or bytes lie between them.")
        begin = _begin(content, packed)
        at = begin + packed.packed
        if at > end:
            raise refusals.damaged(packed.name, "It reaches into the zip's directory.")
        found[packed.name] = replace(packed, begin=begin)
    if at != end:
        raise refusals.damaged("", "Bytes lie between the members of the zip and its directory.")
    return found


def _begin(content: bytes, packed: Member) -> int:
    """Read the header in front of a member, which must repeat the directory; give where the data begin."""
    if packed.header + _LOCAL.size > len(content):
        raise refusals.damaged(packed.name, "Its header is missing.")
    sign, _, flags, method, _, _, crc, packed_size, size, name_length, extra_length = _LOCAL.unpack_from(
        content, packed.header
    )
    name_begin = packed.header + _LOCAL.size
    name_end = name_begin + name_length
    begin: int = name_end + extra_length
    extra = content[name_end:begin]
    # NumPy opens the members of its own zips before it knows how long they get.
    if extra == _ZIP64_SIZES.pack(1, 16, packed.size, packed.packed) and size == packed_size == _SIZE_ELSEWHERE:
        packed_size, size, extra = packed.packed, packed.size, b""
    name = content[name_begin:name_end].decode("latin-1")
    stated = (sign, name, flags, method, crc, packed_size, size, extra)
    known = (packed.name, packed.flags, packed.method, packed.crc, packed.packed, packed.size)
    if stated != (_LOCAL_SIGN, *known, b""):
        raise refusals.damaged(packed.name, "Its header and the zip's directory say different things.")
    return begin


def unpacked(content: bytes, packed: Member, keep: int | None = None) -> bytes:
    """Give a member's bytes, or the first `keep` of them; all are unpacked, and must be what the directory says."""
    kept = bytearray()
    size = crc = 0
    for chunk in _chunks(memoryview(content)[packed.begin : packed.end], packed):
        size += len(chunk)
        if size > packed.size:
            raise refusals.damaged(packed.name, "It unpacks to more bytes than the zip's directory says.")
        crc = zlib.crc32(chunk, crc)
        kept += chunk if keep is None else chunk[: max(0, keep - len(kept))]
    if size != packed.size or crc != packed.crc:
        raise refusals.damaged(packed.name, "It does not unpack to the bytes that the zip's directory describes.")
    return bytes(kept)


def _chunks(data: memoryview, packed: Member) -> Iterator[memoryview | bytes]:
    pieces = (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))
    if packed.method == _STORED:
        yield from pieces
        return
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            if unpacker.eof:
                raise refusals.damaged(packed.name, "Bytes lie behind its compressed data.")
            yield from _inflated(unpacker, piece)
    except zlib.error:
        raise refusals.damaged(packed.name, "Its compressed data are damaged.") from None
    if not unpacker.eof or unpacker.unused_data:
        raise refusals.damaged(packed.name, "Its compressed data end too early, or too late.")


def _inflated(unpacker: Any, piece: memoryview | bytes) -> Iterator[bytes]:  # noqa: ANN401 - zlib names no type
    while piece:
        yield unpacker.decompress(piece, CHUNK_BYTES)
        piece = unpacker.unconsumed_tail
    # What it holds back once it has been given everything.
    while not unpacker.eof and (held := unpacker.decompress(b"", CHUNK_BYTES)):
        yield held
