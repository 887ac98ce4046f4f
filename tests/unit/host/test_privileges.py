"""host.privileges in forked processes, with /proc/self/status as the judge."""

from __future__ import annotations

import grp
import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bucatini
from bucatini.base.errors import ConfigError, HostError
from bucatini.host import syscalls
from bucatini.host.privileges import (
    CAP_NET_ADMIN,
    CAP_NET_BIND_SERVICE,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    drop_for_good,
    drop_to,
    is_real_root,
    limit_capabilities,
    nobody,
    parse_user,
)
from support.forked import in_child

SOMEBODY = 54321


class TestParse:
    def test_numbers(self) -> None:
        assert parse_user("1234") == (1234, 1234)
        assert parse_user("1234:5678") == (1234, 5678)
        assert parse_user("0:0") == (0, 0)
        assert parse_user("4294967294") == (4294967294, 4294967294)

    def test_names(self) -> None:
        user, group = pwd.getpwnam("nobody"), grp.getgrnam("daemon")
        assert parse_user("nobody") == (user.pw_uid, user.pw_gid)
        assert parse_user("nobody:daemon") == (user.pw_uid, group.gr_gid)
        assert parse_user("nobody:77") == (user.pw_uid, 77)
        assert parse_user("77:daemon") == (77, group.gr_gid)

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ("", "expected USER or USER:GROUP"),
            (":", "expected USER or USER:GROUP"),
            (":daemon", "expected USER or USER:GROUP"),
            ("nobody:", "expected USER or USER:GROUP"),
            ("root", "user 'root' is root"),
            ("root:daemon", "user 'root' is root"),
            ("no-such-user", "there is no user 'no-such-user'"),
            ("nobody:no-such-group", "there is no group 'no-such-group'"),
            ("-1", "there is no user '-1'"),
            ("+1", "there is no user"),
            ("1:2:3", "there is no group '2:3'"),
            ("4294967295", "no user or group number"),
            ("1:4294967295", "no user or group number"),
            ("9" * 5000, "no user or group number"),
            ("a\0b", "there is no user"),
            ("\u0661", "there is no user"),
        ],
    )
    def test_refused(self, value: str, why: str) -> None:
        with pytest.raises(ConfigError) as error:
            parse_user(value)
        assert str(error.value).startswith(f"--runas {value!r}: ")
        assert why in str(error.value)
        assert "\n" not in str(error.value)


def test_nobody_is_that_of_the_machine() -> None:
    entry = pwd.getpwnam("nobody")
    assert nobody() == (entry.pw_uid, entry.pw_gid)


class Status:
    """Of the calling process."""

    def __init__(self) -> None:
        text = Path("/proc/thread-self/status").read_text()
        self.fields = dict(re.findall(r"^(\w+):[ \t]*(.*)$", text, re.MULTILINE))

    def mask(self, name: str) -> int:
        return int(self.fields[name], 16)

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.fields["Uid"], self.fields["Gid"], self.fields["Groups"].strip()


def bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


@pytest.mark.root
class TestDrop:
    @pytest.mark.parametrize(
        "keep",
        [
            frozenset(),
            frozenset({CAP_NET_BIND_SERVICE}),
            frozenset({CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYS_PTRACE}),
            frozenset({38}),  # CAP_PERFMON: in the upper half of the sets
        ],
    )
    def test_leaves_exactly_what_is_kept(self, keep: frozenset[int]) -> None:
        def become() -> Status:
            os.setgroups([7, 8])
            drop_to(SOMEBODY, SOMEBODY + 1, keep)
            return Status()

        status = in_child(become)
        uid, gid = "\t".join([str(SOMEBODY)] * 4), "\t".join([str(SOMEBODY + 1)] * 4)
        assert status.identity == (uid, gid, "")
        assert status.mask("CapEff") == status.mask("CapPrm") == bits(*keep)
        assert status.mask("CapInh") == status.mask("CapAmb") == 0

    def test_kept_rights_work_and_others_do_not(self) -> None:
        def become() -> tuple[bool, bool]:
            import socket

            drop_to(SOMEBODY, SOMEBODY, frozenset({CAP_NET_BIND_SERVICE}))
            try:
                os.setuid(0)
                regained = True
            except PermissionError:
                regained = False
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 601))
            return True, regained

        assert in_child(become, unshare=0) == (True, False)

    def test_a_user_namespace_can_be_made_afterwards(self) -> None:
        """It could not if /proc/self still belonged to root."""

        def become() -> str:
            drop_to(SOMEBODY, SOMEBODY)
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            Path("/proc/self/uid_map").write_text(f"0 {SOMEBODY} 1")
            return Path("/proc/self/uid_map").read_text()

        assert in_child(become).split() == ["0", str(SOMEBODY), "1"]

    def test_somebody_can_drop_to_themselves_and_to_nobody_else(self) -> None:
        def become() -> tuple[tuple[str, str, str], str]:
            os.setgroups([])
            os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
            os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
            drop_to(SOMEBODY, SOMEBODY, frozenset({CAP_NET_BIND_SERVICE}))
            assert Status().mask("CapEff") == 0, "nothing is gained"
            try:
                drop_to(SOMEBODY + 1, SOMEBODY)
            except HostError as error:
                return Status().identity, str(error)
            return Status().identity, ""

        identity, error = in_child(become)
        assert identity[0].split() == [str(SOMEBODY)] * 4
        assert error == f"cannot become user {SOMEBODY + 1}, group {SOMEBODY}: Operation not permitted"

    def test_ambient_ones_go(self) -> None:
        """They would pass to programs that the engine executes."""
        code = """
from bucatini.host.privileges import limit_capabilities
def sets(): return [line.split()[1] for line in open("/proc/self/status") if line[:6] in ("CapInh", "CapAmb")]
print(sets())
limit_capabilities(frozenset({12}))
print(sets())
"""
        words = ["setpriv", "--inh-caps=+net_admin", "--ambient-caps=+net_admin", sys.executable, "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        had, none = f"{bits(CAP_NET_ADMIN):016x}", "0" * 16
        assert done.stdout == f"{[had] * 2}\n{[none] * 2}\n"

    @pytest.mark.parametrize("keep", [frozenset(), frozenset({CAP_NET_BIND_SERVICE})])
    @pytest.mark.parametrize("user", [SOMEBODY, 0])
    def test_for_good(self, user: int, keep: frozenset[int]) -> None:
        """Not even root that stays root gets anything back from what it executes."""

        def become() -> tuple[Status, str]:
            drop_for_good(user, user, keep)
            words = ["grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"]
            return Status(), subprocess.run(words, capture_output=True, text=True, check=True).stdout

        status, executed = in_child(become)
        assert status.identity == ("\t".join([str(user)] * 4), "\t".join([str(user)] * 4), "")
        assert status.mask("CapBnd") == status.mask("CapPrm") == status.mask("CapEff") == bits(*keep)
        effective, no_new = (line.split()[1] for line in executed.splitlines())
        assert int(effective, 16) == (bits(*keep) if user == 0 else 0)
        assert no_new == "1"

    def test_for_good_without_rights(self) -> None:
        """Who has no say in the bounding set gives up the rest."""

        def become() -> int:
            drop_to(SOMEBODY, SOMEBODY)
            drop_for_good(SOMEBODY, SOMEBODY)
            return int(re.findall(r"NoNewPrivs:\s(.)", Path("/proc/self/status").read_text())[0])

        assert in_child(become) == 1

    def test_limit_is_for_good(self) -> None:
        def limit() -> tuple[int, int, int, str]:
            limit_capabilities(frozenset({CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN}))
            first = Status()
            limit_capabilities(frozenset({CAP_NET_BIND_SERVICE, CAP_NET_ADMIN}))
            second = Status()
            child = subprocess.run(["grep", "CapEff", "/proc/self/status"], capture_output=True, text=True, check=True)
            return first.mask("CapEff"), first.mask("CapBnd"), second.mask("CapEff"), child.stdout.split()[1]

        first, bounding, second, executed = in_child(limit)
        assert first == bounding == bits(CAP_NET_BIND_SERVICE, CAP_SYS_ADMIN)
        assert second == bits(CAP_NET_BIND_SERVICE)
        # User 0 who executes a program gets what the bounding set allows; it was limited while that was possible.
        assert int(executed, 16) == bounding


@pytest.mark.root
class TestRealRoot:
    def test_here_as_the_map_says(self) -> None:
        assert is_real_root() == (Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"])

    def test_not_somebody(self) -> None:
        def ask() -> bool:
            os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
            return is_real_root()

        assert in_child(ask) is False

    def test_not_in_a_user_namespace(self) -> None:
        def ask() -> tuple[int, bool]:
            Path("/proc/self/uid_map").write_text("0 0 1")
            return os.geteuid(), is_real_root()

        assert in_child(ask, unshare=syscalls.CLONE_NEWUSER) == (0, False)


def test_is_not_imported_without_need() -> None:
    """The user database loads libraries; numbers must do without."""
    code = "import sys; from bucatini.host.privileges import parse_user; parse_user('5:6'); print('grp' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(bucatini.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "False\n"
