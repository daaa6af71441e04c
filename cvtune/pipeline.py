"""THE MAIN PATH: from a labelled folder to a tested bundle, one line a step; steps/ and book.py hold the steps."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from cvtune import steps
from cvtune.book import Book, Outcome
from cvtune.config import Config
from cvtune.console import Console
from cvtune.training.stages import stages
from cvtune.training.stop import StopRequest


def fit(
    folder: Path,
    config: Config,
    *,
    out: Path | None = None,
    plan: Path | None = None,
    resume: bool = False,
    plugins: steps.Plugins | None = None,
    console: Console,
) -> Outcome:
    """Fine-tune on a folder; from model 0 on, stopping at any moment leaves a valid run.

    Args:
        folder: `class/**/image`, or train/, val/, test/ above the classes; or a table of labels.
        config: all settings.
        out: the run directory, `runs/<folder>-<n>` when unset.
        plan: an earlier run, whose choices made by the clock are repeated.
        resume: `out` is a run that was interrupted: what is finished in it is not done again.
        plugins: the user's head, augmentation, callbacks and loggers.
        console: where the steps are told.

    Raises:
        CvtuneError: something the user can mend; see `cvtune.errors`.
        KeyboardInterrupt: stopped before there was a model.
    """
    plugins, began, threads = plugins or steps.Plugins(), time.monotonic(), steps.threads(config)
    replay = steps.check(config, out if resume else plan, resume=resume)
    weights = steps.find_weights(config)
    index = steps.index(folder, config, console)
    objective = steps.aim(config, index)
    run = steps.new_run(folder, out, resume=resume)
    with run.locked(resume=resume), steps.scratch(run) as scratch, StopRequest() as stop:
        data = steps.read(index, config, weights, scratch, console)
        backbone = steps.network(config, weights, data, console)
        seen = steps.examine(data, backbone, config, console)
        config = steps.settle(config, data, objective, console)
        split = steps.divide(data, seen, config, folder, console)
        data = steps.window(data, split, config, console)
        found = steps.audited(data, seen, split)
        ledger = steps.record(run, config, found, split, weights, folder, threads, replay, resume=resume)
        lab = steps.Lab(run, config, data, seen, backbone, scratch, plugins, replay, ledger, stop, console, began)
        crossed = steps.cross_validate(lab)
        session = steps.prepare(lab, split, crossed=crossed)
        held = session.material.held
        strange = partial(steps.strangeness, lab)
        book = Book(run, config, data, split, weights, console, held, found.leaked, objective, crossed, strange)
        with book.guard():
            for stage in stages(session):
                stop.arm()
                book.add(stage, session.classifier)
            if final := steps.final_fit(lab, split, session):
                book.add_final(final)
            if not stop:
                book.studied(steps.study(lab, session, book.evidence))
                steps.lighten(lab, split)
        return book.close(stopped=stop.exit_code)


def check(folder: Path, config: Config, *, console: Console) -> steps.Audited:
    """What is wrong with a folder, without training and without writing anything.

    Args:
        folder: as for :func:`fit`.
        config: all settings.
        console: where the steps are told.

    Raises:
        CvtuneError: the folder cannot be used at all.
    """
    steps.threads(config)
    index = steps.index(folder, config, console)
    with tempfile.TemporaryDirectory(prefix="cvtune-") as scratch, StopRequest():
        weights = steps.find_weights(config)
        data = steps.read(index, config, weights, Path(scratch), console)
        backbone = steps.network(config, weights, data, console)
        seen = steps.examine(data, backbone, config, console)
        split = steps.divide(data, seen, config, folder, console, keep=False)
        return steps.audited(data, seen, split)
