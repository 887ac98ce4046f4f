"""`bucatini filter`: its words, and the order in which it refuses them; serving is in the interop tests."""

from __future__ import annotations

import pytest

from bucatini.base.errors import ConfigError
from bucatini.cli.filter import main, make_parser

NEEDED = ["--mac", "02:00:00:00:00:07", "--bridge", "br0"]


@pytest.mark.parametrize("kind", ["fd", "dgram", "socket", "seqpacket", "vhost-user"])
def test_links(kind: str) -> None:
    arguments = make_parser().parse_args([f"--{kind}", "7", *NEEDED])
    assert arguments.link == (kind, "7")


def test_what_may_be_repeated() -> None:
    words = ["--allow", "a", "--allow", "b", "--block=c", "--expose", "1:2", "--expose", "3:4", "--gateway", "d"]
    arguments = make_parser().parse_args(["--fd", "7", *NEEDED, *words, "--address", "e"])
    assert (arguments.allow, arguments.block, arguments.expose) == (["a", "b"], ["c"], ["1:2", "3:4"])
    assert (arguments.gateway, arguments.address) == (["d"], ["e"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no link given"),
        (["--fd", "5"], "--mac is missing"),
        (["--fd", "5", "--fd", "6", *NEEDED], "--fd '6': --fd 5 is the link already; one guest is served"),
        (["--fd", "5", *NEEDED, "qemu"], "unexpected argument 'qemu'"),
        (["--fd", "5", *NEEDED, "--deny", "10.0.0.1"], "unknown option --deny"),
        (["--tap", "t", *NEEDED], "unknown option --tap; it is one of vm, switch"),
        (["--fd", "5", *NEEDED, "--mac", "02:00:00:00:00:08"], "--mac '02:00:00:00:00:08': the guest has '02:"),
        (["--fd", "5", "--mac"], "--mac"),
    ],
)
def test_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        main(words)
    assert said in str(caught.value)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--vm-net-type TYPE" in capsys.readouterr().out
