"""The ablations: verdicts against worked cases and scipy, every one of them small, and what was kept."""

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from targets.errors import InvalidInput, UnknownName
from toolkit.bench import ablation as command
from toolkit.bench.ablations.ablation import compared
from toolkit.bench.ablations.comparing import Better, Compared, Verdict, compare, holm
from toolkit.bench.ablations.learning import text_for
from toolkit.bench.ablations.matching import flops_of, match, parameters_of
from toolkit.bench.ablations.placement_measured import Crossings
from toolkit.bench.ablations.presets import PRESETS, SMOKE, Device
from toolkit.bench.ablations.results import RECORDED, joined, keep, kept, made_here
from toolkit.bench.ablations.showing import as_document, as_markdown
from toolkit.bench.ablations.spending import step_bytes
from toolkit.bench.ablations.table import ablation, names
from toolkit.models import transformer

Floats = st.floats(-100, 100).map(lambda x: round(x, 3))


# ---- verdicts


def verdict(*gaps: float, margin: float = 0.02, better: Better = "lower") -> Verdict:
    return compare(gaps, [0.0] * len(gaps), margin=margin, better=better).verdict


def test_verdicts_by_hand() -> None:
    assert verdict(-0.1, -0.12, -0.09, -0.11, -0.1) is Verdict.BETTER
    assert verdict(0.1, 0.12, 0.09, 0.11, 0.1) is Verdict.WORSE
    assert verdict(0.1, 0.12, 0.09, 0.11, 0.1, better="higher") is Verdict.BETTER
    assert verdict(0.1, -0.12, 0.09, -0.11, 0.1) is Verdict.UNDECIDED
    assert verdict(0.001, -0.002, 0.001, 0.0, 0.002) is Verdict.EQUIVALENT
    assert verdict(0.001, 0.002, 0.001, 0.003, 0.002) is Verdict.EQUIVALENT, "a difference that does not matter"
    assert verdict(0.001, 0.002, 0.001, 0.003, 0.002, margin=0.0) is Verdict.WORSE
    assert verdict(0.0, 0.0, 0.0, 0.0, 0.0) is Verdict.EQUIVALENT


def test_few_seeds_and_lost_runs_decide_nothing() -> None:
    assert verdict(-0.1, -0.12, -0.09, -0.11) is Verdict.UNDECIDED
    lost = compare([1.0, float("nan"), 1.0, 1.0, 1.0], [0.0] * 5, margin=0.1, better="lower")
    assert lost.verdict is Verdict.UNDECIDED
    with pytest.raises(ValueError, match="one of each seed"):
        compare([1.0], [], margin=0.1, better="lower")


@pytest.mark.slow
@given(st.lists(st.tuples(Floats, Floats), min_size=5, max_size=10))
@settings(max_examples=10, deadline=None)
def test_swapping_the_arms_swaps_better_and_worse(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    there, back = (compare(x, y, margin=0.1, better="lower") for x, y in ((a, b), (b, a)))
    swapped = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    assert back.verdict is swapped.get(there.verdict, there.verdict)
    assert back.mean == pytest.approx(-there.mean)


@pytest.mark.slow
def test_p_values_are_scipys_and_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.Generator(np.random.Philox(key=1))
    gaps = rng.normal(0.3, 1, 10)
    found = compare(gaps.tolist(), [0.0] * 10, margin=0.5, better="lower")
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(gaps).pvalue)
    above = stats.ttest_1samp(gaps, -0.5, alternative="greater").pvalue
    below = stats.ttest_1samp(gaps, 0.5, alternative="less").pvalue
    assert found.equivalence_p == pytest.approx(max(above, below))
    draws = rng.normal(0.3, 1, (200, 30))
    inside = [low <= 0.3 <= high for low, high in
              (compare(row.tolist(), [0.0] * 30, margin=0.0, better="lower").interval for row in draws)]  # fmt: skip
    assert 0.87 < np.mean(inside) < 0.99, "95 %, less a little for 30 values, within three standard errors"


def test_holm_by_hand() -> None:
    def of(p: float) -> Compared:
        return Compared(differences=(), mean=0.0, interval=(0.0, 0.0), wilcoxon_p=p, equivalence_p=1.0,
                        verdict=Verdict.UNDECIDED)  # fmt: skip

    found = holm({"a": of(0.04), "b": of(0.01), "c": of(0.03)})
    assert {name: answer.holm_p for name, answer in found.items()} == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})


# ---- the baseline


@given(st.sampled_from([16, 32, 64]), st.integers(1, 3), st.floats(1.2, 4))
@settings(max_examples=12, deadline=None)
def test_a_baseline_has_as_many_parameters_within_two_percent(width: int, layers: int, factor: float) -> None:
    base = transformer.Config(vocabulary=64, width=width, blocks=layers, heads=2, hidden=8, context=16)
    wanted = factor * parameters_of(transformer.build(base))
    found = match(wanted, vocabulary=64, width=width, heads=2, layers=layers, context=16)
    assert abs(parameters_of(transformer.build(found)) / wanted - 1) <= 0.02


def test_what_no_transformer_can_match_is_refused() -> None:
    with pytest.raises(InvalidInput, match="within 2 %"):
        match(100, vocabulary=64, width=16, heads=2, layers=1, context=16)


@pytest.mark.slow
def test_a_large_transformer_is_matched_in_eights() -> None:
    sizes = {"vocabulary": 256, "width": 512, "heads": 8, "layers": 6, "context": 512}
    for parameters in (18_564_880, 18_783_660):
        found = match(parameters, **sizes)
        assert found.hidden % 8 == 0
        assert parameters_of(transformer.build(found)) == pytest.approx(parameters, rel=2e-3)


def test_flops_are_those_of_the_formula() -> None:
    config = transformer.Config(vocabulary=64, width=16, blocks=1, heads=2, hidden=24, context=16)
    batch = text_for(SMOKE, 0).asked[0]
    b, t = batch[0]["x"].shape
    ids = ({"x": batch[0]["x"] % 64}, None)
    per_token = 2 * (4 * 16 * 16 + 2 * 16 * 24 + 16 * 64)
    assert flops_of(transformer.build(config), ids) == b * t * per_token


# ---- the ablations


@pytest.mark.slow
def test_every_ablation_runs_small_and_answers(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--preset", "smoke", "--json"]) == 0
    found = {document["ablation"]: document for document in json.loads(capsys.readouterr().out)}
    assert tuple(found) == tuple(name for name in names() if name != "A4-measured"), "it takes GPUs"
    for name, document in found.items():
        what = ablation(name)
        arms = document["runs"]["0"]
        assert tuple(arms) == what.arms
        assert all(value is not None for measures in arms.values() for value in measures.values())
        assert {answer["verdict"] for answer in document["contrasts"].values()} == {"undecided"}, "of one seed"
        assert document["conclusion"]
    dynamic = found["A3"]["runs"]["0"]["dynamic"]
    assert dynamic["births"] > 0
    assert found["A4"]["simulated"]
    again = {arm: dict(measures) for arm, measures in ablation("A11").run(0, SMOKE).items()}
    assert {a: {n: pytest.approx(v, rel=1e-6) for n, v in m.items()} for a, m in again.items()} == found["A11"]["runs"][
        "0"
    ]


def test_names_are_known_and_others_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert names() == ("A1", "A2", "A3", "A4", "A4-measured", "A5", "A6", "A7", "A9", "A10", "A11")
    with pytest.raises(UnknownName):
        ablation("A12")
    assert command.main(["A12"]) == 2
    assert "next: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["A11", "--seeds", "0"])


def test_runs_are_kept_and_damaged_ones_refused(tmp_path: Path) -> None:
    runs: Mapping[int, Mapping[str, Mapping[str, float]]] = {k: ablation("A11").run(k, SMOKE) for k in range(2)}
    made = made_here("A11", SMOKE, runs)
    file = keep(made, tmp_path)
    again = kept("A11", tmp_path)
    assert again is not None
    assert again.digest == made.digest
    assert again.runs[1]["lcb"]["inflation"] == pytest.approx(runs[1]["lcb"]["inflation"], rel=1e-6)
    assert kept("A1", tmp_path) is None
    file.write_text(file.read_text()[:-20])
    with pytest.raises(InvalidInput, match="no results"):
        kept("A11", tmp_path)


def test_what_takes_too_long_is_not_begun_and_each_seed_is_written_when_it_is_done(tmp_path: Path) -> None:
    seen = []
    what = ablation("A11")
    made = command.measured(what, replace(SMOKE, seeds=3), within_s=0.0, kept=lambda so_far: seen.append(so_far.runs))
    assert list(made.runs) == [0], "the first is always run: nobody knows yet how long one takes"
    assert command.main(["a11", "--preset", "smoke", "--seeds", "2", "--out", str(tmp_path)]) == 0
    found = kept("A11", tmp_path)
    assert found is not None
    assert list(found.runs) == [0, 1]
    assert [list(runs) for runs in seen] == [[0]]


@pytest.mark.parametrize(("here", "code", "said"), [(1, 3, "needs 2 GPUs"), (2, 2, "times GPUs")])
def test_what_needs_gpus_says_so(
    here: int, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    assert command.main(["A4-measured", "--preset", "smoke"]) == code
    assert said in capsys.readouterr().err


def test_runs_on_a_gpu_are_kept_beside_those_of_a_cpu(tmp_path: Path) -> None:
    runs = {0: ablation("A11").run(0, SMOKE)}
    text = tmp_path / "some" / "words.txt"
    text.parent.mkdir()
    text.write_text("words")
    here = made_here("A11", replace(SMOKE, text=str(text)), runs)
    assert here.preset.text is not None
    assert here.preset.text.startswith("words.txt, sha256 "), "where it lay is nobody's concern"
    there = replace(here, preset=replace(SMOKE, device="cuda"), machine="a GPU")
    assert {keep(one, tmp_path).name for one in (here, there)} == {"A11.json", "A11.cuda.json"}
    back = kept("A11", tmp_path, device="cuda")
    assert back is not None
    assert back.machine == "a GPU"
    assert next(iter(as_markdown(ablation("A11"), back))).startswith("## A11 on a GPU. ")


def test_seeds_that_were_run_apart_are_joined_and_others_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        keep(made_here("A11", SMOKE, {seed: ablation("A11").run(seed, SMOKE)}), tmp_path / str(seed))
    folders = [str(tmp_path / "1"), str(tmp_path / "0")]
    assert command.main(["A11", "--join", *folders, "--out", str(tmp_path / "both")]) == 0
    both = kept("A11", tmp_path / "both")
    assert both is not None
    assert (both.preset.seeds, list(both.runs)) == (2, [0, 1])
    assert command.main(["A11", "--join", folders[0], folders[0]]) == 5
    assert "do not make one" in capsys.readouterr().err
    for other in (replace(both, machine="another"), replace(both, preset=replace(SMOKE, width=32))):
        with pytest.raises(InvalidInput, match="of 2 kinds"):
            joined([both, other])
    with pytest.raises(InvalidInput):
        joined([])


def test_a_step_holds_its_weights_fourfold_and_what_its_gradient_needs() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    batch = ({"x": torch.zeros(16, 8)}, None)
    held = step_bytes(model, lambda net, given: net(given[0]["x"]).sum(), batch)
    inputs, hidden = 16 * 8, 16 * 4  # ReLU and the layer behind it keep the same tensor
    assert held == 4 * (4 * (8 * 4 + 4 + 4 * 2 + 2) + inputs + hidden)


def test_what_crosses_between_devices_is_counted() -> None:
    x = torch.zeros(3, 5)
    with Crossings() as crossed:
        y = x.to("meta")
        y.to(torch.float64)
        x.double()
    assert crossed.nbytes == 3 * 5 * 4


@pytest.mark.slow
def test_components_that_are_spread_answer_as_together() -> None:
    found = ablation("A4-measured").run(0, SMOKE)
    assert tuple(found) == ablation("A4-measured").arms
    assert all(measures["loss_off_nats"] < 1e-5 for measures in found.values()), "float32 in another order"
    assert found["one device"]["largest_load"] == 2
    assert found["round robin"]["largest_load"] < 2
    assert all(measures["crossing_bytes_per_step"] == 0 for measures in found.values()), "both are one processor"


@pytest.mark.slow
def test_what_results_md_says_is_what_was_kept() -> None:
    page = (RECORDED.parent.parent / "RESULTS.md").read_text()
    shown = 0
    devices: tuple[Device, ...] = ("cpu", "cuda")
    for name, device in product(names(), devices):
        found = kept(name, device=device)
        if found is None:
            assert f"## {name}{' on a GPU' if device == 'cuda' else ''}. " not in page
            continue
        what = ablation(name)
        assert "\n".join(as_markdown(what, found)).strip() in page, (
            f"python -m toolkit.bench.ablation {name} --kept --markdown"
        )
        assert set(as_document(what, found)["contrasts"]) == set(compared(what, list(found.runs.values())))
        assert set(found.preset.to_data()) == set(PRESETS["cpu"].to_data())
        shown += 1
    assert shown
