"""Emulated boards show their cores, tell their memory apart from the emulator's, and fail with one clear line."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from targets.errors import InvalidInput, MissingDependency
from targets.stack import Stack
from targets.target import load_stack, load_target, target_names
from toolkit.backends.ahead_of_time import MACHINES, Built
from toolkit.backends.ahead_of_time.counting import counter
from toolkit.backends.ahead_of_time.plan import Memory
from toolkit.bundle.hashes import hashes_of
from toolkit.bundle.layout import SCHEMA
from toolkit.cli.main import main
from toolkit.emulator import programs
from toolkit.emulator.board import board
from toolkit.emulator.cores import CORES, core_of
from toolkit.emulator.resident import guest_bytes, resident_bytes
from toolkit.emulator.root import FACTS, installed_root
from toolkit.emulator.running import answers_of
from toolkit.verify import emulation

PI = next(core for core in CORES if core.name == "Cortex-A72")
MODEL = '<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1,4] y) { y = Neg(x) }'


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What `toolkit compile` writes, in short: y = -x for the Raspberry Pi 4."""
    return bundle_of(tmp_path / "bundle", load_stack("raspberry_pi_4/onnxruntime-fp32"))


def bundle_of(folder: Path, stack: Stack) -> Path:
    folder.mkdir()
    x = np.arange(4, dtype=np.float32)[None]
    np.savez(folder / "golden.npz", **{"0/input/x": x, "0/output/y": -x, "0/reference/y": -x})  # type: ignore[arg-type]
    (folder / "model.onnx").write_bytes(onnx.parser.parse_model(MODEL).SerializeToString())
    (folder / "report.json").write_text("{}")
    manifest = {
        "schema": SCHEMA,
        "name": "negation",
        "signature": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 4]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 4]}],
        },
        "target": stack.target,
        "stack": stack.id,
        "backend": stack.backend,
        "artifact": {"file": "model.onnx", "format": "onnx", "complete": True, "remaining": "", "checked": ""},
        "versions": {},
        "sha256": hashes_of(folder),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def compiled(folder: Path, source: str) -> Path:
    """A static program for arm64 from C."""
    (folder / "program.c").write_text(source)
    made = folder / "program"
    subprocess.run([MACHINES["aarch64-cortex-a72"].cross_compiler, "-O1", "-static", folder / "program.c", "-o", made],
                   check=True)  # fmt: skip
    return made


# ---- cores


@pytest.mark.parametrize("name", target_names())
def test_every_target_has_a_core_that_qemu_knows_or_says_why_not(name: str) -> None:
    try:
        core = core_of(load_target(name))
    except MissingDependency as error:
        said = error.problem
    else:
        said = ""
    if said:
        assert said.startswith(f"{name} cannot be emulated: ")
        return
    emulator = core.machine.emulator
    told = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False).stdout
    assert core.machine.emulated_cpu in told.split()


def test_the_cores_of_these_boards() -> None:
    found = {}
    for name in target_names():
        try:
            found[name] = core_of(load_target(name)).machine.emulated_cpu
        except MissingDependency:
            found[name] = ""
    assert found == {
        "coral_dev_board": "cortex-a53",
        "coral_tpu": "",
        "desktop_cpu": "Haswell",
        "desktop_gpu": "",
        "jetson_agx_orin": "",  # Cortex-A78AE
        "jetson_agx_xavier": "",  # Carmel
        "jetson_nano": "cortex-a57",
        "jetson_orin_nano": "",
        "jetson_tx2": "cortex-a57",  # beside two Denver 2
        "jetson_xavier_nx": "",
        "raspberry_pi_3": "cortex-a53",
        "raspberry_pi_4": "cortex-a72",
        "raspberry_pi_5": "cortex-a76",
        "raspberry_pi_zero_2w": "cortex-a53",
    }


# ---- what a board shows


def test_a_program_on_the_board_sees_its_cores(tmp_path: Path) -> None:
    source = r"""
    #include <stdio.h>
    static void show(const char *path) {
      FILE *file = fopen(path, "r");
      int c;
      while (file && (c = getc(file)) != EOF) putchar(c);
    }
    int main(void) { show("/proc/cpuinfo"); show("/sys/devices/system/cpu/possible"); show("/etc/name"); return 0; }
    """
    system = tmp_path / "system"
    (system / "etc").mkdir(parents=True)
    (system / "etc" / "name").write_text("of the root\n")
    with board(system, PI, 4) as prefix:
        words = [PI.machine.emulator, "-cpu", "cortex-a72", "-L", prefix, compiled(tmp_path, source)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.count("CPU part\t: 0xd08\n") == 4
    assert said.endswith("0-3\nof the root\n")
    assert not prefix.exists()


# ---- memory


def test_the_memory_of_a_guest_is_told_apart_from_the_emulators(tmp_path: Path) -> None:
    """64 MB are touched, and given back; then 16 MB are held."""
    source = r"""
    #include <stdio.h>
    #include <string.h>
    #include <sys/mman.h>
    int main(void) {
      size_t most = 64000000, rest = 16000000;
      char *many = mmap(0, most, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      memset(many, 1, most);
      munmap(many, most);
      memset(mmap(0, rest, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, rest);
      puts("here");
      fflush(stdout);
      return getchar();
    }
    """
    words = [PI.machine.emulator, compiled(tmp_path, source)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        now = guest_bytes(Path("/proc", str(process.pid), "smaps").read_text())
        most = resident_bytes(process.pid)
        process.communicate(b"\n")
    assert 16e6 <= now < 17e6, "a static program itself is small"
    assert 64e6 <= most < 66e6


def test_mappings_above_the_emulators_heap_are_its_own() -> None:
    rows = """00400000-00500000 r-xp 00000000 fe:00 12   /home/me/program
Rss:                 100 kB
5500000000-5500800000 rw-p 00000000 00:00 0
Rss:                  20 kB
555555554000-555555600000 r-xp 00000000 fe:00 13   /usr/bin/qemu-aarch64
Rss:                4000 kB
7f0000000000-7f0000100000 rwxp 00000000 00:00 0
Rss:               30000 kB"""
    assert guest_bytes(rows) == 120 * 1024


def test_a_program_that_ends_while_it_is_looked_at_is_told(tmp_path: Path) -> None:
    program = compiled(tmp_path, "int main(void) { return 0; }")
    built = Built(path=program, machine=PI.machine, inputs=(), outputs=(), memory=Memory(0, 0, 0))
    with pytest.raises(InvalidInput, match="program ended while its memory was looked at"):
        programs._memory(built, bytes(1_000_000))


# ---- counting


@pytest.mark.slow
def test_counts_at_marks_are_those_between_them(tmp_path: Path) -> None:
    """A loop of a million turns of known length lies between two marks; the same twice."""
    source = r"""
    #include <unistd.h>
    int main(void) {
      long turns = 1000000;
      getppid();
      __asm__ volatile("1: subs %0, %0, #1\n b.ne 1b" : "+r"(turns) : : "cc");
      getppid();
      return 0;
    }
    """
    program = compiled(tmp_path, source)
    found = []
    for _ in range(2):
        with counter(PI.machine, mark=173) as counting:
            subprocess.run([*counting.before, program], check=True)
            start, end, whole = counting.read()
            found.append(end - start)
    assert found[0] == found[1]
    assert 1_000_000 <= found[0].integer < 1_000_050
    assert 1_000_000 <= found[0].branch < 1_000_050
    assert found[0].total < 2_000_100
    assert whole.total > end.total > start.total


def test_a_qemu_that_refuses_the_plugin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "qemu-aarch64"
    fake.write_text(
        "#!/bin/sh\necho 'qemu-aarch64: Could not load plugin c.so: plugin requires API version 1, not 2' >&2"
    )
    fake.chmod(0o755)
    for tool in ("gcc", "as", "ld", "collect2"):
        if found := shutil.which(tool):
            (tmp_path / tool).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(MissingDependency, match="does not take the counting plugin: plugin requires API version 1"),
        counter(PI.machine),
    ):
        pass


# ---- what is missing


def test_without_qemu_verify_names_the_package(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["verify", str(bundle), "--emulate"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: no emulator for aarch64-cortex-a72\n  next: apt-get install qemu-user-static")
    assert main(["doctor", "--install-emulator", "--json"]) == 3
    assert "qemu-user-static" in json.loads(capsys.readouterr().out)["hint"]


def test_without_the_root_verify_names_the_command(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    assert main(["verify", str(bundle), "--emulate", "--json"]) == 3
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["exit_code"] == 3
    assert document["hint"].startswith("toolkit doctor --install-emulator")
    assert said.err.count("\n") == 2


@pytest.mark.parametrize("facts", ["", "{", "[]", '{"schema": "of tomorrow"}', '{"schema": "toolkit.emulator-root/1"}'])
def test_an_unfinished_root_counts_as_none(facts: str, tmp_path: Path) -> None:
    (tmp_path / FACTS).write_text(facts)
    with pytest.raises(MissingDependency, match="no arm64 Python"):
        installed_root(tmp_path)


def test_a_gpu_without_a_processor_says_what_cannot_be_emulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = load_target("jetson_agx_orin").stack()
    assert main(["verify", str(bundle_of(tmp_path / "orin", stack)), "--emulate"]) == 3
    assert "jetson_agx_orin cannot be emulated: QEMU has no Cortex-A78AE" in capsys.readouterr().err
    stack = load_stack("desktop_gpu/rtx3090-pytorch-amp")
    assert main(["verify", str(bundle_of(tmp_path / "gpu", stack)), "--emulate"]) == 3
    assert "names no processor" in capsys.readouterr().err


def test_a_frozen_toolkit_is_no_python_for_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own executable would start the command line again."""
    monkeypatch.setattr("sys.frozen", True, raising=False)
    core = next(core for core in CORES if core.machine.architecture == "x86_64")
    with pytest.raises(MissingDependency, match="no Python for x86_64 can be installed here"):
        answers_of("onnxruntime", b"", [{}], core, 1)


def test_two_kinds_of_check_at_once_are_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle), "--emulate", "--numerics", "a72"]) == 2
    assert "two different checks" in capsys.readouterr().err


# ---- the document


def test_answers_that_are_no_numbers_are_no_numbers_of_json() -> None:
    zero, nothing = {"y": np.zeros((1, 3), np.float32)}, {"y": np.full((1, 3), np.nan, np.float32)}
    said = emulation._distance([zero], [nothing]).to_json()
    assert said == {"sqnr_db": None, "max_abs_error": None, "classes": 1, "classes_agree": 1, "identical": False}
    same = emulation._distance([nothing], [nothing]).to_json()
    assert same["identical"]


def test_classes_are_those_of_an_only_output_of_scores() -> None:
    scores = {"y": np.array([[0.0, 1.0], [1.0, 0.0], [3.0, 2.0]])}
    other = {"y": np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 2.0]])}
    found = emulation._distance([scores, scores], [other, scores])
    assert (found.classes, found.classes_agree) == (6, 5)
    boxes = {"boxes": np.ones((1, 4)), **scores}
    assert emulation._distance([boxes], [boxes]).classes == 0
    assert emulation._distance([{"y": np.ones((1, 1))}], [{"y": np.ones((1, 1))}]).classes == 0
