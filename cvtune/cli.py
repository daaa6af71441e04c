"""The verbs of the command line; the work is done elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from signal import SIGTERM
from typing import Annotated

import typer

from cvtune import __version__
from cvtune.errors import ConfigError, CvtuneError

app = typer.Typer(
    help="A folder of labelled images in, a tested ONNX inspection model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell more.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Tell nothing but errors.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cvtune {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A folder of labelled images in, a tested ONNX inspection model out."""


@app.command()
def fit(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="class/**/image, or train/, val/, test/ above the classes.")
    ],
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/FOLDER-N when unset.")] = None,
    preset: Annotated[str, typer.Option(help="auto, default, defects, xray or traffic-signs.")] = "auto",
    config: Annotated[Path | None, typer.Option(help="TOML file; see configs/default.toml.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm classifier; tf_efficientnet_lite0.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Pretrained weights, .safetensors or .pth.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Allow the model hub to be asked.")] = False,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from random weights.")] = False,
    accept_license: Annotated[list[str] | None, typer.Option(help="Non-commercial licence you accept.")] = None,
    group_by: Annotated[str | None, typer.Option(help="Regex on the path: same first group, same side.")] = None,
    size: Annotated[int | None, typer.Option(help="Input size in pixels; the weights' own when unset.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch (whole frame), pad or crop.")] = None,
    roi: Annotated[str | None, typer.Option(help="x,y,width,height: look at this part of the frame only.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Image of the frame's size: white is looked at.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time for training: 30s, 5m, 2h.")] = None,
    plan: Annotated[Path | None, typer.Option(help="An earlier run: choose again what it chose by the clock.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same files: same bytes.")] = None,
    logger: Annotated[list[str] | None, typer.Option(help="tensorboard or mlflow, beside metrics.csv.")] = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune on a labelled folder and export a tested ONNX bundle."""
    from cvtune import api
    from cvtune.console import Console

    flags = {
        "preset": preset,
        "seed": seed,
        "backbone": backbone,
        "weights": None if weights is None else str(weights),
        "download": download or None,
        "from_scratch": from_scratch or None,
        "accept_license": accept_license or None,
        "group_by": group_by,
        "size": size,
        "resize": resize,
        "roi": _box(roi),
        "mask": None if mask is None else str(mask),
        "budget": _seconds(budget),
        "train.loggers": logger or None,
    }
    try:
        run = api.fit(
            folder, out=out, config=config, plan=plan, console=Console(quiet=quiet, verbose=verbose), settings=flags
        )
    except KeyboardInterrupt as end:  # typer would make an exit code of it without a word
        print("interrupted: nothing is kept of a run that had no model yet", file=sys.stderr)
        raise typer.Exit(143 if SIGTERM in end.args else 130) from None
    raise typer.Exit(run.exit_code)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a run.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Images and folders.")],
    csv: Annotated[str | None, typer.Option(help="Write path,label,probability,p:<class>...; - is stdout.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the network.")] = None,
) -> None:
    """Say what is on images, by the code that runs on the line."""
    from cvtune_edge.predict import predict_command

    from cvtune.rundir import bundle_of

    raise typer.Exit(predict_command(bundle_of(bundle), paths, csv=csv, json=json, threads=threads))


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run or a bundle.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Class folders; only test/ where there is one.")],
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    quiet: Quiet = False,
) -> None:
    """Score a labelled folder."""
    from cvtune import api
    from cvtune.console import Console
    from cvtune.rundir import write_json
    from cvtune.tables import evaluation_lines

    console = Console(quiet=quiet)
    result = api.evaluate(
        api.load_bundle(bundle), folder, progress=lambda done, of: console.progress("scoring", done, of)
    )
    console.end_progress()
    if not quiet:
        typer.echo("\n".join(evaluation_lines(result)))
    if json is not None:
        skipped = [{"path": path, "reason": reason} for path, reason in result.skipped]
        write_json(json, {"side": result.side, **result.metrics.to_json(), "skipped": skipped})
    raise typer.Exit(4 if result.unreadable else 0)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Build report.html again from the files of a run."""
    import webbrowser

    from cvtune import api

    page = api.load_run(run).report()
    typer.echo(str(page))
    if show:
        webbrowser.open(page.resolve().as_uri())


@app.command()
def show(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]) -> None:
    """Print the summary of a finished run again."""
    from cvtune.rundir import RunDir, read_text

    typer.echo(read_text(RunDir.open(run).summary), nl=False)


@app.command()
def doctor() -> None:
    """Say what is wrong with this installation, and how to mend it."""
    from cvtune.doctor import doctor as look

    raise typer.Exit(look(typer.echo))


def main(argv: list[str] | None = None) -> None:
    """Entry point; every error of the user is one message and exit code 2, or 3 where a gate failed."""
    sys.exit(_run(argv))


def _run(argv: list[str] | None) -> int:
    from cvtune_edge.cli import utf8_output

    utf8_output()
    try:
        app(args=argv, prog_name="cvtune", standalone_mode=True)
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _box(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        box = tuple(int(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise ConfigError(
            f"--roi '{text}': expected x,y,width,height in pixels", hint="for example --roi 100,80,640,480"
        )
    return box


def _seconds(text: str | None) -> float | None:
    from cvtune.console import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"--budget {error}") from error
