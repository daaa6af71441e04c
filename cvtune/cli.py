"""The verbs of the command line; the work is done elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from signal import SIGTERM
from typing import Annotated, Any

import typer
from cvtune_edge.terminal import inert

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
_FOLDER = typer.Argument(
    metavar="FOLDER", help="class/**/image, or train/, val/, test/ above the classes; or a table path,label."
)
Folder = Annotated[Path, _FOLDER]
GroupBy = Annotated[
    str | None,
    typer.Option(help="Same group, same side: a regex on the path, level:N, column:NAME or FILE.csv:COLUMN."),
]
Merge = Annotated[list[str] | None, typer.Option(help="Classes that are one: scratch,dent=defect.")]
Ignore = Annotated[list[str] | None, typer.Option(help="Class that is left out.")]
Provider = Annotated[str, typer.Option(help="Who computes: cpu, cuda, tensorrt, openvino, coreml, xnnpack, directml.")]
Spin = Annotated[bool, typer.Option("--spin", help="Let threads wait actively within an answer.")]
PublicKey = Annotated[
    Path | None,
    typer.Option("--key", help="Public key, PEM: refuse a bundle that was not signed with its private one."),
]
Int8 = Annotated[bool, typer.Option("--int8", help="A model in eight bits too, if as good and faster here.")]
Fp16 = Annotated[bool, typer.Option("--fp16", help="A model with weights as float16 too, half the size.")]
MaxDrop = Annotated[
    float | None, typer.Option(min=0, max=100, help="Points of accuracy that they may lose on val and calib; 0.5.")
]
Untrusted = Annotated[bool, typer.Option("--untrusted", help="Decode in a child process, bounded in time and memory.")]


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
    folder: Annotated[Path | None, _FOLDER] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; runs/FOLDER-N when unset.")] = None,
    preset: Annotated[str, typer.Option(help="auto, default, defects, xray or traffic-signs.")] = "auto",
    config: Annotated[Path | None, typer.Option(help="TOML file; see configs/default.toml.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm classifier; tf_efficientnet_lite0.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Pretrained weights, .safetensors or .pth.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Allow the model hub to be asked.")] = False,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Start from random weights.")] = False,
    accept_license: Annotated[list[str] | None, typer.Option(help="Non-commercial licence you accept.")] = None,
    group_by: GroupBy = None,
    new_split: Annotated[bool, typer.Option("--new-split", help="Deal the images out anew.")] = False,
    folds: Annotated[int | None, typer.Option(help="Cross-validate; the model is trained on all images.")] = None,
    merge: Merge = None,
    ignore: Ignore = None,
    corrections: Annotated[Path | None, typer.Option(help="CSV path,label,new_label, as check writes it.")] = None,
    unknown: Annotated[list[Path] | None, typer.Option(help="Folder of what is no class: is it told apart?")] = None,
    untrusted: Untrusted = False,
    size: Annotated[int | None, typer.Option(help="Input size in pixels; the weights' own when unset.")] = None,
    resize: Annotated[str | None, typer.Option(help="stretch (whole frame), pad or crop.")] = None,
    roi: Annotated[str | None, typer.Option(help="x,y,width,height: look at this part of the frame only.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Image of the frame's size: white is looked at.")] = None,
    window: Annotated[str | None, typer.Option(help="low,high: black and white of 16-bit images.")] = None,
    budget: Annotated[str | None, typer.Option(help="Time for all of it: 30s, 5m, 2h.")] = None,
    final_fit: Annotated[
        str | None, typer.Option(help="all: at the end train once more, on every image but the test ones; or train.")
    ] = None,
    ok: Annotated[list[str] | None, typer.Option(help="A good class; guessed from its name when unset.")] = None,
    no_ok: Annotated[
        bool, typer.Option("--no-ok", help="No class is good: a class or REVIEW is the decision.")
    ] = False,
    target: Annotated[
        list[str] | None, typer.Option(help="escape<=0.5%, overkill<=2%; error<=1% where no class is good.")
    ] = None,
    review_rate: Annotated[str | None, typer.Option(help="Share of the images that a person may look at: 5%.")] = None,
    guarantee: Annotated[
        bool, typer.Option("--guarantee", help="The images have to prove the targets; REVIEW where they do not.")
    ] = False,
    words: Annotated[str | None, typer.Option(help="factory (escape, overkill) or clinic (sensitivity).")] = None,
    int8: Int8 = False,
    fp16: Fp16 = False,
    int8_max_drop: MaxDrop = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a run that was interrupted.")] = None,
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
        **_data_flags(group_by, merge, ignore, untrusted),
        "new_split": new_split or None,
        "folds": folds,
        "corrections": None if corrections is None else str(corrections),
        "unknown": [str(folder) for folder in unknown] if unknown else None,
        "size": size,
        "resize": resize,
        "roi": _box(roi),
        "mask": None if mask is None else str(mask),
        "window": _levels(window),
        "budget": _seconds(budget),
        "final_fit": final_fit,
        "ok": _good(ok, no_ok),
        "target": target or None,
        "review_rate": _share("--review-rate", review_rate),
        "guarantee": guarantee or None,
        "words": words,
        "int8": int8 or None,
        "fp16": fp16 or None,
        "int8_max_drop": int8_max_drop,
        "train.loggers": logger or None,
    }
    try:
        run = api.fit(
            folder,
            out=out,
            config=config,
            plan=plan,
            resume=resume,
            console=Console(quiet=quiet, verbose=verbose),
            settings=flags,
        )
    except KeyboardInterrupt as end:  # typer would make an exit code of it without a word
        print("interrupted: nothing is kept of a run that had no model yet", file=sys.stderr)
        raise typer.Exit(143 if SIGTERM in end.args else 130) from None
    raise typer.Exit(run.exit_code)


@app.command()
def check(
    folder: Folder,
    json: Annotated[Path | None, typer.Option(help="Write everything that was found here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures here.")] = None,
    corrections: Annotated[Path | None, typer.Option(help="Write proposed corrections here, for fit.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file; see configs/default.toml.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm classifier; tf_efficientnet_lite0.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Pretrained weights, .safetensors or .pth.")] = None,
    accept_license: Annotated[list[str] | None, typer.Option(help="Non-commercial licence you accept.")] = None,
    group_by: GroupBy = None,
    merge: Merge = None,
    ignore: Ignore = None,
    untrusted: Untrusted = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with a labelled folder; exit code 0 clean, 1 warnings, 2 unusable."""
    from cvtune import api
    from cvtune.console import Console
    from cvtune.tables import finding_lines

    flags = {
        "backbone": backbone,
        "weights": None if weights is None else str(weights),
        "accept_license": accept_license or None,
        **_data_flags(group_by, merge, ignore, untrusted),
    }
    checked = api.check(folder, config=config, console=Console(quiet=quiet, verbose=verbose), settings=flags)
    if not quiet:
        typer.echo("\n".join(finding_lines(checked.findings)))
    for path, write in ((json, checked.save_json), (html, checked.save_html), (corrections, checked.save_corrections)):
        if path is not None:
            write(path)
    raise typer.Exit(checked.exit_code)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a run.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Images and folders.")],
    csv: Annotated[str | None, typer.Option(help="Write path,label,probability,p:<class>...; - is stdout.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the network.")] = None,
    untrusted: Untrusted = False,
    provider: Provider = "cpu",
    spin: Spin = False,
    precision: Annotated[
        str, typer.Option(help="auto, float32, int8 or float16; auto: int8 where it answers here as in the lab.")
    ] = "auto",
    key: PublicKey = None,
) -> None:
    """Say what is on images, by the code that runs on the line."""
    from cvtune_edge.predict import predict_command

    from cvtune.rundir import bundle_of

    raise typer.Exit(
        predict_command(
            bundle_of(bundle),
            paths,
            csv=csv,
            json=json,
            threads=threads,
            untrusted=untrusted,
            provider=provider,
            spin=spin,
            precision=precision,
            key=key,
        )
    )


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run or a bundle.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the network.")] = None,
    provider: Provider = "cpu",
    key: PublicKey = None,
) -> None:
    """Is a bundle whole, and does this machine answer for its golden frames as the lab did?"""
    from cvtune_edge.cli import verify_command

    from cvtune.rundir import bundle_of

    raise typer.Exit(verify_command(bundle_of(bundle), threads=threads, provider=provider, key=key))


@app.command()
def sign(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run or a bundle; none to make keys alone.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="The private key to sign with, PEM.")] = None,
    make: Annotated[
        Path | None, typer.Option("--new-key", help="Make a pair, line.pem and line.pub.pem, and sign with it.")
    ] = None,
) -> None:
    """Sign a bundle, so that a line PC with the public key runs no other."""
    from cvtune_edge.signature import new_key
    from cvtune_edge.signature import sign as sign_bundle

    from cvtune.rundir import bundle_of

    if (key is None) is (make is None) or (bundle is None and make is None):
        raise ConfigError(
            "name a bundle and a private key, or a new key",
            hint="cvtune sign RUN --key line.pem, or cvtune sign RUN --new-key line.pem",
        )
    if make is not None:
        public = new_key(make)
        typer.echo(inert(f"{make}: the private key; whoever has it can sign, so keep it off the line"))
        typer.echo(inert(f"{public}: the public key, for `cvtune-edge predict BUNDLE --key {public.name}`"))
    private = key or make
    if bundle is not None and private is not None:
        typer.echo(inert(f"signed: {sign_bundle(bundle_of(bundle), private)}"))


@app.command()
def bench(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run, which keeps the table, or a bundle.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Pictures to read and show; a drawn frame without any.")
    ] = None,
    threads: Annotated[str | None, typer.Option(help="Of the network: 1,2; all up to the cores when unset.")] = None,
    batch: Annotated[str | None, typer.Option(help="Frames at once: 1,8; 1 to 32 when unset.")] = None,
    seconds: Annotated[float | None, typer.Option(help="For all of it; 20 when unset.")] = None,
    size: Annotated[str | None, typer.Option(help="Of the drawn frame; 640x480 when unset.")] = None,
    provider: Provider = "cpu",
    spin: Spin = False,
    json: Annotated[Path | None, typer.Option(help="Write everything that was found here.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure how long a model takes on this machine, from the file to the decision."""
    _tell_of_signature(ctx, bundle)
    from cvtune_edge.bench import BATCHES, SECONDS, Plan
    from cvtune_edge.bench_table import save, show

    from cvtune import api

    plan = Plan(
        threads=_counts("--threads", threads, ","),
        batches=_counts("--batch", batch, ",") or BATCHES,
        seconds=SECONDS if seconds is None else seconds,
        size=_pair("--size", size, "width and height, 640x480"),
        images=tuple(paths or ()),
        provider=provider,
        spin=spin,
    )
    found = api.bench(bundle, plan, progress=lambda what: None if quiet else typer.echo(f"measuring: {what}", err=True))
    if not quiet:
        show(found, bundle.as_posix())
    if json is not None:
        save(found, json)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run or a bundle.")],
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Class folders, only test/ where there is one; or a table path,label."),
    ],
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
    merge: Merge = None,
    ignore: Ignore = None,
    quiet: Quiet = False,
) -> None:
    """Score a labelled folder."""
    from cvtune import api
    from cvtune.console import Console
    from cvtune.rundir import write_json
    from cvtune.tables import evaluation_lines

    console = Console(quiet=quiet)
    result = api.evaluate(
        bundle,
        folder,
        merge=_merges(merge),
        ignore=ignore,
        progress=lambda done, of: console.progress("scoring", done, of),
    )
    console.end_progress()
    if not quiet:
        typer.echo("\n".join(evaluation_lines(result)))
    if json is not None:
        skipped = [{"path": path, "reason": reason} for path, reason in result.skipped]
        decided = result.decided
        decisions = {} if decided is None else {"decisions": decided.to_json()}
        write_json(json, {"side": result.side, **result.metrics.to_json(), **decisions, "skipped": skipped})
    raise typer.Exit(4 if result.unreadable else 0)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN_A", help="The model at hand: a run; with --data a bundle too.")],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="The other one.")],
    data: Annotated[Path | None, typer.Option(help="Labelled folder; the test images of both runs when unset.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the images that changed sides here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Say which of two models is better on the same images, and whether that could be chance."""
    from cvtune import api
    from cvtune.console import Console
    from cvtune.rundir import write_json
    from cvtune.tables import compared_lines

    console = Console()
    result = api.compare(first, second, data=data, progress=lambda done, of: console.progress("scoring", done, of))
    console.end_progress()
    typer.echo("\n".join(compared_lines(result)))
    if html is not None:
        result.save_html(html)
    if json is not None:
        write_json(json, result.to_json())


@app.command()
def repeat(
    bundle: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run, whose limits decide, or a bundle.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="part/**/picture: several pictures of each part.")],
    group_by: Annotated[str | None, typer.Option(help="How names tell the part: a regex on the path, level:N.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the answers of each part here.")] = None,
) -> None:
    """Say whether a part gets the same answer every time it is shown."""
    from cvtune import api
    from cvtune.console import Console
    from cvtune.rundir import write_json
    from cvtune.tables import repeated_lines

    console = Console()
    result = api.repeat(
        bundle, folder, group_by=group_by, progress=lambda done, of: console.progress("asking", done, of)
    )
    console.end_progress()
    typer.echo("\n".join(repeated_lines(result)))
    if json is not None:
        write_json(json, result.found.to_json())
    raise typer.Exit(4 if result.skipped else 0)


@app.command()
def export(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    colour: Annotated[str, typer.Option(help="What the camera delivers: bgr, or gray [N, H, W].")] = "rgb",
    static: Annotated[
        str | None, typer.Option(help="480x640: height x width of every frame, for accelerators.")
    ] = None,
    heatmap: Annotated[bool, typer.Option("--heatmap", help="Give the heat map as well.")] = False,
    int8: Int8 = False,
    fp16: Fp16 = False,
    int8_max_drop: MaxDrop = None,
    quiet: Quiet = False,
) -> None:
    """Put a further model into the bundle of a run, checked against the one that is there."""
    _tell_of_signature(ctx, run)
    from cvtune import api
    from cvtune.config import ExportConfig
    from cvtune.console import Console
    from cvtune.errors import GateError
    from cvtune.tables import lighter_lines, variant_lines

    console = Console(quiet=quiet)
    opened = api.load_run(run)
    lighter = ExportConfig(int8=int8, fp16=fp16).precisions
    if not lighter or colour != "rgb" or static is not None or heatmap:
        found = opened.export(
            colour=colour,  # type: ignore[arg-type] # the form refuses what it does not know
            static=_pair("--static", static, "height and width, 480x640"),
            heatmap=heatmap,
            progress=lambda done, of: console.progress("parity", done, of),
        )
        console.end_progress()
        if not quiet:
            typer.echo("\n".join(variant_lines(found, run)))
    refused: list[GateError] = []
    for precision in lighter:
        try:
            made = opened.lighten(precision, max_drop=int8_max_drop, progress=console.progress)
        except GateError as error:  # the other one may do
            refused.append(error)
        else:
            if not quiet:
                typer.echo("\n".join(lighter_lines(made, run)))
        finally:
            console.end_progress()
    if refused:
        raise GateError("\n".join(error.message for error in refused), hint=refused[0].hint)


@app.command()
def report(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Build report.html again from the files of a run."""
    _tell_of_signature(ctx, run)
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
        print(inert(f"error: {error}", keep="\n"), file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(inert(f"error: {error}", keep="\n"), file=sys.stderr)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _tell_of_signature(ctx: typer.Context, path: Path) -> None:
    """At the end of a command that may change a bundle, say if it is signed no more."""
    from cvtune_edge.signature import is_signed

    from cvtune.rundir import bundle_of

    bundle = bundle_of(path)

    def tell() -> None:
        if not is_signed(bundle):
            what = "note: the bundle was changed, and its signature taken away: sign it again with `cvtune sign`"
            typer.echo(what, err=True)

    if is_signed(bundle):
        ctx.call_on_close(tell)


def _data_flags(
    group_by: str | None, merge: list[str] | None, ignore: list[str] | None, untrusted: bool
) -> dict[str, Any]:
    return {
        "group_by": group_by,
        "merge": _merges(merge),
        "ignore": ignore or None,
        "untrusted": untrusted or None,
    }


def _merges(texts: list[str] | None) -> dict[str, list[str]] | None:
    """scratch,dent=defect into {"defect": ["scratch", "dent"]}."""
    merges: dict[str, list[str]] = {}
    for text in texts or ():
        names, found, new = text.rpartition("=")
        if not found or not new or not all(names.split(",")):
            raise ConfigError(
                f"--merge '{text}': expected OLD,OLD=NEW with the names of class folders",
                hint="for example --merge scratch,dent=defect",
            )
        merges.setdefault(new, []).extend(names.split(","))
    return merges or None


def _levels(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise ConfigError(
            f"--window '{text}': expected low,high with low below high", hint="for 12 bits: --window 0,4095"
        )
    return low, high


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


def _counts(flag: str, text: str | None, between: str) -> tuple[int, ...] | None:
    """`1,2,4` or `640x480`."""
    try:
        return None if text is None else tuple(map(int, text.lower().split(between)))
    except ValueError:
        raise ConfigError(f"{flag} {text}: expected whole numbers with '{between}' between them") from None


def _pair(flag: str, text: str | None, expected: str) -> tuple[int, int] | None:
    match _counts(flag, text, "x"):
        case None:
            return None
        case (first, second):
            return first, second
    raise ConfigError(f"{flag} {text}: expected {expected}")


def _share(flag: str, text: str | None) -> float | None:
    """`5%` or `0.05`."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{flag} {text}: expected a share, 5% or 0.05") from None


def _good(names: list[str] | None, none: bool) -> tuple[str, ...] | None:
    if names and none:
        raise ConfigError("--ok and --no-ok exclude each other")
    return () if none else tuple(names) if names else None


def _seconds(text: str | None) -> float | None:
    from cvtune.console import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"--budget {error}") from error
