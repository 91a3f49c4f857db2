"""What parts ask of each other: every part keeps it, and so does a stand-in that imports none of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest
import torch

from toolkit.errors import ArchiveFormatError, DescriptorError
from toolkit.organism import protocols
from toolkit.organism.archive_view import ReadOnlyArchive
from toolkit.organism.chemotaxis import SourceField
from toolkit.organism.errors import LifecycleError, ShapeError
from toolkit.organism.kernel import Kernels
from toolkit.organism.organism import Organism
from toolkit.organism.pool import Pool
from toolkit.organism.pseudopod import Pseudopod
from toolkit.organism.records import ComponentRecord
from toolkit.organism.species import Species
from toolkit.organism.tubes import TubeNetwork


@dataclass
class Fake:
    """A component of one number."""

    component_id: str
    fitness: float = 0.0
    nbytes: int = 8
    weight: float = 1.0
    forgotten: list[str] = field(default_factory=list)

    def reset(self) -> None:
        self.forgotten.append(self.component_id)

    def to_record(self) -> ComponentRecord:
        return ComponentRecord("fake", 1, {"id": self.component_id}, {"weight": np.array([self.weight])})

    @classmethod
    def from_record(cls, record: ComponentRecord, *, device: str = "cpu", dtype: Any = None) -> Self:
        return cls(record.header["id"], weight=float(record.tensors["weight"][0]))


def test_every_part_keeps_its_protocol() -> None:
    pod = Pseudopod(16, 16, component_id="a")
    organism = Organism.of_founders(16, Species(16), 1, budget_bytes=10**6)
    assert isinstance(pod, protocols.Pseudopod)
    assert isinstance(pod, protocols.Component)
    assert isinstance(pod, protocols.Fading)
    assert isinstance(organism, protocols.Organism)
    assert isinstance(Kernels(), protocols.Kernel)
    assert isinstance(TubeNetwork([0.5]), protocols.Memory)
    assert isinstance(SourceField(), protocols.Chemotaxis)
    assert isinstance(ReadOnlyArchive([], dict), protocols.ArchiveView)  # type: ignore[arg-type]


def test_a_fake_is_a_component_and_lives_in_a_pool() -> None:
    assert isinstance(Fake("fake-1"), protocols.Component)
    assert not isinstance(Fake("fake-1"), protocols.Fading)
    pool: Pool[Fake] = Pool(budget_bytes=100)
    pool.add(Fake("fake-1"), step=0)
    assert Fake.from_record(pool["fake-1"].to_record()).weight == 1.0


def test_what_is_no_component_stays_at_the_door() -> None:
    with pytest.raises(LifecycleError, match="no component"):
        Pool(budget_bytes=100).add(object(), step=0)  # type: ignore[type-var]


@pytest.mark.parametrize("options", [{}, {"rank": 3}, {"bias": True}, {"n_heads": 3, "dtype": torch.bfloat16}])
def test_a_record_makes_the_same_component_to_the_bit(options: dict[str, Any]) -> None:
    pod = Pseudopod(24, 16, component_id="pod-7", gate_init=0.3, **options)
    x = torch.randn(2, 5, 24, dtype=pod.gate.dtype)
    record = pod.to_record()
    again = Pseudopod.from_record(ComponentRecord.from_dict(record.to_dict()))
    assert torch.equal(again(x, x), pod(x, x))
    assert json.loads(json.dumps(dict(record.header))) == dict(record.header)


def test_a_record_keeps_what_it_was_and_cannot_be_written_to() -> None:
    pod = Pseudopod(16, 16, component_id="a")
    record = pod.to_record()
    before = {name: array.copy() for name, array in record.tensors.items()}
    with torch.no_grad():
        for parameter in pod.parameters():
            parameter.add_(1)
    assert all(np.array_equal(record.tensors[name], before[name]) for name in before)
    with pytest.raises(ValueError, match="read-only"):
        record.tensors["gate"][...] = 0
    with pytest.raises(TypeError):
        record.header["rank"] = 3  # type: ignore[index]


@pytest.mark.parametrize(("kind", "version"), [("another", 1), ("pseudopod", 2), ("pseudopod", 0)])
def test_a_record_of_another_kind_or_version_is_refused(kind: str, version: int) -> None:
    record = Pseudopod(16, 16, component_id="a").to_record()
    with pytest.raises(ArchiveFormatError, match="can be read"):
        Pseudopod.from_record(ComponentRecord(kind, version, record.header, record.tensors))


@pytest.mark.parametrize("change", [
    {"d_model": 10**9}, {"rank": 3}, {"head_dim": "16"}, {"dtype": "load"}, {"stage": "undead"}, {"gone": "bias"},
])  # fmt: skip
def test_a_record_whose_header_is_damaged_is_refused_before_memory_is_taken(change: dict[str, Any]) -> None:
    record = Pseudopod(16, 16, component_id="a").to_record()
    header = {name: value for name, value in {**record.header, **change}.items() if name != change.get("gone")}
    with pytest.raises((ArchiveFormatError, ShapeError)):
        Pseudopod.from_record(ComponentRecord(record.kind, 1, header, record.tensors))


def test_a_header_of_numbers_that_are_not_finite_is_refused() -> None:
    with pytest.raises(DescriptorError, match="not JSON"):
        ComponentRecord("fake", 1, {"loss": float("nan")}, {})


def test_an_elite_that_is_no_component_is_refused() -> None:
    with pytest.raises(ArchiveFormatError, match="no component"):
        ComponentRecord.of_genome({}, {"score": 1})


@pytest.mark.parametrize("name", ["", "Pod", "a/b", "a" * 65, "a.b", "pop\n"])
def test_ids_are_short_and_plain(name: str) -> None:
    with pytest.raises(DescriptorError, match="no id"):
        Pseudopod(16, 16, component_id=name)


@pytest.mark.parametrize("name", ["pop", "keys", "update", "training", "0"])
def test_ids_that_are_names_of_methods_are_ids(name: str) -> None:
    organism = Organism.of_founders(16, Species(16), 1, budget_bytes=10**6)
    organism.pool.add(Pseudopod(16, 16, component_id=name), step=1)
    assert f"members.{name}.gate" in organism.state_dict()
