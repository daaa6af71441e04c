"""The last lines of a fit: what the figures of the shipped model come to, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cvtune.bundle.gate import Parity
from cvtune.evaluation.objective import Objective
from cvtune.evaluation.operating import ChosenPoint
from cvtune.evaluation.studies import Studies
from cvtune.evaluation.task import Figures, Task, told
from cvtune.evaluation.verdict import Decided
from cvtune.evaluation.words import point_line, proofs


class Line(NamedTuple):
    """A line of the summary, and what stands below it."""

    name: str
    text: str
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """What is known of the model that is shipped.

    Attributes:
        task: one label an image, or several.
        metrics: figures by side: "test", "test_without_leaks", "folds".
        decided: what the limits made of each side.
        point: the limits.
        objective: what they are for.
        folds: models that answered for images they had not seen; 0 without any.
        leaked: test images with a partner among those trained on.
        studies: what else was looked into.
    """

    task: Task
    metrics: Mapping[str, Figures]
    decided: Mapping[str, Decided]
    point: ChosenPoint
    objective: Objective
    folds: int
    leaked: int
    studies: Studies

    def lines(self) -> Iterator[Line]:
        """One for each thing to know."""
        if self.folds:
            yield self._folds()
        if "test" in self.metrics:
            yield Line("test", told(self.task, self.metrics["test"].accuracy), self._without_leaks())
        yield self._decisions()
        for one in self.studies.novelty.foreign if self.studies.novelty else ():
            yield Line("unknown", f"{one.review} images of {one.folder} go to REVIEW (AUROC {one.auroc:.3f})")

    def _folds(self) -> Line:
        text = told(self.task, self.metrics["folds"].accuracy)
        if self.folds == 1:
            how = "images of val and calib, by the model that was chosen; the bundle was trained on them too"
            return Line("held back", text, (how,))
        how = "each image by a model that had not seen it; the bundle was trained on all of them"
        return Line(f"{self.folds} folds", text, (how,))

    def _without_leaks(self) -> tuple[str, ...]:
        if not self.leaked:
            return ()
        seen = "have a copy or a picture of the same group among those trained on"
        if "test_without_leaks" not in self.metrics:
            return (f"LEAK: all {self.leaked} test images {seen}",)
        without = told(self.task, self.metrics["test_without_leaks"].accuracy)
        return (f"LEAK: {self.leaked} of these test images {seen}; without them: {without}",)

    def _decisions(self) -> Line:
        side = "test" if "test" in self.decided else "folds"
        found = self.decided[side]
        where = () if side == "test" else ("in the folds, by models that had not seen the image",)
        more = (*where, *proofs(self.objective.targets, found), *self.point.notes)
        return Line("point", point_line(found, self.point.words), more)


def bundle_line(bundle: str, parity: Parity) -> Line:
    """Where the bundle is, and how it compares with the trained network.

    Args:
        bundle: its folder.
        parity: what the gate measured.
    """
    text = (
        f"{bundle}   parity {parity.equal} of {parity.images}, largest difference of a probability {parity.worst:.1e}"
    )
    if not parity.vanished:
        return Line("bundle", text)
    files = "1 file is" if parity.vanished == 1 else f"{parity.vanished} files are"
    return Line("bundle", text, (f"{files} gone since they were read: their answers are the trained network's",))
