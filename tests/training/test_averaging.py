from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from cvtune.config import ModelConfig
from cvtune.models.backbone import load_backbone, set_trainable
from cvtune.models.head import Classifier, LinearHead
from cvtune.models.state import State
from cvtune.models.weights import find_weights
from cvtune.training.averaging import (
    Candidate,
    LastMean,
    MovingAverage,
    changing,
    differs,
    interpolate,
    pick,
    take,
    wise_ft,
)

SIZE = 96


@pytest.fixture(scope="module")
def networks(real_data: Path) -> dict[str, Classifier]:
    """Read only: Lite0 and ResNet-18 with their real weights, 6 classes."""
    found = {}
    for name, file in (("tf_efficientnet_lite0", None), ("resnet18", real_data / "weights/resnet18.safetensors")):
        info = find_weights(name, ModelConfig(weights=None if file is None else str(file)))
        backbone = load_backbone(info, size=SIZE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found[name] = Classifier(backbone, LinearHead(backbone.width, 6)).eval()
    return found


@pytest.fixture(scope="module")
def steel(real_data: Path) -> tuple[Tensor, Tensor]:
    """Photographs float [72, 3, 96, 96], 12 of each of 6 classes, and their classes [72]."""
    folders = [folder for folder in sorted((real_data / "neu_steel").iterdir()) if folder.is_dir()]
    files = [file for i in range(12) for file in (sorted(folder.iterdir())[i] for folder in folders)]
    frames = np.stack([cv2.resize(np.asarray(cv2.imread(str(file))), (SIZE, SIZE)) for file in files])
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.arange(72) % 6


def trained(network: Classifier, first_group: int) -> Classifier:
    """A copy in training mode from that group on."""
    network = copy.deepcopy(network)
    set_trainable(network.backbone, first_group)
    return network.train()


def wander(network: nn.Module, x: Tensor, steps: int) -> Iterator[None]:
    """Real steps: statistics follow the images, weights a gradient that is much too long."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.05)
    for step in range(steps):
        batch = x[step % 6 * 12 :][:12]
        loss = F.cross_entropy(network(batch), torch.arange(12) % 6)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_what_training_changes_is_what_is_named(
    name: str, networks: dict[str, Classifier], steel: tuple[Tensor, Tensor]
) -> None:
    network = trained(networks[name], len(networks[name].backbone.groups) - 1)
    before = take(network, network.state_dict())
    names = changing(network)
    for _ in wander(network, steel[0], 2):
        pass
    changed = [key for key, value in network.state_dict().items() if not torch.equal(value, before[key])]
    assert changed
    assert set(changed) == set(names)
    assert any(key.endswith("running_var") for key in names)
    assert any(key.endswith("num_batches_tracked") for key in names)
    assert changing(trained(networks[name], 0)) == tuple(network.state_dict())
    with pytest.raises(ValueError, match=r"in eval mode; call \.train\(\)"):
        changing(networks[name])


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_the_average_is_that_of_the_formula(
    name: str, networks: dict[str, Classifier], steel: tuple[Tensor, Tensor]
) -> None:
    network = trained(networks[name], len(networks[name].backbone.groups) - 1)
    average = MovingAverage(network, share=0.5)
    seen: list[State] = []
    for _ in wander(network, steel[0], 4):
        average.update()
        seen.append(take(network, average.names))
    # Weights by hand: 1; 1/3, 2/3; then 1/2 and 2/5 for the newest.
    weights = [1 / 3 * 1 / 2 * 3 / 5, 2 / 3 * 1 / 2 * 3 / 5, 1 / 2 * 3 / 5, 2 / 5]
    mean = average.mean()
    assert tuple(mean) == average.names == changing(network)
    for key, value in mean.items():
        if value.is_floating_point():
            wanted = sum(w * state[key].double() for w, state in zip(weights, seen, strict=True))
            assert torch.allclose(value.double(), torch.as_tensor(wanted), rtol=1e-5, atol=1e-7), key
        else:
            assert torch.equal(value, seen[-1][key])  # num_batches_tracked
    assert average.steps == 4
    assert average.nbytes == sum(value.nbytes for value in mean.values())
    assert average.nbytes < 0.85 * sum(value.nbytes for value in network.state_dict().values())


@pytest.mark.parametrize("steps", [1, 20, 100, 500])
def test_the_horizon_is_a_tenth_of_the_steps(steps: int) -> None:
    class Clock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Parameter(torch.zeros(steps + 1, dtype=torch.float64))

    clock = Clock()
    clock.at.data[steps] = 1  # the start
    average = MovingAverage(clock)
    assert average.decay == 0
    for step in range(steps):
        clock.at.data = F.one_hot(torch.tensor(step), steps + 1).double()
        average.update()
    weights = average.mean()["at"]
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[steps]) == 0
    age = float(((steps - 1 - torch.arange(steps)) * weights[:steps]).sum())
    assert age == pytest.approx((steps - 1) / 11, rel=0.15)  # a power function with exponent 9 has its mean at 10/11
    assert average.decay == pytest.approx(1 - 1 / (1 + 0.1 * steps))


def test_an_interrupted_average_goes_on_bit_for_bit(
    networks: dict[str, Classifier], steel: tuple[Tensor, Tensor]
) -> None:
    network = trained(networks["resnet18"], 4)
    average, weights, saved = MovingAverage(network), [], b""
    for step, _ in enumerate(wander(network, steel[0], 6), 1):
        average.update()
        weights.append(take(network, network.state_dict()))
        if step == 3:
            saved = save(average.state())
    again = trained(networks["resnet18"], 4).to(memory_format=torch.channels_last)
    resumed = MovingAverage(again)
    resumed.load(load(saved))
    for state in weights[3:]:
        again.load_state_dict(state)
        resumed.update()
    assert save(resumed.state()) == save(
        average.state()
    )  # safetensors refuses channels_last, so this is contiguous too

    other = MovingAverage(trained(networks["resnet18"], 3))
    with pytest.raises(ValueError, match=r"not the state of this average: \S+ is there before alone, and \d+ more"):
        other.load(load(saved))
    with pytest.raises(ValueError, match="no steps in it"):
        average.load({})


def test_the_average_follows_its_module_to_another_device() -> None:
    network = nn.BatchNorm2d(3)
    average = MovingAverage(network)
    average.update()
    network.to("meta")
    average.update()
    assert {mean.device.type for mean in average._mean.values()} == {"meta"}
    assert average.steps == 2


def test_an_average_of_nothing_is_refused(networks: dict[str, Classifier]) -> None:
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected 0 < share <= 1"):
            MovingAverage(trained(networks["resnet18"], 4), share=share)
    with pytest.raises(ValueError, match="expected at least 1"):
        LastMean(0)
    with pytest.raises(ValueError, match="no weights to average yet"):
        LastMean().mean()


def test_the_average_of_noisy_steps_beats_the_last_one(
    networks: dict[str, Classifier], steel: tuple[Tensor, Tensor]
) -> None:
    images, labels = steel
    network = trained(networks["tf_efficientnet_lite0"], 8)  # the head block, from cached activations
    with torch.no_grad():
        z, pooled = network.backbone.prefix(images, 8)
    average, other = MovingAverage(network), copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.03)

    @torch.no_grad()
    def score(state: State) -> float:
        other.load_state_dict(state, strict=False)
        return float(F.cross_entropy(other.tail(z[36:], pooled[36:], 8), labels[36:]))

    order, losses = torch.Generator().manual_seed(0), []
    for step in range(60):
        rows = torch.randperm(36, generator=order)[:8]
        optimizer.zero_grad()
        F.cross_entropy(network.tail(z[rows], pooled[rows], 8), labels[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        average.update()
        if step >= 30 and step % 5 == 4:
            losses.append((score(average.mean()), score(take(network, average.names))))
    ema, last = np.mean(losses, axis=0)
    assert ema < 0.95 * last  # 0.94 against 1.10


def test_the_mean_of_the_last_forgets_the_first_and_is_restored(
    networks: dict[str, Classifier], steel: tuple[Tensor, Tensor]
) -> None:
    network = trained(networks["tf_efficientnet_lite0"], 8)
    last, seen = LastMean(3), []
    for step, _ in enumerate(wander(network, steel[0], 5), 1):
        seen.append(take(network, changing(network)))
        last.add(seen[-1])
        assert last.name == f"mean of the last {min(step, 3)}"
    for key, value in last.mean().items():
        three = [state[key] for state in seen[-3:]]
        wanted = sum(three[1:], three[0].double()) / 3 if value.is_floating_point() else three[-1]
        assert torch.allclose(value, wanted.to(value.dtype), rtol=1e-6, atol=1e-9), key
    assert last.nbytes == 3 * sum(value.nbytes for value in seen[-1].values())
    again = LastMean(3)
    again.load(load(save(last.state())))
    again.add(seen[0])
    last.add(seen[0])
    assert save(again.mean()) == save(last.mean())
    with pytest.raises(ValueError, match=r"no mean of weights that do not match: head\.linear\.weight was"):
        last.add({**seen[0], "head.linear.weight": torch.zeros(3, 1280)})


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18"])
def test_interpolation_is_the_formula_and_exact_at_its_ends(
    name: str, networks: dict[str, Classifier], steel: tuple[Tensor, Tensor]
) -> None:
    network = trained(networks[name], 0)
    old = take(network, changing(network))
    for _ in wander(network, steel[0], 3):
        pass
    new = take(network, changing(network))
    assert save(interpolate(old, new, 0.0)) != save(interpolate(old, new, 1.0)) == save(new)
    for alpha in (0.0, 0.3, 0.5):
        between = interpolate(old, new, alpha)
        for key, value in between.items():
            if not value.is_floating_point():
                assert torch.equal(value, new[key])
                assert int(value) == 3
            elif alpha == 0:
                assert torch.equal(value, old[key])
            else:
                wanted = (1 - alpha) * old[key].double() + alpha * new[key].double()
                assert torch.allclose(value.double(), wanted, rtol=1e-5, atol=1e-6), key
    network.load_state_dict(between)
    assert torch.isfinite(network.eval()(steel[0][:4])).all()
    with pytest.raises(ValueError, match=r"alpha 1\.2 is outside 0\.\.1"):
        interpolate(old, new, 1.2)


def test_there_is_no_way_to_another_head(networks: dict[str, Classifier]) -> None:
    new = take(trained(networks["resnet18"], 4), changing(trained(networks["resnet18"], 4)))
    wider = {**new, "head.linear.weight": torch.zeros(6, 640)}  # features of one more depth
    deeper = {**{key: value for key, value in new.items() if "head" not in key}, "head.0.weight": torch.zeros(6, 512)}
    assert differs(new, new) == ""
    assert differs(new, wider) == "head.linear.weight was [6, 512] and is [6, 640] now"
    assert differs(new, deeper) == "head.linear.weight is there before alone, and 1 more"
    assert differs(deeper, {**new, "head.0.weight": torch.zeros(6, 512)}) == (
        "head.linear.weight is there now alone, and 1 more"
    )
    for other in (wider, deeper):
        assert not list(wise_ft(other, new))
        with pytest.raises(ValueError, match="no interpolation between weights that do not match: head"):
            interpolate(other, new, 0.5)
    assert [candidate.name for candidate in wise_ft(new, new)] == ["WiSE-FT 0.75", "WiSE-FT 0.5", "WiSE-FT 0.25"]


NAMES = ("last", "EMA", "mean of the last 3", "WiSE-FT 0.5")


@pytest.mark.parametrize(
    ("losses", "taken"),
    [
        ((0.240, 0.238, 0.239, 0.226), "WiSE-FT 0.5"),
        ((0.2515, 0.2402, 0.2400, 0.3), "last"),  # 4.8 % apart: the simplest
        ((0.26, 0.2402, 0.2400, 0.3), "EMA"),
        ((0.265, 0.2549, 0.252, 0.2415), "mean of the last 3"),  # ties do not chain
        ((math.nan, 0.9, math.nan, 1.0), "EMA"),
        ((math.inf, -math.inf, 0.9, math.nan), "mean of the last 3"),
        ((0.0, 0.0, 0.0, 0.0), "last"),
        ((1e-9, 0.0, 0.0, 0.0), "EMA"),
    ],
)
def test_the_lowest_log_loss_wins_and_ties_go_to_the_simplest(losses: tuple[float, ...], taken: str) -> None:
    states = [{"w": torch.tensor(float(i))} for i in range(4)]
    asked = []

    def score(state: State) -> float:
        asked.append(int(state["w"]))
        return losses[asked[-1]]

    picked = pick((Candidate(name, state) for name, state in zip(NAMES, states, strict=True)), score)
    assert asked == [0, 1, 2, 3]
    at = NAMES.index(taken)
    assert (picked.name, picked.score, picked.state) == (taken, losses[at], states[at])
    assert [name for name, _ in picked.scores] == list(NAMES)
    assert [str(loss) for _, loss in picked.scores] == [str(loss) for loss in losses]


def test_what_was_picked_in_words() -> None:
    losses = iter([0.26, 0.25, 0.226, math.nan, math.inf])
    picked = pick([Candidate(name, {}) for name in ("last", "EMA", "WiSE-FT 0.5")], lambda state: next(losses))
    assert str(picked) == "last 0.260, EMA 0.250, WiSE-FT 0.5 0.226: WiSE-FT 0.5 taken"
    with pytest.raises(ValueError, match="no candidate has a finite log-loss: last nan, EMA inf"):
        pick([Candidate("last", {}), Candidate("EMA", {})], lambda state: next(losses))


def test_candidates_that_cannot_win_are_let_go() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def made() -> Iterator[Candidate]:
        for i in range(6):
            gc.collect()
            assert sum(ref() is not None for ref in alive) <= 2
            state = {"w": torch.full((3,), float(10 - i))}
            alive.append(weakref.ref(state["w"]))
            yield Candidate(str(i), state)
            del state

    assert pick(made(), lambda state: float(state["w"][0])).name == "5"
