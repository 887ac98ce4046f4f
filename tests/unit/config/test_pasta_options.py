"""The table of pasta's options and the help made of it."""

from __future__ import annotations

from bucatini.config.pasta_options import COMMON, PASST_ONLY, PORTS, pasta_usage

DEBIAN_2023 = """
-d --debug --trace -q --quiet -f --foreground -e --stderr -l --log-file --log-size --runas -h --help --version
-I --ns-ifname -F --fd -p --pcap -P --pid -m --mtu -a --address -n --netmask -M --mac-addr -g --gateway -i --interface
-o --outbound --outbound-if4 --outbound-if6 -D --dns --dns-forward -S --search --no-dhcp-dns --dhcp-dns
--no-dhcp-search --dhcp-search --no-tcp --no-udp --no-icmp --no-dhcp --no-ndp --no-dhcpv6 --no-ra --no-map-gw
-4 --ipv4-only -6 --ipv6-only -t --tcp-ports -u --udp-ports -T --tcp-ns -U --udp-ns
--userns --netns --netns-only --no-netns-quit --config-net --ns-mac-addr -s --socket -1 --one-off
"""
LATER = """
--freebind --map-host-loopback --map-guest-addr --dns-host --no-copy-routes --no-copy-addrs --host-lo-to-ns-lo
--no-splice --socket-path --vhost-user --print-capabilities
"""


def test_every_option_of_both_builds() -> None:
    known = set()
    for option in (*COMMON, *PORTS, *PASST_ONLY):
        known |= {f"--{option.long}"} | ({f"-{option.short}"} if option.short else set())
    assert known == set((DEBIAN_2023 + LATER).split())


def test_names_are_unique() -> None:
    table = (*COMMON, *PORTS, *PASST_ONLY)
    letters = [option.short for option in table if option.short]
    assert len({option.long for option in table}) == len(table)
    assert len(set(letters)) == len(letters)


def test_help_names_what_is_ours_and_fits_a_terminal() -> None:
    shown = pasta_usage()
    for option in (*COMMON, *PORTS):
        assert f"--{option.long}" in shown
    for option in PASST_ONLY:
        assert f"--{option.long} " not in shown
    assert max(map(len, shown.splitlines())) <= 110
