"""What a killed run goes on from: checkpoints inside a stage, and the ledger of the units of work that are finished.

    checkpoints/
      tail-000120.safetensors       weights, optimizer and averages at optimizer step 120 of the stage "tail"
      tail-000090.best.safetensors  weights of its best epoch, first written down at step 90
      tail-000120.json              step, facts, checksums of the files it goes with, and "sum" of all that
      unit-02-tail.safetensors      what the third finished unit of work left, and its facts:
      unit-02-tail.json             facts, checksum, "previous": "sum" of unit 01, and "sum"

Each file is written to a temporary name, flushed, renamed and its folder flushed (`rundir.write_parts`), tensors first
and JSON last: a kill or a power cut leaves what was there before or what is there now. A file that is torn, changed or
of another run does not match its checksum (sha256) and counts as not there, and so does all that was built on it.
Nothing is pickled. Not even random state is saved: it follows from (seed, stage, step).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor

from cvtune.rundir import RunDir, write_parts
from cvtune.training.records import (
    Record,
    State,
    Unusable,
    checksum_of,
    read_record,
    read_tensors,
    serialised,
    write_record,
    write_tensors,
)

_KEPT: Final = 2  # checkpoints of a stage: the newest, and the one before for the day when the newest is damaged


@dataclass(frozen=True)
class Saved:
    """A stage as it was after an optimizer step.

    Attributes:
        step: optimizer steps taken.
        tensors: as given to `Store.save`, bit for bit, on the CPU.
        facts: likewise; tuples come back as lists.
        best: weights of the best epoch so far, where there was one.
    """

    step: int
    tensors: State
    facts: dict[str, Any]
    best: State | None


class Store:
    """Checkpoints of one stage: the last two, and the weights of the best epoch that they refer to.

    Args:
        run: where they are kept.
        stage: its name, lower-case letters, digits and hyphens; another one for each fold.
        key: what the weights depend on, a hash of settings, plan and data for example; checkpoints of another key
            count as not there.

    Attributes:
        skipped: a sentence for each checkpoint that `load_newest` could not use.

    Raises:
        ValueError: the stage's name cannot stand in a file name.
    """

    def __init__(self, run: RunDir, stage: str, *, key: str = "") -> None:
        run.checkpoint(stage, 0)
        self._run, self._stage, self._key = run, stage, key
        self._best: tuple[str, str] | None = None  # file and checksum of the best weights that are on the disk
        self._damaged: set[int] = set()
        self.skipped: list[str] = []

    def save(
        self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], best: Mapping[str, Tensor] | None
    ) -> None:
        """Write a checkpoint, then delete those that it makes superfluous; later ones are of a time that was undone.

        Args:
            step: optimizer steps taken.
            tensors: by name; only read.
            facts: for JSON; nan and infinity may occur.
            best: weights of the best epoch so far, or None; written only where they changed.

        Raises:
            DiskFullError: no room; the checkpoints from before are still there.
            OSError: it cannot be written for another reason; likewise.
            TypeError: `facts` holds what JSON cannot hold, or a tensor is of a type that safetensors does not know.
        """
        file = self._run.checkpoint(self._stage, step)
        record = {"step": step, "tensors": write_tensors(file, tensors), "best": self._save_best(step, best)}
        write_record(file.with_suffix(".json"), self._key, {**record, "facts": facts})
        self._damaged.discard(step)
        self._prune(step)

    def load_newest(self) -> Saved | None:
        """The newest checkpoint that is whole, or None."""
        for step in reversed(self._run.checkpoint_steps(self._stage)):
            try:
                return self._load(step)
            except Unusable as reason:
                self._damaged.add(step)
                self.skipped.append(f"checkpoint {self._stage}-{step:06d}: {reason}")
        return None

    def clear(self) -> None:
        """Delete all of them: the stage is finished and in the ledger."""
        _delete(self._run.checkpoint_files(self._stage))
        self._best = None

    def _save_best(self, step: int, best: Mapping[str, Tensor] | None) -> tuple[str, str] | None:
        if best is None:
            self._best = None
            return None
        parts = serialised(best)
        checksum = checksum_of(parts)
        if self._best is None or self._best[1] != checksum or not (self._run.checkpoints / self._best[0]).is_file():
            file = self._run.checkpoint(self._stage, step, best=True)
            write_parts(file, parts)
            self._best = (file.name, checksum)
        return self._best

    def _load(self, step: int) -> Saved:
        file = self._run.checkpoint(self._stage, step)
        record = read_record(file.with_suffix(".json"), self._key)
        best = record["best"]
        saved = Saved(
            step,
            read_tensors(file, record["tensors"]),
            record["facts"],
            None if best is None else read_tensors(file.with_name(best[0]), best[1]),
        )
        self._best = None if best is None else (best[0], best[1])
        return saved

    def _prune(self, step: int) -> None:
        kept: set[str] = set()
        steps = [s for s in self._run.checkpoint_steps(self._stage) if s <= step and s not in self._damaged]
        for known in steps[-_KEPT:]:
            file = self._run.checkpoint(self._stage, known)
            kept |= {file.name, file.with_suffix(".json").name}
            with contextlib.suppress(Unusable):
                best = read_record(file.with_suffix(".json"), self._key)["best"]
                kept |= {best[0]} if best else set()
        _delete(path for path in self._run.checkpoint_files(self._stage) if path.name not in kept)


@dataclass(frozen=True)
class Unit:
    """A finished unit of work.

    Attributes:
        name: "probe", "tail", "fold-1", ...
        facts: as given to `Ledger.write`; tuples come back as lists.
        tensors: likewise, bit for bit; arrays come back as tensors.
    """

    name: str
    facts: dict[str, Any]
    tensors: State = field(default_factory=dict)

    def array(self, name: str) -> NDArray[Any]:
        """One of the tensors as an array, logits [N, K] for example."""
        values: NDArray[Any] = self.tensors[name].numpy()
        return values


class Ledger:
    """The finished units of work of a run, in order; each builds on those before it.

    All of them are read and verified when the ledger is opened. One that is damaged counts as not there, and so do all
    later ones.

    Args:
        run: where it is kept.
        key: as for `Store`.

    Attributes:
        key: as given.
        names: of the units that are there, in order.
        skipped: a sentence for the unit at which reading had to end, if there is one.
    """

    def __init__(self, run: RunDir, *, key: str = "") -> None:
        self._run, self.key = run, key
        self._sums: list[str] = []
        self.names: list[str] = []
        self.skipped: list[str] = []
        for number, name in run.units():
            try:
                if number != len(self.names):
                    raise Unusable("the unit before it is missing")
                record = self._record(number, name)
                self._unit(number, record)
            except Unusable as reason:
                self.skipped.append(f"unit {number:02d} {name}: {reason}")
                break
            self.names.append(name)
            self._sums.append(record["sum"])

    def done(self, name: str) -> Unit | None:
        """A finished unit, read and verified again; None where it has to be done."""
        if name not in self.names:
            return None
        number = self.names.index(name)
        try:
            return self._unit(number, self._record(number, name))
        except Unusable as reason:
            self.skipped.append(f"unit {number:02d} {name}: {reason}")
            del self.names[number:], self._sums[number:]
            return None

    def write(
        self, name: str, facts: Mapping[str, Any], tensors: Mapping[str, Tensor | NDArray[Any]] | None = None
    ) -> None:
        """Add a unit behind those that are there; what counts as not there is deleted first.

        Raises:
            DiskFullError: no room; the units from before are still there.
            OSError: it cannot be written for another reason; likewise.
            TypeError: as for `Store.save`.
            ValueError: a unit of this name is there, or the name cannot stand in a file name.
        """
        if name in self.names:
            raise ValueError(f"unit {name!r} is done already")
        number = len(self.names)
        file = self._run.unit(number, name)
        _delete(self._run.unit_files(number))
        checksum = write_tensors(file.with_suffix(".safetensors"), tensors) if tensors else None
        place = {"number": number, "name": name, "previous": self._previous(number)}
        record = {**place, "tensors": checksum, "facts": facts}
        self._sums.append(write_record(file, self.key, record))
        self.names.append(name)

    def _record(self, number: int, name: str) -> Record:
        record = read_record(self._run.unit(number, name), self.key)
        if (record["number"], record["name"], record["previous"]) != (number, name, self._previous(number)):
            raise Unusable("it was written after other units than these")
        return record

    def _unit(self, number: int, record: Record) -> Unit:
        file = self._run.unit(number, record["name"]).with_suffix(".safetensors")
        tensors = {} if record["tensors"] is None else read_tensors(file, record["tensors"])
        return Unit(record["name"], record["facts"], tensors)

    def _previous(self, number: int) -> str:
        return self._sums[number - 1] if number else ""


def sweep(run: RunDir) -> None:
    """Delete the checkpoints and the ledger of a run that is complete; call it after DONE is written.

    Nothing reads them any more: weights.safetensors holds the model, plan.json, stages.json and metrics.csv what was
    chosen and measured. Files that are not ours stay, and the folder with them.
    """
    _delete(run.checkpoint_files())
    with contextlib.suppress(OSError):  # it is not there, or not empty
        run.checkpoints.rmdir()


def joined(**parts: Mapping[str, Tensor]) -> State:
    """Tables of tensors as one; those of `joined(weights=a, ema=b)` are named "weights/..." and "ema/...".

    The names inside the tables may hold slashes, those of the tables cannot.
    """
    return {f"{part}/{name}": value for part, table in parts.items() for name, value in table.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> State:
    """One of the tables that `joined` put together, empty where it was."""
    return {name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")}


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> State:
    """The state of an optimizer, "3.exp_avg" for the parameter 3 in the order of its groups; only read.

    Rates and decays are not in it: they follow from the plan and the step.

    Raises:
        TypeError: it keeps something else than tensors for a parameter.
    """
    table: State = {}
    for index, values in sorted(optimizer.state_dict()["state"].items()):
        for name, value in values.items():
            if not isinstance(value, Tensor):
                raise TypeError(f"{type(optimizer).__name__}: {name} is {type(value).__name__}, expected a tensor")
            table[f"{index}.{name}"] = value
    return table


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put `flatten_optimizer`'s table into an optimizer over the same parameters, bit for bit.

    Values that have the shape of their parameter get its memory layout too: the same kernels run as before.

    Raises:
        ValueError: a parameter that it does not have, or of another shape.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = int(key.partition(".")[0]), key.partition(".")[2]
        if index >= len(parameters) or value.shape not in (parameters[index].shape, ()):
            of = tuple(parameters[index].shape) if index < len(parameters) else "no such parameter"
            raise ValueError(f"optimizer state {key}: {tuple(value.shape)}, expected {of}")
        like = parameters[index] if value.shape else value
        state.setdefault(index, {})[name] = torch.empty_like(like, dtype=value.dtype, device="cpu").copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _delete(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # Windows: somebody looks at it; the next save tries again
            file.unlink(missing_ok=True)
