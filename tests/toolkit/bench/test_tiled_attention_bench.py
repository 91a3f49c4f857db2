"""What the bench of tiled attention asks, and that it says what it could not measure."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from toolkit.bench.tiled_attention.__main__ import _judged, main
from toolkit.bench.tiled_attention.learning import recall_data
from toolkit.bench.tiled_attention.speed import _christoffel, _diffusion, layers, tokens


def test_what_is_asked_for_was_said_before() -> None:
    data = recall_data(50, 0, "asked")
    assert data.labels is not None
    for sample, labels in zip(data, data.labels, strict=True):
        ids = sample["characters"][0]
        pairs = dict(zip(ids[:16:2], ids[1:16:2], strict=True))
        assert len(pairs) == 8
        assert (labels[:16] == -100).all()
        assert [pairs[key] for key in ids[16:]] == labels[16:].tolist()


def test_parts_and_seeds_ask_for_different_things() -> None:
    digests = {recall_data(20, seed, part).digest for seed in (0, 1) for part in ("training", "asked")}
    assert len(digests) == 4
    assert recall_data(20, 0, "asked").digest in digests


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_timed_side_by_side_is_the_same_attention(causal: bool) -> None:
    ways, x = layers(causal, refine=99), tokens(192)
    with torch.no_grad():
        wanted = ways["unfused"](x)
        for name in ("sdpa", "tiled dot"):
            torch.testing.assert_close(ways[name](x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("made", [_christoffel, lambda: _diffusion(16)])
def test_all_forms_of_a_step_answer_alike(made) -> None:
    first, *others = (torch.as_tensor(run()).detach().clone() for run in made().values())
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-6, atol=1e-6)


def test_without_a_gpu_nothing_is_claimed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["device"]
    assert [row["shape"] for row in rows][::2] == ["(1, 16, 16384, 64)", "(1, 16, 16384, 128)"]
    assert all(row["ratio"] is None and row["note"] == "not measured: --device cuda" for row in rows)
    assert all((row["refine"], row["tiles"], row["goal"]) == (16, 128, 2.0) for row in rows)
    assert main(["device"]) == 0
    assert "(1, 16, 16384, 64): not measured: --device cuda" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        (["speed"], "known:"),
        (["--scores", "cosine"], "known:"),
        (["--lengths", "0"], "a length of 0: choose 1 or more"),
    ],
)
def test_what_is_no_argument_is_refused(wrong: tuple[list[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(wrong[0])
    assert stopped.value.code == 2
    assert wrong[1] in capsys.readouterr().err


def test_a_gpu_that_is_not_here_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        main(["device", "--device", "cuda"])
    assert "no GPU that torch can use" in capsys.readouterr().err


def test_a_goal_is_reached_by_the_lower_end_of_the_interval_alone() -> None:
    row = {"way": "tiled dot", "causal": False, "length": 4096, "unfused_ratio": 5.0, "unfused_interval": (4.0, 6.0),
           "sdpa_ratio": 1.1, "sdpa_interval": (0.9, 1.3)}  # fmt: skip
    used = {"way": "tiled dot", "length": 2048, "under_dense": 0.59}
    on_gpu = {"shape": "s", "ratio": 1.9, "goal": 2.0, "causal": False, "note": ""}
    assert list(_judged({"time": [row], "memory": [used], "device": [on_gpu]})) == [
        "tiled dot, 4,096 tokens: faster than unfused dense attention, 5.00x",
        "tiled dot, 4,096 tokens: NOT faster than sdpa dense attention, 1.10x",
        "tiled dot: 59.0% under unfused dense attention, MISSES 60%",
        "s: 1.90x flash, MISSES 2.0x",
    ]
    assert not list(_judged({"time": [{**row, "length": 2048}], "memory": [{**used, "length": 1024}]}))


def test_tokens_are_the_same_twice_and_neither_constant_nor_unrelated() -> None:
    x = tokens(500)[0].numpy()
    assert np.array_equal(x, tokens(500)[0].numpy())
    near = np.mean([np.corrcoef(x[i], x[i + 1])[0, 1] for i in range(400, 498)])
    assert 0.2 < near < 0.9
