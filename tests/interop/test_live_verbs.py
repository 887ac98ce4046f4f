"""`bucatini rules` and a running `bucatini filter`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bridged import HOST, BridgedHost, Guest
from support.fakehost import PRIVATE4, PUBLIC4, FakeHost
from support.guests import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("filter")]


@pytest.fixture(scope="module")
def place(host: FakeHost) -> Iterator[BridgedHost]:
    made = BridgedHost(host)
    try:
        yield made
    finally:
        made.close()
        made.net.ip("".join(f"link delete {bridge}\n" for bridge in (*HOST, "br9")))


@pytest.fixture(scope="module")
def guest(place: BridgedHost) -> Iterator[Guest]:
    with place.guest("--control", control(place), "--block", "@host:8080") as made:
        yield made


def control(place: BridgedHost) -> str:
    return str(place.folder / "filter.control")


def rules(place: BridgedHost, *words: str, status: int = 0, verb: str = "rules", path: str = "") -> str:
    """`bucatini rules` on the host; what it says."""
    runner = place.host.runner("root")
    with place.net.entered():
        done = subprocess.run(
            runner.program([verb, "--control", path or control(place), *words]),
            capture_output=True, text=True, timeout=PATIENCE, check=False, env=runner.environment, cwd="/tmp",
        )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_what_is_set_is_shown_and_in_force(place: BridgedHost, guest: Guest) -> None:
    assert rules(place, "show").splitlines() == [
        "revision      (that of the command line)",
        "other guests  isolated",
        "allow         (nothing)",
        "block         @host:8080",
    ]
    assert not guest.reaches(PRIVATE4, seconds=0.2)
    assert rules(place, "set", "--allow", PRIVATE4, "--block", "out 203.0.113.0/24:25", "--revision", "7") == ""
    assert guest.reaches(PRIVATE4)
    policy = json.loads(rules(place, "show", "--json"))
    assert (policy["allow"], policy["block"]) == ([f"{PRIVATE4}/32"], ["out 203.0.113.0/24:25"])
    assert (policy["desiredRevision"], policy["bridgeIsolation"]) == ("7", True)
    assert rules(place, "set") == ""
    revision = json.loads(rules(place, "show", "--json"))["desiredRevision"]
    assert revision not in ("7", None)
    assert not guest.reaches(PRIVATE4, seconds=0.2)
    assert json.loads(rules(place, "set", "--json"))["desiredRevision"] != revision
    assert guest.reaches(PUBLIC4)


def test_an_open_connection_ends_with_its_rule(place: BridgedHost, guest: Guest) -> None:
    rules(place, "set", "--allow", PRIVATE4)
    with place.host.world.listen(PRIVATE4) as listener, guest.net.connect(PRIVATE4, listener.getsockname()[1]) as near:
        with listener.accept()[0] as far:
            far.settimeout(PATIENCE)
            near.sendall(b"a")
            assert far.recv(10) == b"a"
            rules(place, "set")
            near.sendall(b"b")
            assert guest.reaches(PUBLIC4), "what was sent before was judged"
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(10)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("set", "--allow", "nowhere"), "allow[0]"),
        (("set", "--block", "10.0.0.0/8", "--block", "10.0.0.1:0"), "block[1]"),
        (("set", "--revision", ""), "desiredRevision"),
        (("set", "--allow", "0.0.0.0/0"), "isolation"),
        (("set", "10.0.0.0/8"), "'10.0.0.0/8' means nothing here"),
    ],
)
def test_words_that_mean_nothing(place: BridgedHost, guest: Guest, words: tuple[str, ...], complaint: str) -> None:
    before = rules(place, "show")
    said = rules(place, *words, status=2)
    assert complaint in said
    assert said.startswith("bucatini rules: ")
    assert said.count("\n") == 1
    assert rules(place, "show") == before


def test_the_same_revision_for_other_rules_is_refused(place: BridgedHost, guest: Guest) -> None:
    for _ in range(2):
        rules(place, "set", "--block", "@host", "--revision", "once")
    assert "desiredRevision" in rules(place, "set", "--revision", "once", status=2)


def test_an_engine_of_another_kind(place: BridgedHost, guest: Guest) -> None:
    said = rules(place, "ls", status=1, verb="link")
    assert said == "bucatini link: no method 'link.list'; accepted: softnet.policy.get, softnet.policy.set\n"


def test_nobody_there(place: BridgedHost, tmp_path: Path) -> None:
    said = rules(place, "show", status=1, path=str(tmp_path / "none"))
    assert said.endswith("No such file or directory; is its engine running?\n")
