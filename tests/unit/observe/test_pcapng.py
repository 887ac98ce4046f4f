"""Captures, block by block as the format demands, and read back by scapy."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from bucatini.observe.output import open_output
from bucatini.observe.pcapng import FROM_GUEST, SNAPLEN, TO_GUEST, PcapngWriter

Block = tuple[int, bytes]


def blocks(data: bytes) -> list[Block]:
    found = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        found.append((kind, data[8 : length - 4]))
        data = data[length:]
    return found


def options(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            assert length == 0
            assert len(data) == 4
            return found
        found[code] = data[4 : 4 + length]
        data = data[4 + (length + 3) // 4 * 4 :]
    raise AssertionError("no opt_endofopt")


def fail(line: str) -> None:
    raise AssertionError(line)


def writer_to(path: Path) -> PcapngWriter:
    return PcapngWriter(open_output(str(path), "--pcap", append=False), name="x", on_failure=fail, description="test")


def test_head_of_a_capture(tmp_path: Path) -> None:
    writer_to(tmp_path / "c").close()
    section, interface, statistics = blocks((tmp_path / "c").read_bytes())
    assert section[0] == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", section[1]) == (0x1A2B3C4D, 1, 0, -1)
    assert options(section[1][16:]) == {4: b"bucatini"}
    assert interface[0] == 1
    assert struct.unpack_from("<HHI", interface[1]) == (1, 0, SNAPLEN)
    assert options(interface[1][8:]) == {2: b"eth0", 3: b"test", 9: b"\x09"}
    assert statistics[0] == 5
    assert options(statistics[1][12:]) == {4: bytes(8), 5: bytes(8)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([FROM_GUEST, TO_GUEST]),
            st.integers(0, 2**64 - 1),
            st.binary(max_size=100),
            st.none() | st.text(max_size=40),
        ),
        max_size=5,
    )
)
def test_every_frame_becomes_one_block(
    tmp_path_factory: pytest.TempPathFactory, frames: list[tuple[int, int, bytes, str | None]]
) -> None:
    path = tmp_path_factory.mktemp("pcap") / "c"
    writer = writer_to(path)
    for direction, ns, frame, comment in frames:
        writer.write(direction, ns, memoryview(frame), comment)
    writer.close()
    found = blocks(path.read_bytes())[2:-1]
    assert len(found) == len(frames)
    for (kind, body), (direction, ns, frame, comment) in zip(found, frames, strict=True):
        interface, high, low, captured, original = struct.unpack_from("<IIIII", body)
        assert (kind, interface, high << 32 | low) == (6, 0, ns)
        assert captured == original == len(frame)
        assert body[20 : 20 + captured] == frame
        read = options(body[20 + (captured + 3) // 4 * 4 :])
        assert read[2] == struct.pack("<I", direction)
        assert read.get(1, b"").decode() == (comment or "").encode("utf-8", "replace").decode()


def test_frames_are_copied_for_their_buffer_is_reused(tmp_path: Path) -> None:
    writer = writer_to(tmp_path / "c")
    slot = bytearray(b"first")
    writer.write(FROM_GUEST, 1, memoryview(slot))
    slot[:] = b"again"
    writer.close()
    assert b"first" in (tmp_path / "c").read_bytes()


def test_a_frame_beyond_snaplen_is_cut_and_says_how_long_it_was(tmp_path: Path) -> None:
    writer = writer_to(tmp_path / "c")
    writer.write(TO_GUEST, 1, bytes(SNAPLEN + 5))
    writer.close()
    body = blocks((tmp_path / "c").read_bytes())[2][1]
    assert struct.unpack_from("<II", body, 12) == (SNAPLEN, SNAPLEN + 5)


def test_scapy_reads_it(tmp_path: Path) -> None:
    writer = writer_to(tmp_path / "c")
    writer.write(FROM_GUEST, 1_700_000_000_123_456_789, b"\x02" * 61, "policy-denied")
    writer.write(TO_GUEST, 1_700_000_000_123_456_790, b"\x04" * 60)
    writer.close()
    with RawPcapNgReader(str(tmp_path / "c")) as reader:
        (first, about), (second, about_second) = list(reader)
    assert first == b"\x02" * 61
    assert second == b"\x04" * 60
    assert about.linktype == 1
    assert about.tsresol == 1_000_000_000
    assert about.tshigh << 32 | about.tslow == 1_700_000_000_123_456_789
    assert about.direction == FROM_GUEST
    assert about_second.direction == TO_GUEST
    assert b"policy-denied" in (about.comments[0] if hasattr(about, "comments") else about.comment)


def test_a_slow_reader_is_counted_in_the_statistics() -> None:
    reader, fd = os.pipe()
    writer = PcapngWriter(fd, name="x", on_failure=fail)
    for _ in range(200):
        writer.write(TO_GUEST, 7 << 32, bytes(60_000))
    lost = writer.lost
    assert 0 < lost < 200
    os.set_blocking(reader, False)
    data = b""
    for _ in range(10_000):
        writer.flush()
        try:
            data += os.read(reader, 65536)
        except BlockingIOError:
            break
    writer.close()
    while piece := os.read(reader, 65536):
        data += piece
    os.close(reader)
    found = blocks(data)
    assert [kind for kind, _ in found[2:]] == [6] * (200 - lost) + [5]
    assert struct.unpack_from("<III", found[-1][1]) == (0, 7, 0)
    assert options(found[-1][1][12:]) == {4: struct.pack("<Q", 200), 5: struct.pack("<Q", lost)}


def test_after_a_write_error_it_is_silent() -> None:
    warnings: list[str] = []
    writer = PcapngWriter(open_output("/dev/full", "--pcap", append=False), name="--pcap f", on_failure=warnings.append)
    writer.flush()
    writer.write(TO_GUEST, 0, b"x")
    writer.close()
    assert not writer.active
    assert len(warnings) == 1
