"""Numbers and endpoints as people read them, the same in every report."""

from __future__ import annotations

from bucatini.base.address import Endpoint, text

__all__ = ["duration_text", "endpoint_text", "plural", "size_text"]


def endpoint_text(endpoint: Endpoint) -> str:
    """`192.0.2.1:443`, `[2001:db8::1]:443`; the address alone where there is no port."""
    return str(endpoint) if endpoint.port else text(endpoint.address)


def size_text(size: int) -> str:
    """Bytes in binary units with one decimal: `512 B`, `1.5 KiB`."""
    if size < 1024:
        return f"{size} B"
    scaled = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        scaled /= 1024
        if scaled < 1023.95:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1024:.1f} PiB"


def duration_text(seconds: float) -> str:
    """`12 ms`, `1.2 s`, `3 min 05 s`, `2 h 03 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def plural(number: int, noun: str) -> str:
    """`1 flow`, `2 flows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
