"""The guest of the group `vm`: a kernel and an initramfs made from Debian's packages, with nothing installed for it.

The kernel is that of linux-image-cloud-amd64, taken out of its package. The initramfs has busybox (busybox-static),
iperf3 with the libraries it loads, the bench's own probe, the few modules that a virtio device needs, and an init that
runs the commands it reads from a virtio-serial port (vm_guest.py is the other end).
"""

from __future__ import annotations

import lzma
import platform
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab import BenchError, build_probe, last_line

META_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX = "/bin/busybox"
TOOLS = ("qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "ldd")
PORT = "bench"
READY = "ready"

# In load order; those that this kernel has built in are not found and not needed.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
    "af_packet",
)
_MODULE = re.compile(r"\./lib/modules/[^/]+/kernel/(?:.*/)?(?P<name>[^/]+)\.ko(?P<packed>\.xz)?")
_KERNEL = re.compile(r"\./boot/vmlinuz-(?P<version>.+)")

# A command is one line; its answer is "STATUS BYTES BYTES" on a line, then its output and its errors.
INIT = f"""#!/bin/sh
export PATH=/bin HOME=/ LANG=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done
ip link set lo up
cd /proc/sys/net
echo 10000 65535 > ipv4/ip_local_port_range
echo 1 > ipv4/tcp_tw_reuse
echo 4096 > core/somaxconn
cd /tmp
port=
until [ -n "$port" ]; do
	sleep 0.05
	for name in /sys/class/virtio-ports/*; do
		[ "$(cat "$name/name")" = {PORT} ] && port=/dev/${{name##*/}}
	done
done
exec 3<>"$port"
answer() {{
	echo "$1 $(stat -c %s out) $(stat -c %s err)"
	cat out err
}}
echo {READY} > out
: > err
answer 0 >&3
while :; do
	IFS= read -r line <&3 || {{ sleep 0.1; continue; }}
	(eval "$line") < /dev/null > out 2> err 3<&-
	answer $? >&3
done
"""

LEASE = """#!/bin/sh
case $1 in
deconfig)
	ip addr flush dev "$interface"
	ip link set "$interface" up;;
bound|renew)
	ip addr flush dev "$interface"
	ip addr add "$ip/${mask:-24}" dev "$interface"
	[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
	for to in $router; do
		ip route add "$to" dev "$interface"
		ip route add default via "$to" dev "$interface"
	done 2> /dev/null;;
esac
exit 0
"""
LEASE_PATH = "etc/lease"


@dataclass(frozen=True)
class Image:
    """What QEMU boots, and which kernel it is."""

    kernel: Path
    initrd: Path
    version: str


def build_image(directory: Path) -> Image:
    """Make the guest in `directory`; a kernel package that is there already is used. Raises BenchError if it cannot."""
    check_machine()
    directory.mkdir(parents=True, exist_ok=True)
    kernel, initrd = directory / "vmlinuz", directory / "initrd"
    version, data, modules = unpack(kernel_package(directory))
    kernel.write_bytes(data)
    program = build_probe(directory, "probe-static", "-static")
    with initrd.open("wb") as output:
        for part in archive(contents(modules, Path(program))):
            output.write(part)
    for path in (directory, kernel, initrd):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Image(kernel, initrd, version)


def check_machine() -> None:
    """Raise BenchError if this machine cannot make or run the guest."""
    if platform.machine() != "x86_64":
        raise BenchError(f"the guest is x86_64, this machine is {platform.machine()}")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise BenchError(f"{tool} is not installed")
    if not Path(BUSYBOX).exists() or b"INTERP" in _output(["readelf", "-lW", BUSYBOX]):
        raise BenchError("busybox-static is not installed")


def kernel_package(directory: Path) -> Path:
    """The file of the kernel's package, downloaded unless it is there."""
    depends = _output(["apt-cache", "depends", META_PACKAGE]).decode()
    named = re.search(r"Depends: (linux-image-\S+)", depends)
    if named is None:
        raise BenchError(f"apt knows no {META_PACKAGE} (apt-get update?)")
    found = sorted(directory.glob(f"{named[1]}_*.deb"))
    if not found:
        _output(["apt-get", "download", "--quiet", named[1]], directory, 300)
        found = sorted(directory.glob(f"{named[1]}_*.deb"))
    return found[-1]


def unpack(package: Path) -> tuple[str, bytes, dict[str, bytes]]:
    """The version of the kernel in a package, the kernel, and its modules by name as far as the guest needs them."""
    version, kernel, modules = "", b"", {}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        with tarfile.open(fileobj=reader.stdout, mode="r|") as tar:
            for member in tar:
                image, module = _KERNEL.fullmatch(member.name), _MODULE.fullmatch(member.name)
                if image or (module and module["name"] in MODULES):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    data = stream.read()
                    if image:
                        version, kernel = image["version"], data
                    elif module:
                        modules[module["name"]] = lzma.decompress(data) if module["packed"] else data
    if not kernel:
        raise BenchError(f"no kernel in {package.name}")
    return version, kernel, modules


def contents(modules: dict[str, bytes], probe: Path) -> Iterator[tuple[str, int, bytes]]:
    """Every entry of the initramfs: its path, its mode with the type, its bytes (of a link: where it leads)."""
    iperf = shutil.which("iperf3")
    if iperf is None:
        raise BenchError("iperf3 is not installed")
    files = {"init": INIT.encode(), LEASE_PATH: LEASE.encode()}
    files |= {"bin/busybox": Path(BUSYBOX).read_bytes(), "bin/probe": probe.read_bytes()}
    files |= {"bin/iperf3": Path(iperf).read_bytes()}
    for path in re.findall(r"(?:=> |^\s*)(/\S+)", _output(["ldd", iperf]).decode(), re.MULTILINE):
        files[path.lstrip("/")] = Path(path).read_bytes()
    for number, name in enumerate(MODULES):
        if name in modules:
            files[f"modules/{number:02}-{name}.ko"] = modules[name]
    parents = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    for directory in sorted(parents | {"proc", "sys", "dev", "tmp"}):
        yield directory, stat.S_IFDIR | 0o755, b""
    for path, data in files.items():
        yield path, stat.S_IFREG | 0o755, data
    for applet in _output([BUSYBOX, "--list"]).decode().split():
        if f"bin/{applet}" not in files:
            yield f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox"


def archive(entries: Iterator[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """A cpio archive in the "newc" form that the kernel unpacks, in pieces."""
    number = 0
    for number, (path, mode, data) in enumerate(entries, 1):
        yield from _entry(number, path, mode, data)
    yield from _entry(number + 1, "TRAILER!!!", 0, b"")


def _entry(inode: int, path: str, mode: int, data: bytes) -> Iterator[bytes]:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    yield head + bytes(-len(head) % 4)
    yield data + bytes(-len(data) % 4)


def _output(command: list[str], directory: Path | None = None, seconds: float = 60) -> bytes:
    """What a command prints. Raises BenchError if it fails."""
    try:
        done = subprocess.run(command, check=False, cwd=directory, capture_output=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise BenchError(f"{' '.join(command[:3])}: {problem}") from None
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command[:3])}: {last_line(done.stderr.decode(errors='replace'))}")
    return done.stdout
