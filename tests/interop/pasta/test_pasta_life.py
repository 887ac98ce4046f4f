"""How an engine starts, what it hands on, and when it ends."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from support.fakehost import HOST4, HOST6, WORLD4, FakeHost
from support.guests import PATIENCE, eventually
from support.pasta_engine import LINK, Holder, PastaEngine, Place, Session
from support.pasta_peers import Link

pytestmark = pytest.mark.root

DEBIAN_FAILS = {
    "test_words_of_command": "takes the options of the command for its own",
    "test_process_gone": "keeps running when the namespace it was given by process number is gone",
}
NO_PORTS = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
SOON = 5.0
"""Seconds in which an engine ends when its namespace has gone."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["term", "quit"])
def test_shutdown(engine: PastaEngine, place: Place, holder: Holder, number: int) -> None:
    """A signal to the process in the PID file ends it, with success."""
    with engine.start(place, ["--config-net"], [str(holder.pid)]) as running:
        assert running.pid == running.process.pid
        assert running.stop(number) == 0


def test_background(engine: PastaEngine, place: Place, holder: Holder) -> None:
    """The caller's process ends with success when all is ready, the PID file then holds another's number."""
    with engine.start(place, ["--config-net"], [str(holder.pid)], foreground=False) as running:
        assert running.process.returncode == 0
        assert running.pid != running.process.pid
        assert Link(holder.net, LINK).addresses(4) == [f"{HOST4}/24"]
        running.stop()
    assert not Link(place.host.net, "lo").addresses(4)


def test_background_streams(engine: PastaEngine, place: Place, holder: Holder) -> None:
    """The engine lets go of its caller's streams: whoever reads them sees the end."""
    pid_file = place.scratch / "pid"
    with place.host.net.entered():
        done = subprocess.run(
            place.words([engine.program, "--config-net", "-P", str(pid_file), *NO_PORTS, str(holder.pid)]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=place.runner.environment,
            cwd="/tmp",
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    process_id = int(pid_file.read_text())
    for number in (0, 1, 2):
        assert os.stat(f"/proc/{process_id}/fd/{number}").st_rdev == os.stat("/dev/null").st_rdev
    os.kill(process_id, signal.SIGTERM)
    eventually(lambda: place.runner.processes().keys() == {holder.pid})


def test_pid_file_refused(engine: PastaEngine, place: Place) -> None:
    done = engine.complete(place, ["--config-net", "-P", "/nowhere/pid"], ["--", "true"])
    assert done.returncode == 1
    assert done.stdout.strip()


def test_process_gone(engine: PastaEngine, place: Place, holder: Holder) -> None:
    """The last process of the namespace ends, and with it the engine."""
    with engine.start(place, ["--config-net"], [str(holder.pid)]) as running:
        holder.end()
        assert running.gone(SOON)
        assert running.stop() in (0, None)


def test_path_gone(engine: PastaEngine, host: FakeHost) -> None:
    """The namespace's file is removed."""
    with Session(host) as session, session.network() as (path, _):
        with engine.start(session, ["--config-net"], ["--netns", path]) as running:
            assert not running.gone(0.2)
            session.remove(path)
            assert running.gone(SOON)
            assert running.process.returncode == 0


def test_path_gone_stays(engine: PastaEngine, host: FakeHost) -> None:
    """`--no-netns-quit`."""
    with Session(host) as session, session.network() as (path, net):
        with engine.start(session, ["--config-net", "--no-netns-quit"], ["--netns", path]) as running:
            session.remove(path)
            assert not running.gone(1.5)
            assert net.run("ping", "-c1", "-W2", WORLD4).returncode == 0
            assert running.stop() == 0


@pytest.mark.parametrize(
    ("command", "status"),
    [(["true"], 0), (["sh", "-c", "exit 7"], 7)],
    ids=["true", "status"],
)
def test_status_of_command(engine: PastaEngine, place: Place, command: list[str], status: int) -> None:
    assert engine.complete(place, ["--config-net"], ["--", *command]).returncode == status


def test_status_of_killed_command(engine: PastaEngine, place: Place) -> None:
    process, output = place.begin([engine.program, "--config-net", "--", "sleep", "61"])
    with output:
        os.kill(place.runner.find("sleep", "61"), signal.SIGKILL)
        assert process.wait(PATIENCE) == 128 + 9
    place.runner.gone()


def test_words_of_command(engine: PastaEngine, place: Place) -> None:
    """Options after the command are the command's, without `--` too."""
    assert engine.complete(place, ["--config-net"], ["sh", "-c", "exit 7"]).returncode == 7


def test_command_not_found(engine: PastaEngine, place: Place) -> None:
    assert engine.complete(place, ["--config-net"], ["/nowhere/command"]).returncode != 0


def test_command_has_network(engine: PastaEngine, place: Place) -> None:
    """From its first moment; as user 0, with its own words and streams."""
    script = f"id -u; ip -o addr show dev {LINK} scope global; ip route show default; cat; echo $1"
    with place.host.net.entered():
        done = subprocess.run(
            place.words([engine.program, "--config-net", "--", "sh", "-c", script, "sh", "--mtu"]),
            input="typed\n",
            capture_output=True,
            text=True,
            env=place.runner.environment,
            cwd="/tmp",
            timeout=2 * PATIENCE,
            check=False,
        )
    lines = done.stdout.splitlines()
    assert lines[0] == "0", done
    assert any(f"inet {HOST4}/24" in line for line in lines), done
    assert any(f"inet6 {HOST6}/" in line for line in lines), done
    assert any(line.startswith(f"default via {WORLD4} dev {LINK}") for line in lines), done
    assert lines[-2:] == ["typed", "--mtu"], done
    place.runner.gone()


def test_command_ends_engine(engine: PastaEngine, place: Place) -> None:
    """Nothing is left, not even when the command leaves something in the background."""
    done = engine.complete(place, ["--config-net"], ["--", "sh", "-c", "sleep 60 & exit 3"])
    assert done.returncode == 3
    place.runner.gone()


@pytest.mark.parametrize(
    "options",
    [
        ["--no-such-option"],
        ["--mtu", "67"],
        ["--mtu", "65536"],
        ["--address", "127.0.0.1"],
        ["--netmask", "33"],
        ["--interface", "nowhere0"],
        ["-t", "65536"],
        ["-t", "5-3"],
        ["-t", "80,,81"],
        ["-t", "80:81-82"],
        ["-T", "192.0.2.1/80"],
        ["--netns", "/nowhere/netns"],
        ["--log-file"],
    ],
    ids=lambda words: "_".join(words).replace("-", "").replace("/", ""),
)
def test_refused(engine: PastaEngine, place: Place, options: list[str]) -> None:
    """Status 1 and something to read."""
    target = ["--", "true"] if "--netns" not in options and options != ["--log-file"] else []
    done = engine.complete(place, ["--config-net", *options], target)
    assert done.returncode == 1
    assert done.stdout.strip()
