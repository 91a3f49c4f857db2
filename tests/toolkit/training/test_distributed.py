"""Two processes on gloo: the weights of one with twice the batch, one loss that is lost stops both."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.context import Batch
from passes.dataset import UNASKED, Dataset
from targets.errors import InvalidInput
from toolkit.training.distributed import ALONE, Group, torchrun_group
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer


def points() -> Dataset:
    x = np.random.default_rng(0).standard_normal((90, 4)).astype(np.float32)
    return Dataset.of_arrays("points", {"x": x}, (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return nn.functional.cross_entropy(model(inputs["x"]), labels)


def trained(batch: int, group: Group, checkpoint: Path | None = None) -> nn.Module:
    """90 samples in batches of 32 or 2 x 16 are 30 each: 15 for a process; the last of 7 epochs is judged too."""
    fit = Trainer(data=points(), validation=points(), settings=Settings(batch=batch, patience=0), group=group,
                  checkpoint=checkpoint)  # fmt: skip
    return fit(network(), cross_entropy, step="test", epochs=7, rate=0.02)


class Parted(nn.Module):
    """Two ways, of which a sample takes one: a way that nobody took has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList(network() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        taken = (x[:, 2] > 0).long()
        out = torch.zeros(len(x), 3)
        for way, network in enumerate(self.ways):
            if bool((taken == way).any()):
                out = out.index_put(((taken == way).nonzero().flatten(),), network(x[taken == way]))
        return out


def parted(batch: int, group: Group) -> nn.Module:
    """Batches of 2, or one sample for each of two processes."""
    fit = Trainer(data=points(), validation=points(), settings=Settings(batch=batch, patience=0), group=group)
    return fit(Parted(), cross_entropy, step="test", epochs=1, rate=0.02)


WORKER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
import torch
import test_distributed as t
from toolkit.training.distributed import torchrun_group

with torchrun_group("cpu") as group:
    if sys.argv[4] == "lost" and group.rank == 1:
        plain = t.cross_entropy
        t.cross_entropy = lambda model, batch: plain(model, batch) * (float("nan") if model.training else 1.0)
    model = t.parted(1, group) if sys.argv[4] == "parted" else t.trained(16, group, Path(sys.argv[3]) / "checkpoint.pt")
    torch.save(model.state_dict(), Path(sys.argv[3]) / f"{group.rank}.pt")
"""


def _run(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    (folder / "worker.py").write_text(WORKER)
    places = [str(Path(__file__).parents[3]), str(Path(__file__).parent)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(folder / "worker.py"), *places, str(folder), how]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    done = _run(tmp_path, "well")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = trained(32, ALONE).state_dict()
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        assert float((first[name] - value).abs().max()) <= 1e-6
    assert not torch.equal(alone["0.weight"], network().state_dict()["0.weight"])
    assert (tmp_path / "checkpoint.pt").is_file()


@pytest.mark.slow
def test_ways_that_one_process_alone_took_are_learned_by_both(tmp_path: Path) -> None:
    """Also the third, which nobody takes: it has no gradient, and is not decayed either."""
    done = _run(tmp_path, "parted")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = parted(2, ALONE).state_dict()
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        assert float((first[name] - value).abs().max()) <= 1e-5
    assert torch.equal(alone["ways.2.0.weight"], Parted().state_dict()["ways.2.0.weight"])


@pytest.mark.slow
def test_a_loss_that_one_process_loses_stops_both(tmp_path: Path) -> None:
    done = _run(tmp_path, "lost")
    assert done.returncode != 0
    assert done.stderr.count("the loss is not finite in epoch 1, batch 1") >= 2
    assert not (tmp_path / "0.pt").exists()


def test_shares_of_a_batch_are_all_of_it_and_weigh_as_its_samples() -> None:
    for count in (1, 2, 5, 16):
        batch: Batch = ({"x": torch.arange(count)[:, None].float()}, torch.arange(count))
        for size in (1, 2, 3, 7):
            shares = [Group(rank, size).share(batch) for rank in range(size)]
            counted = [(part, weight) for part, weight in shares if weight > 0]
            assert torch.cat([part[0]["x"] for part, _ in counted]).flatten().tolist() == list(range(count))
            mean = sum(float(part[0]["x"].mean()) * weight for part, weight in shares) / size
            assert mean == pytest.approx((count - 1) / 2)
            assert all(len(part[0]["x"]) >= 1 for part, _ in shares)


def test_shares_of_masked_labels_weigh_as_the_positions_that_they_ask() -> None:
    """The mean over the positions of the whole batch, however they lie."""
    rng = np.random.default_rng(0)
    for count in (1, 4, 7):
        labels = torch.from_numpy(rng.integers(0, 9, (count, 6)))
        labels[torch.from_numpy(rng.random((count, 6)) < 0.6)] = UNASKED
        labels[:, 0] = 3  # each sample asks something
        batch: Batch = ({"x": labels.float()}, labels)
        truth = float(labels[labels != UNASKED].float().mean())
        for size in (1, 2, 3):
            shares = [Group(rank, size).share(batch) for rank in range(size)]
            means = [float(mine[mine != UNASKED].float().mean()) for (_, mine), _ in shares if mine is not None]
            found = sum(mean * weight for mean, (_, weight) in zip(means, shares, strict=True)) / size
            assert found == pytest.approx(truth)


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with torchrun_group("cpu") as group:
        assert group == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(InvalidInput, match="WORLD_SIZE is 2 without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        torchrun_group("cpu"),
    ):
        pass
