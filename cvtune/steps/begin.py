"""Before any image is read: what is asked for, the weights, and a place for the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cvtune_edge.files import find_images

from cvtune.config import Config, load_config
from cvtune.errors import DataError, RunError
from cvtune.models.weights import WeightsInfo
from cvtune.models.weights import find_weights as look_for_weights
from cvtune.rundir import RunDir, read_json
from cvtune.training.hardware import Threads, default_workers, set_threads
from cvtune.training.hardware import threads as count_threads
from cvtune.training.loggers import check_loggers
from cvtune.training.session import Choices


def check(config: Config, plan: Path | None, *, resume: bool = False) -> Mapping[str, Choices]:
    """What can be refused before any image is read: loggers that are not installed, a plan that is not there.

    Args:
        config: all settings.
        plan: an earlier run, whose choices are repeated.
        resume: it is the run that goes on, which may have been interrupted before its first choice.

    Returns:
        Those choices by stage, none where there is no plan.

    Raises:
        ConfigError: the package of a logger is missing.
        DataError: a folder of unknown things holds no image.
        RunError: `plan` is no run, or one without a plan.
    """
    check_loggers(config.train.loggers)
    for folder in config.data.unknown:
        if not Path(folder).is_dir() or next(iter(find_images([Path(folder)])), None) is None:
            raise DataError(f"--unknown {folder}: no image in it", hint="name a folder of photographs of other things")
    if plan is None or (resume and not RunDir(plan).plan.is_file()):
        return {}
    choices: Mapping[str, Choices] = read_json(RunDir.open(plan).plan)["stages"]
    return choices


def threads(config: Config) -> Threads:
    """As many as this machine has cores for, set for the whole process before anything is computed.

    Args:
        config: with the loader processes, which need cores too.
    """
    workers = config.train.workers
    found = count_threads(default_workers() if workers is None else workers)
    set_threads(found)
    return found


def resumed(path: Path) -> tuple[Path, Config]:
    """The folder and the settings of a run that was interrupted.

    Raises:
        RunError: no run, or one that is complete.
    """
    run = RunDir(path)
    run.check_resumable()
    return Path(read_json(run.environment)["folder"]), load_config(file=run.config)


def find_weights(config: Config) -> WeightsInfo:
    """Before the images, since without weights nothing else is worth the wait."""
    return look_for_weights(config.model.backbone, config.model)


def new_run(folder: Path, out: Path | None, *, resume: bool = False) -> RunDir:
    """A run directory that holds nothing yet, or the one that goes on.

    Raises:
        RunError: `out` is in use, or holds a run or something else.
    """
    if out is not None and resume:
        return RunDir(out)
    if out is not None:
        if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise RunError(
                f"{out} lies inside the folder of images; the next fit would take it for a class",
                hint="choose a folder beside it with --out",
            )
        run = RunDir(out)
        run.check_new()
        return run
    name = folder.resolve().name if folder.is_dir() else folder.stem  # labels.csv -> runs/labels-1
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    number = 1
    while (root := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return RunDir(root)


@contextmanager
def scratch(run: RunDir) -> Iterator[Path]:
    """A folder on the run's own disk, gone afterwards."""
    run.scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield run.scratch
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
