"""The Python API: fit a folder, open a run or a bundle, predict, evaluate, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvtune_edge.files import IMAGE_SUFFIXES, find_images, is_hidden
from cvtune_edge.runtime import Bundle, Prediction, Unreadable

from cvtune.config import Config, load_config, merge_flags, overlay, read_preset
from cvtune.console import Console
from cvtune.errors import ConfigError, DataError, RunError
from cvtune.rundir import RunDir, bundle_of, read_json

if TYPE_CHECKING:
    from cvtune.data.index import DatasetIndex
    from cvtune.evaluation.metrics import Metrics
    from cvtune.evaluation.multilabel import MultiMetrics, MultiPredictions
    from cvtune.evaluation.paired import Versus
    from cvtune.evaluation.predictions import Predictions
    from cvtune.evaluation.repeatability import Repeatability
    from cvtune.models.head import Classifier, HeadFactory
    from cvtune.steps import Audited

PathLike = str | Path


def fit(
    folder: PathLike | None = None,
    *,
    out: PathLike | None = None,
    config: Config | PathLike | None = None,
    plan: PathLike | None = None,
    resume: PathLike | None = None,
    head: HeadFactory | None = None,
    augmentation: Callable[..., dict[str, Any]] | None = None,
    callbacks: Sequence[Any] = (),
    loggers: Sequence[Any] = (),
    trainer: Mapping[str, Any] | None = None,
    console: Console | None = None,
    settings: Mapping[str, Any] | None = None,
    **flags: Any,
) -> Run:
    """Fine-tune a classifier on a labelled folder and export it as a tested ONNX bundle.

    Args:
        folder: `class/**/image`, or train/, val/, test/ above the classes; or a table `path,label[,group][,side]`,
            CSV or Parquet, where labels joined by `;` make it a task with several labels an image.
        out: the run directory, `runs/<folder>-<n>` when unset.
        config: settings, or a TOML file with some of them.
        plan: an earlier run; what it chose by the clock is chosen again, so that a run with a budget can be repeated.
        resume: a run that was interrupted, in place of a folder: it goes on where it was, with its own settings, and
            ends with the weights that it would have had. Your own head, augmentation and callbacks are not kept in a
            run: pass them again.
        head: called with (embedding width D, classes K), gives a `torch.nn.Module` from [N, D] to logits [N, K].
        augmentation: an albumentations transform for uint8 [S, S, 3] (float32 0..1 for 16-bit and float images), in
            place of the preset's.
        callbacks: Lightning callbacks for the tail and all stages.
        loggers: Lightning loggers, beside the run's own metrics.csv.
        trainer: further arguments of `lightning.Trainer`, such as `{"accelerator": "gpu"}`.
        console: where progress is told; nowhere when unset.
        settings: any keys of the config, dotted: `{"train.tail.steps": 100}`.
        **flags: preset, seed, backbone, weights, download, from_scratch, accept_license, group_by, new_split, folds,
            merge (`{"defect": ["scratch", "dent"]}`), ignore, corrections, untrusted, size, resize, roi, mask, window,
            budget (seconds), final_fit, ok (good classes, `[]` for none), target (`["escape<=1%"]`), review_rate
            (0..1), guarantee, words, as on the command line.

    Returns:
        The run, complete.

    Raises:
        CvtuneError: something the user can mend.
    """
    own = {key: value for key, value in {**flags, **(settings or {})}.items() if value is not None}
    if (folder is None) is (resume is None):
        raise ConfigError("a fit needs a folder, or a run to resume, and not both", hint="cvtune fit --resume RUN")
    if resume is not None and (own.keys() - {"preset"} or own.get("preset", "auto") != "auto" or config or plan or out):
        raise ConfigError(
            f"{resume} goes on with its own settings: nothing else can be asked for",
            hint=f"cvtune fit --resume {resume}, or fit the folder anew with other settings",
        )
    config = _settings(config, own)  # before torch is imported: a typo is told at once
    from cvtune.pipeline import fit as run_pipeline
    from cvtune.steps import Plugins, resumed

    if resume is not None:
        folder, config = resumed(Path(resume))
    assert folder is not None
    plugins = Plugins(head, augmentation, tuple(callbacks), tuple(loggers), dict(trainer or {}))
    place = out if resume is None else resume
    outcome = run_pipeline(
        Path(folder),
        config,
        out=None if place is None else Path(place),
        plan=None if plan is None else Path(plan),
        resume=resume is not None,
        plugins=plugins,
        console=console or Console(quiet=True),
    )
    return Run(outcome.run, exit_code=outcome.exit_code)


class Check:
    """What is wrong with a folder; from :func:`check`.

    Attributes:
        findings: warnings first.
        exit_code: 0 where there is no warning, else 1.
    """

    def __init__(self, audited: Audited, *, source: Path, untrusted: bool = False) -> None:
        from cvtune.audit import worst_severity

        self._audited, self._source, self._untrusted = audited, source, untrusted
        self.findings = audited.findings
        self.exit_code = int(worst_severity(audited.findings) == "warning")

    def save_json(self, path: PathLike) -> None:
        """Write everything that was found, each skipped file, suspected label and pair of copies included."""
        from cvtune.audit import save_audit

        seen = self._audited.seen
        save_audit(Path(path), self.findings, self._audited.data.index, suspects=seen.suspects, pairs=seen.pairs)

    def save_html(self, path: PathLike) -> None:
        """Write a page with pictures of the copies and of the suspected labels."""
        from cvtune.report.checkup import build_check_page

        seen = self._audited.seen
        build_check_page(
            Path(path),
            self._audited.data.index,
            self.findings,
            suspects=seen.suspects,
            pairs=seen.pairs,
            source=self._source,
            untrusted=self._untrusted,
        )

    def save_corrections(self, path: PathLike) -> None:
        """Write the table of proposed corrections that `fit(corrections=...)` takes."""
        from cvtune.audit import write_corrections

        seen = self._audited.seen
        write_corrections(Path(path), self._audited.data.index, seen.suspects, seen.pairs)


def check(
    folder: PathLike,
    *,
    config: Config | PathLike | None = None,
    console: Console | None = None,
    settings: Mapping[str, Any] | None = None,
    **flags: Any,
) -> Check:
    """Say what is wrong with a labelled folder, without training.

    Args:
        folder: as for :func:`fit`.
        config: settings, or a TOML file with some of them.
        console: where progress is told; nowhere when unset.
        settings: any keys of the config, dotted.
        **flags: as for :func:`fit`.

    Raises:
        CvtuneError: the folder cannot be used at all.
    """
    resolved = _settings(config, {**flags, **(settings or {})})
    from cvtune.pipeline import check as run_check

    audited = run_check(Path(folder), resolved, console=console or Console(quiet=True))
    return Check(audited, source=Path(folder), untrusted=resolved.data.untrusted)


def load_run(path: PathLike) -> Run:
    """Open a run that `fit` wrote.

    Raises:
        RunError: the folder is not a run, or holds no bundle yet.
    """
    run = RunDir.open(path)
    if bundle_of(run.root) == run.root:
        raise RunError(f"{path}: the run ended before its first model", hint="fit the folder again with another --out")
    return Run(run)


def load_bundle(path: PathLike, *, threads: int | None = None, untrusted: bool = False) -> Bundle:
    """Open a bundle, or the bundle of a run.

    Args:
        path: of either.
        threads: of the network; chosen from the machine when unset.
        untrusted: decode files in child processes, bounded in time and memory.

    Raises:
        BundleError: no bundle, or one whose files were changed.
    """
    return Bundle(bundle_of(Path(path)), threads=threads, untrusted=untrusted)


@dataclass(frozen=True)
class Evaluation:
    """What a bundle says about a labelled folder.

    Attributes:
        predictions: answers and truth, in the order of the folder (`MultiPredictions` for several labels an image).
        metrics: the figures (`MultiMetrics` likewise).
        side: "test" where the folder has sides of its own and only that one was scored, else "all".
        skipped: files of that side that were not scored, with reasons.
        unreadable: how many of them are images by their names.
    """

    predictions: Predictions | MultiPredictions
    metrics: Metrics | MultiMetrics
    side: str
    skipped: tuple[tuple[str, str], ...]
    unreadable: int = 0


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
        bundle: from :func:`load_bundle`, or the path of a bundle or a run.
        folder: class folders named like the bundle's classes, they need not all be there; or a table of labels.
        merge: class folders that are one class; those that the run was fitted with when unset.
        ignore: class folders that are left out; likewise.
        progress: called with (done, total).

    Raises:
        DataError: the folder cannot be used, or has classes that the bundle does not know.
    """
    from cvtune.data.index import build_index

    own: Mapping[str, Any] = {}
    if not isinstance(bundle, Bundle):
        own, bundle = _class_map(Path(bundle)), load_bundle(bundle)
    merge = own.get("merge", {}) if merge is None else merge
    ignore = own.get("ignore", ()) if ignore is None else ignore
    index = build_index(Path(folder), merge=merge, ignore=ignore, trainable=False)
    side = "test" if any(image.side == "test" for image in index.images) else "all"
    images = [image for image in index.images if side == "all" or image.side == "test"]
    index = _with_classes(replace(index, images=tuple(images)), bundle, Path(folder))
    return _score(bundle, index, side, progress)


@dataclass(frozen=True)
class Compared:
    """Two models on the same images; from :func:`compare`.

    Attributes:
        names: of both.
        answers: of both, in one order of images.
        found: how they compare.
        folder: where the images' paths start, if that is known.
        untrusted: the images come from unknown hands.
    """

    names: tuple[str, str]
    answers: tuple[Any, Any]
    found: Versus
    folder: Path | None
    untrusted: bool = False

    def save_html(self, path: PathLike) -> None:
        """Write a page with the figures, and the images that changed sides as pictures."""
        from cvtune.report.versus import build_versus_page

        build_versus_page(
            Path(path), self.names, *self.answers, self.found, folder=self.folder, untrusted=self.untrusted
        )


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
        asked = [evaluate(bundle, data, progress=progress).predictions for bundle in (first, second)]
        folder, untrusted = Path(data), False
    else:
        runs = [load_run(path) for path in (first, second)]
        asked = [_test_answers(run) for run in runs]
        folder = Path(read_json(runs[0].directory.environment)["folder"])
        untrusted = any(load_config(file=run.directory.config).data.untrusted for run in runs)
    both = aligned(*asked)
    root = folder.parent if folder.is_file() else folder  # a table's paths start beside it
    return Compared(names, both, versus(*both), root, untrusted)


@dataclass(frozen=True)
class Repeated:
    """Parts that were shown several times; from :func:`repeat`.

    Attributes:
        found: how they were answered.
        decided: whether the answers are decisions by the run's limits, else labels.
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
        bundle: a run, whose limits decide, or a bundle, whose labels are compared.
        folder: `part/**/picture`.
        group_by: how the names tell the part, as for :func:`fit`; the folder that holds the picture when unset.
        progress: called with (done, total).

    Raises:
        ConfigError: the pictures belong to no parts.
        DataError: no picture can be read, or no part has two.
    """
    from cvtune.data.groups import name_groups
    from cvtune.evaluation.operating import ChosenPoint
    from cvtune.evaluation.repeatability import repeatability

    root, opened = Path(folder), load_bundle(bundle)
    files = list(find_images([root]))
    paths = [file.relative_to(root).as_posix() if root.is_dir() else file.name for file in files]
    groups = name_groups(group_by, root, paths) if group_by else [path.rpartition("/")[0] or None for path in paths]
    limits = RunDir(bundle).point
    point = ChosenPoint.load(limits) if limits.is_file() else None
    parts, answers, skipped = [], [], []
    for done, (path, group, answer) in enumerate(zip(paths, groups, opened.stream(files), strict=True), start=1):
        progress(done, len(files))
        if isinstance(answer, Unreadable):
            skipped.append((path, answer.reason))
        elif group is not None:
            parts.append(group)
            answers.append(point.said(answer.probabilities) if point else answer.label)
    found = repeatability(parts, answers)
    if not found.parts:
        raise DataError(
            f"{folder}: no part has two pictures that can be read",
            hint=r"put the pictures of each part into a folder, or say how names tell it: --group-by '(part\d+)_'",
        )
    return Repeated(found, point is not None, tuple(skipped))


def _test_answers(run: Run) -> Any:
    from cvtune.evaluation.task import task_named

    path = run.directory.predictions("test")
    if not path.is_file():
        raise RunError(f"{run.path} has no test side", hint="name a labelled folder for both: --data FOLDER")
    return task_named(run.metrics["task"]).load(path)


class Run:
    """A fine-tuned model with its figures; from :func:`fit` or :func:`load_run`.

    Args:
        directory: of the run.
        exit_code: 0, or 130 / 143 where the fit was asked to stop.
    """

    def __init__(self, directory: RunDir, *, exit_code: int = 0) -> None:
        self.directory = directory
        self.exit_code = exit_code
        self._bundle: Bundle | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.directory.root

    @property
    def bundle(self) -> Bundle:
        """The exported model, as the line runs it."""
        if self._bundle is None:
            self._bundle = Bundle(self.directory.bundle)
        return self._bundle

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.bundle.classes

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json: figures of the val, calib and test sides."""
        return dict(read_json(self.directory.metrics))

    def predict(self, paths: PathLike | Iterable[PathLike]) -> Iterator[Prediction | Unreadable]:
        """Answers for files and folders, one at a time, in order.

        Args:
            paths: one file or folder, or several.
        """
        several = [paths] if isinstance(paths, str | Path) else paths
        return self.bundle.stream(find_images(Path(path) for path in several))

    def evaluate(self, folder: PathLike) -> Evaluation:
        """Score a labelled folder; see :func:`evaluate`."""
        return evaluate(self.bundle, folder, **_class_map(self.path))

    def report(self) -> Path:
        """Build report.html again from the run's files."""
        from cvtune.report import build_report

        return build_report(self.directory)

    def model(self, *, head: HeadFactory | None = None) -> Classifier:
        """The trained torch classifier, in eval mode; its input is normalised by model.json's mean and std.

        Args:
            head: the factory that the fit was given; not used where the probe's linear head was kept.

        Raises:
            RunError: the head is the user's own and no factory was given.
        """
        from safetensors.torch import load_file

        from cvtune.models.backbone import create_empty
        from cvtune.models.head import Classifier, LinearHead

        facts = read_json(self.directory.model)
        if facts["head"] != "linear" and head is None:
            raise RunError(f"{self.path}: its head is your own, {facts['head']}", hint="pass head=... to model()")
        backbone = create_empty(facts["backbone"], size=facts["size"], taps=facts.get("taps", ()))
        factory = head if head is not None and facts["head"] != "linear" else LinearHead
        classifier = Classifier(backbone, factory(backbone.width, len(facts["classes"])))
        classifier.load_state_dict(load_file(self.directory.weights))
        return classifier.eval()


_SECTIONS = {
    "backbone": "model",
    "weights": "model",
    "download": "model",
    "from_scratch": "model",
    "accept_license": "model",
    "group_by": "data",
    "merge": "data",
    "ignore": "data",
    "corrections": "data",
    "folds": "data",
    "new_split": "data",
    "untrusted": "data",
    "window": "image",
    "size": "image",
    "resize": "image",
    "roi": "image",
    "mask": "image",
    "budget": "train",
    "final_fit": "train",
    "ok": "objective",
    "target": "objective",
    "review_rate": "objective",
    "guarantee": "objective",
    "words": "objective",
}


def _settings(config: Config | PathLike | None, flags: Mapping[str, Any]) -> Config:
    rest = dict(flags)
    preset = rest.pop("preset", None)
    dotted = {f"{_SECTIONS[key]}.{key}" if key in _SECTIONS else key: value for key, value in rest.items()}
    if isinstance(config, Config):
        merged = merge_flags(config, {**dotted, "preset": preset})
        return merged if merged.preset == "auto" else overlay(merged, read_preset(merged.preset))
    return load_config(preset or "auto", None if config is None else Path(config), dotted)


def _class_map(path: Path) -> Mapping[str, Any]:
    """What the run at `path` merged and ignored; nothing where it is a bundle."""
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

    from cvtune.evaluation.task import task_of

    skipped = [(one.path, one.reason) for one in index.skipped if side == "all" or _on_test(one.path)]
    unreadable = sum(_is_image_name(path) for path, _ in skipped)
    kept, rows = [], []
    stream = bundle.stream(index.root / image.path for image in index.images)
    for done, (image, answer) in enumerate(zip(index.images, stream, strict=True), start=1):
        progress(done, len(index.images))
        if isinstance(answer, Unreadable):
            skipped.append((image.path, answer.reason))
            unreadable += 1
        else:
            kept.append(image)
            rows.append(answer.probabilities)
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
        np.stack(rows),
        bundle.classes,
        bundle.manifest.thresholds,
    )
    return Evaluation(predictions, task.score(predictions), side, tuple(skipped), unreadable)


def _on_test(path: str) -> bool:
    return path.split("/")[0].lower() == "test"


def _is_image_name(path: str) -> bool:
    name = path.rpartition("/")[2]
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)
