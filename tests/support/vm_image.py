"""A tiny guest for QEMU, made of Debian's packages: the cloud kernel and an initramfs that answers on a virtio port.

The kernel is taken out of its package and never installed. The initramfs holds busybox, ISC's dhclient (DHCPv6),
ndisc6 and `vm_probe.c`; its /init loads the virtio modules and brings `eth0` up, where duplicate address detection
takes 0.2 s instead of one. Then it says `ready` and runs what it reads from the port: a line with a number and a shell
script in base64, answered with a line `NUMBER STATUS SIZE` and so many bytes of output. See `vm_machine` for the other
end.

What is made is kept in a folder of the temporary directory, named after what it is made of, for all workers and later
runs; a lock lets one of them make it. It may be deleted at any time when no test runs.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import lzma
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

KERNEL = "linux-image-cloud-amd64"
"""A package that depends on the newest kernel made for virtual machines."""
MODULES = ("virtio_pci", "virtio_console", "virtio_net")
"""What /init loads, after what these depend on."""
PROGRAMS = {"busybox": "busybox-static", "dhclient": "isc-dhcp-client", "ndisc6": "ndisc6"}
"""Programs of the guest that are this machine's, and their packages."""
PROBE = Path(__file__).with_name("vm_probe.c")
SEARCH = os.defpath + ":/usr/sbin:/sbin:/usr/local/bin"
DOWNLOAD_LIMIT = 100.0

INIT = """\
#!/bin/busybox sh
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
echo 0 >/proc/sys/net/ipv6/conf/default/router_solicitation_delay
echo 200 >/proc/sys/net/ipv6/neigh/default/retrans_time_ms
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ip link set lo up
for link in $(cd /sys/class/net; echo eth*); do ip link set $link up; done
until [ -c /dev/vport?p1 ]; do sleep 0.01; done
exec 3<>$(echo /dev/vport?p1)
echo ready >&3
while read -r number script <&3; do
  echo "$script" | base64 -d >/tmp/script
  sh /tmp/script >/tmp/output 2>&1 </dev/null 3<&-
  status=$?
  { echo $number $status $(wc -c </tmp/output); cat /tmp/output; } >&3
done
echo "the port is closed" >/dev/console
poweroff -f
"""

UDHCPC = """\
#!/bin/sh
case $1 in
deconfig) ip -4 address flush dev $interface; ip link set $interface up;;
bound)
  env >/tmp/lease4
  ip address add $ip/$mask dev $interface
  [ -z "$mtu" ] || ip link set $interface mtu $mtu
  for via in $router; do
    ip route add $via dev $interface 2>/dev/null
    ip route replace default via $via dev $interface
  done
  for server in $dns; do echo nameserver $server; done >/etc/resolv.conf;;
esac
"""

DHCLIENT = """\
#!/bin/sh
case $reason in
MEDIUM) ;;
PREINIT6)
  while ip -6 address show dev $interface | grep -q tentative; do sleep 0.05; done;;
BOUND6)
  env >/tmp/lease6
  ip -6 address add $new_ip6_address/${new_ip6_prefixlen:-128} dev $interface;;
esac
exit 0
"""

FILES = {
    "/init": INIT,
    "/etc/udhcpc/script": UDHCPC,
    "/etc/dhclient-script": DHCLIENT,
    "/etc/passwd": "root:x:0:0:root:/:/bin/sh\n",
    "/etc/group": "root:x:0:\n",
}
FOLDERS = ("/bin", "/dev", "/proc", "/sys", "/tmp", "/run", "/var/lib/dhcp", "/var/run")


class Image(NamedTuple):
    """What QEMU boots; everybody may read both."""

    kernel: Path
    initramfs: Path

    @property
    def folder(self) -> Path:
        """Where other things may be kept that hold as long as this image does."""
        return self.kernel.parent


@functools.cache
def image() -> Image:
    """The guest, made when there is none. Skips the test where it cannot be made."""
    if platform.machine() != "x86_64":
        pytest.skip("the guest is of amd64")
    programs = {name: needed(name, package) for name, package in PROGRAMS.items()}
    needed("apt-get", "apt")
    needed("dpkg-deb", "dpkg")
    needed("cc", "gcc")
    digest = hashlib.sha256(Path(__file__).read_bytes() + PROBE.read_bytes())
    for program in programs.values():
        digest.update(program.read_bytes())
    folder = Path(tempfile.gettempdir(), f"bucatini-vm-{os.geteuid()}-{digest.hexdigest()[:16]}")
    folder.mkdir(mode=0o755, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise AssertionError(f"{folder} is not a folder of ours: delete it")
    made = Image(folder / "vmlinuz", folder / "initramfs")
    with locked(folder / "lock"):
        if not made.initramfs.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                build(Path(scratch), programs, made)
    return made


def needed(name: str, package: str) -> Path:
    """Where the program is. Skips the test where it is not."""
    found = shutil.which(name, path=SEARCH)
    if found is None:
        pytest.skip(f"no {name}: apt-get install {package}")
    return Path(found).resolve()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time, of all workers."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(scratch: Path, programs: dict[str, Path], made: Image) -> None:
    """Write both files; the initramfs last and at once, as it is what tells that all is there."""
    tree = unpacked_kernel(scratch)
    archive = Archive()
    for folder in FOLDERS:
        archive.folder(folder)
    for name, text in FILES.items():
        archive.file(name, text.encode(), 0o755 if text.startswith("#!") else 0o644)
    applets = subprocess.run([programs["busybox"], "--list"], capture_output=True, text=True, check=True, timeout=60)
    for program in programs.values():
        archive.file(f"/bin/{program.name}", program.read_bytes(), 0o755)
        for library in libraries(program):
            archive.file(str(library), library.read_bytes(), 0o755)
    for applet in applets.stdout.split():
        archive.link(f"/bin/{applet}", "busybox")
    probe = scratch / "vm_probe"
    subprocess.run(["cc", "-O2", "-static", "-s", "-o", str(probe), str(PROBE)], check=True, timeout=DOWNLOAD_LIMIT)
    archive.file("/bin/vm_probe", probe.read_bytes(), 0o755)
    order = []
    for name, content in modules(tree):
        archive.file(f"/modules/{name}.ko", content)
        order.append(name)
    archive.file("/modules/order", "\n".join(order).encode())
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    for source, target in ((kernel.read_bytes(), made.kernel), (archive.whole(), made.initramfs)):
        (scratch / target.name).write_bytes(source)
        (scratch / target.name).chmod(0o644)
        (scratch / target.name).rename(target)


def unpacked_kernel(scratch: Path) -> Path:
    """The tree of the kernel's package."""
    shown = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"Depends: (linux-image-\S+)", shown.stdout)
    if found is None:
        pytest.skip(f"apt knows no {KERNEL}")
    fetched = subprocess.run(
        ["apt-get", "--quiet", "-o", "APT::Sandbox::User=root", "download", found[1]],
        capture_output=True,
        text=True,
        check=False,
        timeout=DOWNLOAD_LIMIT,
        cwd=scratch,
    )
    packages = list(scratch.glob("*.deb"))
    if fetched.returncode != 0 or not packages:
        pytest.skip(f"cannot download {found[1]}: {fetched.stderr.strip()}")
    tree = scratch / "tree"
    subprocess.run(["dpkg-deb", "--extract", str(packages[0]), str(tree)], check=True, timeout=DOWNLOAD_LIMIT)
    return tree


def modules(tree: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each module that is to be loaded, in that order. What is built in has no file."""
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in tree.glob("lib/modules/**/*.ko*")}
    done: set[str] = set()

    def walk(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in files:
            return
        done.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        found = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in found[1].decode().replace("-", "_").split(",") if found else ():
            yield from walk(other)
        yield name, content

    for name in MODULES:
        yield from walk(name)


def libraries(program: Path) -> Iterator[Path]:
    """The shared libraries of a program, with its interpreter; none when it is static."""
    shown = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False, timeout=60)
    for path in re.findall(r"(/\S+) \(0x", shown.stdout):
        yield Path(path)


class Archive:
    """A cpio archive as the kernel unpacks it ("newc"). Folders come before what is in them, by themselves."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: set[str] = {"/"}

    def folder(self, name: str) -> None:
        if name not in self._known:
            self.folder(os.path.dirname(name))
            self._known.add(name)
            self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self.folder(os.path.dirname(name))
        if name not in self._known:
            self._known.add(name)
            self._add(name, stat.S_IFREG | mode, content)

    def link(self, name: str, target: str) -> None:
        """A symbolic one, where there is nothing of that name."""
        if name not in self._known:
            self._known.add(name)
            self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def whole(self) -> bytes:
        """All of it, with its end."""
        self._add("/TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, content: bytes) -> None:
        path = name[1:].encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (len(self._parts), mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]
