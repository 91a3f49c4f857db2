"""What every network of the zoo keeps to, whatever it is: one test for each promise, over the whole registry."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.compare import errors, sqnr_db
from passes.context import Context
from passes.dataset import Array, Sample
from passes.recipe import recipe_for
from passes.running import run
from passes.torch_level.capture import flatten
from targets.errors import InvalidInput, ToolkitError, UnknownName, UsageError
from targets.target import load_stack, load_target
from toolkit.backends import BACKENDS
from toolkit.driver import Options, compile_model, float_program
from toolkit.models import Entry, entries, entry, names
from toolkit.models.blueprints.config import BlueprintConfig, parse, settings
from toolkit.sources import Source, load_source
from toolkit.verify.golden import verify_bundle

ALL = entries()
SET_UP = [e for e in ALL if e.family == "blueprint"]
PAIRS = [(e, target) for e in ALL for target in e.targets]
LOWERED_TO_INT8 = ("QuantizeInt8", "QuantizeDynamic")
KEPT = ("kept", "narrowed")

Answer = Callable[[Sample], list[Array]]

over_all = pytest.mark.parametrize("made", ALL, ids=lambda e: e.name)
over_set_up = pytest.mark.parametrize("made", SET_UP, ids=lambda e: e.name)


@cache
def network(name: str) -> nn.Module:
    return entry(name).build()


@cache
def samples(name: str, count: int = 3) -> list[Sample]:
    return list(islice(entry(name).calibration(), count))


@cache
def source(name: str) -> Source:
    return load_source(name)


def answers(model: Callable[..., object], sample: Mapping[str, Array]) -> list[Tensor]:
    with torch.no_grad():
        return list(flatten(model(*(torch.from_numpy(np.asarray(a)) for a in sample.values()))))


def largest_difference(some: list[Tensor], others: list[Tensor]) -> float:
    """In parts of the largest value, where that is above 1."""
    return max(
        float((a.double() - b.double()).abs().max() / max(1.0, float(a.abs().max())))
        for a, b in zip(some, others, strict=True)
    )


def ratio_db(some: list[Array], others: list[Array]) -> float:
    """Of signal to noise, of the worst output."""
    return min(sqnr_db(*errors(a, b)[:2]) for a, b in zip(some, others, strict=True))


def config_of(made: Entry) -> type[BlueprintConfig]:
    found = made.config_type()
    assert found is not None
    return found


# ---- the registry


def test_names_are_sorted_and_each_has_a_summary_and_a_use() -> None:
    assert names() == sorted(names()) == [e.name for e in ALL]
    assert all(e.summary and e.use_case for e in ALL)


def test_an_unknown_name_is_told_what_was_meant() -> None:
    with pytest.raises(UnknownName, match="separable_visoin") as caught:
        entry("separable_visoin")
    assert caught.value.hint == "did you mean 'separable_vision'?"


def test_a_network_of_one_size_takes_no_config() -> None:
    with pytest.raises(UsageError, match="digits comes in one size"):
        entry("digits").build(BlueprintConfig())


# ---- configs


@over_set_up
def test_a_config_survives_json_and_says_what_its_fields_are(made: Entry) -> None:
    config = config_of(made)()
    assert type(config).model_validate_json(config.model_dump_json()) == config
    assert parse(type(config), config.model_dump(mode="json")) == config
    described = settings(type(config))
    assert [s.name for s in described][-1] == "seed"
    assert all(s.allowed and s.meaning for s in described), [s.name for s in described if not s.meaning]


@over_set_up
def test_a_field_that_does_not_exist_is_refused_and_the_near_one_is_named(made: Entry) -> None:
    with pytest.raises(InvalidInput, match=f"{made.name} has no field 'sede'") as caught:
        parse(config_of(made), {"sede": 1})
    assert caught.value.hint == "did you mean 'seed'?"


@over_set_up
@pytest.mark.parametrize("wrong", ["1", 1.5, None, -1, True])
def test_a_value_of_another_type_is_refused_with_what_is_allowed(made: Entry, wrong: object) -> None:
    with pytest.raises(InvalidInput, match=f"{made.name}: seed = {wrong!r} is not allowed") as caught:
        parse(config_of(made), {"seed": wrong})
    assert caught.value.hint == "seed is integer, from 0 below 2^63"


@over_set_up
def test_no_number_takes_text_or_what_is_not_finite(made: Entry) -> None:
    for setting in settings(config_of(made)):
        if setting.allowed.startswith(("integer", "number")):
            for wrong in ("8", float("nan"), float("inf")):
                with pytest.raises(InvalidInput, match=f"{made.name}: {setting.name} = "):
                    parse(config_of(made), {setting.name: wrong})


# ---- building


@over_all
def test_building_gives_the_same_weights_and_leaves_the_generators_alone(made: Entry) -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()
    one, other = made.build(), made.build()
    made.example(), made.calibration().digest
    assert torch.equal(before, torch.random.get_rng_state())
    assert numpy_before == np.random.get_state()[1].tolist()
    assert not any(m.training for m in one.modules())
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@over_set_up
def test_another_seed_gives_other_weights(made: Entry) -> None:
    config = config_of(made)
    some, others = (made.build(config(seed=seed)).state_dict().values() for seed in (1, 2))
    assert any(not torch.equal(a, b) for a, b in zip(some, others, strict=True))


@over_all
def test_samples_are_what_forward_takes(made: Entry) -> None:
    example = made.example()
    taken = [p.name for p in inspect.signature(network(made.name).forward).parameters.values()]
    assert list(example) == taken[: len(example)]
    for sample in samples(made.name):
        assert {n: (a.shape, a.dtype) for n, a in sample.items()} == {n: (a.shape, a.dtype) for n, a in example.items()}
    assert all(a.shape[0] == 1 for a in example.values())


@over_all
def test_calibration_is_made_the_same_twice_and_its_samples_differ(made: Entry) -> None:
    assert made.calibration().digest == made.calibration().digest
    first, second = samples(made.name)[:2]
    assert any(not np.array_equal(first[n], second[n]) for n in first)


DRAWN = ("keyword_spotting", "quant_adapter")  # their data take longest to draw


@pytest.mark.parametrize(
    "made", [pytest.param(e, marks=pytest.mark.slow if e.name in DRAWN else ()) for e in ALL], ids=lambda e: e.name
)
def test_labels_fit_the_answers(made: Entry) -> None:
    for data in (made.training(), made.validation()):
        if data is not None:
            assert data.labels is not None
            assert len(data) == len(data.labels) > 0
            answer = answers(network(made.name), next(iter(data)))[0]
            assert 0 <= data.labels.min() <= data.labels.max() < answer.shape[-1]


# ---- answers


@over_all
def test_answers_are_finite_and_the_same_twice(made: Entry) -> None:
    for sample in samples(made.name):
        one, other = answers(network(made.name), sample), answers(network(made.name), sample)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert all(torch.isfinite(a).all() for a in one)


@over_all
def test_a_sample_is_answered_alike_alone_and_beside_others(made: Entry) -> None:
    some = samples(made.name)
    together = answers(network(made.name), {n: np.concatenate([s[n] for s in some]) for n in some[0]})
    for i, sample in enumerate(some):
        assert largest_difference(answers(network(made.name), sample), [t[i : i + 1] for t in together]) <= 1e-5


@over_all
def test_half_precision_stays_finite_and_near(made: Entry) -> None:
    for sample in samples(made.name):
        wanted = answers(network(made.name), sample)
        with torch.autocast("cpu", dtype=torch.float16):
            found = answers(network(made.name), sample)
        assert all(torch.isfinite(a).all() for a in found)
        pairs = [[a.float().numpy() for a in tensors] for tensors in (wanted, found)]
        assert ratio_db(*pairs) >= 30  # 11 bits hold 66 dB a rounding; layers add theirs up


# ---- export


@pytest.mark.slow
@over_all
def test_torchscript_answers_like_the_network(made: Entry) -> None:
    model, some = network(made.name), samples(made.name)
    inputs = tuple(torch.from_numpy(np.asarray(a)) for a in made.example().values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", torch.jit.TracerWarning)  # a branch of Python that the trace would freeze
        traced = torch.jit.trace(model, inputs, check_trace=False)
    for sample in some:
        assert largest_difference(answers(model, sample), answers(traced, sample)) <= 1e-5


@pytest.mark.slow
@over_all
def test_onnx_answers_like_the_network(made: Entry) -> None:
    stack = load_stack("desktop_cpu/onnxruntime-fp32")
    program = float_program(source(made.name), stack, Options(cache=False))
    for sample in samples(made.name):
        found = [torch.from_numpy(a) for a in program.run(sample).values()]
        assert largest_difference(answers(network(made.name), sample), found) <= 1e-5


# ---- targets


BUNDLED = "raspberry_pi_4"
"""Compiled to a bundle that is verified; elsewhere the same passes and backend run without its report."""


def compiled(made: Entry, target: str, folder: Path) -> tuple[Sequence[Mapping[str, Any]], Answer]:
    """The proofs of a compile, and what answers like the artefact."""
    if target == BUNDLED:
        bundle = compile_model(made.name, target=target, output=folder / "bundle")
        assert verify_bundle(bundle).passed
        return bundle.manifest["proofs"], lambda sample: list(bundle(dict(sample)).values())
    loaded, stack = source(made.name), load_target(target).stack(None)
    backend = BACKENDS[stack.backend]
    ctx = Context(stack=stack, data=loaded.data)
    outcome = run(
        recipe_for(stack, loaded.program.level), loaded.program, ctx, prepared=lambda graph: backend.check(graph, stack)
    )
    artifact = backend.lower(outcome.program, stack, folder)
    assert (folder / artifact.file).stat().st_size > 0
    return [proof.to_json() for proof in outcome.proofs], lambda sample: list(outcome.program.run(sample).values())


@pytest.mark.slow
@pytest.mark.parametrize(("made", "target"), PAIRS, ids=[f"{e.name}-{t}" for e, t in PAIRS])
def test_it_is_compiled_for_its_targets_or_the_reason_is_known(made: Entry, target: str, tmp_path: Path) -> None:
    if target in made.refused:
        with pytest.raises(ToolkitError) as caught:
            compiled(made, target, tmp_path)
        assert made.refused[target] in caught.value.problem
        print(f"{made.name} is not compiled for {target}: {caught.value.problem}")
        return
    proofs, answer = compiled(made, target, tmp_path)
    assert ratio_db(*_both(made, answer)) >= 20
    if load_target(target).stack(None).dtype == "int8":
        assert max(map(_int8_db, proofs)) >= 20, "nothing was tried in int8"


def _int8_db(proof: Mapping[str, Any]) -> float:
    """Of signal to noise in int8, of the worst output, where it was kept or only left for being slower."""
    if proof["pass"] in LOWERED_TO_INT8 and "quantized already" in proof["reason"]:
        return inf  # it came in integers: its own tests hold it against floats
    if proof["pass"] not in LOWERED_TO_INT8 or not (proof["decision"] in KEPT or "slower" in proof["reason"]):
        return -inf
    return min((drift["sqnr_db"] for drift in proof["drift"]), default=-inf)


def _both(made: Entry, answer: Answer) -> tuple[list[Array], list[Array]]:
    """Every answer to 16 samples, of the network and of what was made of it, joined by output."""
    some = samples(made.name, 16)
    wanted = [[a.numpy() for a in answers(network(made.name), s)] for s in some]
    join = partial(np.concatenate, axis=0)
    return [join(x) for x in zip(*wanted, strict=True)], [join(x) for x in zip(*map(answer, some), strict=True)]
