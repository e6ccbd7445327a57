"""TCP headers and options (RFC 9293 sections 3.1 and 3.2, RFC 7323, RFC 2018)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from plywire.errors import DecodeError
from plywire.wire.checksum import checksum, pseudo_header
from plywire.wire.ipv4 import PROTOCOL_TCP

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
FLAG_NAMES = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")

MIN_HEADER = 20
MAX_OPTIONS = 40
MAX_WINDOW_SHIFT = 14

OPTION_END = 0
OPTION_NOP = 1
OPTION_MSS = 2
OPTION_WINDOW_SCALE = 3
OPTION_SACK_PERMITTED = 4
OPTION_SACK = 5
OPTION_TIMESTAMPS = 8
OPTION_USER_TIMEOUT = 28

BIT_WIDTHS = (
    ("src_port", 16),
    ("dst_port", 16),
    ("seq", 32),
    ("ack", 32),
    ("data_offset", 4),
    ("reserved", 4),
    ("flags", 8),
    ("window", 16),
    ("checksum", 16),
    ("urgent", 16),
)
"""The fixed header, field by field, in bits."""

_HEADER = struct.Struct("!HHIIBBHHH")
_STAMPS = struct.Struct("!4xII")
_STAMPS_HEAD = bytes((OPTION_NOP, OPTION_NOP, OPTION_TIMESTAMPS, 10))


class TcpHeader(NamedTuple):
    """The fields of a segment's header; options are raw and unpadded or padded, as they were.

    flags: the sum of FIN, SYN, ...; window: as in the header, not scaled; checksum: filled in by
    `decode`, ignored by `encode`.
    """

    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int
    window: int
    urgent: int = 0
    options: bytes = b""
    checksum: int = 0


class Options(NamedTuple):
    """Options by name; None (or False, or empty) when absent.

    sack: pairs (left edge, right edge); timestamps: (TSval, TSecr); user_timeout: seconds.
    """

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    sack: tuple[tuple[int, int], ...] = ()
    timestamps: tuple[int, int] | None = None
    user_timeout: int | None = None


NO_OPTIONS = Options()


def encode(header: TcpHeader, payload: bytes, src: bytes, dst: bytes) -> bytes:
    """The segment with data offset and checksum filled in, its options padded to 32 bits."""
    options = header.options
    if len(options) & 3:
        options += b"\0" * (-len(options) & 3)
    length = MIN_HEADER + len(options)
    src_port, dst_port, seq, ack, flags, window, urgent, _, _ = header
    head = _HEADER.pack(src_port, dst_port, seq, ack, length << 2, flags, window, 0, urgent)
    head += options
    # A header is whole words, so its sum may be added to the payload's: that is copied once.
    partial = pseudo_header(src, dst, PROTOCOL_TCP, length + len(payload))
    value = checksum(payload, partial + int.from_bytes(head, "big"))
    return head[:16] + value.to_bytes(2, "big") + head[18:] + payload


def decode(segment: bytes | memoryview, src: bytes, dst: bytes) -> tuple[TcpHeader, bytes]:
    """The header and its data, after the checksum was verified. Raises DecodeError."""
    if len(segment) >= MIN_HEADER and checksum(
        segment, pseudo_header(src, dst, PROTOCOL_TCP, len(segment))
    ):
        raise DecodeError("tcp_bad_checksum")
    return decode_unchecked(segment)


def decode_unchecked(segment: bytes | memoryview) -> tuple[TcpHeader, bytes]:
    """The header and its data as they are: for observers. Raises DecodeError."""
    if len(segment) < MIN_HEADER:
        raise DecodeError("tcp_truncated", f"{len(segment)} bytes")
    src_port, dst_port, seq, ack, offset, flags, window, value, urgent = _HEADER.unpack_from(
        segment
    )
    length = offset >> 4 << 2
    if not MIN_HEADER <= length <= len(segment):
        raise DecodeError("tcp_bad_data_offset", f"{length} of {len(segment)}")
    options = bytes(segment[MIN_HEADER:length]) if length > MIN_HEADER else b""
    header = TcpHeader(src_port, dst_port, seq, ack, flags, window, urgent, options, value)
    return header, bytes(segment[length:])


def parse_options(data: bytes) -> Options:
    """The options that this stack knows; others are skipped by their length (MUST-6).

    Raises DecodeError for a length that cannot be (MUST-7).
    """
    if not data:
        return NO_OPTIONS
    if len(data) == 12 and data[:4] == _STAMPS_HEAD:  # what nearly every segment has
        return Options(None, None, False, (), _STAMPS.unpack(data))
    mss = window_scale = timestamps = user_timeout = None
    sack_permitted = False
    sack: tuple[tuple[int, int], ...] = ()
    index, end = 0, len(data)
    while index < end:
        kind = data[index]
        if kind == OPTION_END:
            break
        if kind == OPTION_NOP:
            index += 1
            continue
        length = data[index + 1] if index + 1 < end else 0
        if length < 2 or index + length > end:
            raise DecodeError("tcp_bad_option_length", f"kind {kind}, length {length}")
        body = data[index + 2 : index + length]
        index += length
        if kind == OPTION_MSS and length == 4:
            mss = int.from_bytes(body, "big")
        elif kind == OPTION_WINDOW_SCALE and length == 3:
            window_scale = min(body[0], MAX_WINDOW_SHIFT)
        elif kind == OPTION_SACK_PERMITTED and length == 2:
            sack_permitted = True
        elif kind == OPTION_TIMESTAMPS and length == 10:
            timestamps = (int.from_bytes(body[:4], "big"), int.from_bytes(body[4:], "big"))
        elif kind == OPTION_SACK and length > 2 and (length - 2) % 8 == 0:
            edges = struct.unpack(f"!{(length - 2) // 4}I", body)
            sack = tuple(zip(edges[::2], edges[1::2], strict=True))
        elif kind == OPTION_USER_TIMEOUT and length == 4:
            value = int.from_bytes(body, "big")
            user_timeout = (value & 0x7FFF) * (60 if value & 0x8000 else 1)
        elif kind <= OPTION_SACK or kind in (OPTION_TIMESTAMPS, OPTION_USER_TIMEOUT):
            raise DecodeError("tcp_bad_option_length", f"kind {kind}, length {length}")
    return Options(mss, window_scale, sack_permitted, sack, timestamps, user_timeout)


def build_options(options: Options, order: str = "linux") -> bytes:
    """The options in Linux's order: MSS, SACK-permitted, timestamps, window scale, SACK; or in
    FreeBSD's ("bsd"): MSS, window scale, SACK-permitted, timestamps."""
    parts = []
    if options.mss is not None:
        parts.append(struct.pack("!BBH", OPTION_MSS, 4, options.mss))
    if order == "bsd" and options.window_scale is not None:
        parts.append(bytes((OPTION_NOP, OPTION_WINDOW_SCALE, 3, options.window_scale)))
        options = options._replace(window_scale=None)
    if options.sack_permitted:
        parts.append(bytes((OPTION_SACK_PERMITTED, 2)))
        if options.timestamps is None:
            parts.insert(len(parts) - 1, bytes((OPTION_NOP, OPTION_NOP)))
    elif options.timestamps is not None:
        parts.append(bytes((OPTION_NOP, OPTION_NOP)))
    if options.timestamps is not None:
        parts.append(struct.pack("!BBII", OPTION_TIMESTAMPS, 10, *options.timestamps))
    if options.window_scale is not None:
        parts.append(bytes((OPTION_NOP, OPTION_WINDOW_SCALE, 3, options.window_scale)))
    if options.sack:
        parts.append(sack_option(options.sack))
    if options.user_timeout is not None:
        parts.append(user_timeout_option(options.user_timeout))
    return b"".join(parts)


def timestamps_option(tsval: int, tsecr: int) -> bytes:
    """The option alone, laid out as RFC 7323 appendix A recommends: 12 bytes."""
    return _STAMPS_HEAD + _STAMPS.pack(tsval, tsecr)[4:]


def user_timeout_option(seconds: int) -> bytes:
    """The option alone (RFC 5482 section 3): up to 32,767 s in seconds, then in minutes."""
    value = seconds if seconds <= 0x7FFF else 0x8000 | min(-(-seconds // 60), 0x7FFF)
    return bytes((OPTION_USER_TIMEOUT, 4)) + value.to_bytes(2, "big")


def sack_option(blocks: Sequence[tuple[int, int]]) -> bytes:
    """The option alone (RFC 2018 section 3), aligned as RFC 7323 appendix A has it."""
    edges = [edge for block in blocks for edge in block]
    head = bytes((OPTION_NOP, OPTION_NOP, OPTION_SACK, 2 + 4 * len(edges)))
    return head + struct.pack(f"!{len(edges)}I", *edges)


def flag_names(flags: int) -> str:
    """`SYN|ACK`: the names of the bits that are set, SYN and the like before ACK."""
    names = [name for bit, name in enumerate(FLAG_NAMES) if flags >> bit & 1]
    return "|".join(names) or "-"
