"""The verb `predict` of both command lines: files and folders in, a line or a row an image out, in constant memory."""

from __future__ import annotations

import csv as csv_module
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from cvtune_edge.errors import CvtuneError
from cvtune_edge.files import find_images
from cvtune_edge.results import Decision, Prediction, Unreadable
from cvtune_edge.table import decision_cells, header, number, row
from cvtune_edge.terminal import inert

if TYPE_CHECKING:
    from _csv import Writer

    import numpy as np

    from cvtune_edge.runtime import Bundle

EXIT_UNREADABLE: Final = 4
_FEW: Final = 20  # different decisions that are counted aloud at the end
_NO_LABEL: Final = "-"  # in a line for people, where nothing between two spaces would be overlooked


def predict_command(
    bundle: Path | str,
    paths: Sequence[Path | str],
    *,
    csv: str | None = None,
    json: bool = False,
    threads: int | None = None,
    untrusted: bool = False,
    provider: str = "cpu",
    spin: bool = False,
    precision: str = "auto",
    key: Path | str | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Decide files and folders; a bundle that does not decide, of an earlier schema, classifies them.

    Args:
        bundle: the bundle's folder.
        paths: images and folders of images.
        csv: a file for the table of :mod:`cvtune_edge.table`; "-" writes it to `out` instead of the lines.
        json: lines of JSON instead of plain ones.
        threads: threads inside one operator; chosen from the machine when None.
        untrusted: decode files in child processes, with limits of time and memory for each file.
        provider: who computes, one name or several with commas.
        spin: let threads wait actively within an answer.
        precision: which model answers, as :class:`cvtune_edge.Bundle` takes it.
        key: a public key; a bundle that was not signed with its private one is refused.
        out: stdout when None.
        err: stderr when None; takes a line for each unreadable image, and the counts.

    Returns:
        0, or 4 when some images could not be read.

    Raises:
        BundleError: the bundle cannot be used.
        CvtuneError: paths that do not exist, no image in them, a table that cannot be written, or a provider that does
            not run here.
    """
    from cvtune_edge.runtime import Bundle  # cv2 and onnxruntime: not for --help

    out, err = out or sys.stdout, err or sys.stderr
    if csv == "-" and json:
        raise CvtuneError("--csv - and --json both write to stdout", hint="name a file for --csv")
    given = [Path(path) for path in paths]
    _check_exist(given)
    tally = _Tally()
    opened = Bundle(
        bundle, threads=threads, untrusted=untrusted, provider=provider, spin=spin, precision=precision, key=key
    )
    with opened as model, _table(csv, out, model) as table:
        if model.fallback:
            print(inert(f"float32 answers in place of int8: {model.fallback}"), file=err)
        files = find_images(given, passed_over=tally.pass_over)
        for answer in model.decisions(files) if model.manifest.decides else model.stream(files):
            tally.count(answer)
            if isinstance(answer, Unreadable):
                print(inert(f"unreadable: {answer.path}: {answer.reason}"), file=err)
                continue
            if table is not None:
                table.writerow(_cells(answer))
            if csv != "-":
                multi = model.manifest.task == "multi"
                print(_json_line(answer, model.classes, multi=multi) if json else _plain_line(answer), file=out)
    return tally.conclude(given, err)


class _Tally:
    """What was seen, so that nothing is left out in silence."""

    def __init__(self) -> None:
        self.seen = self.unreadable = self.passed_over = 0
        self.notes: Counter[str] = Counter()
        self.said: Counter[str] = Counter()

    def pass_over(self, _: Path) -> None:
        self.passed_over += 1

    def count(self, answer: Decision | Prediction | Unreadable) -> None:
        self.seen += 1
        if isinstance(answer, Unreadable):
            self.unreadable += 1
        elif isinstance(answer, Decision):
            self.notes.update(answer.prediction.notes)
            self.said[answer.said] += 1
        else:
            self.notes.update(answer.notes)

    def conclude(self, paths: Sequence[Path], err: TextIO) -> int:
        if not self.seen:
            named = ", ".join(path.as_posix() for path in paths)
            raise CvtuneError(f"no image in {named}", hint="JPEG, PNG, BMP, TIFF, WebP, GIF and PPM files are read")
        if len(self.said) <= _FEW:
            for said, count in sorted(self.said.items()):
                print(inert(f"{said or _NO_LABEL}: {count} of {self.seen} images"), file=err)
        for note, count in sorted(self.notes.items()):
            print(f"{count} of {self.seen} images: {note}", file=err)
        if self.passed_over:
            print(f"passed over, not images: {self.passed_over}", file=err)
        if self.unreadable:
            print(f"{self.unreadable} of {self.seen} images could not be read", file=err)
        return EXIT_UNREADABLE if self.unreadable else 0


def _check_exist(paths: Sequence[Path]) -> None:
    missing = [path.as_posix() for path in paths if not path.exists()]
    if missing:
        raise CvtuneError("\n".join(f"{path}: no such file or folder" for path in missing), hint="check the spelling")


@contextmanager
def _table(csv: str | None, out: TextIO, model: Bundle) -> Iterator[Writer | None]:
    """Opened before the first image: a table that cannot be written is known at once."""
    if csv is None:
        yield None
    elif csv == "-":
        yield _headed(out, model)
    else:
        try:
            # surrogateescape: a file name that is no UTF-8 keeps its bytes
            handle = Path(csv).open("w", newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115 - below
        except OSError as error:
            raise CvtuneError(f"{csv}: cannot be written ({error.strerror})", hint="name another file") from error
        with handle:
            yield _headed(handle, model)


def _headed(handle: TextIO, model: Bundle) -> Writer:
    table = csv_module.writer(handle, lineterminator="\n")
    table.writerow(header(model.classes, decided=model.manifest.decides))
    return table


def _cells(answer: Decision | Prediction) -> list[str]:
    return [*row(answer.prediction), *decision_cells(answer)] if isinstance(answer, Decision) else row(answer)


def _plain_line(answer: Decision | Prediction) -> str:
    label = f"{answer.label or _NO_LABEL}  {answer.probability:.3f}"
    if not isinstance(answer, Decision):
        return inert(f"{answer.path}  {label}")
    reason = f"  ({answer.reason})" if answer.reason else ""
    return inert(f"{answer.path}  {answer.said or _NO_LABEL}  {label}{reason}")


def _json_line(answer: Decision | Prediction, classes: Sequence[str], *, multi: bool) -> str:
    said = answer.prediction if isinstance(answer, Decision) else answer
    tree: dict[str, Any] = {"path": said.path}
    if isinstance(answer, Decision):
        tree |= {"said": answer.said, "decision": answer.decision, "ok": answer.ok, "reason": answer.reason}
        tree["novelty"] = None if answer.novelty is None else _short(answer.novelty)
    tree |= {"label": said.label, "probability": _short(said.probability)}
    if multi:
        tree["labels"] = said.labels
    shares = {name: _short(p) for name, p in zip(classes, said.probabilities, strict=True)}
    return dumps({**tree, "probabilities": shares})  # ASCII: valid JSON whatever bytes the file's name holds


def _short(value: float | np.floating) -> float:
    """The short digits of a float32, not its 17 digits as a double."""
    return float(number(value))
