"""The private root leaves the system's packages alone, keeps what was downloaded, and refuses what is damaged.

apt and dpkg are stood in for by scripts: the real ones are asked in test_emulation.py.
"""

from __future__ import annotations

import hashlib
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from targets.errors import InvalidInput, MissingDependency
from toolkit.cli.main import main
from toolkit.emulator import installing, wheels
from toolkit.emulator.debian import Apt, unpack
from toolkit.emulator.wheels import install_wheels

Fake = Callable[[str, str], None]
GOOD = b"a package"
SHA256 = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a shell script of that name before everything else on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def write(name: str, body: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    return write


def apt_that_downloads(content: str, archives: Path) -> str:
    """Names one package, writes `content` for it where it is not there, and notes that it did."""
    return f"""
    case "$*" in
    *--print-uris*) echo "'http://somewhere/one.deb' one_1_arm64.deb 9 SHA256:{SHA256}" ;;
    *--download-only*)
      if [ ! -e {archives}/one_1_arm64.deb ]; then
        echo fetched >> {archives}/said; printf '{content}' > {archives}/one_1_arm64.deb
      fi ;;
    esac"""


def told(done: float) -> None:
    assert 0 <= done <= 1


def test_the_configuration_is_the_systems_without_its_commands_and_folders(tmp_path: Path, fake: Fake) -> None:
    fake("apt-get", "exit 0")
    fake(
        "apt-config",
        """cat <<'EOF'
Acquire::http::Proxy "http://proxy:3128";
APT::Architecture "amd64";
APT::Architectures:: "amd64";
APT::Update::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb || true";
DPkg::Post-Invoke:: "rm -f /var/cache/apt/*.bin || true";
Dir::State "var/lib/apt";
Dir::State::status "/var/lib/dpkg/status";
Dir::Etc "etc/apt";
EOF""",
    )
    apt = Apt(tmp_path / "apt")
    apt.update()
    lines = (apt.folder / "apt.conf").read_text().splitlines()
    assert 'Acquire::http::Proxy "http://proxy:3128";' in lines
    assert not [line for line in lines if "Invoke" in line or "amd64" in line or "/var/" in line or "var/" in line]
    assert f'Dir::State::status "{apt.folder}/status";' in lines


def test_apt_itself_reads_that_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command of the system's is left, and every folder that apt writes is ours."""
    apt = Apt(tmp_path / "apt")
    apt._prepare()
    monkeypatch.setenv("APT_CONFIG", str(apt.folder / "apt.conf"))
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    values = dict(line.rstrip(";").split(" ", 1) for line in dump)
    assert values["APT::Architecture"] == '"arm64"'
    assert values["Dir::State::status"] == f'"{apt.folder}/status"'
    assert not [line for line in dump if "Invoke" in line]
    words = 'eval $(apt-config shell A Dir::State/d B Dir::Cache/d C Dir::Log/d D Dir::State::lists/d); echo "$A$B$C$D"'
    folders = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True).stdout
    assert folders.count(str(apt.folder)) == 4


def test_what_was_downloaded_is_not_fetched_again_and_what_is_damaged_is(tmp_path: Path, fake: Fake) -> None:
    apt = Apt(tmp_path / "apt")
    fake("apt-config", "true")
    fake("apt-get", apt_that_downloads(GOOD.decode(), apt.archives))
    apt.update()
    package = apt.archives / "one_1_arm64.deb"
    for _ in range(2):
        assert apt.fetch(["one"], told) == [package]
    said = apt.archives / "said"
    assert said.read_text() == "fetched\n"
    package.write_bytes(GOOD[:4])  # a machine that went down while it was written
    assert apt.fetch(["one"], told) == [package]
    assert package.read_bytes() == GOOD
    assert said.read_text() == "fetched\nfetched\n"


def test_a_file_that_is_not_what_the_lists_say_is_refused(tmp_path: Path, fake: Fake) -> None:
    apt = Apt(tmp_path / "apt")
    fake("apt-config", "true")
    fake("apt-get", apt_that_downloads("an attack", apt.archives))
    apt.update()
    with pytest.raises(InvalidInput, match=r"one_1_arm64\.deb is not the file that apt's lists describe"):
        apt.fetch(["one"], told)
    assert not (apt.archives / "one_1_arm64.deb").exists()


def test_sources_without_arm64_are_told_in_apts_words(tmp_path: Path, fake: Fake) -> None:
    apt = Apt(tmp_path / "apt")
    fake("apt-config", "true")
    fake("apt-get", "echo 'W: careful' >&2; echo 'E: Unable to locate package python3' >&2; exit 100")
    with pytest.raises(MissingDependency, match="apt: Unable to locate package python3") as error:
        apt.update()
    assert "arm64" in error.value.hint


def test_a_system_without_apt_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "qemu-aarch64-static").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-aarch64-static").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--install-emulator"]) == 3
    assert capsys.readouterr().err.startswith("error: there is no apt-config on this system\n  next: ")


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--install-emulator"]) == 5
    assert "TOOLKIT_CACHE" in capsys.readouterr().err


def test_packages_of_a_system_that_is_one_with_usr_find_their_libraries(tmp_path: Path) -> None:
    """Newer packages hold /usr/lib alone, and their programs ask for /lib."""
    tree = tmp_path / "tree"
    for path, text in (("usr/lib/here", "yes"), ("usr/share/doc/x/copyright", "long"), ("DEBIAN/control", CONTROL)):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    subprocess.run(["dpkg-deb", "--build", tree, tmp_path / "one.deb"], check=True, capture_output=True)
    unpack([tmp_path / "one.deb"], tmp_path / "root", told)
    assert (tmp_path / "root/lib/here").read_text() == "yes"
    assert not (tmp_path / "root/usr/share/doc").exists()
    (tmp_path / "bad.deb").write_bytes((tmp_path / "one.deb").read_bytes()[:100])
    with pytest.raises(InvalidInput, match="dpkg-deb"):
        unpack([tmp_path / "bad.deb"], tmp_path / "other", told)


CONTROL = "Package: one\nVersion: 1\nArchitecture: all\nMaintainer: me <me@example.com>\nDescription: one\n"


@pytest.mark.slow
def test_a_wheel_that_does_not_exist_is_told_in_pips_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingDependency, match=r"pip: No matching distribution found for onnxruntime==0\.0\.1"):
        install_wheels(
            ["onnxruntime==0.0.1"], tmp_path / "site", python="3.11", glibc_minor=36, report=tmp_path / "report"
        )


def test_an_environment_without_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip is not installed") as error:
        install_wheels(["numpy"], tmp_path, python="3.11", glibc_minor=36, report=tmp_path / "report")
    assert error.value.hint == "python -m ensurepip"


@pytest.mark.slow
def test_two_installations_wait_for_each_other(tmp_path: Path) -> None:
    source = (
        "import sys; from pathlib import Path; from toolkit.emulator.installing import _alone\n"
        "print('asks', flush=True)\n"
        "with _alone(Path(sys.argv[1])): print('in', flush=True)"
    )
    with installing._alone(tmp_path):
        other = subprocess.Popen([sys.executable, "-c", source, tmp_path], stdout=subprocess.PIPE)
        assert other.stdout is not None
        assert other.stdout.readline() == b"asks\n"
        assert select.select([other.stdout], [], [], 0.5)[0] == []
    assert other.communicate(timeout=30)[0] == b"in\n"
