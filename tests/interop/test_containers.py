"""A container of crun, or of Podman, in a network namespace that `bucatini attach` serves.

Its root file system is a static busybox. Both runtimes need a cgroup tree of version 2 alone, which the tests mount in
a private mount namespace. Each is skipped, with its own words, where even a container without network does not start.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import subprocess
import tarfile
import tempfile
import threading
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from support.fakehost import GATEWAY4, GUEST4, HOST4, PUBLIC4, RESOLVER4, FakeHost, Namespace, Runner, read_all
from support.guests import PATIENCE, eventually
from support.pasta_peers import Link, bound_ports, name_server

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("containers")]

APPLETS = ("sh", "ping", "wget", "httpd", "ip", "nslookup", "cat", "sleep", "echo")
PAGE = b"a page of the world\n"
OWN_PAGE = "a page of the container\n"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system. Skips without a static busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox: apt-get install busybox-static")
    root = tmp_path_factory.mktemp("container") / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "www"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin" / "busybox")
    if subprocess.run(["chroot", root, "/bin/busybox", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("busybox is not static: apt-get install busybox-static")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc" / "resolv.conf").write_text(f"nameserver {GATEWAY4}\n")
    (root / "www" / "index.html").write_text(OWN_PAGE)
    return root


def with_plain_cgroups(command: Sequence[str]) -> list[str]:
    """The command line that runs the command in a private mount namespace with a cgroup tree of version 2 alone."""
    script = 'umount -R -l /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 cgroup2 /sys/fs/cgroup; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", *command]


class Runtime(Protocol):
    """Something that runs containers in a given network namespace."""

    def words(self, net: str, command: Sequence[str], name: str) -> list[str]:
        """The command line for a container called `name` in the namespace at path `net`."""
        ...

    def remove(self, name: str) -> None:
        """End the container, if it still runs."""
        ...


class Crun:
    """The low-level runtime by itself, with a bundle written by hand."""

    def __init__(self, tree: Path, scratch: Path) -> None:
        if shutil.which("crun") is None:
            pytest.skip("no crun")
        self._tree, self._scratch = tree, scratch
        self._crun = with_plain_cgroups(["crun", "--cgroup-manager=disabled", f"--root={scratch}/state"])
        tried = subprocess.run(
            self.words(None, ["echo", "works"], "first"), capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        if tried.stdout != "works\n":
            pytest.skip(f"crun does not work here: {(tried.stderr.strip() or '?').splitlines()[-1]}")

    def words(self, net: str | None, command: Sequence[str], name: str) -> list[str]:
        """As `Runtime` has it; without a namespace, in a new one."""
        network = {"type": "network"} if net is None else {"type": "network", "path": net}
        bundle = self._scratch / name
        bundle.mkdir()
        capabilities = ["CAP_NET_BIND_SERVICE", "CAP_NET_RAW"]
        mounts = [("/proc", "proc"), ("/dev", "tmpfs"), ("/tmp", "tmpfs")]
        (bundle / "config.json").write_text(
            json.dumps(
                {
                    "ociVersion": "1.0.0",
                    "process": {
                        "user": {"uid": 0, "gid": 0},
                        "args": list(command),
                        "env": ["PATH=/bin"],
                        "cwd": "/",
                        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                    },
                    "root": {"path": str(self._tree), "readonly": True},
                    "hostname": "container",
                    "mounts": [{"destination": at, "type": kind, "source": kind} for at, kind in mounts],
                    "linux": {
                        "namespaces": [
                            *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                            network,
                        ]
                    },
                }
            )
        )
        return [*self._crun, "run", f"--bundle={bundle}", name]

    def remove(self, name: str) -> None:
        subprocess.run([*self._crun, "delete", "--force", name], check=False, capture_output=True, timeout=PATIENCE)


class Podman:
    """Rootful, everything it stores in a folder of the test, whose name it wants short."""

    def __init__(self, tree: Path, scratch: Path) -> None:
        if shutil.which("podman") is None:
            pytest.skip("no podman")
        self._scratch = scratch
        folders = [f"--{name}={scratch}/{name}" for name in ("root", "runroot", "tmpdir")]
        self._podman = ["podman", "--cgroup-manager=cgroupfs", "--storage-driver=vfs", *folders]
        self._podman += ["--events-backend=none"]
        with tarfile.open(scratch / "tree.tar", "w") as archive:
            archive.add(tree, ".")
        self._run("import", str(scratch / "tree.tar"), "localhost/tree:1")
        tried = self._run(*self._words("none", ["echo", "works"], "first"), check=False)
        if tried.stdout != "works\n":
            pytest.skip(f"podman does not work here: {(tried.stderr.strip() or '?').splitlines()[-1]}")

    def _inside(self, words: Sequence[str]) -> list[str]:
        return with_plain_cgroups([*self._podman, *words])

    def _run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._inside(words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode != 0:
            pytest.skip(f"podman does not work here: {(done.stderr.strip() or '?').splitlines()[-1]}")
        return done

    def _words(self, network: str, command: Sequence[str], name: str) -> list[str]:
        limits = ("--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
        rights = ("--cap-add=NET_RAW", f"--dns={GATEWAY4}") if network != "none" else ()
        kept = ("--rm", f"--name={name}", f"--network={network}")
        return ["run", *kept, *limits, *rights, "localhost/tree:1", *command]

    def words(self, net: str, command: Sequence[str], name: str) -> list[str]:
        return self._inside(self._words(f"ns:{net}", command, name))

    def remove(self, name: str) -> None:
        self._run("rm", "--force", "--time=0", "--ignore", name, check=False)


@pytest.fixture(scope="module", params=["crun", "podman"])
def runtime(request: pytest.FixtureRequest, tree: Path) -> Iterator[Runtime]:
    with tempfile.TemporaryDirectory(prefix="bucatini-") as folder:
        yield Crun(tree, Path(folder)) if request.param == "crun" else Podman(tree, Path(folder))


class Served:
    """A namespace that `bucatini attach` serves, and containers in it."""

    def __init__(self, host: FakeHost, net: Namespace, path: str, runtime: Runtime) -> None:
        self.host, self.net, self.path, self._runtime = host, net, path, runtime

    def run(self, *command: str) -> str:
        """What a container prints, which must succeed."""
        name = f"bucatini-{uuid.uuid4().hex}"
        try:
            done = subprocess.run(
                self._runtime.words(self.path, command, name),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
        finally:
            self._runtime.remove(name)
        assert done.returncode == 0, done
        return done.stdout

    @contextmanager
    def background(self, *command: str) -> Iterator[None]:
        """A container that serves, until the end of the context."""
        name = f"bucatini-{uuid.uuid4().hex}"
        words = self._runtime.words(self.path, command, name)
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            yield
        finally:
            self._runtime.remove(name)
            process.terminate()
            process.communicate(timeout=PATIENCE)

    def listens(self, port: int) -> None:
        """Wait until somebody in the namespace listens there."""
        holder = subprocess.Popen(["nsenter", f"--net={self.path}", "sleep", "60"])
        try:
            eventually(lambda: port in bound_ports(holder.pid, "tcp"))
        finally:
            holder.kill()
            holder.wait(PATIENCE)


@pytest.fixture(scope="module")
def served(host: FakeHost, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One engine for all containers. The namespace has a path, as tools of containers make it."""
    path = tmp_path_factory.mktemp("netns") / "netns"
    path.touch()
    runner: Runner = host.runner()
    with Namespace.create() as net:
        subprocess.run(["mount", "--bind", net.path, path], check=True)
        engine, errors = runner.begin(["attach", "--netns", str(path), "-p", "8080:80"])
        try:
            eventually(lambda: _configured(net) or engine.poll() is not None)
            assert engine.poll() is None, read_all(errors)
            yield Served(host, net, str(path), runtime)
            assert engine.poll() is None, read_all(errors)
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)
            path.unlink()
            engine.terminate()
            engine.communicate(timeout=PATIENCE)
            errors.close()
            runner.gone()


def _configured(net: Namespace) -> bool:
    link = Link(net, "eth0")
    with contextlib.suppress(subprocess.CalledProcessError):
        return bool(link.addresses(4) and link.gateway(4))
    return False


@pytest.fixture(scope="module")
def page(host: FakeHost) -> Iterator[str]:
    """The URL's path of a page in the world, at PUBLIC4."""

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *unused: object) -> None:
            pass

    with host.world.entered():
        server = http.server.ThreadingHTTPServer((PUBLIC4, 80), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield "page"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)


def test_addresses(served: Served) -> None:
    assert f"inet {GUEST4}/" in served.run("ip", "address", "show", "dev", "eth0")


def test_ping(served: Served) -> None:
    """The gateway, which answers itself."""
    assert "1 packets received" in served.run("ping", "-c", "1", "-W", "3", GATEWAY4)


def test_fetches(served: Served, page: str) -> None:
    """By address."""
    assert served.run("wget", "-q", "-O", "-", f"http://{PUBLIC4}/{page}") == PAGE.decode()


def test_fetches_by_name(served: Served, host: FakeHost, page: str) -> None:
    """Names come from the host's resolver through the gateway."""
    with name_server(host.world, RESOLVER4, PUBLIC4):
        assert served.run("wget", "-q", "-O", "-", f"http://www.example.org/{page}") == PAGE.decode()


def test_published(served: Served, host: FakeHost) -> None:
    """A server in the container, asked from the host's loopback and from the world."""
    with served.background("httpd", "-f", "-p", "80", "-h", "/www"):
        served.listens(80)
        for net, address in ((host.net, "127.0.0.1"), (host.world, HOST4)):
            with net.entered():
                answer = urllib.request.urlopen(f"http://{address}:8080/index.html", timeout=PATIENCE)
            with answer:
                assert answer.read().decode() == OWN_PAGE
