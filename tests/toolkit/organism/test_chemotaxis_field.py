"""Where parents are found, and that an archive which is only read stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from toolkit.errors import DescriptorError
from toolkit.organism.archive_view import ReadOnlyArchive
from toolkit.organism.chemotaxis import SourceField, concentration_of
from toolkit.organism.pseudopod import Pseudopod
from toolkit.organism.records import ComponentRecord
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.bootstrap import bootstrap
from toolkit.search.centroids import cvt_centroids
from toolkit.search.elites import Candidate
from toolkit.search.measures import Measure

HERE = np.array([0.5, 0.5])


def field_of(*sources: tuple[float, float, float], **options: float) -> SourceField:
    field = SourceField(**options)
    for k, (x, y, concentration) in enumerate(sources):
        field.add_source(k, np.array([x, y]), concentration)
    return field


def test_draws_follow_the_strength_of_the_smell() -> None:
    field = field_of((0.5, 0.6, 1.0), (0.7, 0.5, 2.0), (0.2, 0.2, 5.0), (0.5, 0.5, 0.0))
    w = field.attractiveness(HERE, 0.3)
    sigma = 0.2 * 1.3
    assert w[0] == pytest.approx(np.exp(-0.01 / (2 * sigma**2)))
    drawn = np.bincount([field.sample(HERE, 0.3, k) for k in range(10_000)], minlength=4)
    assert drawn[3] == 0
    assert chisquare(drawn[:3], 10_000 * w[:3] / w.sum()).pvalue > 1e-3
    assert [field.sample(HERE, 0.3, k) for k in range(20)] == [field.sample(HERE, 0.3, k) for k in range(20)]


def test_the_hungry_always_go_and_the_sated_stay() -> None:
    far = field_of((0.0, 0.0, 1e-9), sigma=0.01, metabolic_rate=0.5)
    assert far.sample(np.ones(2), 1.0, 0) == 0
    assert far.sample(np.ones(2), 0.9, 0) is None
    near = field_of((0.5, 0.5, 1.0), metabolic_rate=0.5)
    assert near.sample(HERE, 0.0, 0) == 0
    assert SourceField().sample(HERE, 1.0, 0) is None
    near.clear()
    assert near.sample(HERE, 1.0, 0) is None


def test_a_stronger_source_is_drawn_more_often() -> None:
    counts = []
    for concentration in (0.5, 1.0, 4.0):
        field = field_of((0.4, 0.5, concentration), (0.6, 0.5, 1.0))
        counts.append(sum(field.sample(HERE, 0.5, k) == 0 for k in range(2000)))
    assert counts[0] < counts[1] < counts[2]


def test_the_gradient_points_uphill() -> None:
    field = field_of((0.9, 0.5, 1.0), (0.1, 0.5, 1.0), (0.5, 0.8, 3.0))
    w = field.attractiveness(HERE, 0.0)
    assert field.gradient(HERE) == pytest.approx(np.array([0.0, 0.3 * w[2] / w.sum()]))
    assert SourceField().gradient(HERE).tolist() == [0.0, 0.0]
    up = field_of((0.7, 0.6, 1.0))
    assert up.attractiveness(HERE + 1e-3 * up.gradient(HERE), 0.0) > up.attractiveness(HERE, 0.0)


@pytest.mark.parametrize(("location", "concentration"), [([0.5, 1.1], 1.0), ([0.5, np.nan], 1.0), ([0.5, 0.5], -1.0),
                                                         ([0.5, 0.5], np.inf), ([0.5], 1.0)])  # fmt: skip
def test_sources_lie_in_the_cube_and_are_not_negative(location: list[float], concentration: float) -> None:
    field = field_of((0.1, 0.1, 1.0))
    with pytest.raises(ValueError, match=r"location|concentration"):
        field.add_source("x", np.array(location), concentration)
    assert len(field) == 1


def test_settings_and_hunger_are_checked() -> None:
    for options in ({"sigma": 0.0}, {"metabolic_rate": -1.0}):
        with pytest.raises(DescriptorError, match="a field of"):
            SourceField(**options)
    with pytest.raises(ValueError, match="hunger"):
        field_of((0.1, 0.1, 1.0)).sample(HERE, 1.1, 0)


def archive_of(*pods: Pseudopod) -> CVTArchive:
    axes = [Measure(name=name, unit="1", low=0.0, high=1.0) for name in ("span", "locality")]
    space = BehaviorSpace(axes)
    archive = CVTArchive(space, cvt_centroids(8, 2, n_samples=500, seed=0), quality_min=-1.0, quality_max=1.0)
    for k, pod in enumerate(pods):
        record = pod.to_record()
        place = np.array([0.1 + 0.8 * k / max(1, len(pods) - 1), 0.5])
        archive.add([Candidate(record.tensors, place, 0.1 * k, meta=record.meta)])
    return archive


def test_an_elite_is_a_parent_again() -> None:
    pods = [Pseudopod(16, 16, component_id=f"p-{k}") for k in range(3)]
    view = ReadOnlyArchive(archive_of(*pods), bootstrap)
    field = SourceField.of_archive(view, sigma=0.05)
    _, record, quality = field.sample(np.array([0.5, 0.5]), 0.0, "birth", 1)
    again = Pseudopod.from_record(record)
    assert again.component_id == "p-1"
    assert quality == pytest.approx(0.1)
    assert np.array_equal(again.to_record().tensors["query.weight"], pods[1].to_record().tensors["query.weight"])


def test_weights_between_two_elites_lie_on_the_line() -> None:
    pods = [Pseudopod(16, 16, component_id=f"p-{k}") for k in range(2)]
    view, rng = ReadOnlyArchive(archive_of(*pods), bootstrap), np.random.default_rng(0)
    exact = view.bootstrap(np.array([0.1, 0.5]), rng, sigma=0.0)
    assert np.array_equal(exact["query.weight"], pods[0].query.weight.detach().numpy())
    middle = view.bootstrap(np.array([0.5, 0.5]), rng, sigma=0.0, k=2)
    wanted = sum(pod.query.weight.detach().numpy() for pod in pods) / 2
    assert np.abs(middle["query.weight"] - wanted).max() < 1e-6
    elite = view.nearest(np.array([0.1, 0.5]))[0]
    record = ComponentRecord.of_genome(middle, elite.meta)
    assert Pseudopod.from_record(record).component_id == "p-0"


def test_an_archive_that_is_read_has_no_way_to_add() -> None:
    view = ReadOnlyArchive(archive_of(Pseudopod(16, 16, component_id="a")), bootstrap)
    assert len(view) == 1
    assert not [name for name in dir(view) if name in ("add", "add_arrays", "update", "merge", "restore", "rehouse")]
    with pytest.raises(AttributeError):
        view.archive  # noqa: B018


def test_concentrations_are_positive_and_grow() -> None:
    found = [concentration_of(x) for x in (-50.0, -1.0, 0.0, 3.0)]
    assert found == sorted(found)
    assert found[0] > 0
