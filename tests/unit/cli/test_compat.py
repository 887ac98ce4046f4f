"""What `bucatini compat` writes, replaces and leaves alone. tests/interop runs the scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bucatini
from bucatini.base.errors import ConfigError, HostError
from bucatini.cli import compat

Output = pytest.CaptureFixture[str]


def files(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {each.name: (each.read_bytes(), each.stat().st_mode & 0o777) for each in directory.iterdir()}


class TestInstall:
    def test_all_names_into_a_new_folder(self, tmp_path: Path, capsys: Output) -> None:
        old = os.umask(0o077)
        try:
            assert compat.main(["install", str(tmp_path / "a" / "b")]) == 0
        finally:
            os.umask(old)
        made = files(tmp_path / "a" / "b")
        assert set(made) == {"passt", "pasta", "slirp4netns", "softnet"}
        assert {mode for _, mode in made.values()} == {0o755}
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o755
        written = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrote ")]
        assert written == [f"wrote {tmp_path}/a/b/{name}" for name in ("passt", "pasta", "slirp4netns", "softnet")]

    def test_chosen_names(self, tmp_path: Path) -> None:
        assert compat.main(["install", str(tmp_path), "pasta", "pasta"]) == 0
        assert set(files(tmp_path)) == {"pasta"}

    def test_twice_changes_nothing(self, tmp_path: Path, capsys: Output) -> None:
        compat.main(["install", str(tmp_path)])
        before = (tmp_path / "pasta").stat()
        capsys.readouterr()
        assert compat.main(["install", str(tmp_path)]) == 0
        assert (tmp_path / "pasta").stat().st_ino == before.st_ino
        assert f"unchanged {tmp_path}/pasta" in capsys.readouterr().out

    def test_an_older_one_of_ours_is_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "pasta"
        path.write_bytes(b"#!/old/python -I\n" + compat.MARK + b"old\n")
        assert compat.install(str(tmp_path), ["pasta"]) == [("pasta", True)]
        assert path.read_bytes() == compat.script("pasta", compat._package_place())
        path.chmod(0o644)
        assert compat.install(str(tmp_path), ["pasta"]) == [("pasta", True)]
        assert path.stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize("kind", ["file", "empty", "link", "folder", "mark elsewhere"])
    def test_what_is_not_ours_stays_and_nothing_is_written(self, tmp_path: Path, kind: str) -> None:
        other = tmp_path / "slirp4netns"
        if kind == "folder":
            other.mkdir()
        elif kind == "link":
            other.symlink_to("/bin/true")
        else:
            other.write_bytes({"file": b"\x7fELF", "empty": b""}.get(kind, b"#!/bin/sh\necho\n" + compat.MARK))
        with pytest.raises(ConfigError, match="slirp4netns': is another program's file"):
            compat.install(str(tmp_path), ["pasta", "slirp4netns"])
        assert [each.name for each in tmp_path.iterdir()] == ["slirp4netns"]

    def test_errors(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for words, message in (
            (["install"], "no folder given"),
            (["install", str(tmp_path), "slirp"], "install 'slirp': must be one of passt pasta slirp4netns softnet"),
            (["install", str(tmp_path / "file")], "must be a folder"),
            (["install", str(tmp_path / "file" / "x")], "must be a folder"),
            (["install", "--force", "x"], "unknown option '--force'"),
            (["install", ""], "unknown option ''"),
            (["list", "a", "b"], "one folder"),
            (["remove"], "unknown verb 'remove'; accepted: install"),
            ([], "no verb given; accepted: install"),
        ):
            with pytest.raises(ConfigError, match=message):
                compat.main(words)
        with pytest.raises(HostError, match="No such file|Permission denied|Operation not permitted"):
            compat.main(["install", "/proc/nothing/x"])


class TestScript:
    def test_of_an_ordinary_interpreter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/opt/py/bin/python3")
        assert compat.script("pasta", "").decode().splitlines() == [
            "#!/opt/py/bin/python3 -I",
            compat.MARK.decode().rstrip("\n"),
            "import sys",
            "from bucatini.cli.pasta import main",
            "sys.exit(main())",
        ]
        assert b"\nsys.path.insert(0, '/a b/\\xe9')\n" in compat.script("pasta", "/a b/é")

    @pytest.mark.parametrize("folder", ["with blank", 'quote\'d "$x"', "long" * 40, "line\nfeed", "é " + "\udcff"])
    def test_of_an_interpreter_that_no_shebang_can_name(
        self, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interpreter = tmp_path / folder / "python"
        interpreter.parent.mkdir()
        interpreter.symlink_to(sys.executable)
        package = tmp_path / "place '\" é" / "bucatini" / "cli"
        package.mkdir(parents=True)
        (package / "pasta.py").write_text("import sys\ndef main():\n    print(sys.argv[1:])\n    return 7\n")
        monkeypatch.setattr(sys, "executable", str(interpreter))
        path = tmp_path / "pasta"
        path.write_bytes(compat.script("pasta", str(package.parents[1])))
        path.chmod(0o755)
        assert path.read_bytes().startswith(b"#!/bin/sh\n" + compat.MARK)
        done = subprocess.run([path, "a b", "$x", ""], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, "['a b', '$x', '']\n", "")

    def test_lines_do_not_exceed_what_old_kernels_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for length, start in ((122, b"#!/x"), (123, b"#!/bin/sh\n")):
            monkeypatch.setattr(sys, "executable", "/" + "x" * (length - 1))
            assert compat.script("pasta", "").startswith(start), length

    def test_an_interpreter_that_does_not_know_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "")
        with pytest.raises(ConfigError, match="does not know its own path"):
            compat.script("pasta", "")

    def test_names_the_place_only_where_needed(self) -> None:
        place = compat._package_place()
        probe = "import bucatini, sys; sys.exit(bucatini.__file__ != sys.argv[1])"
        found = subprocess.run([sys.executable, "-I", "-c", probe, bucatini.__file__], capture_output=True, check=False)
        assert (place == "") == (found.returncode == 0)
        assert place in ("", str(Path(bucatini.__file__).parents[1]))


class TestList:
    def test_in_a_folder(self, tmp_path: Path, capsys: Output) -> None:
        compat.install(str(tmp_path), ["pasta"])
        assert compat.main(["list", str(tmp_path)]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert lines == [
            ["passt", "absent", f"{tmp_path}/passt"],
            ["pasta", "ours", f"{tmp_path}/pasta"],
            ["slirp4netns", "absent", f"{tmp_path}/slirp4netns"],
            ["softnet", "absent", f"{tmp_path}/softnet"],
        ]

    def test_in_path(self, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{tmp_path}/a:{tmp_path}/b")
        compat.install(str(tmp_path / "b"), ["pasta"])
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "slirp4netns").write_text("#!/bin/sh\n")
        (tmp_path / "a" / "slirp4netns").chmod(0o755)
        compat.main(["list"])
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f"{'passt':<12} absent",
            f"{'pasta':<12} {'ours':<16} {tmp_path}/b/pasta",
            f"{'slirp4netns':<12} {'another program':<16} {tmp_path}/a/slirp4netns",
            f"{'softnet':<12} absent",
        ]

    def test_states(self, tmp_path: Path) -> None:
        path = tmp_path / "pasta"
        assert compat.state_of(str(path), "pasta") == "absent"
        compat.install(str(tmp_path), ["pasta"])
        assert compat.state_of(str(path), "pasta") == "ours"
        assert compat.state_of(str(path), "pasta", "/elsewhere") == "ours, outdated"
        path.write_bytes(b"#!/bin/sh\n")
        assert compat.state_of(str(path), "pasta") == "another program"

    def test_a_folder_that_cannot_be_looked_into(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(HostError, match="Not a directory"):
            compat.main(["list", str(tmp_path / "file")])


def test_install_says_when_another_program_is_found_first(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pasta").write_text("#!/bin/sh\n")
    (tmp_path / "a" / "pasta").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/a:{tmp_path}/b")
    compat.main(["install", str(tmp_path / "b")])
    assert f"but PATH finds {tmp_path}/a/pasta first\n" in capsys.readouterr().out
    monkeypatch.setenv("PATH", f"{tmp_path}/b")
    compat.main(["install", str(tmp_path / "b")])
    assert "PATH" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["install", "--help"]])
def test_help(words: list[str], capsys: Output) -> None:
    assert compat.main(words) == 0
    shown = capsys.readouterr().out
    assert "compat install DIR" in shown
    assert "pasta slirp4netns" in shown
