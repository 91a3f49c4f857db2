"""Elites among components: what is offered is found again, and an archive goes on from its state."""

from pathlib import Path

import numpy as np
import torch

from toolkit.organism.pseudopod import Pseudopod
from toolkit.search.component_archive import ComponentArchive, component_archive
from toolkit.search.snapshots import read_snapshot
from toolkit.training.organism.archiving import Offer


def offer(number: int, fitness: float, place: float = 0.5, parents: tuple[str, ...] = ()) -> Offer:
    pod = Pseudopod(8, 4, component_id=f"pod-{number}", seed=number)
    return Offer(pod.to_record(), np.full(4, place), fitness, parents)


def content(archive: ComponentArchive) -> list[tuple[str, float, float, int]]:
    return [(e.id, e.quality, e.curiosity, e.birth) for e in archive.archive]


def test_the_fittest_of_a_cell_stays_and_is_found_as_a_parent() -> None:
    archive = component_archive(0, "layer", cells=4)
    assert archive.parent(np.full(4, 0.5), 1.0, "draw", 0) is None
    assert archive.offer([offer(0, 0.1), offer(1, 0.3), offer(2, 0.2)], step=100) == 1
    parent = archive.parent(np.full(4, 0.5), 0.0, "draw", 0)
    assert parent is not None
    assert (parent.record.header["component_id"], parent.fitness) == ("pod-1", 0.3)
    again = Pseudopod.from_record(parent.record)
    torch.testing.assert_close(again.query.weight, Pseudopod(8, 4, component_id="pod-1", seed=1).query.weight)
    assert archive.figures()["coverage"] == 0.25


def test_a_component_that_measures_as_nothing_concerns_no_other() -> None:
    archive = component_archive(0, "layer", cells=4)
    assert archive.offer([offer(0, float("nan")), offer(1, 0.3), offer(2, 0.1, float("inf"))], step=1) == 1
    assert [e.quality for e in archive.archive] == [0.3]


def test_an_archive_goes_on_from_its_state_through_a_file(tmp_path: Path) -> None:
    whole, first = component_archive(0, "layer", cells=8), component_archive(0, "layer", cells=8)
    rounds = [[offer(3 * turn + k, 0.1 * k + turn, place) for k, place in enumerate((0.1, 0.5, 0.9))]
              for turn in range(4)]  # fmt: skip
    for offers in rounds[:2]:
        whole.offer(offers, step=1)
        first.offer(offers, step=1)
    torch.save(first.state(), tmp_path / "state.pt")
    resumed = component_archive(0, "layer", cells=8)
    resumed.load(torch.load(tmp_path / "state.pt", weights_only=True))
    assert content(resumed) == content(whole)
    drawn = [one.parent(np.full(4, 0.1), 0.5, "draw", 1) for one in (whole, resumed)]
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert drawn[0].elite_id == drawn[1].elite_id
    child = offer(99, 9.0, 0.1, parents=(content(whole)[0][0],))
    for archive in (whole, resumed):
        archive.offer([child], step=2)
        archive.offer(rounds[3], step=3)
    assert content(resumed) == content(whole)
    assert resumed.archive.seen == whole.archive.seen == 10


def test_it_is_saved_as_an_archive(tmp_path: Path) -> None:
    archive = component_archive(0, "layer", cells=4)
    archive.offer([offer(1, 0.3)], step=7)
    archive.save(tmp_path / "a")
    (elite,) = list(read_snapshot(tmp_path / "a"))
    assert (elite.quality, elite.meta["step"], elite.meta["kind"]) == (0.3, 7, "pseudopod")
