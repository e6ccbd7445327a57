"""IPv4 options: checked for form, and otherwise skipped (RFC 791 3.1, RFC 1122 3.2.1.8)."""

from __future__ import annotations

END, NOP = 0, 1
LOOSE_SOURCE_ROUTE = 131
STRICT_SOURCE_ROUTE = 137


def malformed_at(options: bytes) -> int | None:
    """The index of the option whose length cannot be, or None when all are well formed."""
    index, end = 0, len(options)
    while index < end and options[index] != END:
        if options[index] == NOP:
            index += 1
            continue
        length = options[index + 1] if index + 1 < end else 0
        if length < 2 or index + length > end:
            return index
        index += length
    return None


def has_source_route(options: bytes) -> bool:
    """Whether well-formed options say by which way the packet goes."""
    index, end = 0, len(options)
    while index < end and options[index] != END:
        if options[index] in (LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE):
            return True
        index += 1 if options[index] == NOP else options[index + 1]
    return False


def copied(options: bytes) -> bytes:
    """The well-formed options that every fragment bears, padded to 32 bits."""
    kept = b""
    index, end = 0, len(options)
    while index < end and options[index] != END:
        length = 1 if options[index] == NOP else options[index + 1]
        if options[index] & 0x80:
            kept += options[index : index + length]
        index += length
    return kept + b"\0" * (-len(kept) & 3)
