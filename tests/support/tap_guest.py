"""A guest that is a namespace whose `eth0` is a TAP, with unmodified DHCP clients."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from bucatini.host.tap import Offloads, Tap, open_tap
from support.bridged import Pump
from support.fakehost import Namespace
from support.guests import PATIENCE, eventually

__all__ = ["DhcpClient", "TapGuest"]

SCRIPT = """#!/bin/sh
# For udhcpc and dhclient: sets the address, and says what happened.
case "$1$reason" in
deconfig|RELEASE|EXPIRE|FAIL|STOP) ip -4 addr flush dev "$interface" ;;
bound|renew)
    ip addr replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface" ;;
BOUND|RENEW|REBIND|REBOOT)
    ip addr replace "$new_ip_address/$new_subnet_mask" dev "$interface"
    ip route replace default via "$new_routers" dev "$interface" ;;
esac
echo "$1$reason $ip$new_ip_address $lease$new_dhcp_lease_time" >> "{log}"
"""

Waiter = Callable[[Callable[[], Any]], Any]
"""Waits until something is true: `eventually`, or what also lets an engine in this process run."""


class DhcpClient:
    """udhcpc or dhclient at an interface of a namespace. `wait` is asked to wait."""

    def __init__(self, net: Namespace, wait: Waiter = eventually, interface: str = "eth0") -> None:
        self.net, self._wait, self.interface = net, wait, interface
        self.folder = tempfile.TemporaryDirectory(prefix="dhcp-client-")
        self._log = Path(self.folder.name, "log")
        self._log.touch()
        self._script = Path(self.folder.name, "script")
        self._script.write_text(SCRIPT.format(log=self._log))
        self._script.chmod(0o755)
        self._process: subprocess.Popen[bytes] | None = None

    def udhcpc(self, *options: str) -> Self:
        """Begin, and go on."""
        words = ["busybox", "udhcpc", "-f", "-i", self.interface, "-s", str(self._script), "-t", "20", "-T", "1"]
        return self._start(*words, "-A", "1", *options)

    def dhclient(self, *options: str) -> Self:
        """The same with ISC's client."""
        words = ["dhclient", "-4", "-d", "-sf", str(self._script), "-lf", f"{self.folder.name}/leases"]
        return self._start(*words, "-pf", "/dev/null", *options, self.interface)

    def _start(self, *words: str) -> Self:
        self.kill()
        self.forget()
        with self.net.entered():
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return self

    def told(self, *what: str) -> str:
        """Wait until the client has said one of `what` since `forget`; the address."""
        return str(self._wait(lambda: self._said(*what))[-1])

    def _said(self, *what: str) -> list[str]:
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return [words[1] if len(words) > 1 else "nothing" for words in lines if words and words[0] in what]

    def log(self) -> str:
        return self._log.read_text()

    def bound(self) -> str:
        return self.told("bound", "BOUND", "REBOOT")

    def renew(self) -> str:
        """udhcpc asks for another term at once."""
        self.forget()
        self.signal(signal.SIGUSR1)
        return self.told("renew", "bound")

    def release(self) -> None:
        """udhcpc gives the lease back, and stays."""
        self.forget()
        self.signal(signal.SIGUSR2)
        self.told("deconfig")

    def forget(self) -> None:
        self._log.write_text("")

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """The client is gone, and the guest keeps what it has."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def close(self) -> None:
        self.kill()
        self.folder.cleanup()


class TapGuest:
    """`net` is the guest; the TAP's descriptor is for whoever serves it. `pumped`: that of a datagram socket instead,
    to which a thread carries bare frames, as a hypervisor does.
    """

    def __init__(self, mac: str, wait: Waiter = eventually, *, pumped: bool = False) -> None:
        self.mac = mac
        self.net = Namespace.create()
        self._pump: Pump | None = None
        with self.net.entered():
            if pumped:
                self._pump = Pump("eth0")
                self.tap = Tap(self._pump.far.detach(), Offloads(), b"")
            else:
                self.tap = open_tap("eth0", Offloads())
        self.net.ip(f"link set eth0 address {mac}\nlink set eth0 up\n")
        self.client = DhcpClient(self.net, wait)

    def address(self, family: str = "-4") -> str:
        """The global address of eth0; empty without one."""
        words = self.net.run("ip", family, "-br", "addr", "show", "eth0", "scope", "global").stdout.split()
        return words[2].partition("/")[0] if len(words) > 2 else ""

    def pings(self, address: str, seconds: float = PATIENCE) -> bool:
        """Whether one echo request is answered."""
        words = ["ping", "-n", "-c", "1", "-W", str(seconds), address]
        return self.net.run(*words, check=False, timeout=seconds + PATIENCE).returncode == 0

    def close(self) -> None:
        self.client.close()
        if self._pump is not None:
            self._pump.close()
        self.net.close()
        os.close(self.tap.descriptor)
