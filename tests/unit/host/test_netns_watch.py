"""host.netns_watch: a deleted name, an ended process, a path nobody tells about; nothing raises."""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path

import pytest

from bucatini.host import netns_watch, syscalls
from bucatini.host.netns_watch import INTERVAL, NetnsWatch
from support.forked import in_child

PATIENCE = 10.0


@pytest.fixture
def name(tmp_path: Path) -> Path:
    path = tmp_path / "name"
    path.touch()
    return path


def woken(watch: NetnsWatch) -> bool:
    """Whether its descriptor becomes readable, soon."""
    descriptor = watch.fileno()
    assert descriptor is not None
    assert watch.interval is None
    return bool(select.select([descriptor], [], [], PATIENCE)[0])


class TestName:
    def test_deleted(self, name: Path) -> None:
        with NetnsWatch(str(name)) as watch:
            assert watch.gone() is False
            name.unlink()
            assert woken(watch)
            assert watch.gone() is True
            assert watch.gone() is True

    def test_moved_away(self, name: Path) -> None:
        with NetnsWatch(str(name)) as watch:
            name.rename(name.with_name("other"))
            assert woken(watch)
            assert watch.gone() is True

    def test_deleted_and_made_again_was_gone(self, name: Path) -> None:
        with NetnsWatch(str(name)) as watch:
            name.unlink()
            name.touch()
            assert watch.gone() is True

    def test_other_names_do_not_matter(self, name: Path) -> None:
        with NetnsWatch(str(name)) as watch:
            for number in range(3):
                other = name.with_name(f"name{number}")
                other.touch()
                other.unlink()
            assert woken(watch)
            assert watch.gone() is False
            descriptor = watch.fileno()
            assert select.select([descriptor], [], [], 0)[0] == []  # nothing is left to read

    def test_folder_deleted_too(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "name").touch()
        with NetnsWatch(str(folder / "name")) as watch:
            (folder / "name").unlink()
            folder.rmdir()
            assert watch.gone() is True

    def test_gone_from_the_start(self, name: Path) -> None:
        name.unlink()
        with NetnsWatch(str(name)) as watch:
            assert watch.gone() is True
        with NetnsWatch("/no/such/folder/name") as watch:
            assert watch.gone() is True

    def test_relative(self, name: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(name.parent)
        with NetnsWatch("name") as watch:
            name.unlink()
            assert woken(watch)
            assert watch.gone() is True

    @pytest.mark.root
    def test_of_ip_netns(self) -> None:
        name = f"bucatini-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", name], check=True, timeout=PATIENCE)
        with NetnsWatch(f"/run/netns/{name}") as watch:
            assert watch.gone() is False
            subprocess.run(["ip", "netns", "delete", name], check=True, timeout=PATIENCE)
            assert woken(watch)
            assert watch.gone() is True

    def test_folder_nobody_may_read_is_tried_instead(self, name: Path) -> None:
        def watched() -> tuple[int | None, float | None, bool]:
            name.parent.chmod(0o311)  # may be entered, not listed: inotify needs to list
            os.setgroups([])
            os.setresgid(54321, 54321, 54321)
            os.setresuid(54321, 54321, 54321)
            with NetnsWatch(str(name)) as watch:
                return watch.fileno(), watch.interval, watch.gone()

        if os.geteuid() != 0:
            pytest.skip("needs root")
        assert in_child(watched) == (None, INTERVAL, False)  # alive, whether or not the way there is open


class TestProcess:
    def test_ended(self) -> None:
        with subprocess.Popen(["sleep", "1000"]) as process:
            with NetnsWatch(f"/proc/{process.pid}/ns/net") as watch:
                assert watch.gone() is False
                process.kill()
                assert woken(watch)
                assert watch.gone() is True  # though it is not waited for yet
            process.wait()

    def test_gone_from_the_start(self) -> None:
        for path in ("/proc/4194305/ns/net", "/proc/99999999999999999999/ns/net"):
            with NetnsWatch(path) as watch:
                assert watch.gone() is True


class TestSilentFileSystem:
    @pytest.mark.parametrize("path", ["/proc/self/ns/net", "/sys/class/net/lo/mtu"])
    def test_is_tried(self, path: str) -> None:
        with NetnsWatch(path) as watch:
            assert (watch.fileno(), watch.interval) == (None, INTERVAL)
            assert watch.gone() is False

    def test_process_without_pidfd_is_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(netns_watch, "_open_process", lambda _path: -1)
        process = subprocess.Popen(["sleep", "1000"])
        with NetnsWatch(f"/proc/{process.pid}/ns/net") as watch:
            assert (watch.fileno(), watch.interval) == (None, INTERVAL)
            assert watch.gone() is False
            process.kill()
            process.wait()
            assert watch.gone() is True

    @pytest.mark.root
    def test_no_permission_is_alive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(netns_watch, "_open_process", lambda _path: -1)

        def watched() -> tuple[bool, bool]:
            os.setresuid(54321, 54321, 54321)
            try:
                os.stat("/proc/1/ns/net")
            except PermissionError:
                return True, NetnsWatch("/proc/1/ns/net").gone()
            return False, False

        assert in_child(watched) == (True, False)

    def test_inotify_used_up_is_tried(self, name: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse() -> int:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(syscalls, "open_inotify", refuse)
        with NetnsWatch(str(name)) as watch:
            assert (watch.fileno(), watch.interval) == (None, INTERVAL)
            assert watch.gone() is False
            name.unlink()
            assert watch.gone() is True


def test_closing_twice_leaves_nothing(name: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (str(name), f"/proc/{os.getpid()}/ns/net", "/proc/self/ns/net"):
        watch = NetnsWatch(path)
        watch.close()
        watch.close()
    assert len(os.listdir("/proc/self/fd")) == before
