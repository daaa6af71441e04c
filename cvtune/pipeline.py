"""THE MAIN PATH: from a labelled folder to a tested bundle, one line a step; steps.py and book.py hold the steps."""

from __future__ import annotations

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
    plugins: steps.Plugins | None = None,
    console: Console,
) -> Outcome:
    """Fine-tune on a folder; from model 0 on, stopping at any moment leaves a valid run.

    Args:
        folder: `class/**/image`, or train/, val/, test/ above the classes.
        config: all settings.
        out: the run directory, `runs/<folder>-<n>` when unset.
        plan: an earlier run, whose choices made by the clock are repeated.
        plugins: the user's head, augmentation, callbacks and loggers.
        console: where the steps are told.

    Raises:
        CvtuneError: something the user can mend; see `cvtune.errors`.
        KeyboardInterrupt: stopped before there was a model.
    """
    plugins = plugins or steps.Plugins()
    replay = steps.check(config, plan)
    weights = steps.find_weights(config)
    index = steps.index(folder, config, console)
    run = steps.new_run(folder, out)
    with run.locked(), steps.scratch(run) as scratch, StopRequest() as stop:
        frame = steps.preprocessing(config, weights)
        index, pixels = steps.read(index, frame, scratch, console)
        config = steps.settle(config, index, frame, console)
        split = steps.divide(index, config, console)
        steps.record(run, config, index, split, weights, folder)
        session = steps.prepare(
            run, config, weights, index, split, pixels, plugins=plugins, replay=replay, stop=stop, console=console
        )
        book = Book(run, config, index, split, weights, frame, console)
        with book.guard():
            for stage in stages(session):
                stop.arm()
                book.add(stage, session.classifier)
        return book.close(stopped=stop.exit_code)
