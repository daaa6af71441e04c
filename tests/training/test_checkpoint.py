from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cvtune.rundir import DiskFullError, RunDir
from cvtune.training.checkpoint import (
    Ledger,
    Saved,
    Store,
    flatten_optimizer,
    joined,
    part_of,
    restore_optimizer,
    sweep,
)

FACTS = {"loss": 0.25, "best_loss": math.inf, "rows": [{"val_loss": math.nan}]}


def weights(value: float) -> dict[str, Tensor]:
    return {
        "w": torch.full((64, 64), float(value)),
        "half": torch.tensor(value, dtype=torch.bfloat16),
        "n": torch.tensor(7),
    }


def value_of(saved: Saved | None) -> float | None:
    """The number that `weights` was made of, after a look that all of it is there."""
    if saved is None:
        return None
    (value,) = torch.unique(saved.tensors["w"]).tolist()
    assert repr(saved.facts) == repr(FACTS)
    assert saved.tensors["half"].dtype == torch.bfloat16
    assert float(saved.tensors["half"]) == value
    return float(value)


def names(run: RunDir) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_the_last_two_and_the_best_are_kept(run: RunDir) -> None:
    store = Store(run, "tail")
    for step in (10, 20, 30, 40):
        store.save(step, weights(step), FACTS, weights(-10 if step < 30 else -30))
    assert names(run) == [
        *("tail-000030.best.safetensors", "tail-000030.json", "tail-000030.safetensors"),
        *("tail-000040.json", "tail-000040.safetensors"),
    ]
    saved = Store(run, "tail").load_newest()
    assert saved is not None
    assert (saved.step, value_of(saved)) == (40, 40)
    assert saved.best is not None
    assert float(saved.best["half"]) == -30


def test_without_a_best_epoch(run: RunDir) -> None:
    store = Store(run, "tail")
    store.save(10, weights(10), FACTS, weights(-10))
    store.save(20, weights(20), FACTS, None)
    store.save(30, weights(30), FACTS, None)
    assert [name for name in names(run) if "best" in name] == []
    saved = store.load_newest()
    assert saved is not None
    assert saved.best is None


def test_best_weights_are_written_once(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(run, "tail").save(10, weights(10), FACTS, weights(-10))
    best = run.checkpoint("tail", 10, best=True)
    before = best.stat()
    again = Store(run, "tail")
    assert again.load_newest()
    for step in (20, 30, 40):
        again.save(step, weights(step), FACTS, weights(-10))
    assert (best.stat().st_ino, best.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    best.unlink()
    again.save(50, weights(50), FACTS, weights(-10))
    assert value_of(Store(run, "tail").load_newest()) == 50


def test_nothing_is_there_at_first(run: RunDir) -> None:
    store = Store(run, "tail")
    assert (store.load_newest(), store.skipped) == (None, [])
    assert not run.checkpoints.exists(), "looking leaves no trace"


def test_stages_and_keys_keep_to_themselves(run: RunDir) -> None:
    for number, stage in enumerate(("tail", "fold-1-tail", "fold-2-tail")):
        Store(run, stage, key="plan 1").save(number, weights(number), FACTS, weights(-number))
    assert value_of(Store(run, "fold-1-tail", key="plan 1").load_newest()) == 1
    other = Store(run, "tail", key="plan 2")
    assert other.load_newest() is None
    assert other.skipped == [
        "checkpoint tail-000000: tail-000000.json is of another run, or of another version of cvtune"
    ]
    Store(run, "tail", key="plan 1").clear()
    assert {name.rpartition("-")[0] for name in names(run)} == {"fold-1-tail", "fold-2-tail"}
    with pytest.raises(ValueError, match="expected lower-case"):
        Store(run, "../tail")


@pytest.fixture
def three(run: RunDir) -> Store:
    """Checkpoints at steps 10 (deleted), 20 and 30, the best epoch at step 10."""
    store = Store(run, "tail")
    for step in (10, 20, 30):
        store.save(step, weights(step), FACTS, weights(-10))
    return Store(run, "tail")


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "torn":
        file.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        data[len(data) // 3] ^= 1
        file.write_bytes(data)
    elif how == "empty":
        file.write_bytes(b"")
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["torn", "flipped", "empty", "gone"])
@pytest.mark.parametrize("name", ["tail-000030.json", "tail-000030.safetensors"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    name: str, how: str, run: RunDir, three: Store
) -> None:
    damage(run.checkpoints / name, how)
    assert value_of(three.load_newest()) == 20
    gone = (name, how) == ("tail-000030.json", "gone")
    assert [line.partition(":")[0] for line in three.skipped] == ([] if gone else ["checkpoint tail-000030"])


@pytest.mark.parametrize("how", ["torn", "flipped", "empty", "gone"])
def test_without_the_best_weights_no_checkpoint_is_whole(how: str, run: RunDir, three: Store) -> None:
    damage(run.checkpoint("tail", 10, best=True), how)
    assert three.load_newest() is None
    assert len(three.skipped) == 2


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_swapped_files_are_noticed(suffix: str, run: RunDir, three: Store) -> None:
    a, b = (run.checkpoint("tail", step).with_suffix(suffix) for step in (20, 30))
    swapped = a.read_bytes(), b.read_bytes()
    b.write_bytes(swapped[0])
    a.write_bytes(swapped[1])
    assert three.load_newest() is None, "a file of another step is none"


def test_after_a_damaged_one_the_last_two_whole_ones_are_kept(run: RunDir, three: Store) -> None:
    damage(run.checkpoint("tail", 30), "torn")
    assert value_of(three.load_newest()) == 20
    three.save(40, weights(40), FACTS, weights(-10))
    assert [name for name in names(run) if name.endswith("json")] == ["tail-000020.json", "tail-000040.json"]
    damage(run.checkpoint("tail", 40), "torn")
    assert value_of(Store(run, "tail").load_newest()) == 20


def test_checkpoints_of_a_time_that_was_undone_are_deleted(run: RunDir, three: Store) -> None:
    damage(run.checkpoint("tail", 30), "torn")
    assert value_of(three.load_newest()) == 20
    three.save(25, weights(25), FACTS, weights(-10))
    assert [name for name in names(run) if name.endswith("json")] == ["tail-000020.json", "tail-000025.json"]
    assert value_of(Store(run, "tail").load_newest()) == 25


def test_a_stage_that_begins_anew_deletes_what_was_there(run: RunDir, three: Store) -> None:
    Store(run, "tail").save(5, weights(5), FACTS, None)
    assert names(run) == ["tail-000005.json", "tail-000005.safetensors"]


def test_a_step_may_be_saved_again(run: RunDir, three: Store) -> None:
    assert value_of(three.load_newest()) == 30
    three.save(30, weights(30), FACTS, weights(-30))
    saved = Store(run, "tail").load_newest()
    assert saved is not None
    assert saved.best is not None
    assert (saved.step, float(saved.best["half"])) == (30, -30)
    assert "tail-000020.json" in names(run)


def test_a_full_disk_leaves_the_last_good_one(run: RunDir, three: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(run)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DiskFullError, match=r"tail-000040\.safetensors: the disk is full, 16,\d+ bytes were to be"):
            three.save(40, weights(40), FACTS, weights(-40))
    assert names(run) == before
    assert value_of(three.load_newest()) == 30
    three.save(40, weights(40), FACTS, weights(-40))
    assert value_of(three.load_newest()) == 40


# The ledger


def write(run: RunDir, *units: str, start: int = 0) -> None:
    ledger = Ledger(run, key="plan")
    for number, name in enumerate(units, start):
        logits = np.full((4, 3), number, np.float32)
        ledger.write(name, {"score": 0.5 + number, "log_loss": math.nan}, {"val": logits, **weights(number)})


def test_units_come_back_in_order(run: RunDir) -> None:
    write(run, "probe", "tail-lr", "tail")
    ledger = Ledger(run, key="plan")
    assert (ledger.names, ledger.skipped) == (["probe", "tail-lr", "tail"], [])
    for number, name in enumerate(ledger.names):
        unit = ledger.done(name)
        assert unit is not None
        assert (unit.name, unit.facts["score"]) == (name, 0.5 + number)
        assert math.isnan(unit.facts["log_loss"])
        assert unit.array("val").dtype == np.float32
        np.testing.assert_array_equal(unit.array("val"), np.full((4, 3), number))
        assert torch.equal(unit.tensors["w"], weights(number)["w"])
    assert ledger.done("all") is None


def test_a_unit_without_tensors(run: RunDir) -> None:
    Ledger(run).write("tail", {"kept": False})
    assert names(run) == ["unit-00-tail.json"]
    unit = Ledger(run).done("tail")
    assert unit is not None
    assert (unit.facts, unit.tensors) == ({"kept": False}, {})


def test_no_unit_is_done_twice(run: RunDir) -> None:
    write(run, "probe")
    with pytest.raises(ValueError, match="unit 'probe' is done already"):
        write(run, "probe")
    with pytest.raises(ValueError, match="expected lower-case"):
        write(run, "Tail 1")


@pytest.mark.parametrize("how", ["torn", "flipped", "empty", "gone"])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_damaged_unit_and_all_later_ones_are_not_there(suffix: str, how: str, run: RunDir) -> None:
    write(run, "probe", "tail", "all")
    damage(run.unit(1, "tail").with_suffix(suffix), how)
    ledger = Ledger(run, key="plan")
    assert ledger.names == ["probe"]
    assert len(ledger.skipped) == 1
    assert ledger.done("tail") is None
    assert ledger.done("all") is None
    write(run, "tail-2", start=1)  # what follows may be named otherwise
    assert Ledger(run, key="plan").names == ["probe", "tail-2"]
    assert [name for name in names(run) if not name.startswith("unit-00")] == [
        "unit-01-tail-2.json",
        "unit-01-tail-2.safetensors",
    ]


def test_a_unit_of_another_history_is_not_there(run: RunDir, tmp_path: Path) -> None:
    write(run, "probe", "tail", "all")
    other = RunDir(tmp_path / "other")
    write(other, "probe", "tail", "all", start=5)
    for suffix in (".json", ".safetensors"):
        file = run.unit(2, "all").with_suffix(suffix)
        file.write_bytes((other.checkpoints / file.name).read_bytes())
    ledger = Ledger(run, key="plan")
    assert ledger.names == ["probe", "tail"]
    assert ledger.skipped == ["unit 02 all: it was written after other units than these"]
    run.unit(2, "all").rename(run.unit(2, "last"))
    assert Ledger(run, key="plan").names == ["probe", "tail"]


def test_a_unit_that_is_damaged_after_the_ledger_was_opened(run: RunDir) -> None:
    write(run, "probe", "tail", "all")
    ledger = Ledger(run, key="plan")
    damage(run.unit(1, "tail").with_suffix(".safetensors"), "torn")
    assert ledger.done("tail") is None
    assert ledger.names == ["probe"]
    ledger.write("tail", {})
    assert Ledger(run, key="plan").names == ["probe", "tail"]


def test_the_ledger_of_another_key(run: RunDir) -> None:
    write(run, "probe")
    assert Ledger(run, key="other settings").names == []


def test_a_complete_run_is_swept(run: RunDir) -> None:
    write(run, "probe", "tail")
    Store(run, "all").save(3, weights(3), FACTS, weights(1))
    (run.checkpoints / ".all-000004.safetensors.part").touch()
    (run.checkpoints / "notes.txt").touch()
    sweep(run)
    assert names(run) == ["notes.txt"], "what is not ours stays"
    (run.checkpoints / "notes.txt").unlink()
    sweep(run)
    assert not run.checkpoints.exists()
    sweep(run)


def test_tables_are_joined_and_taken_apart() -> None:
    a, b = weights(1), {"0/x": torch.tensor(2)}
    table = joined(weights=a, ema=b)
    assert list(table) == ["weights/w", "weights/half", "weights/n", "ema/0/x"]
    assert part_of(table, "weights") == a
    assert part_of(table, "ema") == b
    assert part_of(table, "optimizer") == {}


# The optimizer


class Net(nn.Module):
    """A convolution in channels_last, a norm with buffers, a linear layer, and one that gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head, self.idle = nn.Linear(8, 4), nn.Linear(2, 2)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def make(seed: int) -> tuple[Net, torch.optim.AdamW]:
    torch.manual_seed(seed)
    net = Net()
    groups: list[dict[str, Any]] = [
        {"params": net.head.parameters(), "lr": 0.01},
        {"params": [*net.conv.parameters(), *net.norm.parameters()]},
        {"params": net.idle.parameters(), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.003)
    return net, optimizer


def train(net: Net, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)  # as in the stages: all that is random follows from the step
        x = torch.randn(8, 3, 12, 12, generator=generator).contiguous(memory_format=torch.channels_last)
        y = torch.randint(0, 4, (8,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def everything(net: Net, optimizer: torch.optim.AdamW) -> dict[str, bytes]:
    table = joined(net=net.state_dict(), optimizer=flatten_optimizer(optimizer))
    return {name: value.contiguous().numpy().tobytes() for name, value in table.items()}


def test_a_stage_goes_on_bit_for_bit(run: RunDir) -> None:
    whole = make(0)
    train(*whole, range(12))
    net, optimizer = make(0)
    train(net, optimizer, range(5))
    tensors = joined(net=net.state_dict(), optimizer=flatten_optimizer(optimizer))
    before = copy.deepcopy(tensors)
    Store(run, "tail").save(5, tensors, {}, None)
    assert all(torch.equal(tensors[name], before[name]) for name in before), "saving only reads"

    saved = Store(run, "tail").load_newest()
    assert saved is not None
    other, again = make(1)
    other.load_state_dict(part_of(saved.tensors, "net"))
    restore_optimizer(again, part_of(saved.tensors, "optimizer"))
    train(other, again, range(5, 12))
    assert everything(other, again) == everything(*whole)
    for name, value in before.items():
        assert torch.equal(saved.tensors[name], value), "training on leaves what was read alone"


def test_the_state_has_the_layout_of_its_parameters(run: RunDir) -> None:
    net, optimizer = make(0)
    train(net, optimizer, range(2))
    fresh, again = make(1)
    restore_optimizer(again, {name: value.contiguous() for name, value in flatten_optimizer(optimizer).items()})
    state = again.state[fresh.conv.weight]
    assert (
        state["exp_avg"].stride() == fresh.conv.weight.stride() == optimizer.state[net.conv.weight]["exp_avg"].stride()
    )
    assert state["exp_avg"].stride() != state["exp_avg"].contiguous().stride()
    assert fresh.idle.weight not in again.state, "without a gradient there is no state"
    assert again.param_groups[0]["lr"] == 0.01


def test_the_names_of_the_state_are_positions(run: RunDir) -> None:
    net, optimizer = make(0)
    assert flatten_optimizer(optimizer) == {}
    train(net, optimizer, range(1))
    assert list(flatten_optimizer(optimizer))[:4] == ["0.step", "0.exp_avg", "0.exp_avg_sq", "1.step"]


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("2.exp_avg", torch.zeros(3), r"optimizer state 2\.exp_avg: \(3,\), expected \(8, 3, 3, 3\)"),
        ("99.step", torch.tensor(1.0), r"optimizer state 99\.step: \(\), expected no such parameter"),
    ],
)
def test_the_state_of_another_network_is_refused(key: str, value: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        restore_optimizer(make(0)[1], {key: value})


def test_an_optimizer_with_other_state_is_refused() -> None:
    net = nn.Linear(2, 2)
    optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.state[net.weight]["momentum_buffer"] = None
    with pytest.raises(TypeError, match="SGD: momentum_buffer is NoneType, expected a tensor"):
        flatten_optimizer(optimizer)


_READ = """
import sys
from cvtune.rundir import RunDir
from cvtune.training.checkpoint import Store
saved = Store(RunDir(sys.argv[1]), "tail").load_newest()
print(saved.step, list(saved.tensors), *[module for module in ("lightning", "timm") if module in sys.modules])
"""


def test_another_process_reads_it_without_heavy_imports(run: RunDir, three: Store) -> None:
    done = subprocess.run([sys.executable, "-c", _READ, str(run.root)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "30 ['half', 'n', 'w']"
