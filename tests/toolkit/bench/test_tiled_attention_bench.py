"""What the bench of tiled attention asks, and that it says what it could not measure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from passes.dataset import UNASKED, Dataset
from toolkit.bench import characters
from toolkit.bench.tiled_attention.__main__ import _judged, main
from toolkit.bench.tiled_attention.answers import answered
from toolkit.bench.tiled_attention.device import measured
from toolkit.bench.tiled_attention.learning import mean_interval
from toolkit.bench.tiled_attention.peers import PEERS, Compressed, bigbird, peer, window
from toolkit.bench.tiled_attention.resident import resident
from toolkit.bench.tiled_attention.speed import layers, peaks, tokens
from toolkit.bench.tiled_attention.tasks import TASKS, Part
from toolkit.bench.tiled_attention.text import Size, text
from toolkit.models import geometric, transformer


def asked(name: str, count: int = 50, part: Part = "asked") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and labels of each sample."""
    data = TASKS[name].data(name, count, 0, part)
    assert data.labels is not None
    for sample, labels in zip(data, data.labels, strict=True):
        yield sample["characters"][0], labels


def test_recall_asks_for_what_was_said_before() -> None:
    for ids, labels in asked("recall"):
        pairs = dict(zip(ids[:16:2], ids[1:16:2], strict=True))
        assert len(pairs) == 8
        assert (labels[:16] == UNASKED).all()
        assert [pairs[key] for key in ids[16:]] == labels[16:].tolist()


def test_copy_asks_for_all_of_it_again() -> None:
    for ids, labels in asked("copy"):
        assert (labels[:32] == UNASKED).all()
        assert ids[32] == 0
        assert labels[32:].tolist() == ids[:32].tolist()
        assert labels[32:-1].tolist() == ids[33:].tolist()  # what was asked is told behind it


def test_induction_asks_from_the_second_time_on() -> None:
    for ids, labels in asked("induction"):
        places = np.flatnonzero(ids == 0)
        assert len(places) == 8
        assert set(ids[places + 1]) == set(labels[places[1:]])
        assert (np.delete(labels, places[1:]) == UNASKED).all()


@pytest.mark.parametrize("part", ["asked", "training"])
def test_passkey_asks_for_each_digit_by_its_colour(part: Part) -> None:
    times = set()
    for ids, labels in asked("passkey", 50, part):
        keys = ids[:-4][ids[:-4] < 50]
        digits = {(key - 10) // 10: key % 10 for key in keys}
        assert len(digits) == 4
        assert len(keys) % len(set(keys)) == 0
        assert len(set(keys)) == 4  # said again, it is the same
        assert (ids[:-4] >= 10).all()
        assert [digits[colour] for colour in ids[-4:] - 50] == labels[-4:].tolist()
        times.add(len(keys) // 4)
    assert times == ({1} if part == "asked" else {1, 2, 4, 8, 16, 32})


def test_listops_asks_for_the_value_of_what_is_written() -> None:
    words = [str(k) for k in range(10)] + ["MIN(", "MAX(", "MED(", "SM(", ")", "", "?"]
    names = {"MIN": lambda *x: min(x), "MAX": lambda *x: max(x), "MED": lambda *x: int(statistics.median(x)),
             "SM": lambda *x: sum(x) % 10}  # fmt: skip
    nested = 0
    for ids, labels in asked("listops", 200):
        written = ",".join(words[k] for k in ids[:-1] if words[k]).replace("(,", "(").replace(",)", ")")
        nested += written.count("(") > 1
        assert labels[-1] == eval(written, {"__builtins__": {}}, names)  # noqa: S307  made here
    assert nested > 50


def test_pathfinder_asks_which_dashes_lead_to_the_marked_end() -> None:
    for ids, labels in asked("pathfinder"):
        image, again = ids.reshape(2, 8, 8)
        assert (image == again).all()
        assert (labels[:64] == UNASKED).all()
        dashes = {(int(y), int(x)) for y, x in np.argwhere(image)}
        (end,) = (tuple(map(int, place)) for place in np.argwhere(image == 2))
        reached, edge = {end}, [end]
        while edge:
            y, x = edge.pop()
            near = {(a, b) for a, b in dashes - reached if max(abs(a - y), abs(b - x)) == 2}
            reached |= near
            edge += near
        said = labels[64:].reshape(8, 8)
        assert len(dashes) == 8
        assert len(reached) == 4
        assert {tuple(map(int, place)) for place in np.argwhere(said == 4)} == reached - {end}
        assert {tuple(map(int, place)) for place in np.argwhere(said == 3)} == dashes - reached


@pytest.mark.parametrize("name", TASKS)
def test_a_task_stays_in_its_vocabulary_and_is_no_guess(name: str) -> None:
    task = TASKS[name]
    assert task.length % task.tile == 0
    every = np.concatenate([np.stack(pair) for pair in asked(name, 300)])
    assert every[::2].min() >= 0
    assert every.max() < task.vocabulary
    right = every[1::2][every[1::2] != UNASKED]
    assert np.bincount(right).max() < (0.6 if name == "pathfinder" else 0.2) * len(right)


def test_parts_and_seeds_ask_for_different_things() -> None:
    task = TASKS["recall"]
    digests = {task.data("recall", 20, seed, part).digest for seed in (0, 1) for part in ("training", "asked")}
    assert len(digests) == 4
    assert task.data("recall", 20, 0, "asked").digest in digests


@pytest.mark.parametrize("causal", [False, True])
def test_what_is_timed_side_by_side_is_the_same_attention(causal: bool) -> None:
    ways, x = layers(causal, refine=99), tokens(192)
    with torch.no_grad():
        wanted = ways["unfused"](x)
        for name in ("sdpa", "tiled dot"):
            torch.testing.assert_close(ways[name](x), wanted, rtol=1e-5, atol=1e-5)


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
        (["--seeds", "0"], "a number of seeds of 0: choose 1 or more"),
        (["--workers", "0"], "a number of workers of 0: choose 1 or more"),
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
    on_gpu = {"shape": "s", "ratio": 2.1, "interval": (1.9, 2.3), "goal": 2.0, "causal": True, "note": ""}
    assert list(_judged({"time": [row], "memory": [used], "device": [on_gpu]})) == [
        "tiled dot, 4,096 tokens: faster than unfused dense attention, 5.00x",
        "tiled dot, 4,096 tokens: NOT faster than sdpa dense attention, 1.10x",
        "tiled dot: 59.0% under unfused dense attention, MISSES 60%",
        "s causal: 2.10x flash, MISSES 2.0x",
    ]
    assert not list(_judged({"time": [{**row, "length": 2048}], "memory": [{**used, "length": 1024}]}))


def test_tokens_are_the_same_twice_and_neither_constant_nor_unrelated() -> None:
    x = tokens(500)[0].numpy()
    assert np.array_equal(x, tokens(500)[0].numpy())
    near = np.mean([np.corrcoef(x[i], x[i + 1])[0, 1] for i in range(400, 498)])
    assert 0.2 < near < 0.9


# ---- peers


def test_masks_show_no_later_token_and_as_many_as_they_say() -> None:
    seen = window(40, 16)
    assert seen.sum(1).tolist() == [min(i + 1, 16) for i in range(40)]
    sparse = bigbird(40, 4, 0)
    assert not sparse.triu(1).any()
    assert sparse.diagonal().all()
    tiles = sparse.unflatten(0, (10, 4)).unflatten(2, (10, 4))[:, 3].any(-1)  # what a tile's last token sees
    assert tiles[:, 0].all()
    assert tiles[1:].diagonal().all()
    assert (tiles.sum(1) <= 4).all()
    assert not torch.equal(sparse, bigbird(40, 4, 1))


@pytest.mark.parametrize("name", PEERS)
def test_peers_are_causal_and_have_as_many_parameters_as_tiles(name: str) -> None:
    config = transformer.Config(vocabulary=40, context=40, hidden=256)
    made, read = peer(name, config, 4), torch.arange(40)[None]
    changed = read.clone()
    changed[:, 21:] = (changed[:, 21:] + 3) % 40
    with torch.no_grad():
        before, after = made(read), made(changed)
    torch.testing.assert_close(after[:, :21], before[:, :21], rtol=1e-5, atol=1e-5)
    assert (after[:, 21] - before[:, 21]).abs().max() > 1e-3
    tiled = geometric.build(geometric.Config(vocabulary=40, context=40, hidden=256, score="dot"))
    count, other = (sum(p.numel() for p in x.parameters()) for x in (made, tiled))
    assert abs(count - other) < 0.02 * other


def test_compressed_tiles_are_seen_once_they_are_whole() -> None:
    """With the gates of the other two closed, tokens of the first tile see nothing, those of the second its mean."""
    made = Compressed(8, 2, 4).double()
    with torch.no_grad():
        made.gate.weight.zero_()
        made.gate.bias.copy_(torch.tensor([40.0, -400, -400]).repeat_interleave(2))
        x = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        found = made(x)
        mean = made.out(made.value(x[:, :4]).mean(1))
    torch.testing.assert_close(found[0, :4], made.out.bias.expand(4, -1).detach())
    torch.testing.assert_close(found[0, 4:], mean.detach().expand(4, -1))


# ---- train dense, deploy tiled


@pytest.mark.slow
def test_recall_says_what_each_way_remembers_over_all_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("toolkit.bench.tiled_attention.learning.cache_folder", lambda: tmp_path)
    monkeypatch.setitem(TASKS, "recall", replace(TASKS["recall"], steps=2))
    monkeypatch.setattr("toolkit.bench.tiled_attention.answers._ASKED", 8)
    monkeypatch.setattr("toolkit.bench.tiled_attention.answers.PEERS", ("nsa",))
    rows = list(answered("recall", ("born", "dot"), 2))
    assert {row.way for row in rows} == {"nsa", "born", "dot"}
    tiled = {(row.refine, row.choose_by): row for row in rows if row.way == "dot"}
    assert set(tiled) == {(0, "")} | {(r, by) for r in range(1, 11) for by in ("own", "earlier")}
    dense = tiled[0, ""]
    assert (dense.seeds, len(dense.each), dense.kept) == (2, 2, 1.0)
    assert dense.right_interval is not None
    assert dense.right_interval[0] <= dense.right <= dense.right_interval[1]
    assert tiled[10, "own"].each == dense.each  # all tiles are dense attention
    assert (dense.flops_ratio, tiled[10, "own"].promised) == (None, 0.0)
    some = tiled[2, "own"]
    assert some.promised is not None
    assert some.error is not None
    assert 0 < some.error < some.promised  # of an untrained network the error is far below the bound


def test_tiles_cost_a_text_what_the_same_windows_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def windows(part: str, *, context: int) -> Dataset:
        held = np.random.default_rng(len(part)).integers(0, 90, (4, context + 1))
        return Dataset.of_arrays(part, {"characters": held[:, :-1]}, held[:, 1:])

    monkeypatch.setattr("toolkit.bench.tiled_attention.learning.cache_folder", lambda: tmp_path)
    monkeypatch.setattr(characters, "windows", windows)
    size = Size(context=64, tile=16, width=16, blocks=1, heads=2, batch=2, epochs=1, rate=1e-2)
    rows = list(text(("metric",), size=size))
    dense = next(row for row in rows if row.score == "metric" and not row.refine)
    tiled = {(row.refine, row.tiles_are): row for row in rows if row.refine}
    assert set(tiled) == {(r, which) for r in (1, 2, 4) for which in ("chosen", "chosen, the one before", "recent")}
    assert (dense.worse, dense.characters) == (0.0, 4 * 64)
    for row in tiled.values():
        assert row.worse_interval[0] <= row.worse <= row.worse_interval[1]
        assert row.loss == pytest.approx(dense.loss + row.worse)
    assert tiled[1, "chosen"].loss == tiled[1, "recent"].loss  # the own tile alone, either way
    assert abs(tiled[1, "chosen"].worse) > 1e-5
    assert tiled[2, "chosen"].loss != tiled[2, "recent"].loss
    assert tiled[2, "chosen, the one before"].loss == tiled[2, "recent"].loss  # there is no other
    assert abs(tiled[4, "chosen"].worse) < 1e-6  # all tiles are dense attention, to rounding
    assert abs(tiled[4, "recent"].worse) < 1e-6


def test_an_interval_of_a_mean_is_students() -> None:
    assert mean_interval([1.0]) is None
    low, high = mean_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)  # 4.3027 / √3


@pytest.mark.slow
def test_on_another_device_the_same_is_measured_and_agrees() -> None:
    row = measured((1, 1, 16 * 128, 16), True, torch.device("cpu"))
    assert (row.refine, row.tiles, row.device) == (2, 16, "cpu")
    assert row.error is not None
    assert row.error < 0.05  # of bfloat16
    assert row.means_error == 0.0  # plain torch both times
    assert row.interval is not None
    assert row.interval[0] <= row.interval[1]


@pytest.mark.slow
def test_the_system_sees_what_the_meter_counts() -> None:
    """Unfused attention over 1,024 tokens holds 33 MB; what else a process takes is a few pages."""
    row = next(resident([1024], ["unfused"]))
    assert row.live_bytes == peaks(layers(False)["unfused"], tokens(1024))[0]
    assert row.resident_bytes == pytest.approx(row.live_bytes, rel=0.1)
    assert (row.gradients, row.under_dense, row.live_under_dense) == (False, 0.0, 0.0)
