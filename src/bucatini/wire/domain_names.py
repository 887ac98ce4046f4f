"""Lists of domain names as DHCP, DHCPv6 and router advertisements carry them: RFC 1035 3.1 and 4.1.4.

A list is names one behind the other. Option 119 of DHCP compresses them, its pointers counted from the start of the
option's data (RFC 3397 section 2); DHCPv6 (RFC 8415 section 10) and DNSSL (RFC 8106 section 5.2) do not. The root
cannot stand in a list: its single zero byte is padding in DNSSL. Names are ASCII text, with or without the final dot;
a name in another script has to be in its ASCII form (RFC 5891) already.

Does not lower the case of letters, does not know the escapes of zone files, does not look up anything.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["MAXIMUM_LABEL", "MAXIMUM_NAME", "decode_names", "encode_name", "encode_names"]

MAXIMUM_LABEL = 63
"""Bytes, RFC 1035 2.3.4."""
MAXIMUM_NAME = 255
"""Bytes on the wire: length bytes and the root's zero included, RFC 1035 2.3.4."""

_POINTER = 0xC0
_POINTER_LIMIT = 0x4000
"""A pointer has 14 bits."""

Labels = tuple[bytes, ...]


def encode_name(name: str) -> bytes:
    """The wire form of one name, uncompressed. Raises ValueError, which says why, when it is not a domain name."""
    return b"".join(bytes((len(label),)) + label for label in _labels(name)) + b"\0"


def encode_names(names: Iterable[str], *, compress: bool = False, limit: int = 0xFFFF) -> bytes:
    """The wire form of a list, at most `limit` bytes of it.

    What is no domain name, the root, and what no longer fits is left out: a bad line in the host's resolv.conf must not
    cost the guest its network. Whoever reads configuration checks names with `encode_name` and can say so.
    """
    out = bytearray()
    known: dict[Labels, int] = {}
    for name in names:
        try:
            labels = _labels(name)
        except ValueError:
            continue
        piece, fresh = _append(labels, len(out), known if compress else {})
        if labels and len(out) + len(piece) <= limit:
            out += piece
            known.update(fresh)
    return bytes(out)


def decode_names(data: bytes) -> tuple[str, ...] | None:
    """The names of a list, without final dots; None when it is malformed. Zero bytes between and behind are skipped.

    Follows pointers, which may only point back, and refuses labels that text cannot show: a dot or a byte outside
    printable ASCII.
    """
    names: list[str] = []
    at = 0
    while at < len(data):
        found = _read(data, at)
        if found is None:
            return None
        labels, at = found
        if labels:
            names.append(b".".join(labels).decode("ascii"))
    return tuple(names)


def _labels(name: str) -> Labels:
    """The labels of a name, none for the root. Raises ValueError."""
    if not name or name == ".":
        return ()
    if not name.isascii():
        raise ValueError(f"not ASCII: {name!r}")
    labels = tuple(name.removesuffix(".").encode("ascii").split(b"."))
    for label in labels:
        if not 1 <= len(label) <= MAXIMUM_LABEL:
            raise ValueError(f"a label has 1 to {MAXIMUM_LABEL} bytes: {name!r}")
        if not _is_printable(label):
            raise ValueError(f"a character that no name has: {name!r}")
    if sum(len(label) + 1 for label in labels) + 1 > MAXIMUM_NAME:
        raise ValueError(f"longer than {MAXIMUM_NAME} bytes: {name!r}")
    return labels


def _is_printable(label: bytes) -> bool:
    return all(0x21 <= octet <= 0x7E and octet != 0x5C for octet in label)


def _append(labels: Labels, at: int, known: dict[Labels, int]) -> tuple[bytes, dict[Labels, int]]:
    """The bytes of a name that begins at `at`, and the offsets at which its own suffixes begin."""
    piece = bytearray()
    fresh: dict[Labels, int] = {}
    for i, label in enumerate(labels):
        suffix = labels[i:]
        if suffix in known:
            return bytes(piece) + (_POINTER << 8 | known[suffix]).to_bytes(2, "big"), fresh
        if at + len(piece) < _POINTER_LIMIT:
            fresh[suffix] = at + len(piece)
        piece.append(len(label))
        piece += label
    return bytes(piece) + b"\0", fresh


def _read(data: bytes, at: int) -> tuple[Labels, int] | None:
    """The name at `at` and the offset behind it. Each pointer leads further back than the one before, so this ends."""
    labels: list[bytes] = []
    length, behind, start = 1, -1, at
    while at < len(data):
        size = data[at]
        if size == 0:
            return tuple(labels), at + 1 if behind < 0 else behind
        if size >= _POINTER:
            target = ((size & 0x3F) << 8 | data[at + 1]) if at + 1 < len(data) else start
            if target >= start:
                return None
            behind = at + 2 if behind < 0 else behind
            at = start = target
            continue
        label = data[at + 1 : at + 1 + size]
        length += size + 1
        if size > MAXIMUM_LABEL or len(label) < size or length > MAXIMUM_NAME:
            return None
        if not _is_printable(label) or b"." in label:
            return None
        labels.append(label)
        at += size + 1
    return None
