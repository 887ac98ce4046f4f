"""Forwarded ports: what listens on the host for the guest, and on the guest's loopback for the host."""

from __future__ import annotations

from bucatini.engine.forwarding.publisher import Publisher

__all__ = ["Publisher"]
