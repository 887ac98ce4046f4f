"""The command line of softnet: every option's grammar, and every line that is none."""

from __future__ import annotations

import pytest

from bucatini.config.getopt_words import Answer, UsageError
from bucatini.config.softnet import SoftnetConfig
from bucatini.config.softnet_arguments import parse_softnet, softnet_usage
from bucatini.forward.portspec import Forward

MAC = "52:54:00:12:34:56"
NEEDED = ["--vm-fd=0", f"--vm-mac-address={MAC}"]


def parse(*words: str) -> SoftnetConfig:
    found = parse_softnet([*NEEDED, *words])
    assert isinstance(found, SoftnetConfig)
    return found


def answer(*words: str) -> str:
    found = parse_softnet(words)
    assert isinstance(found, Answer)
    return found.text


def test_defaults() -> None:
    assert parse() == SoftnetConfig(vm_fd=0, mac=bytes.fromhex("525400123456"), words=tuple(NEEDED))
    assert (parse().net_type, parse().lease, parse().bridge, parse().escalated) == ("nat", 600, None, False)


def test_as_tart_writes_it() -> None:
    words = ["--vm-fd", "0", "--vm-mac-address", MAC, "--vm-net-type", "host", "--allow", "10.0.0.0/8,@host"]
    words += ["--block", "0.0.0.0/0", "--expose", "2222:22,8080:80", "--control-fd", "1"]
    config = parse_softnet(words)
    assert isinstance(config, SoftnetConfig)
    assert (config.vm_fd, config.net_type, config.control_fd) == (0, "host", 1)
    assert [str(each) for each in config.allow] == ["10.0.0.0/8", "@host"]
    assert [str(each) for each in config.block] == ["0.0.0.0/0"]
    assert config.expose == (Forward(6, bytes(4), 2222, 22), Forward(6, bytes(4), 8080, 80))
    assert config.words == tuple(words)


@pytest.mark.parametrize("written", [MAC, "52-54-00-12-34-56", "52:54:0:12:34:56", "52-54-00-12:34:56"])
def test_mac(written: str) -> None:
    config = parse_softnet(["--vm-fd=3", f"--vm-mac-address={written}"])
    assert isinstance(config, SoftnetConfig)
    assert config.mac == bytes.fromhex("525400123456")


def test_numbers() -> None:
    assert parse("--bootpd-lease-time=4294967295").lease == 4294967295
    assert parse("--bootpd-lease-time", "5").lease == 5
    assert parse("--control-fd=2147483647").control_fd == 2147483647


def test_lease_of_no_time() -> None:
    config = parse("--bootpd-lease-time=0")
    assert (config.lease, len(config.notes)) == (600, 1)


def test_port_0_parses() -> None:
    config = parse("--expose=0:22,80:0,81:81")
    assert config.expose == (Forward(6, bytes(4), 81, 81),)
    assert [note.split(": ")[0] for note in config.notes] == ["--expose 0:22", "--expose 80:0"]


def test_host_bits_are_ignored() -> None:
    assert [str(each) for each in parse("--allow=10.1.2.3/8").allow] == ["10.0.0.0/8"]


@pytest.mark.parametrize("option", ["allow", "block"])
def test_later_rules(option: str) -> None:
    config = parse(f"--{option}=in @host,out 10.0.0.0/8,10.0.0.0/8:443,out  0.0.0.0/0:1-1023")
    found = [str(each) for each in getattr(config, option)]
    assert found == ["in @host", "out 10.0.0.0/8", "10.0.0.0/8:443", "out 0.0.0.0/0:1-1023"]


def test_the_rest() -> None:
    config = parse("--user=tart", "--group", "staff", "--bridge=br0", "--sudo-escalation-done")
    assert (config.user, config.group, config.bridge, config.escalated) == ("tart", "staff", "br0", True)


def test_answers() -> None:
    for word in ("--help", "-h"):
        text = answer(word, "--bogus")
        assert "--vm-mac-address=MAC" in text
        assert "sudo-escalation" not in text
    assert answer("--version").startswith("softnet 0.19.0\nbucatini ")
    assert answer("-V") == answer("--version")
    assert answer(*NEEDED, "--sudo-escalation-probing") == ""
    assert softnet_usage().count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--vm-fd is missing"),
        (["--vm-fd=0"], "--vm-mac-address is missing"),
        ([f"--vm-mac-address={MAC}"], "--vm-fd is missing"),
        (["--sudo-escalation-probing"], "--vm-fd is missing"),
        ([*NEEDED, "--vm-fd=0"], "--vm-fd: may be given once"),
        ([*NEEDED, "--allow=@host", "--allow=@host"], "--allow: may be given once"),
        ([*NEEDED, "--block=@host", "--block=@host"], "--block: may be given once"),
        ([*NEEDED, "--expose=1:1", "--expose=2:2"], "--expose: may be given once"),
        ([*NEEDED, "--user=a", "--user=b"], "--user: may be given once"),
        ([*NEEDED, "--bogus"], "unknown option or superfluous word '--bogus'"),
        ([*NEEDED, "--allo=@host"], "unknown option"),
        ([*NEEDED, "-a"], "unknown option"),
        ([*NEEDED, "word"], "superfluous word 'word'"),
        ([*NEEDED, "--"], "superfluous word '--'"),
        ([*NEEDED, "--bogus", "--help"], "unknown option"),
        ([*NEEDED, "--sudo-escalation-done=1"], "takes no value, not '1'"),
        ([*NEEDED, "--allow"], "--allow needs a value"),
        ([*NEEDED, "--allow", "--block"], "--allow needs a value"),
        (["--vm-fd", "-1", NEEDED[1]], "--vm-fd needs a value"),
        (["--vm-fd=-1", NEEDED[1]], "--vm-fd '-1': must be a number from 0 to 2147483647"),
        (["--vm-fd=", NEEDED[1]], "--vm-fd '': must be a number"),
        (["--vm-fd=0x3", NEEDED[1]], "--vm-fd '0x3': must be a number"),
        (["--vm-fd=2147483648", NEEDED[1]], "--vm-fd '2147483648': must be a number"),
        (["--vm-fd=0", "--vm-mac-address=52:54:00:12:34"], "--vm-mac-address '52:54:00:12:34': must be six"),
        (["--vm-fd=0", "--vm-mac-address=525400123456"], "--vm-mac-address '525400123456': must be six"),
        (["--vm-fd=0", "--vm-mac-address=52:54:00:12:34:5g"], "must be six"),
        (["--vm-fd=0", "--vm-mac-address=01:00:5e:00:00:01"], "not a group's"),
        (["--vm-fd=0", "--vm-mac-address=0:0:0:0:0:0"], "not zero"),
        ([*NEEDED, "--vm-net-type=shared"], "--vm-net-type 'shared': must be nat or host"),
        ([*NEEDED, "--vm-net-type=NAT"], "must be nat or host"),
        ([*NEEDED, "--bootpd-lease-time=4294967296"], "--bootpd-lease-time '4294967296': must be a number"),
        ([*NEEDED, "--bootpd-lease-time=-5"], "must be a number"),
        ([*NEEDED, "--control-fd=-1"], "--control-fd '-1': must be a number"),
        ([*NEEDED, "--user="], "--user '': must be a name"),
        ([*NEEDED, "--allow="], "--allow '': an item is empty"),
        ([*NEEDED, "--block="], "--block '': an item is empty"),
        ([*NEEDED, "--allow=@host,"], "an item is empty"),
        ([*NEEDED, "--allow=10.0.0.1"], "'10.0.0.1' has no prefix length"),
        ([*NEEDED, "--allow=10.0.0.0/33"], "prefix length"),
        ([*NEEDED, "--allow=10.0.0.0/8, 11.0.0.0/8"], "--allow ' 11.0.0.0/8'"),
        ([*NEEDED, "--allow=@HOST"], "--allow '@HOST'"),
        ([*NEEDED, "--allow=host"], "'host' has no prefix length"),
        ([*NEEDED, "--allow=fd00::/8"], "'fd00::/8' is not IPv4"),
        ([*NEEDED, "--allow=[fd00::/8]:443"], "is not IPv4"),
        ([*NEEDED, "--allow=out fd00::/8"], "is not IPv4"),
        ([*NEEDED, "--allow=in 10.0.0.1"], "has no prefix length"),
        ([*NEEDED, "--allow=from 10.0.0.0/8"], "--allow 'from 10.0.0.0/8'"),
        ([*NEEDED, "--allow=10.0.0.0/8:0"], "port '0'"),
        ([*NEEDED, "--allow=10.0.0.0/8:9-1"], "end before they begin"),
        (["--vm-mac-address", "02:00:00:00:00:07", "--vm-fd=4", "--control-fd=4"], "--control-fd: must be another"),
        ([*NEEDED, "--expose=1:1,2:2,1:3"], "--expose 1:3: port 1 leads to 1 already"),
        ([*NEEDED, "--expose="], "--expose '': must be EXTERNAL:INTERNAL"),
        ([*NEEDED, "--expose=22"], "--expose '22': must be EXTERNAL:INTERNAL"),
        ([*NEEDED, "--expose=1:2:3"], "--expose '1:2:3': must be EXTERNAL:INTERNAL"),
        ([*NEEDED, "--expose=65536:1"], "must be EXTERNAL:INTERNAL"),
        ([*NEEDED, "--expose=1:1, 2:2"], "--expose ' 2:2': must be"),
        ([*NEEDED, "--expose=1:1-2"], "must be EXTERNAL:INTERNAL"),
        ([*NEEDED, "--bridge="], "--bridge ''"),
    ],
)
def test_usage_errors(words: list[str], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_softnet(words)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
