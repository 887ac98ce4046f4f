"""Bad input and forbidding hosts: one clear line on stderr, the right exit status, nothing started, nothing left."""

from __future__ import annotations

import contextlib
import resource
import shlex
from pathlib import Path

import pytest

from support.fakehost import PUBLIC4, FakeHost
from support.guests import ORDINARY, Done, eventually

pytestmark = pytest.mark.root

STARTED = ("echo", "started")


def check(done: Done, status: int, *words: str) -> None:
    """Exit status, nothing on stdout, one line on stderr that says these words."""
    assert (done.status, done.stdout) == (status, ""), done
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("bucatini")
    for word in words:
        assert word in done.stderr


class TestCommandLine:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--no-such-option",), ["unknown option --no-such-option"]),
            (("--sumary",), ["--sumary", "did you mean --summary?"]),
            (("-z",), ["unknown option -z"]),
            (("--pub", "80:80"), ["unknown option --pub"]),
            (("--slot", "65536"), ["--slot", "65535"]),
            (("--slot", "-1"), ["--slot"]),
            (("--slot", "x"), ["--slot", "'x'"]),
            (("--mtu", "67"), ["--mtu", "68"]),
            (("--mtu", "1000"), ["--mtu 1000", "1280"]),
            (("--mtu", "65522"), ["--mtu"]),
            (("-4", "-6"), ["-4 and -6"]),
            (("-v", "-q"), ["-v and -q"]),
            (("--policy", "strict"), ["strict"]),
            (("--allow", "10.0.0.1/8"), ["10.0.0.1/8"]),
            (("--allow", "example.org"), ["example.org"]),
            (("--deny", "nowhere"), ["nowhere"]),
            (("--pcap", "-"), ["--pcap"]),
            (("--pcap", "/no/such/folder/x"), ["--pcap", "No such file"]),
            (("--events", "/tmp"), ["--events", "Is a directory"]),
            (("--summary=yes",), ["--summary"]),
        ],
    )
    def test_is_explained(self, host: FakeHost, options: tuple[str, ...], words: list[str]) -> None:
        check(host.run(*options, "--", *STARTED), 2, *words)

    @pytest.mark.parametrize("option", ["--slot", "--publish", "-p", "--allow", "--pcap"])
    def test_value_that_is_missing(self, host: FakeHost, option: str) -> None:
        check(host.run(option), 2, option)

    @pytest.mark.parametrize(
        "spec",
        [
            *("x", "80:", ":80", "0:80", "80:0", "65536:80", "80:65536", "80:80/sctp", "80:80/", "+80:80", "080:80"),
            *(
                "80-81:80",
                "81-80:81-80",
                "::1:80:80",
                "[::1]80:80",
                "localhost:80:80",
                "1.2.3:80:80",
                "1.2.3.4:80:80:80",
            ),
            *("[fe80::1%eth0]:80:80", "", " 80:80", "80:80 "),
        ],
    )
    def test_malformed_publish(self, host: FakeHost, spec: str) -> None:
        check(host.run("-p", spec, "--", *STARTED), 2, "--publish")

    def test_two_publish_the_same_port(self, host: FakeHost) -> None:
        check(host.run("-p", "8080:80", "-p", "127.0.0.1:8080:81", "--", *STARTED), 2, "8080")

    def test_verbs(self, host: FakeHost) -> None:
        runner = host.runner()
        check(runner.complete(["rum"]), 2, "did you mean 'run'?")
        check(runner.complete(["ls"]), 2, "bucatini run -- ls")
        check(runner.complete([]), 2, "no verb given")
        check(runner.complete(["--frob"]), 2, "--frob")


class TestCommand:
    @pytest.mark.parametrize(
        ("program", "status", "said"),
        [
            ("no-such-command", 127, "no-such-command: command not found"),
            ("/no/such/command", 127, "/no/such/command: No such file or directory"),
            ("/etc/passwd", 126, "/etc/passwd: Permission denied"),
            ("/tmp", 126, "/tmp: Permission denied"),
            ("", 127, "command not found"),
        ],
    )
    def test_that_cannot_run(self, host: FakeHost, user: str, program: str, status: int, said: str) -> None:
        check(host.run("-p", "8480:80", "--", program, user=user), status, said)
        with host.net.listen("0.0.0.0", 8480):
            pass


class TestForbiddingHost:
    @pytest.mark.parametrize(
        ("before", "said"),
        [
            pytest.param("mount -t tmpfs tmpfs /dev/net", "No such file", id="missing"),
            pytest.param("touch $D/plain; mount --bind $D/plain /dev/net/tun", "/dev/net/tun", id="plain-file"),
        ],
    )
    def test_tun_is_missing(self, host: FakeHost, user: str, before: str, said: str) -> None:
        before = before.replace("$D", shlex.quote(str(host.folder)))
        check(host.run("-p", "8481:80", "--", *STARTED, user=user, before=before), 2, "/dev/net/tun", said)
        with host.net.listen("0.0.0.0", 8481):
            pass

    def test_tun_is_for_root_only(self, host: FakeHost) -> None:
        before = (
            f"test -e {host.folder}/closed || mknod -m 600 {host.folder}/closed c 10 200; "
            f"mount --bind {host.folder}/closed /dev/net/tun"
        )
        check(host.run("--", *STARTED, user="ordinary", before=before), 2, "/dev/net/tun", "Permission denied")
        assert host.run("true", before=before).status == 0

    def test_user_namespaces_are_forbidden(self, host: FakeHost) -> None:
        """In a user namespace that allows no further one, as a root without capabilities: nothing is left to try."""
        runner = host.runner()
        forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
        words = runner.program(["run", "--", *STARTED])
        program = words.index("-m") - 1
        words[program:program] = ["unshare", "--user", "--map-root-user", "sh", "-ec", forbid, "sh"]
        check(runner.complete_words(words), 2, "cannot make a user namespace", "max_user_namespaces")
        runner.gone()

    def test_no_process_is_to_be_had(self, host: FakeHost) -> None:
        check(limited(host, "--nproc=1"), 2, "cannot start a process")


def limited(host: FakeHost, limit: str) -> Done:
    """A run under a limit of resources, as a user whom nobody else is: processes are counted per user."""
    runner = host.runner("ordinary")
    words = runner.program(["run", "--", *STARTED])
    script = words.index("sh") + 2
    words[script] = (
        words[script].replace(str(ORDINARY), str(ORDINARY + 1)).replace("setpriv ", f"prlimit {limit} setpriv ")
    )
    done = runner.complete_words(words)
    runner.gone()
    return done


def test_running_out_of_descriptors(host: FakeHost) -> None:
    """New connections are refused, those that exist go on, and when they end there is room again."""
    with host.guest() as guest, host.world.listen(PUBLIC4, backlog=200) as listener, contextlib.ExitStack() as stack:
        used = len(list(Path(f"/proc/{guest.engine.pid}/fd").iterdir()))
        resource.prlimit(guest.engine.pid, resource.RLIMIT_NOFILE, (used + 20, used + 20))
        port = listener.getsockname()[1]
        made, refused = [], 0
        for _ in range(40):
            try:
                made.append(stack.enter_context(guest.net.connect(PUBLIC4, port, timeout=5)))
            except TimeoutError:
                raise
            except OSError:
                refused += 1
        assert (len(made), refused) == (20, 20)
        far = [stack.enter_context(listener.accept()[0]) for _ in made]
        for near, other in zip(made, far, strict=True):
            near.sendall(b"still here")
            assert other.recv(20) == b"still here"
        made[0].close()
        far[0].close()

        def again() -> bool:
            try:
                guest.net.connect(PUBLIC4, port, timeout=5).close()
            except OSError:
                return False
            return True

        eventually(again)


class TestReportsThatCannotBe:
    def test_unwritable_file(self, host: FakeHost) -> None:
        folder = host.folder / "roots"
        folder.mkdir(mode=0o755)
        for option in ("--pcap", "--events"):
            check(host.run(option, str(folder / "x"), "--", *STARTED, user="ordinary"), 2, option, "Permission denied")
        assert list(folder.iterdir()) == []

    def test_error_before_the_start_leaves_no_file_behind_unless_it_was_opened(self, host: FakeHost) -> None:
        path = Path(host.folder / "never")
        check(host.run("--events", str(path), "-p", "bad", "--", *STARTED), 2, "--publish")
        assert not path.exists()
