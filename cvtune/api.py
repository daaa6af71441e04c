"""The Python API: fit a folder, open a run or a bundle, predict, evaluate, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvtune_edge.files import find_images
from cvtune_edge.runtime import Bundle, Decision, Prediction, Unreadable

from cvtune.assess import Compared, Evaluation, Repeated, class_map, compare, evaluate, repeat
from cvtune.config import Config, ExportConfig, Precision, load_config, merge_flags, overlay, read_preset
from cvtune.console import Console
from cvtune.errors import ConfigError, RunError
from cvtune.rundir import RunDir, bundle_of, images_root, read_json, write_json

if TYPE_CHECKING:
    from cvtune_edge.bench import Plan
    from cvtune_edge.latency import Latency

    from cvtune.bundle.forms import Colour
    from cvtune.bundle.lighter.add import Lighter
    from cvtune.bundle.variants import Variant
    from cvtune.models.head import Classifier, HeadFactory
    from cvtune.steps import Audited

PathLike = str | Path

__all__ = [
    "Check",
    "Compared",
    "Decision",
    "Evaluation",
    "Repeated",
    "Run",
    "bench",
    "check",
    "compare",
    "evaluate",
    "fit",
    "load_bundle",
    "load_run",
    "repeat",
]


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
            merge (`{"defect": ["scratch", "dent"]}`), ignore, corrections, unknown (folders of what is
            none of the classes), untrusted, size, resize, roi, mask, window,
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


def load_bundle(
    path: PathLike,
    *,
    threads: int | None = None,
    untrusted: bool = False,
    provider: str | Sequence[str] = "cpu",
    spin: bool = False,
    precision: str = "auto",
) -> Bundle:
    """Open a bundle, or the bundle of a run.

    Args:
        path: of either.
        threads: of the network; chosen from the machine when unset.
        untrusted: decode files in child processes, bounded in time and memory.
        provider: who computes, "cpu", "cuda", ...; refused where it does not run here.
        spin: let threads wait actively within an answer.
        precision: which model answers: "auto", "float32", "int8", "float16"; see :class:`cvtune_edge.Bundle`.

    Raises:
        BundleError: no bundle, one whose files were changed, or none with such a model.
        CvtuneError: the provider does not run here.
    """
    bundle = bundle_of(Path(path))
    return Bundle(bundle, threads=threads, untrusted=untrusted, provider=provider, spin=spin, precision=precision)


def bench(path: PathLike, plan: Plan | None = None, *, progress: Callable[[str], None] = lambda what: None) -> Latency:
    """Measure how long a model takes on this machine, and keep it with the run: latency.json, manifest and report.

    Args:
        path: of a run; or of a bundle, which is left as it is.
        plan: what is measured; threads, batches and precisions within 20 seconds when None.
        progress: told what is being done.

    Raises:
        BundleError: no bundle, or one whose files were changed.
        CvtuneError: a provider that does not run here, or pictures that cannot be read.
        RunError: another process holds the run.
    """
    from cvtune_edge.bench import bench as measure

    run = RunDir(path)
    if not run.config.is_file():
        return measure(bundle_of(run.root), plan, progress=progress)
    from cvtune.bundle.enclose import note_latency

    with run.locked():  # from the start: a fit that goes on meanwhile would be timed too
        found = measure(bundle_of(run.root), plan, progress=progress)
        write_json(run.latency, found.to_json())
        note_latency(run.bundle, found)
        if run.report.is_file():
            progress("report")
            Run(run).report()
    return found


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
        return self.bundle.stream(_images(paths))

    def decide(self, paths: PathLike | Iterable[PathLike]) -> Iterator[Decision | Unreadable]:
        """Decisions about files and folders by the bundle's limits: OK, NG (class), REVIEW; one at a time, in order.

        Args:
            paths: one file or folder, or several.
        """
        return self.bundle.decisions(_images(paths))

    def evaluate(self, folder: PathLike) -> Evaluation:
        """Score a labelled folder; see :func:`evaluate`."""
        return evaluate(self.bundle, folder, **class_map(self.path))

    def report(self) -> Path:
        """Build report.html again from the run's files."""
        from cvtune.report import build_report

        return build_report(self.directory)

    def export(
        self,
        *,
        colour: Colour = "rgb",
        static: tuple[int, int] | None = None,
        heatmap: bool = False,
        head: HeadFactory | None = None,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> Variant:
        """Put a further model into the bundle, if it answers as model.onnx does about all val, calib and test images.

        Args:
            colour: what the camera delivers: "bgr", or "gray" [N, H, W].
            static: height and width of the only frame that it takes, for accelerators that want one shape.
            heatmap: it gives `heatmap` [N, h, w] as well, where the network looked.
            head: as for :meth:`model`, for a heat map of a head of your own.
            progress: called after each image.

        Raises:
            ConfigError: nothing is asked for, or what does not go with the model.
            GateError: it answers otherwise; nothing was written.
        """
        from cvtune.bundle.forms import Form
        from cvtune.bundle.variants import add_variant
        from cvtune.data.split import saved_sides
        from cvtune.evaluation.calibration import Calibration
        from cvtune.models.normalize import Normalize

        form = Form(colour, static, heatmap)
        facts = read_json(self.directory.model)
        window = facts["window"] and tuple(facts["window"])
        with self.directory.locked():
            variant = add_variant(
                self.directory.bundle,
                form,
                classifier=self.model(head=head) if heatmap else None,
                normalize=Normalize(tuple(facts["mean"]), tuple(facts["std"]), window),
                calibration=Calibration.load(self.directory.calibration),
                root=self._root,
                paths=[path for path, side in saved_sides(self.directory.split).items() if side != "train"],
                untrusted=load_config(file=self.directory.config).data.untrusted,
                progress=progress,
            )
        self._renew()
        return variant

    def lighten(
        self,
        precision: Precision,
        *,
        max_drop: float | None = None,
        progress: Callable[[str, int, int], None] = lambda what, done, of: None,
    ) -> Lighter:
        """Put a lighter model into the bundle, if it loses next to nothing on the val and calib images.

        Args:
            precision: "int8", which has to be faster on this machine as well, or "float16", a smaller file.
            max_drop: points of accuracy that it may lose, 0.5 when None; one image in any case.
            progress: called with what is done, how much of it, and of how much.

        Raises:
            GateError: it loses more, or is not faster; nothing was written.
        """
        from cvtune.bundle.lighter.add import add_lighter
        from cvtune.data.index import DatasetIndex
        from cvtune.data.split import Split

        index = DatasetIndex.load(self.directory.index, root=self._root)
        with self.directory.locked():
            lighter = add_lighter(
                self.directory.bundle,
                precision,
                index,
                Split.load(self.directory.split, index),
                max_drop=ExportConfig().int8_max_drop if max_drop is None else max_drop,
                untrusted=load_config(file=self.directory.config).data.untrusted,
                tell=progress,
            )
        self._renew()
        return lighter

    @property
    def _root(self) -> Path:
        """Where the paths of the images begin."""
        return images_root(Path(read_json(self.directory.environment)["folder"]))

    def _renew(self) -> None:
        """The bundle is of other files now."""
        self._bundle = None
        if self.directory.report.is_file():
            self.report()

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


def _images(paths: PathLike | Iterable[PathLike]) -> Iterator[Path]:
    """The images at one path, or at several."""
    several = [paths] if isinstance(paths, str | Path) else paths
    return find_images(Path(path) for path in several)


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
    "unknown": "data",
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
    "int8": "export",
    "fp16": "export",
    "int8_max_drop": "export",
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
