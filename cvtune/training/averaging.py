"""Averages of a network's weights, and which of them to keep.

An average costs nothing when the network answers, and is often better than the weights of the last step: over the last
steps (EMA), over the last validations, or on the way from the stage before to this one (WiSE-FT). Which one it is,
the validation side says: `pick`.

All of them know only the tensors that a stage can change (`changing`); the others are those of the stage before.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from cvtune.models.state import State

ALPHAS: Final = (0.75, 0.5, 0.25)  # of WiSE-FT, nearest to the new weights first
# The best of a dozen epochs is the luckiest of them by more than this, and its learning rate had not come down yet.
TIE: Final = 0.05  # of the log-loss


def changing(module: nn.Module) -> tuple[str, ...]:
    """Names of the tensors that a training step can change, in the order of the state dict.

    They are the parameters that learn and the buffers of the modules in training mode, such as BatchNorm's statistics.

    Args:
        module: as the stage trains it: frozen where it is frozen, and in training mode.

    Raises:
        ValueError: nothing is in training mode, so that no buffer would be found.
    """
    if not any(part.training for part in module.modules()):
        raise ValueError("the module is in eval mode; call .train() before asking what training changes")
    learns = {name: p.requires_grad for name, p in module.named_parameters(remove_duplicate=False)}

    def changes(name: str) -> bool:
        return learns[name] if name in learns else module.get_submodule(name.rpartition(".")[0]).training

    return tuple(name for name in module.state_dict() if changes(name))


@torch.no_grad()
def take(module: nn.Module, names: Iterable[str]) -> State:
    """A copy of the named tensors, on the CPU and contiguous: safetensors refuses channels_last."""
    state = module.state_dict()
    return {name: _copy(state[name]) for name in names}


class MovingAverage:
    """Exponential moving average (EMA) of weights and BatchNorm statistics, over the last tenth of the steps taken.

    A fixed decay suits one length of training only: 0.999 remembers 1,000 steps and a stage may have 100. Here the
    horizon grows with the steps, decay = 1 - 1 / (1 + share * (step - 1)): it is 0.9 after 90 steps and 0.98 after 490,
    the start is forgotten, and a stage that ends early has a sensible average too (polynomial-decay averaging, Shamir
    and Zhang 2013, arXiv:1212.1824; power-function EMA, Karras et al. 2023, arXiv:2312.02696, section 3.1).

    Args:
        module: as the stage trains it, see :func:`changing`; its tensors are read at each update.
        share: of the steps so far that the average reaches back, 0 < share <= 1; 1 is the plain mean.

    Attributes:
        names: of the tensors that are averaged.
        steps: updates so far.

    Raises:
        ValueError: a share outside its range, or a module in eval mode.
    """

    def __init__(self, module: nn.Module, *, share: float = 0.1) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"an average over the share {share} of the steps; expected 0 < share <= 1")
        self.names = changing(module)
        self.steps = 0
        self._module, self._share = module, share
        state = module.state_dict()
        self._mean = {name: state[name].detach().clone() for name in self.names}

    @property
    def decay(self) -> float:
        """What the next update leaves of the average so far."""
        return 1 - 1 / (1 + self._share * self.steps)

    @property
    def nbytes(self) -> int:
        """Memory of the average, in bytes."""
        return sum(mean.nbytes for mean in self._mean.values())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's tensors, once after each optimizer step; integers are those of the newest step."""
        state, weight = self._module.state_dict(), 1 - self.decay
        for name, mean in self._mean.items():
            mean = self._mean[name] = mean.to(state[name].device)  # Lightning moves the module when the fit begins
            if mean.is_floating_point():
                mean.lerp_(state[name], weight)
            else:
                mean.copy_(state[name])
        self.steps += 1

    def mean(self) -> State:
        """The averaged tensors, copied to the CPU; before the first update those the module had at the start."""
        return {name: _copy(mean) for name, mean in self._mean.items()}

    def state(self) -> State:
        """Everything that :meth:`load` needs to go on bit for bit, as named tensors on the CPU."""
        return {"steps": torch.tensor(self.steps), **{f"mean.{name}": value for name, value in self.mean().items()}}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`.

        Raises:
            ValueError: it is the average of other tensors.
        """
        mean = {name.removeprefix("mean."): value for name, value in state.items() if name.startswith("mean.")}
        if "steps" not in state or (why := differs(self._mean, mean)):
            raise ValueError(f"not the state of this average: {why if 'steps' in state else 'no steps in it'}")
        for name, own in self._mean.items():
            own.copy_(mean[name])
        self.steps = int(state["steps"])


class LastMean:
    """The mean of the weights at the last k validations (Izmailov et al. 2018, arXiv:1803.05407, with a short memory).

    Args:
        k: how many; each costs the memory of the tensors that change.
    """

    def __init__(self, k: int = 3) -> None:
        if k < 1:
            raise ValueError(f"the mean of the last {k}; expected at least 1")
        self._kept: deque[State] = deque(maxlen=k)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def name(self) -> str:
        """The mean of the last 3."""
        return f"mean of the last {len(self)}"

    @property
    def nbytes(self) -> int:
        """Memory of the states kept, in bytes."""
        return sum(value.nbytes for state in self._kept for value in state.values())

    def add(self, state: State) -> None:
        """Keep a state, from :func:`take`, which is not copied again; the oldest one goes.

        Raises:
            ValueError: it has other tensors than those before.
        """
        if self._kept and (why := differs(self._kept[-1], state)):
            raise ValueError(f"no mean of weights that do not match: {why}")
        self._kept.append(state)

    def mean(self) -> State:
        """Their mean; integers are those of the newest.

        Raises:
            ValueError: there is none yet.
        """
        if not self._kept:
            raise ValueError("no weights to average yet")
        return {name: _mean([state[name] for state in self._kept]) for name in self._kept[-1]}

    def state(self) -> State:
        """Everything that :meth:`load` needs, as named tensors; the oldest state is number 0."""
        return {f"{i}.{name}": value for i, state in enumerate(self._kept) for name, value in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`."""
        kept: dict[int, State] = {}
        for name, value in state.items():
            number, _, rest = name.partition(".")
            kept.setdefault(int(number), {})[rest] = value
        self._kept.clear()
        self._kept.extend(kept[number] for number in sorted(kept))


def differs(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> str:
    """Why there is no way from one set of weights to the other, in words; empty where there is.

    A head that was replaced, or features of other depths, show in names and shapes.
    """
    for first, second, where in ((old, new, "before"), (new, old, "now")):
        if alone := [name for name in first if name not in second]:
            return f"{alone[0]} is there {where} alone" + (f", and {len(alone) - 1} more" if len(alone) > 1 else "")
    for name in old:
        if old[name].shape != new[name].shape:
            return f"{name} was {list(old[name].shape)} and is {list(new[name].shape)} now"
    return ""


@torch.no_grad()
def interpolate(old: Mapping[str, Tensor], new: Mapping[str, Tensor], alpha: float) -> State:
    """WiSE-FT: (1 - alpha) old + alpha new (Wortsman et al. 2022, arXiv:2109.01903), BatchNorm statistics included.

    Args:
        old: tensors of the stage before.
        new: of this stage; integers such as `num_batches_tracked` are theirs.
        alpha: 0 is old and 1 is new, both bit for bit.

    Raises:
        ValueError: names or shapes differ, or alpha is outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} is outside 0..1")
    if why := differs(old, new):
        raise ValueError(f"no interpolation between weights that do not match: {why}")
    return {
        name: torch.lerp(old[name], value, alpha) if value.is_floating_point() else value.clone()
        for name, value in new.items()
    }


@dataclass(frozen=True)
class Candidate:
    """Weights that a stage could end with.

    Attributes:
        name: for the stage table: last, EMA, mean of the last 3, WiSE-FT 0.5.
        state: the tensors that the stage changed; all candidates have the same names.
        way: how far from the model before to these weights; 1 is all of it.
    """

    name: str
    state: State
    way: float = 1.0


@dataclass(frozen=True)
class Picked:
    """The weights that a stage ends with.

    Attributes:
        name: of the candidate taken.
        state: its tensors.
        score: its log-loss on the validation side.
        scores: every candidate's, in the order asked.
        way: the candidate's.
    """

    name: str
    state: State
    score: float
    scores: tuple[tuple[str, float], ...]
    way: float = 1.0

    def __str__(self) -> str:
        return ", ".join(f"{name} {score:.3f}" for name, score in self.scores) + f": {self.name} taken"


def wise_ft(
    old: Mapping[str, Tensor], new: Mapping[str, Tensor], alphas: Sequence[float] = ALPHAS
) -> Iterator[Candidate]:
    """Candidates between two stages, one at a time; none where there is no way between them (`differs`)."""
    if not differs(old, new):
        yield from (Candidate(f"WiSE-FT {alpha:g}", interpolate(old, new, alpha), alpha) for alpha in alphas)


def pick(candidates: Iterable[Candidate], score: Callable[[State], float], *, tie: float = TIE) -> Picked:
    """The candidate with the lowest log-loss; among those within a tie the first.

    Only those that can still win are kept in memory, so that a generator of candidates costs little.

    Args:
        candidates: simplest first: last, EMA, mean of the last 3, best epoch, WiSE-FT.
        score: log-loss on the validation side of a network with these tensors; NaN and infinity never win.
        tie: relative difference of log-losses that counts as none.

    Raises:
        ValueError: no candidate has a finite log-loss.
    """
    scores: list[tuple[str, float]] = []
    leading: list[tuple[float, Candidate]] = []
    for candidate in candidates:
        loss = float(score(candidate.state))
        scores.append((candidate.name, loss))
        if math.isfinite(loss):
            leading.append((loss, candidate))
            lowest = min(known for known, _ in leading)
            leading = [entry for entry in leading if entry[0] <= lowest + tie * abs(lowest)]
    if not leading:
        raise ValueError("no candidate has a finite log-loss: " + ", ".join(f"{name} {loss}" for name, loss in scores))
    loss, chosen = leading[0]
    return Picked(chosen.name, chosen.state, loss, tuple(scores), chosen.way)


def _mean(values: Sequence[Tensor]) -> Tensor:
    newest = values[-1]
    if not newest.is_floating_point():
        return newest.clone()
    return torch.stack(list(values)).mean(0)


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
