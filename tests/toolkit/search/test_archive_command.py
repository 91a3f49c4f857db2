"""`toolkit archive`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from toolkit.cli.main import main
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.elites import Candidate
from toolkit.search.folder import load, save
from toolkit.search.measures import Measure

SPACE = BehaviorSpace([Measure(name="latency_s", unit="s", low=1e-3, high=1.0, transform="log", larger_is="worse"),
                       Measure(name="model_bytes", unit="B", low=1e3, high=1e8, transform="log", larger_is="worse"),
                       Measure(name="sparsity", unit="1", low=0.0, high=1.0)])  # fmt: skip


def archive(seed, count=40):
    rng = np.random.default_rng(seed)
    kept = CVTArchive(SPACE, np.random.default_rng(0).random((20, 3)), quality_min=0.0, quality_max=1.0)
    places = [10.0 ** rng.uniform([-3, 3, -2], [0, 8, 0]) for _ in range(count)]
    kept.add([Candidate({"bits": k, "seed": seed}, place, rng.random()) for k, place in enumerate(places)])
    return kept


@pytest.fixture
def folder(tmp_path):
    save(archive(1), tmp_path / "a")
    return tmp_path / "a"


def test_people_read_how_full_and_how_good(folder, capsys):
    assert main(["archive", str(folder), "--where", "latency_s<=100ms", "--where", "sparsity>=0.2", "--best", "3"]) == 0
    out = capsys.readouterr().out
    kept = archive(1)
    wanted = kept.query({"latency_s": (0, 0.1), "sparsity": (0.2, 1)})
    assert f"20 cells of latency_s, model_bytes, sparsity; {len(kept)} hold an elite ({len(kept) / 20:.0%})" in out
    assert f"{min(3, len(wanted))} of {len(wanted)} elites within the limits" in out
    assert [line.split()[0] for line in out.splitlines() if line[:4] in {e.id[:4] for e in kept}] == [
        e.id for e in wanted[:3]
    ]
    assert " ms" in out
    assert "B" in out


def test_programs_read_one_document(folder, capsys):
    assert main(["archive", str(folder), "--json", "--best", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    best = archive(1).query({})[0]
    assert document["schema"] == "toolkit.archive/1"
    assert document["seen"] == 40
    assert document["best_elites"][0]["genome"] == dict(best.genome)
    assert document["best_elites"][0]["measures"]["latency_s"] == best.measures[0]
    assert len(document["best_elites"]) == 2


def test_two_become_one(folder, tmp_path, capsys):
    save(archive(2), tmp_path / "b")
    assert main(["archive", str(folder), "--merge", str(tmp_path / "b"), "-o", str(tmp_path / "both")]) == 0
    assert f"merged: {tmp_path / 'both'}" in capsys.readouterr().out
    both = archive(1)
    both.merge(archive(2))
    assert [e.id for e in load(tmp_path / "both")] == [e.id for e in both]


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["--where", "latency_s<20ms"], 2, "'latency_s<20ms' is no limit on a measure"),
        (["--where", "energy_j<=1J"], 2, "'energy_j<=1J' is no limit on a measure"),
        (["--where", "latency_s<=20"], 2, "has no unit"),
        (["--where", "sparsity<=much"], 2, "'much' is no number"),
        (["--merge", "x"], 2, "--merge and -o go together"),
    ],
)
def test_a_slip_is_told(folder, words, code, problem, capsys):
    assert main(["archive", str(folder), *words]) == code
    assert problem in capsys.readouterr().err


def test_what_is_no_archive_is_told(tmp_path, capsys):
    assert main(["archive", str(tmp_path)]) == 5
    assert f"{tmp_path} is no archive, and holds none" in capsys.readouterr().err
    assert main(["archive", str(tmp_path / "nowhere")]) == 5
    assert f"there is no folder {tmp_path / 'nowhere'}" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("[]", "utf-8")
    assert main(["archive", str(tmp_path)]) == 5


def test_the_folder_of_a_search_stands_for_its_archive(tmp_path, capsys):
    save(archive(1), tmp_path / "board" / "archive")
    for name in (tmp_path, tmp_path / "board", tmp_path / "board" / "archive"):
        assert main(["archive", str(name)]) == 0
        assert "20 cells of latency_s" in capsys.readouterr().out
    save(archive(2), tmp_path / "other" / "archive")
    assert main(["archive", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "holds 2 archives, one for each target" in err
    assert f"{tmp_path / 'board' / 'archive'}, {tmp_path / 'other' / 'archive'}" in err
    assert (
        main(["archive", str(tmp_path / "board"), "--merge", str(tmp_path / "other"), "-o", str(tmp_path / "n")]) == 0
    )
    assert len(load(tmp_path / "n")) >= len(archive(1))


@pytest.mark.slow
def test_no_torch_is_loaded_for_it(folder):
    code = (
        "import sys; from toolkit.cli.main import main; main(['archive', sys.argv[1], '-q'])\n"
        "print(*[m for m in ('torch', 'onnx', 'onnxruntime', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
