"""An organism owns its components; an archive owns plain data; neither keeps the other's."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import torch

import toolkit.organism
from toolkit.organism.behaviors import measure_behaviors, probe_batch
from toolkit.organism.organism import Organism
from toolkit.organism.species import Species
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.elites import Candidate
from toolkit.search.measures import Measure


def test_dropping_the_organism_frees_every_component_and_the_archive_holds_none() -> None:
    names = ("span", "sparsity", "share", "locality")
    space = BehaviorSpace([Measure(name=name, unit="1", low=0.0, high=1.0) for name in names])
    archive = CVTArchive(space, cvt_centroids(8, 4, n_samples=500, seed=0), quality_min=-1.0, quality_max=1.0)
    organism = Organism.of_founders(16, Species(16), 3, budget_bytes=10**7)
    measured = measure_behaviors(organism, probe_batch(16, length=6))
    for pod in organism.pool:
        record = pod.to_record()
        archive.add([Candidate(record.tensors, measured[pod.component_id], 0.5, meta=record.meta)])
    kept = {elite.id: {name: array.copy() for name, array in elite.genome.items()} for elite in archive}
    components = [weakref.ref(pod) for pod in organism.pool]
    weights = [weakref.ref(pod.query.weight) for pod in organism.pool]
    with torch.no_grad():
        for parameter in organism.parameters():
            parameter.zero_()
    for elite in archive:  # nothing in the archive aliases a live tensor
        assert all(np.array_equal(array, kept[elite.id][name]) for name, array in elite.genome.items())
    del organism, pod, parameter
    gc.collect()
    assert not any(reference() is not None for reference in (*components, *weights))
    assert len(archive) > 0


def test_no_organism_knows_an_archive() -> None:
    for path in sorted(Path(toolkit.organism.__file__ or "").parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("toolkit.search") for name in names), path


def test_what_needs_no_torch_does_not_load_it() -> None:
    organism = ("chemotaxis", "archive_view", "protocols", "placement", "pool", "extractors")
    modules = ", ".join(["toolkit.search.archive", *(f"toolkit.organism.{name}" for name in organism)])
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
