"""`cvtune-edge predict`, `cvtune-edge verify`, `cvtune-edge bench` and `cvtune-edge info`.

Data goes to stdout, everything else to stderr. Exit codes: 0 fine, 2 bad input, 4 some images unreadable, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any, TextIO

from cvtune_edge import __version__
from cvtune_edge.errors import BundleError, CvtuneError
from cvtune_edge.manifest import load_manifest
from cvtune_edge.predict import EXIT_UNREADABLE, predict_command
from cvtune_edge.terminal import inert

__all__ = [
    "EXIT_UNREADABLE",
    "bench_command",
    "info_command",
    "main",
    "predict_command",
    "utf8_output",
    "verify_command",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (argparse itself exits with 2 on wrong usage)."""
    utf8_output()
    args = _parser().parse_args(argv)
    try:
        if args.command == "info":
            return info_command(args.bundle, json=args.json, provider=args.provider)
        if args.command == "verify":
            return verify_command(args.bundle, threads=args.threads, provider=args.provider, key=args.key)
        if args.command == "bench":
            return bench_command(
                args.bundle,
                args.paths,
                threads=args.threads,
                batches=args.batch,
                seconds=args.seconds,
                size=args.size,
                provider=args.provider,
                spin=args.spin,
                json=args.json,
            )
        return predict_command(
            args.bundle,
            args.paths,
            csv=args.csv,
            json=args.json,
            threads=args.threads,
            untrusted=args.untrusted,
            provider=args.provider,
            spin=args.spin,
            precision=args.precision,
            key=args.key,
        )
    except CvtuneError as error:
        print(inert(f"error: {error}", keep="\n"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`: close quietly, as the Python documentation advises in its note on SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def utf8_output() -> None:
    """Write UTF-8 to stdout and stderr on every system; names that are no UTF-8 come out with backslashes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def verify_command(
    bundle: Path | str,
    *,
    threads: int | None = None,
    provider: str = "cpu",
    key: Path | str | None = None,
    out: TextIO | None = None,
) -> int:
    """Verify a bundle's files, and that this machine answers for its golden frames as the lab did.

    Args:
        bundle: the bundle's folder.
        threads: threads inside one operator.
        provider: who computes.
        key: a public key; the bundle has to be signed with its private one.
        out: stdout when None.

    Raises:
        BundleError: not a bundle, one that was changed, or one that is not signed with the key.
        MismatchError: it answers otherwise.
        CvtuneError: the provider does not run here, or the key cannot be used.
    """
    from cvtune_edge.golden import check
    from cvtune_edge.runtime import Bundle  # cv2 and onnxruntime: not for --help
    from cvtune_edge.signature import SIGNATURE_FILE, is_signed

    model = Bundle(bundle, threads=threads, verify=False, provider=provider, key=key)
    verified = model.verify()
    check(verified, model.path)
    count = len(model.manifest.files)
    print(f"{count} of {count} files are as exported; {verified}", file=out or sys.stdout)
    if key is not None:
        print(inert(f"signed with the key of {Path(key).as_posix()}"), file=out or sys.stdout)
    elif is_signed(model.path):
        print(f"{SIGNATURE_FILE} was not looked at: --key PUBLIC.pem does", file=out or sys.stdout)
    for precision in list(model.manifest.models)[1:]:
        try:
            again = Bundle(bundle, threads=threads, verify=False, provider=provider, precision=precision, key=key)
            found = again.verify()
            line = f"{found}{': not used here, float32 answers' if found.wrong else ''}"
        except BundleError as error:  # whole, as was found above, but not for this onnxruntime
            line = f"not used here, float32 answers: {error.message}"
        print(inert(f"{precision}: {line}"), file=out or sys.stdout)
    return 0


def bench_command(
    bundle: Path | str,
    paths: Sequence[Path | str] = (),
    *,
    threads: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    seconds: float | None = None,
    size: tuple[int, int] | None = None,
    provider: str = "cpu",
    spin: bool = False,
    json: str | None = None,
    out: TextIO | None = None,
) -> int:
    """Measure how long a bundle takes here, and print it as a table.

    Args:
        bundle: the bundle's folder.
        paths: pictures, and folders of them, to be read and shown; golden frames and a drawn one where there are none.
        threads: of the network; 1 up to the cores that are granted when None.
        batches: frames at once; 1 to 32 when None.
        seconds: for all of it.
        size: (width, height) of the drawn frame.
        provider: who computes.
        spin: let threads wait actively within an answer.
        json: a file for everything that was found.
        out: stdout when None.

    Raises:
        BundleError: not a bundle, or one that was changed.
        CvtuneError: pictures that cannot be read, a file that cannot be written, or a provider that does not run here.
    """
    from cvtune_edge.bench import BATCHES, SECONDS, Plan, bench  # cv2 and onnxruntime: not for --help
    from cvtune_edge.bench_table import save, show

    plan = Plan(
        threads=tuple(threads) if threads else None,
        batches=tuple(batches) if batches else BATCHES,
        seconds=SECONDS if seconds is None else seconds,
        size=size,
        images=tuple(map(Path, paths)),
        provider=provider,
        spin=spin,
    )
    found = bench(bundle, plan, progress=lambda what: print(f"measuring: {what}", file=sys.stderr))
    show(found, Path(bundle).as_posix(), out)
    if json is not None:
        save(found, Path(json))
    return 0


def info_command(
    bundle: Path | str, *, json: bool = False, provider: str | None = None, out: TextIO | None = None
) -> int:
    """Verify a bundle and print what it says about itself, and what would compute here.

    Args:
        bundle: the bundle's folder.
        json: the manifest alone, as JSON.
        provider: open the bundle on it, and say how many nodes of the graph it takes.
        out: stdout when None.

    Raises:
        BundleError: not a bundle, or one that was changed.
        CvtuneError: the provider does not run here.
    """
    out = out or sys.stdout
    tree = load_manifest(bundle).to_json()
    if json:
        print(dumps(tree, indent=2), file=out)
        return 0
    for key, value in tree.items():
        print(inert(f"{key:<15} {_latency(value) if key == 'latency' else _plain(value)}"), file=out)
    print(f"{'verified':<15} {len(tree['files'])} of {len(tree['files'])} files", file=out)
    print(f"{'runs on':<15} {_runs_on(bundle, provider)}", file=out)
    return 0


def _runs_on(bundle: Path | str, provider: str | None) -> str:
    from cvtune_edge.session import runtime_facts  # onnxruntime: not for --help

    version, has = runtime_facts()
    if provider is None:
        return f"cpu; onnxruntime {version} here has {has}"
    from cvtune_edge.runtime import Bundle

    nodes = Bundle(bundle, provider=provider, verify=False).nodes
    taken = ", ".join(f"{name} {count} of {sum(nodes.values())} nodes" for name, count in nodes.items())
    return f"{taken or 'cpu'}; onnxruntime {version}"


def _latency(tree: Any) -> str:
    """In words; a later layout of it is not read."""
    if tree is None:
        return "not measured: `cvtune bench RUN` does"
    from cvtune_edge.latency import Latency

    try:
        found = Latency.from_json(tree)
    except ValueError:
        return "told in a way that this version does not read"
    return "; ".join([*found.headlines(), f"on {found.machine}, {found.date}"])


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


_KEY = "refuse a bundle that was not signed with the private key of this public one"
_PROVIDER = "who computes: cpu, cuda, tensorrt, openvino, coreml, xnnpack, directml; several with commas"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cvtune-edge", description="Run a cvtune bundle; no torch needed.")
    parser.add_argument("--version", action="version", version=f"cvtune-edge {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="predict|verify|bench|info")
    predict = verbs.add_parser("predict", help="classify images", description="Classify files and folders of images.")
    predict.add_argument("bundle", metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    predict.add_argument("paths", metavar="PATH", nargs="+", help="an image or a folder of images")
    predict.add_argument("--csv", metavar="FILE", help="write a table; - writes it to stdout instead of the lines")
    predict.add_argument("--json", action="store_true", help="one JSON object a line instead of plain lines")
    predict.add_argument("--threads", type=_positive, metavar="N", help="threads inside one operator")
    predict.add_argument(
        "--untrusted", action="store_true", help="decode in child processes with limits of time and memory"
    )
    predict.add_argument("--provider", default="cpu", metavar="NAME", help=_PROVIDER)
    predict.add_argument("--spin", action="store_true", help="let threads wait actively within an answer")
    predict.add_argument(
        "--precision",
        default="auto",
        metavar="NAME",
        help="auto, float32, int8 or float16; auto: int8 where it answers here as in the lab",
    )
    predict.add_argument("--key", metavar="PUBLIC.pem", help=_KEY)
    verify = verbs.add_parser(
        "verify",
        help="does this machine answer as the lab did?",
        description="Verify a bundle's files, and that this machine answers for its golden frames as the lab did.",
    )
    verify.add_argument("bundle", metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    verify.add_argument("--threads", type=_positive, metavar="N", help="threads inside one operator")
    verify.add_argument("--provider", default="cpu", metavar="NAME", help=_PROVIDER)
    verify.add_argument("--key", metavar="PUBLIC.pem", help=_KEY)
    bench = verbs.add_parser(
        "bench",
        help="how long does it take on this machine?",
        description="Measure reading, preprocessing, network and decision, by threads, batches and precisions.",
    )
    bench.add_argument("bundle", metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    bench.add_argument("paths", metavar="PATH", nargs="*", help="pictures to read and show; a drawn frame without any")
    bench.add_argument("--threads", type=_several, metavar="N,N", help="of the network; 1 up to the cores granted")
    bench.add_argument("--batch", type=_several, metavar="N,N", help="frames at once; 1,2,4,8,16,32")
    bench.add_argument("--seconds", type=float, metavar="S", help="for all of it; 20")
    bench.add_argument("--size", type=_size, metavar="WxH", help="of the drawn frame; 640x480")
    bench.add_argument("--provider", default="cpu", metavar="NAME", help=_PROVIDER)
    bench.add_argument("--spin", action="store_true", help="let threads wait actively within an answer")
    bench.add_argument("--json", metavar="FILE", help="write everything that was found")
    info = verbs.add_parser("info", help="show a bundle", description="Verify a bundle's files and show its manifest.")
    info.add_argument("bundle", metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    info.add_argument("--json", action="store_true", help="the manifest as JSON")
    info.add_argument("--provider", metavar="NAME", help="open it there, and say how much of it runs there")
    return parser


def _several(text: str) -> tuple[int, ...]:
    return tuple(map(_positive, text.split(",")))


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    return _positive(width), _positive(height)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value
