"""Searches of deployments: near the best there is, the same when resumed, and every point a compile that replays."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from passes.context import Budget as Drift
from targets.errors import InvalidInput, UnknownName
from tests.toolkit.search.small_network import write
from toolkit.driver import compile_model
from toolkit.errors import ArchiveFormatError, BudgetExceeded, SlimeError, UsageError
from toolkit.rng import numpy_generator
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.config_space import ConfigSpace
from toolkit.search.deployment import searching
from toolkit.search.deployment.atlas_file import read_atlas
from toolkit.search.deployment.describing import recipe_of
from toolkit.search.deployment.evaluator import Evaluator
from toolkit.search.deployment.guided import guides
from toolkit.search.deployment.kept import Kept, KeptResults
from toolkit.search.deployment.predicted import coded
from toolkit.search.deployment.problem import Problem
from toolkit.search.deployment.quality import wilson
from toolkit.search.deployment.searching import Wanted, ground_of, search_deployments
from toolkit.search.executors import Processes, Threads
from toolkit.search.folder import load
from toolkit.search.genes import Choice
from toolkit.search.locks import locked
from toolkit.search.measures import Measure
from toolkit.search.runner import SearchRunner, Settings
from toolkit.search.trials import Budget, Evaluated, Trial

PI = "raspberry_pi_4"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return Problem(*write(folder)), folder / "kept"


@pytest.fixture(scope="module")
def ground(small):
    problem, kept = small
    return ground_of(problem, PI, Wanted(targets=[PI], evaluations=1, kept=kept))


@pytest.fixture(autouse=True)
def _few_for_the_cells(request, monkeypatch):
    """What a search keeps to it keeps to in any cells: fast tests price a tenth of the configurations to lay them."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(searching, "_DESIGN", 100)


def wanted(kept, **fields):
    return Wanted(**{"targets": [PI], "evaluations": 24, "kept": kept, "baselines": False} | fields)


def trial(ground, config, fidelity=2):
    return Trial(0, config, ground.space.key(config), fidelity, (0,), "test")


def every(ground):
    """All configurations there are, by key."""
    found = (ground.space.repair(config)[0] for config in ground.space.configurations())
    return {ground.space.key(config): config for config in found}


# ---- the search


@pytest.mark.slow
def test_a_fifth_of_all_evaluations_comes_within_the_margin_of_the_best(small, ground):
    problem, kept = small
    everything = {key: ground.evaluator(trial(ground, config)) for key, config in every(ground).items()}
    latencies = sorted(result.measures["latency_s"] for result in everything.values())
    limit = latencies[len(latencies) // 3]
    best = max(result.quality for result in everything.values() if result.measures["latency_s"] <= limit)
    low, high = wilson(best, 120)
    limited = ground_of(problem, PI, wanted(kept, limits={"latency_s": limit}))
    cache, near = KeptResults(Kept(kept)), 0
    for seed in range(10):
        runner = SearchRunner(limited.space, limited.archive.empty(), limited.settings(seed),
                              emitters=limited.emitters(), cache=cache)  # fmt: skip
        archive = runner.run(limited.evaluator, Budget(max(1, len(everything) // 5)))
        found = max((elite.quality for elite in archive if elite.violation == 0), default=0.0)
        near += found >= best - (high - low) / 2
    assert near >= 9


@pytest.mark.slow
def test_the_same_search_finds_nothing_to_evaluate_again(small, tmp_path):
    problem, kept = small
    first = search_deployments(problem, wanted(kept, evaluations=8), tmp_path / "a")[0]
    again = search_deployments(problem, wanted(kept, evaluations=8), tmp_path / "b")[0]
    assert again.evaluated == 0
    assert again.hits >= first.evaluated
    assert (tmp_path / "a" / "atlas.json").read_bytes() == (tmp_path / "b" / "atlas.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("first", "all_", "stack"), [(4, 8, "tflite-int8"), (32, 64, None)])
def test_a_search_that_stopped_goes_on_to_the_same_atlas(small, tmp_path, first, all_, stack):
    problem, kept = small
    for known, evaluations, folder in ((kept, all_, "whole"), ("own", first, "parts"), ("own", all_, "parts")):
        search_deployments(problem, wanted(tmp_path / known, evaluations=evaluations, stack=stack), tmp_path / folder)
    assert (tmp_path / "whole" / "atlas.json").read_bytes() == (tmp_path / "parts" / "atlas.json").read_bytes()


@pytest.mark.slow
def test_the_page_of_the_atlas_is_there_and_equal_for_equal_searches(small, tmp_path, monkeypatch):
    problem, kept = small
    pages = []
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        search_deployments(problem, wanted(kept, evaluations=8), Path("atlas"))
        pages.append(Path("atlas", "atlas.html").read_bytes())
    assert pages[0] == pages[1]
    point = read_atlas(Path("atlas"))["points"][0]
    assert point["id"].encode() in pages[0]


@pytest.mark.slow
def test_a_search_says_how_far_it_is_before_the_first_trial(small, tmp_path):
    problem, _ = small
    seen = []
    search_deployments(problem, wanted(tmp_path / "k", evaluations=4), tmp_path / "atlas",
                       progress=lambda step, done: seen.append((step, done)))  # fmt: skip
    first = seen.index(next(report for report in seen if report[0] == PI))
    assert len({done for step, done in seen[:first] if step == f"{PI}: what each layer costs"}) > 2
    assert all(0 <= done <= 1 for _, done in seen)


@pytest.mark.slow
def test_targets_share_what_their_candidates_are_worth(small, tmp_path):
    problem, _ = small
    targets = [PI, "raspberry_pi_5", "coral_dev_board"]
    found = search_deployments(problem, wanted(tmp_path / "k", targets=targets, evaluations=8), tmp_path / "atlas")
    judge = found[0].ground.evaluator.judge
    assert all(one.ground.evaluator.judge is judge for one in found)
    assert judge._kept.hits > judge._kept.misses / 2
    assert {point["target"] for point in read_atlas(tmp_path / "atlas")["points"]} == set(targets)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "fields"),
    [
        (lambda: Threads(2), {"evaluations": 6, "stack": "tflite-int8"}),
        (lambda: Threads(2), {"evaluations": 12}),
        (lambda: Processes(2), {"evaluations": 12}),
    ],
)
def test_several_workers_find_what_one_finds(small, tmp_path, pool, fields):
    problem, kept = small
    search_deployments(problem, wanted(kept, **fields), tmp_path / "one")
    workers = pool()
    try:
        search_deployments(problem, wanted(tmp_path / "own", **fields), tmp_path / "many", executor=workers)
    finally:
        workers.close()
    assert (tmp_path / "one" / "atlas.json").read_bytes() == (tmp_path / "many" / "atlas.json").read_bytes()


@pytest.mark.slow
def test_a_folder_keeps_the_search_that_it_began(small, tmp_path):
    problem, kept = small
    search_deployments(problem, wanted(kept, evaluations=8), tmp_path)
    with pytest.raises(ArchiveFormatError, match="another search"):
        search_deployments(problem, wanted(kept, evaluations=8, limits={"latency_s": 1e-4}), tmp_path)


# ---- the folder


@pytest.mark.slow
def test_an_atlas_keeps_the_targets_of_an_earlier_search_and_is_of_one_model(small, tmp_path):
    problem, kept = small
    search_deployments(problem, wanted(kept, evaluations=4), tmp_path / "a")
    pi = read_atlas(tmp_path / "a")
    search_deployments(problem, wanted(kept, evaluations=4, targets=["coral_tpu"]), tmp_path / "a")
    both = read_atlas(tmp_path / "a")
    assert list(both["targets"]) == [PI, "coral_tpu"]
    assert [point for point in both["points"] if point["target"] == PI] == pi["points"]
    search_deployments(problem, wanted(kept, evaluations=4), tmp_path / "a")
    assert sorted(read_atlas(tmp_path / "a")["targets"]) == ["coral_tpu", PI]
    assert b"coral_tpu" in (tmp_path / "a" / "atlas.html").read_bytes()
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").glob("atlas.*")}
    other = dataclasses.replace(problem, data=problem.validation)
    for of, fields, said in ((problem, {"limits": {"latency_s": 1.0}}, r"its limit differs: it was \{\}, and is"),
                             (problem, {"seed": 3}, "its seed differs: it was 0, and is 3"),
                             (other, {}, "its data differs")):  # fmt: skip
        with pytest.raises(ArchiveFormatError, match=f"holds the atlas of another search: {said}"):
            search_deployments(of, wanted(kept, evaluations=4, targets=["jetson_nano"], **fields), tmp_path / "a")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").glob("atlas.*")} == before


def test_two_searches_do_not_write_one_atlas(small, tmp_path):
    problem, kept = small
    with locked(tmp_path), pytest.raises(SlimeError, match="another process writes to"):
        search_deployments(problem, wanted(kept, evaluations=4), tmp_path)
    search_deployments(problem, wanted(kept, evaluations=4), tmp_path)


def test_a_search_that_finds_no_data_leaves_no_folder(small, tmp_path):
    problem, kept = small
    with pytest.raises(UsageError, match="needs data"):
        search_deployments(Problem(problem.model), wanted(kept), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(UsageError, match="needs data"):
        search_deployments(Problem(problem.model), wanted(kept), tmp_path / "mine")
    assert (tmp_path / "mine" / "notes").exists()


def test_a_folder_that_cannot_be_made_is_said(small, tmp_path):
    problem, kept = small
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/atlas")):
        with pytest.raises(InvalidInput, match="cannot make the folder"):
            search_deployments(problem, wanted(kept), folder)


@pytest.mark.parametrize("name", ["save", "write_atlas"])
def test_a_full_disk_at_the_end_keeps_what_was_finished(small, tmp_path, monkeypatch, name):
    problem, kept = small

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(searching, name, full)
        with pytest.raises(BudgetExceeded, match="cannot be written: No space left on device"):
            search_deployments(problem, wanted(kept, evaluations=4), tmp_path / "a")
    again = search_deployments(problem, wanted(kept, evaluations=4), tmp_path / "a")[0]
    assert (again.evaluated, again.hits, again.finished) == (0, 0, 4)
    search_deployments(problem, wanted(kept, evaluations=4), tmp_path / "b")
    assert (tmp_path / "a" / "atlas.json").read_bytes() == (tmp_path / "b" / "atlas.json").read_bytes()


# ---- the atlas


def test_points_say_what_they_are_and_the_front_what_it_is_worth_elsewhere(small, tmp_path):
    problem, kept = small
    found = search_deployments(problem, wanted(kept, evaluations=12, baselines=True), tmp_path)[0]
    atlas = read_atlas(tmp_path)
    assert set(atlas["targets"][PI]["standing"]) == {"this search", "stratified random", "NSGA-II"}
    elites = {elite.id: elite for elite in load(tmp_path / PI / "archive")}
    assert {point["id"] for point in atlas["points"]} == set(elites)
    for point in atlas["points"]:
        low, high = point["quality_interval"]
        assert low <= point["quality"] <= high
        for name, (least, most) in point["intervals"].items():
            assert least <= point["measures"][name] <= most, name
        assert (point["held_out"] is not None) == point["is_on_front"]
        assert point["cell"] == elites[point["id"]].cell
    front = [p for p in atlas["points"] if p["is_on_front"]]
    assert front
    for point in front:  # nobody is as good in everything and better somewhere
        goals = [-point["quality"], *(point["measures"][n] for n in found.ground.objectives)]
        others = [[-p["quality"], *(p["measures"][n] for n in found.ground.objectives)]
                  for p in atlas["points"] if p["id"] != point["id"]]  # fmt: skip
        assert not any(all(a < b for a, b in zip(other, goals, strict=True)) for other in others)


@pytest.mark.slow
def test_a_recipe_compiles_to_the_graph_that_was_evaluated(ground, tmp_path):
    stacks = {stack.name for stack in ground.stacks}
    configs = [ground.space.legal({"stack": name}, numpy_generator(0, name)) for name in sorted(stacks)]
    for k, config in enumerate(configs):
        result = ground.evaluator(trial(ground, config))
        recipe = recipe_of(ground.evaluator, config)
        built = compiled(ground, recipe, tmp_path / str(k))
        last = sorted((tmp_path / str(k) / "dump").iterdir())[-1]
        assert hashlib.sha256(last.read_bytes()).hexdigest() == result.meta["graph"]
        assert built.report["after"]["latency_s"] == result.measures["latency_s"]
        assert built.report["after"]["memory_bytes"] == result.measures["peak_memory_bytes"]


def compiled(ground, recipe, folder):
    problem = ground.evaluator.problem  # the recipe names files without this machine's folders
    return compile_model(
        problem.model, target=recipe["target"], stack=recipe["stack"], data=problem.data,
        validation=problem.validation, recipe=recipe["recipe"], passes=recipe["passes"], seed=recipe["seed"],
        budget=Drift(**recipe["budget"]), output=folder / "bundle", dump=folder / "dump",
    )  # fmt: skip


@pytest.mark.slow
def test_what_was_trained_compiles_to_the_graph_that_was_judged(tmp_path):
    config = {"stack": "tensorrt-fp16", "structure": "pruned", "prune_ratio": 0.4, "importance": "magnitude"}
    evaluator = Evaluator(Problem(), "jetson_nano", epochs=1, folder=tmp_path / "kept")
    before, after = (evaluator(Trial(0, config, "key", fidelity, (0,), "test")) for fidelity in (2, 3))
    assert after.quality > before.quality
    recipe = recipe_of(evaluator, config, epochs=1)
    compile_model(recipe["model"], target="jetson_nano", stack=recipe["stack"], passes=recipe["passes"],
                  seed=recipe["seed"], budget=Drift(**recipe["budget"]), output=tmp_path / "bundle",
                  dump=tmp_path / "dump")  # fmt: skip
    last = sorted((tmp_path / "dump").iterdir())[-1]
    assert hashlib.sha256(last.read_bytes()).hexdigest() == after.meta["graph"]


def test_a_limit_that_nothing_keeps_leaves_no_front(small, tmp_path):
    problem, kept = small
    found = search_deployments(problem, wanted(kept, evaluations=8, limits={"latency_s": 1e-9}), tmp_path)[0]
    assert found.points
    assert all(point.violation > 0 and not point.is_on_front for point in found.points)


# ---- climbing


def runner_up_to(top):
    space = ConfigSpace([Choice(f"g{k}", (0, 1, 2, 3)) for k in range(3)])
    measures = BehaviorSpace([Measure(name="latency_s", unit="s", low=0.0, high=10.0)])
    archive = CVTArchive(measures, cvt_centroids(4, 1, n_samples=200), quality_min=0.0, quality_max=1.0)
    settings = Settings(seed=0, generation=8, start=0, fidelity=1, top_fidelity=top)
    return SearchRunner(space, archive, settings)


def test_a_trial_climbs_only_where_it_may_enter_the_archive():
    calls = Counter()
    refused = []

    def evaluate(one):
        calls[one.fidelity] += 1
        quality = sum(one.config.values()) / 9
        measures = {"latency_s": float(one.config["g0"]) * 3}
        elite = runner.archive.get(int(runner.archive.cell_of(np.array([[measures["latency_s"]]]))[0]))
        if one.fidelity == 1 and elite is not None and quality + 0.05 < elite.quality:
            refused.append(one.id)
        assert one.fidelity == 1 or one.id not in refused
        return Evaluated(quality, measures, upper=quality + 0.05 if one.fidelity == 1 else None)

    runner = runner_up_to(2)
    archive = runner.run(evaluate, Budget(40))
    assert runner.finished == calls[1] == 40  # a candidate is one evaluation of the budget, however high it climbs
    assert calls[2] == 40 - len(refused) < 40
    assert all(elite.meta["fidelity"] == 2 for elite in archive)


def test_who_cannot_learn_more_does_not_climb():
    runner = runner_up_to(3)
    archive = runner.run(lambda one: Evaluated(0.5, {"latency_s": 1.0}), Budget(8))
    assert {elite.meta["fidelity"] for elite in archive} == {1}


# ---- the model-guided emitter


def test_codes_tell_every_configuration_from_every_other(ground):
    configs = list(every(ground).values())
    assert len(np.unique(coded(ground.space, configs), axis=0)) == len(configs)


@pytest.mark.slow
def test_who_asks_a_model_proposes_what_was_not_evaluated(small, ground):
    emitters = guides(ground.tables, {}, ground.objectives)
    runner = SearchRunner(ground.space, ground.archive.empty(), Settings(seed=0, start=30, fidelity=2),
                          emitters=emitters, cache=KeptResults(Kept(small[1])))  # fmt: skip
    archive = runner.run(ground.evaluator, Budget(40))
    seen = {ground.space.key(elite.genome) for elite in archive}
    assert [emitter.name for emitter in emitters] == ["guided", "guided front"]
    for emitter in emitters:
        proposal = emitter.propose(ground.space, archive, numpy_generator(0, "next"))
        assert ground.space.key(proposal.config) not in seen
    again = emitters[0].propose(ground.space, archive, numpy_generator(0, "next"))
    assert again == emitters[0].propose(ground.space, archive, numpy_generator(0, "next"))


# ---- what is asked for


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"evaluations": 0}, "no search of 0 evaluations"),
        ({"targets": []}, "no target"),
        ({"targets": [PI, PI]}, "named twice"),
        ({"targets": [PI, "jetson_nano"], "stack": "tflite-int8"}, "one stack for several targets"),
        ({"epochs": -1}, "-1 epochs"),
        ({"evaluations": None}, "without an end"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_loaded(fields, said):
    with pytest.raises(UsageError, match=said):
        wanted(None, **fields)


def test_an_unknown_target_is_named(small, tmp_path):
    problem, kept = small
    with pytest.raises(UnknownName, match="raspbery_pi_4"):
        search_deployments(problem, wanted(kept, targets=["raspbery_pi_4"]), tmp_path)


def test_a_model_in_memory_stays_in_this_process(tmp_path):
    import torch

    workers = Processes(1)
    try:
        with pytest.raises(UsageError, match="in memory"):
            search_deployments(Problem(torch.nn.Linear(3, 2), np.zeros((40, 3), np.float32)), wanted(tmp_path),
                               tmp_path, executor=workers)  # fmt: skip
    finally:
        workers.close()
