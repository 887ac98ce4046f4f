"""The pure parts of scripts/bench: medians, ratios, goals, footnotes, the table as text and as a document section, the
choice of rows, the options that forward ports, and the archive that a virtual machine boots."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import document, table, vm_image
from benchmarks.cases import all_cases
from benchmarks.filter_peers import BridgedPeer, BridgedSession, Faithful, Filter, filter_peers, rules
from benchmarks.lab import RESERVED_PORTS, BenchError, Lab, Space
from benchmarks.main import parse_arguments, select
from benchmarks.peers import Bucatini, Native, Pasta, Slirp
from benchmarks.rows import ABSOLUTE, BEST, COMPILED, PASTA, PURE, ROWS, SLIRP, VM_PASST, VM_STREAM, Goal, Row
from benchmarks.session import BULK_PORT, ECHO_PORT
from benchmarks.table import Results
from benchmarks.transfers import COUNT_PORT
from benchmarks.vm_peers import BucatiniDgram, BucatiniStream, BucatiniUser, MachinePeer, Passt

from bucatini.base.verdict import EGRESS, INGRESS
from bucatini.guard.rule_grammar import parse_rule
from bucatini.guard.rules import RuleTable

BY_KEY = {row.key: row for row in ROWS}
UP = "tcp.up.1500.1.v4"


def results(**columns: float) -> Results:
    """One sample of the row UP per named column."""
    made = Results()
    for peer, value in columns.items():
        made.add(UP, peer, value)
    return made


def test_row_keys_are_unique_and_every_row_is_filled_by_exactly_one_case() -> None:
    filled = [key for case in all_cases() for key in case.keys]
    assert sorted(filled) == sorted(BY_KEY)
    assert len(BY_KEY) == len(ROWS)


@pytest.mark.parametrize("way", ["published", "outward"])
@pytest.mark.parametrize("measure", ["in", "out", "crr"])
def test_local_forwarding_is_held_to_what_pasta_has(way: str, measure: str) -> None:
    assert BY_KEY[f"{way}.{measure}"].goals == (Goal(COMPILED, PASTA, 1.0),)
    assert BY_KEY[f"{way}.{measure}"].more_is_better


def test_rows_are_chosen_by_group_and_by_an_expression_for_their_keys() -> None:
    assert {key for case in select(["outward"], r"\.(in|out)$") for key in case.keys} == {"outward.in", "outward.out"}
    assert len(select([], "")) == len(all_cases())
    assert select([], "no such row") == []


@pytest.mark.parametrize("words", [["--match", "("], ["--seconds", "0"], ["--runs", "0"], ["nothing"]])
def test_bad_use_is_refused_before_anything_is_made(words: list[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        parse_arguments(words)
    assert refusal.value.code == 2


def test_both_engines_are_asked_for_the_same_forwards() -> None:
    lab = Lab()
    assert Pasta(lab).many_ports(RESERVED_PORTS) == ["-t", "20000-20999", "-u", "none", "-T", "none", "-U", "none"]
    assert Bucatini(lab).many_ports(RESERVED_PORTS) == ["-p", "20000-20999:20000-20999"]
    assert " ".join(Bucatini(lab).many_ports(RESERVED_PORTS)) in BY_KEY["ports.start"].label
    ours, theirs = (engine.few_ports(7000, 7001) for engine in (Bucatini(lab), Pasta(lab)))
    assert ours[-4:] == theirs[-4:] == ["-T", "6002,6001", "-U", "6001"]
    assert ours[:-4:2] == ["-p"] * 3
    assert ours[1:-4:2] == ["127.0.0.1:7000:7000", "127.0.0.1:7001:7001", "127.0.0.1:7001:7001/udp"]
    assert theirs[:-4] == ["-t", "7000,7001", "-u", "7001"]


@pytest.mark.parametrize("peer", [Native, Slirp])
def test_who_cannot_forward_a_range_has_no_value_there(peer: type[Native | Slirp]) -> None:
    assert peer(Lab()).start_up(RESERVED_PORTS) is None
    assert peer(Lab()).open_range(RESERVED_PORTS) is None


def test_every_engine_for_machines_listens_where_qemu_connects_and_publishes_the_same_ports() -> None:
    for engine in (BucatiniStream(Lab()), BucatiniUser(Lab()), BucatiniDgram(Lab()), Passt(Lab())):
        words = " ".join(engine.command("/run/link", 7000, 7001))
        assert "/run/link" in words
        assert "path=/run/link" in " ".join(engine.network("/run/link"))
        ours = "-p 127.0.0.1:7000:7000 -p 127.0.0.1:7001:7001 -p 127.0.0.1:7001:7001/udp"
        assert words.endswith("-t 7000,7001 -u 7001" if isinstance(engine, Passt) else ours)


def test_an_engine_whose_guest_does_not_come_up_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail(peer: MachinePeer) -> None:
        tried.append(peer)
        raise BenchError("no lease")

    monkeypatch.setattr(MachinePeer, "_open", fail)
    peer = Passt(Lab())
    for _ in range(5):
        with pytest.raises(BenchError, match="no lease"):
            peer.open(None)
    assert len(tried) == 2


def test_every_column_of_the_filter_is_a_peer() -> None:
    assert [peer.name for peer in filter_peers(Lab())] == list(table.BRIDGES.peers)


@pytest.mark.parametrize("count", [0, 100, 10000])
def test_no_rule_of_the_bench_decides(count: int) -> None:
    lists: dict[str, list[str]] = {"--allow": [], "--block": []}
    for word, rule in rules(count):
        lists[word].append(rule)
    made = RuleTable(map(parse_rule, lists["--allow"]), map(parse_rule, lists["--block"]))
    assert len(made) == count
    assert not made.stateful
    texts = [str(each) for each in (*made.allow, *made.block)]
    assert not count or 0.4 < sum("." in each for each in texts) / count < 0.6
    assert sum("]:" in each or ("." in each and ":" in each) for each in texts) == count // 10
    for host in (bytes((10, 77, 3, 1)), bytes((10, 77, 3, 20))):
        for port in (0, ECHO_PORT, BULK_PORT, COUNT_PORT, 10000, 65535):
            assert made.find(EGRESS, host, port) is made.find(INGRESS, host, port) is None


def test_the_filter_is_started_with_so_many_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bucatini, "python", Path("python"))
    host = Space(1, 65534, 65534, tmp_path)
    session = BridgedSession(host, host, {}, "", 0, 0, bridge="br7")
    words = Filter(Lab(), 100).command(session, "port7")
    assert words[:6] == ["python", "-m", "bucatini", "filter", "-q", "--fd"]
    assert sum(word in ("--allow", "--block") for word in words) == 100
    assert "--faithful" in Faithful(Lab(), 0).command(session, "port7")
    assert "--mac 02:00:00:00:77:07 --bridge br7 --host-tap port7 --user 65534" in " ".join(words)


@pytest.mark.parametrize("peer", filter_peers(Lab()))
def test_a_guest_on_a_bridge_forwards_nothing(peer: BridgedPeer) -> None:
    assert peer.start_up(RESERVED_PORTS) is None
    assert peer.open_range(RESERVED_PORTS) is None


def test_the_filter_is_held_to_what_it_is_with_few_rules() -> None:
    made = Results()
    for column, value in (("rules-100", 100.0), ("rules-10000", 94.0), ("relay", 200.0)):
        made.add("filter.udp.up.64", column, value)
    (text,) = [each for each in table.render_text(made).splitlines() if each.startswith("UDP")]
    assert text.endswith(">= 0.95x rules-100: MISSED, 0.94x")
    assert "0.50x" in text


def test_what_a_machine_boots_is_an_archive_that_cpio_reads(tmp_path: Path) -> None:
    entries = [("bin", stat.S_IFDIR | 0o755, b""), ("bin/a", stat.S_IFREG | 0o755, b"12345"), ("b", stat.S_IFLNK, b"a")]
    data = b"".join(vm_image.archive(iter(entries)))
    found, at = [], 0
    while not found or found[-1][0] != "TRAILER!!!":
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        assert data[at : at + 6] == b"070701"
        size, name = fields[6], data[at + 110 : at + 110 + fields[11] - 1].decode()
        at += 110 + fields[11] + -(110 + fields[11]) % 4
        found.append((name, fields[1], data[at : at + size]))
        at += size + -size % 4
    assert found[:-1] == entries
    assert at == len(data)


@pytest.mark.parametrize("script", [vm_image.INIT, vm_image.LEASE])
def test_the_scripts_of_a_machine_are_well_formed(script: str) -> None:
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False, timeout=10).returncode == 0


def test_rows_at_own_mtu_exist() -> None:
    for row in ROWS:
        for _, key in row.own_mtu_keys:
            assert key in BY_KEY


def test_median_is_of_all_samples_and_none_without_any() -> None:
    made = Results()
    for value in (9.0, 1.0, 2.0):
        made.add(UP, PASTA, value)
    assert made.median(UP, PASTA) == 2.0
    assert made.median(UP, SLIRP) is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "ms", "-"),
        (1.234, "Gbit/s", "1.23"),
        (12.34, "Gbit/s", "12.3"),
        (123.4, "us", "123"),
        (1234.4, "us", "1,234"),
        (52.4, "per s", "52"),
        (123456.0, "packets/s", "123,456"),
    ],
)
def test_format_value(value: float | None, unit: str, text: str) -> None:
    assert table.format_value(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.954, "0.95x"), (8.0, "8.00x"), (12.34, "12.3x"), (250.4, "250x")]
)
def test_format_ratio(value: float | None, text: str) -> None:
    assert table.format_ratio(value) == text


def test_divide_by_nothing_or_zero_is_none() -> None:
    assert table.divide(1.0, None) is None
    assert table.divide(None, 1.0) is None
    assert table.divide(1.0, 0.0) is None
    assert table.divide(3.0, 2.0) == 1.5


@given(st.lists(st.floats(0.001, 1e9), min_size=1))
def test_best_follows_the_sense_of_the_row(values: list[float]) -> None:
    more, less = Row("a", "tcp", "a", "x"), Row("b", "tcp", "b", "x", more_is_better=False)
    assert table.best(more, [None, *values]) == max(values)
    assert table.best(less, [*values, None]) == min(values)


def test_own_mtu_comparison_takes_each_peer_at_its_default() -> None:
    made = results(bucatini=8.0, pasta=1.0, slirp4netns=2.0)
    made.add("tcp.up.65520.1.v4", PASTA, 5.0)
    made.add("tcp.up.65520.1.v4", SLIRP, 100.0)
    assert table.best_peer(BY_KEY[UP], made) == 2.0
    assert table.best_peer_at_own_mtu(BY_KEY[UP], made) == 5.0


def test_own_mtu_comparison_needs_every_peer_that_took_part() -> None:
    made = results(bucatini=8.0, pasta=1.0, slirp4netns=2.0)
    assert table.best_peer_at_own_mtu(BY_KEY[UP], made) is None
    made.failures[("tcp.up.65520.1.v4", PASTA)] = "Bus error"
    assert table.best_peer_at_own_mtu(BY_KEY[UP], made) == 2.0


@pytest.mark.parametrize(("ours", "verdict"), [(16.0, ">= 8x best: met"), (15.0, ">= 8x best: MISSED, 7.50x")])
def test_goal_where_more_is_better(ours: float, verdict: str) -> None:
    made = results(bucatini=ours, pasta=1.0, slirp4netns=2.0)
    assert table.judge(BY_KEY[UP], Goal(COMPILED, BEST, 8), made) == verdict


@pytest.mark.parametrize(("ours", "verdict"), [(11.0, "<= 1.1x pasta: met"), (12.0, "<= 1.1x pasta: MISSED, 1.20x")])
def test_goal_where_less_is_better(ours: float, verdict: str) -> None:
    row = Row(UP, "latency", "delay", "us", more_is_better=False)
    assert table.judge(row, Goal(COMPILED, PASTA, 1.1), results(bucatini=ours, pasta=10.0)) == verdict


def test_absolute_goal_and_goal_of_the_pure_form() -> None:
    row = Row(UP, "start", "start", "ms", more_is_better=False)
    assert table.judge(row, Goal(COMPILED, ABSOLUTE, 300), results(bucatini=412.0)) == "<= 300 ms: MISSED, 412"
    made = results(pure=3.0, pasta=1.0)
    assert table.judge(BY_KEY[UP], Goal(PURE, BEST, 1), made) == "pure >= 1x best: met"


def test_goal_without_both_sides_is_silent() -> None:
    assert table.judge(BY_KEY[UP], Goal(COMPILED, BEST, 8), results(bucatini=1.0)) == ""
    assert table.judge(BY_KEY[UP], Goal(COMPILED, BEST, 8), results(pasta=1.0)) == ""


def test_failure_becomes_one_footnote_however_often_it_happens() -> None:
    made = results(pasta=1.0)
    made.failures[(UP, SLIRP)] = "Bus error"
    made.failures[("tcp.down.1500.1.v4", SLIRP)] = "Bus error"
    text = table.render_text(made)
    assert text.count("[1] slirp4netns: Bus error") == 1
    assert text.count("- [1]") == 2
    assert "[2]" not in text


def test_loss_stands_beside_the_rate() -> None:
    made = Results()
    made.add("udp.up.64", PASTA, 1000.0)
    made.add("udp.up.64.loss", PASTA, 0.254)
    assert "1,000 (25%)" in table.render_text(made)


def test_text_columns_line_up() -> None:
    made = results(native=20.0, bucatini=8.0, pure=4.0, pasta=1.0, slirp4netns=0.5)
    lines = [line for line in table.render_text(made).splitlines() if "  " in line]
    assert lines[0].index("/ pasta") + len("/ pasta") == lines[1].index("8.00x", 60) + len("8.00x")


def test_machines_have_columns_of_their_own_under_a_header_of_their_own() -> None:
    made = results(bucatini=8.0, pasta=1.0)
    made.add("vm.crr", VM_STREAM, 300.0)
    made.add("vm.crr", VM_PASST, 400.0)
    text = table.render_text(made)
    assert text.count("measure (median)") == 2
    heads = [line for line in text.splitlines() if line.startswith("measure")]
    assert "/ pasta" in heads[0]
    assert "/ passt" not in heads[0]
    assert "bucatini stream" in heads[1]
    assert "/ pasta" not in heads[1]
    assert "0.75x" in text
    markdown = document.render_markdown(made, {}, "")
    assert markdown.count("| measure (median) |") == 2


def test_document_starts_from_the_skeleton_and_keeps_what_people_wrote() -> None:
    first = document.replace_section("", "one\n")
    assert first.startswith("# Performance")
    edited = first + "Because of the cache.\n"
    second = document.replace_section(edited, "two\n")
    assert second == edited.replace("one\n", "two\n")
    assert document.replace_section(second, "two\n") == second


def test_document_without_markers_gets_them_at_its_end() -> None:
    text = document.replace_section("# Mine\n", "one\n")
    assert text == f"# Mine\n\n{document.BEGIN}\n\none\n\n{document.END}\n"


def test_markdown_has_facts_command_and_well_formed_tables() -> None:
    made = results(bucatini=8.0, pasta=1.0)
    made.failures[(UP, SLIRP)] = "a | b"
    text = document.render_markdown(made, {"kernel": "Linux 6"}, "scripts/bench tcp")
    assert "- kernel: Linux 6" in text
    assert "    scripts/bench tcp" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "a \\| b" in text
