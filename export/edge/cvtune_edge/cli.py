"""`cvtune-edge predict`, `cvtune-edge verify` and `cvtune-edge info`.

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
from cvtune_edge.errors import CvtuneError
from cvtune_edge.manifest import load_manifest
from cvtune_edge.predict import EXIT_UNREADABLE, predict_command

__all__ = ["EXIT_UNREADABLE", "info_command", "main", "predict_command", "utf8_output", "verify_command"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (argparse itself exits with 2 on wrong usage)."""
    utf8_output()
    args = _parser().parse_args(argv)
    try:
        if args.command == "info":
            return info_command(args.bundle, json=args.json)
        if args.command == "verify":
            return verify_command(args.bundle, threads=args.threads)
        return predict_command(
            args.bundle,
            args.paths,
            csv=args.csv,
            json=args.json,
            threads=args.threads,
            untrusted=args.untrusted,
        )
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
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


def verify_command(bundle: Path | str, *, threads: int | None = None, out: TextIO | None = None) -> int:
    """Verify a bundle's files, and that this machine answers for its golden frames as the lab did.

    Raises:
        BundleError: not a bundle, or one that was changed.
        MismatchError: it answers otherwise.
    """
    from cvtune_edge.golden import check
    from cvtune_edge.runtime import Bundle  # cv2 and onnxruntime: not for --help

    model = Bundle(bundle, threads=threads, verify=False)
    verified = model.verify()
    check(verified, model.path)
    count = len(model.manifest.files)
    print(f"{count} of {count} files are as exported; {verified}", file=out or sys.stdout)
    return 0


def info_command(bundle: Path | str, *, json: bool = False, out: TextIO | None = None) -> int:
    """Verify a bundle and print what it says about itself.

    Raises:
        BundleError: not a bundle, or one that was changed.
    """
    out = out or sys.stdout
    tree = load_manifest(bundle).to_json()
    if json:
        print(dumps(tree, indent=2), file=out)
        return 0
    for key, value in tree.items():
        print(f"{key:<15} {_plain(value)}", file=out)
    print(f"{'verified':<15} {len(tree['files'])} of {len(tree['files'])} files", file=out)
    return 0


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("cvtune-edge", description="Run a cvtune bundle; no torch needed.")
    parser.add_argument("--version", action="version", version=f"cvtune-edge {__version__}")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="predict|verify|info")
    predict = verbs.add_parser("predict", help="classify images", description="Classify files and folders of images.")
    predict.add_argument("bundle", metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    predict.add_argument("paths", metavar="PATH", nargs="+", help="an image or a folder of images")
    predict.add_argument("--csv", metavar="FILE", help="write a table; - writes it to stdout instead of the lines")
    predict.add_argument("--json", action="store_true", help="one JSON object a line instead of plain lines")
    predict.add_argument("--threads", type=_positive, metavar="N", help="threads inside one operator")
    predict.add_argument(
        "--untrusted", action="store_true", help="decode in child processes with limits of time and memory"
    )
    verify = verbs.add_parser(
        "verify",
        help="does this machine answer as the lab did?",
        description="Verify a bundle's files, and that this machine answers for its golden frames as the lab did.",
    )
    verify.add_argument("bundle", metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    verify.add_argument("--threads", type=_positive, metavar="N", help="threads inside one operator")
    info = verbs.add_parser("info", help="show a bundle", description="Verify a bundle's files and show its manifest.")
    info.add_argument("bundle", metavar="BUNDLE", help="folder with model.onnx and manifest.json")
    info.add_argument("--json", action="store_true", help="the manifest as JSON")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value
