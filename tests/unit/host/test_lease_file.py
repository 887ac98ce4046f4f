"""host.lease_file: a file that is whole at any instant, refuses what is not ours, and says when an ACK may leave."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucatini.base.address import pack
from bucatini.base.errors import ConfigError, HostError
from bucatini.host import syscalls
from bucatini.host.lease_file import LeaseFile, _decode, _encode
from bucatini.services.address_plan import LeaseRange
from bucatini.services.leases import Lease, LeaseRecord, Phase
from bucatini.services.pool import LeasePool, PoolSettings
from support.forked import in_child

NOW = 1_760_000_000.0
A, B = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"
NET = PoolSettings((LeaseRange(pack("192.0.2.0"), 24),))
EVERY_KIND = (
    LeaseRecord(pack("192.0.2.9"), B, Phase.ENDED, NOW - 700, NOW - 700),
    LeaseRecord(pack("192.0.2.2"), A, Phase.LEASED, NOW, NOW + 600.25),
    LeaseRecord(pack("192.0.2.3"), B, Phase.RELEASED, NOW - 1, NOW + 599),
    LeaseRecord(pack("192.0.2.4"), B, Phase.DECLINED, NOW, NOW + 600),
    LeaseRecord(pack("fd00::2"), A, Phase.LEASED, NOW, inf),
)


def leased(address: str = "192.0.2.2", mac: bytes = A, until: float = NOW + 600) -> LeaseRecord:
    return LeaseRecord(pack(address), mac, Phase.LEASED, NOW, until)


def lease(address: str = "192.0.2.2", mac: bytes = A, until: float = NOW + 600) -> Lease:
    return Lease(mac, pack(address), 24, pack("192.0.2.1"), NOW, until, "a")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases.json"


def reopened(path: Path) -> tuple[LeaseRecord, ...]:
    file = LeaseFile(str(path))
    file.close()
    return file.records


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


class TestWriting:
    def test_a_new_file(self, path: Path) -> None:
        file = LeaseFile(str(path))
        assert file.records == ()
        assert json.loads(path.read_text()) == {"bucatini_leases": 1, "leases": []}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert names(path.parent) == ["leases.json"]
        file.close()
        assert reopened(path) == ()

    def test_what_is_written_is_read(self, path: Path) -> None:
        file = LeaseFile(str(path), ahead=0)
        assert file.write(EVERY_KIND, 0.0)
        file.close()
        assert reopened(path) == EVERY_KIND
        assert names(path.parent) == ["leases.json"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().splitlines()[2].strip() == (
            '{"address":"192.0.2.2","mac":"02:00:00:00:00:01","phase":"leased","since":1760000000.0,'
            '"until":1760000600.25},'
        )

    def test_a_file_system_without_links(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
        LeaseFile(str(path)).close()
        assert reopened(path) == ()
        assert names(path.parent) == ["leases.json"]

    def test_whatever_the_mask(self, path: Path) -> None:
        before = os.umask(0)
        try:
            LeaseFile(str(path)).write(EVERY_KIND, 0.0)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_the_pool_of_another_run(self, path: Path) -> None:
        pool, file = LeasePool(NET), LeaseFile(str(path))
        for number in range(20):
            mac = bytes((2, 0, 0, 0, 0, number))
            pool.offer(mac, NOW, str(number))
            pool.request(mac, None, NOW, str(number))
        assert file.write(pool.records(), 0.0)
        assert all(map(file.covers, pool.leases()))
        file.close()
        again, file = LeasePool(NET), LeaseFile(str(path))
        again.restore(file.records, NOW + 100)
        assert [each[:2] for each in again.leases()] == [each[:2] for each in pool.leases()]
        assert all(map(file.covers, again.leases()))

    def test_a_link_is_followed_and_stays(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(path)
        file = LeaseFile(str(link), ahead=0)
        file.write(EVERY_KIND, 0.0)
        file.close()
        assert link.is_symlink()
        assert reopened(path) == EVERY_KIND

    def test_a_relative_path_means_one_place(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(path.parent)
        file = LeaseFile(path.name, ahead=0)
        monkeypatch.chdir("/")
        assert file.write(EVERY_KIND, 0.0)
        file.close()
        assert reopened(path) == EVERY_KIND

    def test_what_a_crash_left_beside_it_is_swept(self, path: Path) -> None:
        (path.parent / ".leases.json.new").write_text('{"bucatini_leases": 1, "lea')
        file = LeaseFile(str(path))
        assert file.write(EVERY_KIND, 0.0)
        assert names(path.parent) == ["leases.json"]

    def test_nobody_who_reads_sees_a_part(self, path: Path) -> None:
        """Also the descriptor of who opened it before goes on to show the old one whole."""
        file = LeaseFile(str(path), ahead=0)
        file.write(EVERY_KIND[:1], 0.0)
        with path.open() as old:
            file.write(EVERY_KIND, 1.0)
            assert len(json.loads(old.read())["leases"]) == 1
        assert len(json.loads(path.read_text())["leases"]) == 5


class TestWhenAnAckMayLeave:
    def test_not_before_its_lease_is_on_disk(self, path: Path) -> None:
        file = LeaseFile(str(path))
        assert not file.covers(lease())
        file.write([leased()], 0.0)
        assert file.covers(lease())
        assert not file.covers(lease(mac=B))
        assert not file.covers(lease("192.0.2.3"))

    def test_two_of_three_renewals_write_nothing(self, path: Path) -> None:
        file, wrote = LeaseFile(str(path)), []
        for number in range(9):
            until = NOW + 300 * number + 600
            if not file.covers(lease(until=until)):
                file.write([leased(until=until)], number)
                wrote.append(number)
        assert wrote == [0, 3, 6]

    def test_promises_do_not_add_up(self, path: Path) -> None:
        """Neither by writing often nor by beginning again."""
        for _ in range(5):
            file = LeaseFile(str(path))
            for number in range(5):
                file.write(file.records or [leased()], number)
            file.close()
        assert [record.until for record in reopened(path)] == [NOW + 1200]

    def test_given_back_and_taken_again(self, path: Path) -> None:
        """As released nobody's guard would know it after a restart, so it is written."""
        file = LeaseFile(str(path))
        file.write([leased()._replace(phase=Phase.RELEASED)], 0.0)
        assert not file.covers(lease())

    def test_for_ever(self, path: Path) -> None:
        file = LeaseFile(str(path))
        file.write([leased(until=inf)], 0.0)
        assert file.covers(lease(until=inf))
        assert json.loads(path.read_text())["leases"][0]["until"] is None
        file.close()
        assert reopened(path)[0].until == inf

    def test_at_most_so_often(self, path: Path) -> None:
        file = LeaseFile(str(path), interval=0.2)
        assert file.due(100.0) == 100.0
        file.write([], 100.0)
        assert file.due(100.05) == 100.2
        assert file.due(101.0) == 101.0

    def test_after_the_wall_clock_was_set(self, path: Path) -> None:
        file = LeaseFile(str(path), ahead=0)
        file.write([leased(), leased("192.0.2.3", until=inf)], 0.0, shift=3600.0)
        assert file.covers(lease()), "by the clock of the pool"
        file.close()
        assert [record[3:] for record in reopened(path)] == [(NOW + 3600, NOW + 4200), (NOW + 3600, inf)]


GOOD = '{"address": "192.0.2.2", "mac": "02:00:00:00:00:01", "phase": "leased", "since": 1, "until": 2}'


def document(*entries: str, version: Any = 1) -> str:
    return f'{{"bucatini_leases": {version}, "leases": [{", ".join(entries)}]}}'


class TestForeign:
    @pytest.mark.parametrize(
        ("content", "complaint"),
        [
            pytest.param("", "not a lease file", id="empty"),
            pytest.param("lease 192.0.2.2 {\n}\n", "not a lease file", id="dhcpd's"),
            pytest.param("[]", "not a lease file", id="another document"),
            pytest.param("{}", "not a lease file", id="no version"),
            pytest.param(document(GOOD)[:-20], "not a lease file", id="cut"),
            pytest.param(document(GOOD, version=2), "of version 2, and this program reads version 1", id="newer"),
            pytest.param('{"bucatini_leases": 7, "other": true}', "of version 7", id="newer, of another form"),
            pytest.param(document(GOOD, version='"1"'), "not a lease file", id="version of another type"),
            pytest.param(document(GOOD, GOOD), "an address comes twice", id="twice"),
            pytest.param(document(GOOD.replace("192.0.2.2", "192.0.2.2222")), "not an IP address", id="address"),
            pytest.param(document(GOOD.replace("192.0.2.2", "\\ud800")), "not a lease file", id="half a character"),
            pytest.param(document(GOOD.replace(":01", "")), "02:00:00:00:00 leased", id="MAC"),
            pytest.param(document(GOOD.replace("02:", "zz:")), "not a lease file", id="MAC of no digits"),
            pytest.param(document(GOOD.replace("leased", "lost")), "'lost' is not a valid", id="phase"),
            pytest.param(document(GOOD.replace("leased", "offered")), "02:00:00:00:00:01 offered", id="an offer"),
            pytest.param(document(GOOD.replace("2}", "0}")), "ends before it begins", id="times"),
            pytest.param(document(GOOD.replace("2}", "true}")), "not a lease file", id="no time"),
            pytest.param(document(GOOD.replace("}", ', "more": 1}')), "unknown field `more`", id="more than we know"),
            pytest.param("[" * 100_000, "not a lease file", id="deep"),
            pytest.param("\x00" * 100, "not a lease file", id="zeroes, as some file systems leave"),
        ],
    )
    def test_is_told_and_kept(self, path: Path, content: str, complaint: str) -> None:
        path.write_text(content)
        with pytest.raises(ConfigError) as raised:
            LeaseFile(str(path))
        said = str(raised.value)
        assert said.startswith(f"lease file {path}: ")
        assert said.endswith("; move it away to begin without leases")
        assert complaint in said
        assert "\n" not in said
        assert path.read_text() == content
        assert names(path.parent) == ["leases.json"]

    def test_a_folder_or_a_device(self, tmp_path: Path) -> None:
        with pytest.raises((ConfigError, HostError)):
            LeaseFile(str(tmp_path))
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        for place in (str(fifo), "/dev/null"):
            with pytest.raises(ConfigError, match="not a regular file"):
                LeaseFile(place)

    def test_more_than_a_lease_file_has(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(1 << 30)
        with pytest.raises(ConfigError, match="1073741824 bytes are more than"):
            LeaseFile(str(path))

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(HostError, match="No such file or directory"):
            LeaseFile(str(tmp_path / "no" / "leases.json"))

    def test_links_that_lead_nowhere(self, tmp_path: Path) -> None:
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        with pytest.raises((ConfigError, HostError)):
            LeaseFile(str(loop))

    @pytest.mark.root
    @pytest.mark.parametrize("there", [False, True])
    def test_what_we_may_not_touch(self, path: Path, there: bool) -> None:
        if there:
            LeaseFile(str(path)).close()

        def as_nobody() -> str:
            os.setuid(65534)
            try:
                LeaseFile(str(path))
            except HostError as error:
                return str(error)
            return ""

        assert in_child(as_nobody) == f"lease file {path}: Permission denied"

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        with pytest.raises(ConfigError):
            _decode(data, "path")

    @given(
        st.lists(
            st.builds(
                LeaseRecord,
                st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16),
                st.binary(min_size=6, max_size=6),
                st.sampled_from((Phase.LEASED, Phase.RELEASED, Phase.DECLINED, Phase.ENDED)),
                st.floats(-1e12, 0),
                st.floats(0, 1e12) | st.just(inf),
            ),
            unique_by=lambda record: record.address,
        )
    )
    def test_any_records(self, records: list[LeaseRecord]) -> None:
        assert _decode(_encode(records), "path") == tuple(records)


HOLD = """
import sys, time
from bucatini.host.lease_file import LeaseFile
file = LeaseFile(sys.argv[1])
for number in range(3):
    file.write([], float(number))
print("held", flush=True)
time.sleep(60)
"""


class TestTwoAtOnce:
    def test_the_second_is_refused_until_the_first_is_gone(self, path: Path) -> None:
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(ConfigError, match=f"lease file {path}: in use by another process"):
                LeaseFile(str(path))
        finally:
            holder.kill()
            holder.communicate()
        LeaseFile(str(path)).close()

    def test_children_do_not_keep_it(self, path: Path) -> None:
        """The guest's processes outlive an engine that is killed."""
        file = LeaseFile(str(path))
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        try:
            file.close()
            assert in_child(lambda: LeaseFile(str(path)).records) == ()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    @pytest.mark.parametrize("attempt", range(3))
    def test_many_that_begin_at_the_same_instant(self, path: Path, attempt: int) -> None:
        start = time.time() + 0.3
        ready, go = os.pipe()

        def one() -> int:
            os.read(ready, 1)
            try:
                file = LeaseFile(str(path))
            except ConfigError:
                os._exit(1)
            except BaseException:
                os._exit(2)
            file.write([], 0.0)
            time.sleep(max(0.5, start - time.time()))
            os._exit(0)

        children = []
        for _ in range(8):
            child = os.fork()
            if child == 0:
                one()
            children.append(child)
        os.write(go, b"x" * 8)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        os.close(ready)
        os.close(go)
        assert sorted(codes) == [0, *[1] * 7]
        assert names(path.parent) == ["leases.json"]


def many(count: int) -> list[LeaseRecord]:
    return [
        LeaseRecord((0x0A000000 + number).to_bytes(4, "big"), number.to_bytes(6, "big"), Phase.LEASED, NOW, NOW + 600)
        for number in range(count)
    ]


def fill_up(path: Path, allow: Callable[[], None], relax: Callable[[], None]) -> dict[str, Any]:
    """Writes ten leases, then far too many twice, then ten again, and tells what became of it."""
    told: list[str] = []
    file = LeaseFile(str(path), ahead=0, on_failure=told.append)
    seen: dict[str, Any] = {"first": file.write(many(10), 0.0)}
    before = path.read_bytes()
    allow()
    seen["full"] = [file.write(many(5000), 1.0), file.write(many(5000), 2.0)]
    seen["kept"] = path.read_bytes() == before
    seen["files"] = names(path.parent)
    seen["covers"] = [file.covers(Lease(each.mac, each.address, 8, b"", NOW, each.until, "")) for each in many(12)[8:]]
    relax()
    seen["last"] = file.write(many(11), 3.0)
    allow()
    seen["again"] = file.write(many(5000), 4.0)
    file.close()
    seen["read"] = len(reopened(path))
    seen["told"] = told
    return seen


def expected(reason: str, path: Path) -> dict[str, Any]:
    line = f"lease file {path}: {reason}; no new lease is given until it is written"
    return {
        "first": True,
        "full": [False, False],
        "kept": True,
        "files": ["leases.json"],
        "covers": [True, True, False, False],
        "last": True,
        "again": False,
        "read": 11,
        "told": [line, line],
    }


@pytest.mark.root
def test_a_full_disk() -> None:
    path = Path("/mnt/leases.json")

    def on_a_small_disk() -> dict[str, Any]:
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
        syscalls.mount("tmpfs", "/mnt", "tmpfs", options="size=64k")
        return fill_up(path, lambda: None, lambda: None)

    assert in_child(on_a_small_disk, unshare=syscalls.CLONE_NEWNS) == expected("No space left on device", path)


@pytest.mark.root
def test_a_disk_that_is_full_from_the_start() -> None:
    def on_a_full_disk() -> tuple[str, list[str]]:
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_SLAVE)
        syscalls.mount("tmpfs", "/mnt", "tmpfs", options="size=8k")
        Path("/mnt/other").write_bytes(bytes(8192))
        try:
            LeaseFile("/mnt/leases.json")
        except HostError as error:
            return str(error), os.listdir("/mnt")
        return "", []

    said = in_child(on_a_full_disk, unshare=syscalls.CLONE_NEWNS)
    assert said == ("lease file /mnt/leases.json: No space left on device", ["other"])


def test_a_limit_of_the_size_of_files(path: Path) -> None:
    def limited() -> dict[str, Any]:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        return fill_up(
            path,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard)),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)),
        )

    assert in_child(limited) == expected("File too large", path)


def test_a_folder_that_goes_away(path: Path, tmp_path: Path) -> None:
    told: list[str] = []
    file = LeaseFile(str(path), on_failure=told.append)
    path.unlink()
    tmp_path.rmdir()
    assert not file.write(many(1), 0.0)
    assert not file.write(many(1), 1.0)
    assert told == [f"lease file {path}: No such file or directory; no new lease is given until it is written"]
    tmp_path.mkdir()
    assert file.write(many(1), 2.0)
    file.close()
    assert len(reopened(path)) == 1


KILLED = """
import sys
from bucatini.host.lease_file import LeaseFile
from bucatini.services.leases import LeaseRecord, Phase
file = LeaseFile(sys.argv[1], ahead=0)
print("on", flush=True)
number = 0
while True:
    number += 1
    count = 1 + number * 37 % 400
    file.write([LeaseRecord(bytes((10, 0, n >> 8, n & 255)), bytes(6), Phase.LEASED, float(count), 1e9)
        for n in range(count)], 0.0)
"""


def test_killed_at_any_instant_it_is_whole(path: Path) -> None:
    for number in range(8):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "on\n"
        time.sleep(0.013 * number)
        writer.kill()
        writer.communicate()
        records = reopened(path)
        assert len(records) == (records[0].since if records else 0)
    assert records
