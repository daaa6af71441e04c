"""A model asked about other pictures: a labelled folder, the same folder as another model, the same part again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvtune_edge.files import IMAGE_SUFFIXES, find_images, is_hidden
from cvtune_edge.runtime import Bundle, Decision, Unreadable

from cvtune.config import load_config
from cvtune.errors import DataError, RunError
from cvtune.rundir import RunDir, bundle_of, images_root, read_json

if TYPE_CHECKING:
    import numpy as np
    from cvtune_edge.decision import OperatingPoint
    from numpy.typing import NDArray

    from cvtune.data.index import DatasetIndex
    from cvtune.evaluation.metrics import Metrics
    from cvtune.evaluation.multilabel import MultiMetrics, MultiPredictions
    from cvtune.evaluation.objective import Target, Words
    from cvtune.evaluation.outcomes import Judged, Outcome
    from cvtune.evaluation.paired import Versus
    from cvtune.evaluation.predictions import Predictions
    from cvtune.evaluation.repeatability import Repeatability
    from cvtune.evaluation.verdict import Decided

PathLike = str | Path


@dataclass(frozen=True)
class Evaluation:
    """What a bundle says about a labelled folder.

    Attributes:
        predictions: answers and truth, in the order of the folder (`MultiPredictions` for several labels an image).
        metrics: the figures (`MultiMetrics` likewise).
        side: "test" where the folder has sides of its own and only that one was scored, else "all".
        skipped: files of that side that were not scored, with reasons.
        unreadable: how many of them are images by their names.
        precision: of the model that answered; a bundle with int8 uses it where this machine answers as the lab did.
        decisions: int64 [N], -1 for REVIEW, or [N, K] of 1, 0 and -1; None from a bundle that does not decide.
        point: the limits that decided; likewise.
        targets: what they were chosen for.
        words: of the factory, or of the clinic where the run was fitted with them.
    """

    predictions: Predictions | MultiPredictions
    metrics: Metrics | MultiMetrics
    side: str
    skipped: tuple[tuple[str, str], ...]
    unreadable: int = 0
    precision: str = "float32"
    decisions: NDArray[np.int64] | None = None
    point: OperatingPoint | None = None
    targets: tuple[Target, ...] = ()
    words: Words = "factory"

    @property
    def decided(self) -> Decided | None:
        """Escapes, overkill, REVIEW; wrong ones where no class is good. None from a bundle that does not decide."""
        from cvtune.evaluation.verdict import count

        if self.point is None or self.decisions is None:
            return None
        return count(self.point, self.decisions, self.predictions.truth, self.predictions.classes)


def evaluate(
    bundle: Bundle | PathLike,
    folder: PathLike,
    *,
    merge: Mapping[str, Sequence[str]] | None = None,
    ignore: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Evaluation:
    """Score a labelled folder; where it has a test/ side, only that one.

    Args:
        bundle: from `cvtune.load_bundle`, or the path of a bundle or a run.
        folder: class folders named like the bundle's classes, they need not all be there; or a table of labels.
        merge: class folders that are one class; those that the run was fitted with when unset.
        ignore: class folders that are left out; likewise.
        progress: called with (done, total).

    Raises:
        DataError: the folder cannot be used, or has classes that the bundle does not know.
    """
    from cvtune.data.index import build_index

    own: Mapping[str, Any] = {}
    words: Words = "factory"
    if not isinstance(bundle, Bundle):
        own, words, bundle = class_map(Path(bundle)), words_of(Path(bundle)), Bundle(bundle_of(Path(bundle)))
    merge = own.get("merge", {}) if merge is None else merge
    ignore = own.get("ignore", ()) if ignore is None else ignore
    index = build_index(Path(folder), merge=merge, ignore=ignore, trainable=False)
    side = "test" if any(image.side == "test" for image in index.images) else "all"
    images = [image for image in index.images if side == "all" or image.side == "test"]
    index = _with_classes(replace(index, images=tuple(images)), bundle, Path(folder))
    return replace(_score(bundle, index, side, progress), words=words)


@dataclass(frozen=True)
class Compared:
    """Two models on the same images; from :func:`compare`.

    Attributes:
        names: of both.
        answers: of both, in one order of images.
        found: how they compare.
        outcomes: how their decisions compare, each by its own limits; empty with several labels an image, where one of
            them does not decide, or where other classes are good.
        folder: where the images' paths start, if that is known.
        untrusted: the images come from unknown hands.
    """

    names: tuple[str, str]
    answers: tuple[Any, Any]
    found: Versus
    outcomes: tuple[Outcome, ...]
    folder: Path | None
    untrusted: bool = False

    def save_html(self, path: PathLike) -> None:
        """Write a page with the figures, and the images that changed sides as pictures."""
        from cvtune.report.versus import build_versus_page

        build_versus_page(
            Path(path),
            self.names,
            *self.answers,
            self.found,
            self.outcomes,
            folder=self.folder,
            untrusted=self.untrusted,
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return {**self.found.to_json(), "decisions": [one.to_json() for one in self.outcomes]}


def compare(
    first: PathLike,
    second: PathLike,
    *,
    data: PathLike | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Compared:
    """Compare two runs on the same images, image by image.

    Args:
        first: the model at hand, a run; with `data` also a bundle.
        second: the other one, likewise.
        data: a labelled folder that both are asked about; the test images that both runs have when unset.
        progress: called with (done, total) of each.

    Raises:
        DataError: no images in common, other classes, or other labels.
        RunError: a run without test answers.
    """
    from cvtune.evaluation.paired import aligned, versus

    names = Path(first).name, Path(second).name
    if data is not None:
        scored = [evaluate(bundle, data, progress=progress) for bundle in (first, second)]
        asked, judged = [one.predictions for one in scored], [_judged(one) for one in scored]
        folder, untrusted = Path(data), False
    else:
        runs = [RunDir.open(path) for path in (first, second)]
        asked = [_test_answers(run) for run in runs]
        judged = [_judged_then(run, answers) for run, answers in zip(runs, asked, strict=True)]
        folder = Path(read_json(runs[0].environment)["folder"])
        untrusted = any(load_config(file=run.config).data.untrusted for run in runs)
    both = aligned(*asked)
    return Compared(names, both, versus(*both), _outcomes(judged, both[0].paths), images_root(folder), untrusted)


@dataclass(frozen=True)
class Repeated:
    """Parts that were shown several times; from :func:`repeat`.

    Attributes:
        found: how they were answered.
        decided: whether the answers are decisions by the bundle's limits, else labels.
        skipped: files that could not be read, with reasons.
    """

    found: Repeatability
    decided: bool
    skipped: tuple[tuple[str, str], ...]


def repeat(
    bundle: PathLike,
    folder: PathLike,
    *,
    group_by: str | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Repeated:
    """Ask about several pictures of the same parts.

    Args:
        bundle: a run or a bundle, whose limits decide; of an earlier schema its labels are compared.
        folder: `part/**/picture`.
        group_by: how the names tell the part, as for :func:`fit`; the folder that holds the picture when unset.
        progress: called with (done, total).

    Raises:
        ConfigError: the pictures belong to no parts.
        DataError: no picture can be read, or no part has two.
    """
    from cvtune.data.groups import name_groups
    from cvtune.evaluation.repeatability import repeatability

    root, opened = Path(folder), Bundle(bundle_of(Path(bundle)))
    files = list(find_images([root]))
    paths = [file.relative_to(root).as_posix() if root.is_dir() else file.name for file in files]
    groups = name_groups(group_by, root, paths) if group_by else [path.rpartition("/")[0] or None for path in paths]
    decided = opened.manifest.decides
    stream = opened.decisions(files) if decided else opened.stream(files)
    parts, answers, skipped = [], [], []
    for done, (path, group, answer) in enumerate(zip(paths, groups, stream, strict=True), start=1):
        progress(done, len(files))
        if isinstance(answer, Unreadable):
            skipped.append((path, answer.reason))
        elif group is not None:
            parts.append(group)
            answers.append(answer.said if isinstance(answer, Decision) else answer.label)
    found = repeatability(parts, answers)
    if not found.parts:
        raise DataError(
            f"{folder}: no part has two pictures that can be read",
            hint=r"put the pictures of each part into a folder, or say how names tell it: --group-by '(part\d+)_'",
        )
    return Repeated(found, decided, tuple(skipped))


def _test_answers(run: RunDir) -> Any:
    from cvtune.evaluation.task import task_named

    path = run.predictions("test")
    if not path.is_file():
        raise RunError(f"{run.root} has no test side", hint="name a labelled folder for both: --data FOLDER")
    return task_named(read_json(run.metrics)["task"]).load(path)


def _judged(found: Evaluation) -> Judged | None:
    from cvtune.evaluation.outcomes import Judged
    from cvtune.evaluation.predictions import Predictions

    if found.point is None or found.decisions is None or not isinstance(found.predictions, Predictions):
        return None
    return Judged(found.predictions, found.point, found.decisions)


def _judged_then(run: RunDir, answers: Any) -> Judged | None:
    """What the limits of a run made of its test side."""
    from cvtune.evaluation.operating import ChosenPoint
    from cvtune.evaluation.outcomes import Judged
    from cvtune.evaluation.predictions import Predictions
    from cvtune.report.measured import distances_of, read_distances

    if not run.point.is_file() or not isinstance(answers, Predictions):
        return None
    point = ChosenPoint.load(run.point)
    known = read_distances(run.distances) if run.distances.is_file() else {}
    return Judged(answers, point.limits, point.decide(answers.probabilities, distances_of(answers.paths, known)))


def _outcomes(judged: Sequence[Judged | None], paths: tuple[str, ...]) -> tuple[Outcome, ...]:
    from cvtune.evaluation.outcomes import outcomes

    first, second = judged
    if first is None or second is None or first.good != second.good:
        return ()
    return outcomes(first.rows(paths), second.rows(paths))


def words_of(path: Path) -> Words:
    """Those that the run at `path` was fitted with; of the factory where it is a bundle."""
    run = RunDir(path)
    return load_config(file=run.config).objective.words if run.config.is_file() else "factory"


def class_map(path: Path) -> Mapping[str, Any]:
    """What the run at `path` merged and ignored, as arguments of :func:`evaluate`; nothing where it is a bundle."""
    run = RunDir(path)
    if not run.config.is_file():
        return {}
    data = load_config(file=run.config).data
    return {"merge": data.merge, "ignore": data.ignore}


def _with_classes(index: DatasetIndex, bundle: Bundle, folder: Path) -> DatasetIndex:
    classes, multi = bundle.classes, bundle.manifest.task == "multi"
    if index.multi and not multi:
        raise DataError(
            f"{folder}: several labels an image, the model gives one",
            hint="score it with a table that has one label a row",
        )
    used = {name for name, count in zip(index.classes, index.counts(), strict=True) if count}
    unknown = sorted(used - set(classes))
    if unknown:
        raise DataError(
            f"{folder}: classes that the model does not know: {', '.join(unknown)}; it knows {', '.join(classes)}",
            hint="rename the folders to the model's classes, merge them (--merge), or leave them out (--ignore)",
        )
    if multi and not index.multi:  # one label an image is a case of several
        images = tuple(replace(image, labels=(image.label,)) for image in index.images)
        index = replace(index, images=images, multi=True)
    return index.with_classes(classes)


def _score(bundle: Bundle, index: DatasetIndex, side: str, progress: Callable[[int, int], None]) -> Evaluation:
    import numpy as np

    from cvtune.evaluation.objective import parse_target
    from cvtune.evaluation.task import task_of

    skipped = [(one.path, one.reason) for one in index.skipped if side == "all" or _on_test(one.path)]
    unreadable = sum(_is_image_name(path) for path, _ in skipped)
    kept, answers = [], []
    stream = bundle.stream(index.root / image.path for image in index.images)
    for done, (image, answer) in enumerate(zip(index.images, stream, strict=True), start=1):
        progress(done, len(index.images))
        if isinstance(answer, Unreadable):
            skipped.append((image.path, answer.reason))
            unreadable += 1
        else:
            kept.append(image)
            answers.append(answer)
    if not kept:
        reasons = "\n".join(f"  {path}: {reason}" for path, reason in skipped[:5])
        raise DataError(
            f"{index.root}: none of the {len(index.images)} images can be read, for example:\n{reasons}",
            hint="check that the files are images of the kind that the model was trained on",
        )
    task, index = task_of(index), replace(index, images=tuple(kept))
    predictions = task.predictions(
        tuple(image.path for image in kept),
        task.truth(index),
        np.stack([answer.probabilities for answer in answers]),
        bundle.classes,
        bundle.manifest.thresholds,
    )
    found = Evaluation(predictions, task.score(predictions), side, tuple(skipped), unreadable, bundle.precision)
    decisions = [answer.decision for answer in answers if answer.decision is not None]
    if len(decisions) < len(answers):  # the bundle is of an earlier schema
        return found
    targets = tuple(map(parse_target, bundle.manifest.targets))
    return replace(found, decisions=np.stack(decisions), point=bundle.manifest.point, targets=targets)


def _on_test(path: str) -> bool:
    return path.split("/")[0].lower() == "test"


def _is_image_name(path: str) -> bool:
    name = path.rpartition("/")[2]
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)
