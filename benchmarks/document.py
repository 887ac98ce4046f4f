"""The table as a section of docs/performance.md. Pure: text in, text out.

The section stands between two marker lines, and only what is between them is ever replaced: the words that explain the
numbers belong to people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.table import Footnotes, Results, lines_by_group

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

SKELETON = f"""# Performance

How fast bucatini is beside the programs that do the same job, on one machine, in one run, and how to repeat it.

{BEGIN}
{END}

## How it is measured

`scripts/bench` makes two network namespaces joined by a veth pair: a fake host, where every engine runs as the same
ordinary user, and a fake rest of the world. No packet leaves the machine. Clients and servers are iperf3 and
`benchmarks/probe.c`, which is compiled for the run; the same programs are used for every engine, and the servers are
reached through each engine's gateway address, which stands for the host's loopback. Peers take turns run by run and
every number is a median. Engine CPU is user and system time of all processes of the engine; PSS divides shared pages
by their users. A UDP flood is unpaced unless `--udp-rate` says otherwise: sender, engine and receiver share the CPUs,
so compare what arrives, not what is lost. `native loopback` has no engine in between: it is the ceiling.

Of a forwarded port, client and server are each on a loopback: the host's and the guest's, or the guest's and the
host's (`-T`, `-U`). In and out say which way the bulk of the data goes, whichever side connects. slirp4netns cannot
forward the guest's loopback, nor a range. 1,000 ports are TCP ports of every IPv4 and IPv6 address of the host.

Virtual machines are QEMU's, one per column, with a kernel and an initramfs made from Debian packages, and run without
KVM: the guest is the slowest part of all, so the rates say that an engine does not hold it up, and the engine's CPU
time says what it costs. Commands reach the guest by a virtio-serial port. The MTU is that of the guest's interface. A
machine with vhost-user has no MSI-X interrupts, as QEMU 7.2 cannot have both without KVM; the others have.

The guest of the isolation filter is a namespace whose interface is a TAP that the filter inherits; the host is at the
other side of a bridge, one per column, and gives it a lease by dnsmasq. Frames of 64 KiB are what two kernels hand each
other with all offloads, frames of 1500 B what they do when told to put one segment into each. `relay in C` does nothing
but read and write, and says what any way through user space costs. No rule ever decides, so what is looked up is looked
up to the end; but a flow that is known asks no rule, and only the faithful columns ask about every frame.

## What is not reached, and why

"""


def render_markdown(results: Results, facts: Mapping[str, str], command: str) -> str:
    """The section of docs/performance.md: facts, one table per group, footnotes, how to repeat."""
    notes = Footnotes()
    output = ["## Measured side by side", ""]
    output += [f"- {name}: {value}" for name, value in facts.items()]
    output += [
        "",
        "Repeat it as root on a machine with `iperf3`, `gcc`, `passt` and `slirp4netns` installed, for virtual "
        "machines `qemu-system-x86` and `busybox-static` too, for the filter `dnsmasq`, `busybox` and `nftables`:",
        "",
        f"    {command}",
        "",
        "A ratio is bucatini's value divided by the other's. Up and out: from the guest. Down and in: to the guest.",
    ]
    for title, head, lines in lines_by_group(results, notes):
        output += ["", f"### {title}", "", markdown_row(head)]
        output.append("|" + " --- |" * 2 + " ---: |" * (len(head) - 3) + " --- |")
        output += map(markdown_row, lines)
    if notes.reasons:
        output += ["", *(f"{i}. {escape(reason)}" for i, reason in enumerate(notes.reasons, 1))]
    return "\n".join(output) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(map(escape, cells)) + " |"


def escape(text: str) -> str:
    """Text that cannot break a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def replace_section(document: str, section: str) -> str:
    """Put `section` between the marker lines; an empty document becomes the skeleton, one without markers gets them."""
    document = document if document.strip() else SKELETON
    head, found, rest = document.partition(BEGIN)
    if not found:
        head, rest = document.rstrip() + "\n\n", ""
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{section}\n{END}{tail or chr(10)}"
