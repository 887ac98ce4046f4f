"""host.nftables: the table as another nft sees it, in a namespace of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import Any

import pytest

from bucatini.base.address import pack
from bucatini.base.errors import HostError
from bucatini.host import nftables
from bucatini.host.nftables import Table, expose, host_only, masquerade
from support.forked import in_new_network
from support.guests import eventually

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("nft") is None, reason="no nft")]

GUEST = pack("10.0.0.7")


def listed() -> str:
    return subprocess.run(["nft", "-n", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def changed_by_others() -> str:
    words = ["nft", "delete", "table", "inet", "t"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stderr


def test_masquerade() -> None:
    def look() -> tuple[str, str, str]:
        table = Table("t", masquerade(7, [(pack("10.0.0.1"), 24), (pack("fd00::1"), 64), (pack("2001:db8::1"), 64)]))
        there, refused = listed(), changed_by_others()
        table.close()
        return there, refused, listed()

    there, refused, after = in_new_network(look)
    assert "flags owner" in there
    assert "ip saddr 10.0.0.0/24 oif != 7 masquerade" in there
    assert "ip6 saddr fd00::/64 oif != 7 masquerade" in there
    assert "2001:db8::" not in there
    assert "Operation not permitted" in refused
    assert after == ""


def test_host_only() -> None:
    def look() -> str:
        table = Table("t", host_only(1, bytes.fromhex("020000000007")))
        there = listed()
        table.close()
        return there

    assert 'iif "lo" ether saddr 02:00:00:00:00:07 drop' in in_new_network(look)


def test_exposed_ports_change_together() -> None:
    def look() -> list[str]:
        table = Table("t", expose())
        seen = []
        for wanted in (
            {80: (GUEST, 8080)},
            {80: (GUEST, 8080), 81: (GUEST, 81)},
            {80: (pack("10.0.0.8"), 8080)},
            dict.fromkeys(range(1, 257), (GUEST, 22)),
            {},
        ):
            table.expose(wanted)
            seen.append(" ".join(listed().split()))
        table.close()
        return seen

    one, two, moved, many, none = in_new_network(look)
    assert "elements = { 80 : 10.0.0.7 . 8080 }" in one
    assert "80 : 10.0.0.7 . 8080, 81 : 10.0.0.7 . 81 }" in two
    assert "elements = { 80 : 10.0.0.8 . 8080 }" in moved
    assert many.count("10.0.0.7 . 22") == 256
    assert "elements" not in none


def test_what_is_refused_changes_nothing() -> None:
    def look() -> tuple[str, bool, str]:
        table = Table("t", expose())
        table.expose({80: (GUEST, 80)})
        before = listed()
        with pytest.raises(HostError) as caught:
            table.expose({81: (GUEST, 81), 82: (GUEST, 70000)})
        same = listed() == before
        table.expose({})
        gone = listed()
        table.close()
        return str(caught.value), same, gone

    said, same, gone = in_new_network(look)
    assert said.startswith("nft refused: ")
    assert same
    assert "elements" not in gone


def test_the_table_cannot_outlive_us() -> None:
    def look() -> str:
        child = os.fork()
        if not child:
            Table("t", expose())
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        eventually(lambda: not listed())
        return listed()

    assert in_new_network(look) == ""


def test_the_end_of_the_child_is_noticed() -> None:
    def look() -> tuple[bytes, str]:
        table = Table("t", expose())
        table._child.kill()
        end = os.read(table.fileno(), 1)
        with pytest.raises(HostError) as caught:
            table.expose({80: (GUEST, 80)})
        table.close()
        return end, str(caught.value)

    end, said = in_new_network(look)
    assert end == b""
    assert "nft" in said


def test_a_name_that_nft_does_not_take() -> None:
    def look() -> str:
        with pytest.raises(HostError) as caught:
            Table("1t", expose())
        return str(caught.value)

    assert in_new_network(look).startswith("nft refused: syntax error")


def test_no_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nftables.shutil, "which", lambda *_, **__: None)
    with pytest.raises(HostError, match="needs the program nft"):
        Table("t", expose())


def test_an_nft_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    program = tmp_path / "nft"
    program.write_text("#!/bin/sh\nexec cat > /dev/null\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(nftables, "_PATIENCE", 0.1)
    with pytest.raises(HostError, match="nft does not answer"):
        Table("t", expose())
