"""Does a client of another language keep the contract? Its answers for a bundle's golden frames, against the lab's.

    python export/conformance.py --bundle BUNDLE -- COMMAND ARGUMENT...

The command is run once, with the bundle's folder behind its own arguments. It prints, in the order of golden.json, one
JSON object a line and nothing else; what it has to say beyond that goes to stderr, and it ends with exit code 0:

    {"file": "golden/00.bin", "decision": 1, "probabilities": [0.02, 0.98], "novelty": 0.31, "ok": true}

`file` is the frame's in golden.json. The others are the graph's outputs for it: `decision` a number, or K of them where
`task` is `multi`; `novelty` null where the graph gives none; `ok` null where no class is good. null in the place of a
number is a number that is none (NaN), and never right. Other keys are ignored.

A frame is right if its decision and `ok` are equal, no probability is off by more than --tolerance, and the distance is
within 1 % of its limit (of the lab's distance, where there is no limit).

Exit codes: 0 every frame is right; 3 some are not; 2 wrong usage, or a client that fails, says something else, says it
for too few frames, or does not end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cvtune_edge.cli import utf8_output
from cvtune_edge.decision import OperatingPoint
from cvtune_edge.errors import BundleError, CvtuneError, MismatchError
from cvtune_edge.golden import Golden, read_golden
from cvtune_edge.manifest import load_manifest

TOLERANCE: Final = 1e-3
NOVELTY: Final = 0.01  # of the limit
_FEW: Final = 5  # wrong frames that are shown
_LINE: Final = 160  # letters of a client's that are shown
_PROTOCOL: Final = "export/CONTRACT.md says what a client prints"

Decision = int | tuple[int, ...]


class ClientError(CvtuneError):
    """A client that cannot be judged: it fails, or says what no client says."""


@dataclass(frozen=True)
class Answer:
    """What a client says of one frame; checked on construction.

    Attributes:
        file: of the frame.
        decision: number of the class or -1; of several labels K of 1, 0 and -1.
        probabilities: K; NaN where the client has no number.
        novelty: distance; None where it has none.
        ok: whether it is a good class; None where none is.

    Raises:
        ValueError: a value of another kind.
    """

    file: str
    decision: Decision
    probabilities: tuple[float, ...]
    novelty: float | None
    ok: bool | None

    def __post_init__(self) -> None:
        numbers = self.decision if isinstance(self.decision, tuple) else (self.decision,)
        kinds = {
            "file": isinstance(self.file, str),
            "decision": all(type(one) is int for one in numbers),
            "probabilities": all(isinstance(one, float) for one in self.probabilities),
            "novelty": self.novelty is None or isinstance(self.novelty, float),
            "ok": self.ok is None or isinstance(self.ok, bool),
        }
        wrong = [name for name, right in kinds.items() if not right]
        if wrong:
            raise ValueError(f"{', '.join(f'{name} = {getattr(self, name)!r}' for name in wrong)}")

    @classmethod
    def from_json(cls, value: Any) -> Answer:
        """From a line of the client's.

        Raises:
            ValueError: it is none.
        """
        try:
            decision, novelty = value["decision"], value["novelty"]
            return cls(
                value["file"],
                tuple(decision) if isinstance(decision, list) else decision,
                tuple(_number(one) for one in value["probabilities"]),
                None if novelty is None else _number(novelty),
                value["ok"],
            )
        except KeyError as error:
            raise ValueError(f"no {error.args[0]!r} in it") from error
        except TypeError as error:
            raise ValueError(f"not an answer ({error})") from error


@dataclass(frozen=True)
class Judged:
    """One frame: what the client said of it that is wrong, and how far it is from the lab.

    Attributes:
        file: of the frame.
        faults: by what they are in, a sentence each; none for a right frame.
        apart: largest difference of a probability.
        away: difference of the distance; None where there is none to compare.
    """

    file: str
    faults: dict[str, str]
    apart: float
    away: float | None


@dataclass(frozen=True)
class Verdict:
    """All frames of a bundle.

    Attributes:
        frames: judged, in order.
        tolerance: of a probability.
    """

    frames: tuple[Judged, ...]
    tolerance: float

    @property
    def wrong(self) -> tuple[Judged, ...]:
        """Those with a fault."""
        return tuple(one for one in self.frames if one.faults)

    def __str__(self) -> str:
        distances = [one for one in self.frames if one.away is not None]
        lines = [
            f"decisions      {self._right('decision')} as in the lab",
            f"probabilities  {self._right('probabilities')} within {self.tolerance:g}, {_worst(self.frames, _apart)}",
            f"novelty        {self._right('novelty')} within 1 % of the limit, {_worst(distances, _away)}"
            if distances
            else "novelty        this bundle measures none",
            f"ok             {self._right('ok')} right",
        ]
        return "\n".join(lines)

    def _right(self, what: str) -> str:
        n = len(self.frames)
        return f"{n - sum(what in one.faults for one in self.frames)} of {n}"


def _apart(one: Judged) -> float:
    return one.apart


def _away(one: Judged) -> float:
    return 0.0 if one.away is None else one.away


def _worst(frames: Sequence[Judged], measure: Callable[[Judged], float]) -> str:
    worst = max(frames, key=lambda one: (math.isnan(measure(one)), measure(one)))
    return f"worst difference {measure(worst):.2g} ({worst.file})"


def judge(point: OperatingPoint, golden: Sequence[Golden], answers: Sequence[Answer], tolerance: float) -> Verdict:
    """Compare, frame by frame.

    Args:
        point: the bundle's limits.
        golden: its frames.
        answers: the client's, one for each.
        tolerance: of a probability.
    """
    return Verdict(
        tuple(_judged(point, one, answer, tolerance) for one, answer in zip(golden, answers, strict=True)), tolerance
    )


def _judged(point: OperatingPoint, golden: Golden, answer: Answer, tolerance: float) -> Judged:
    faults = {}
    if answer.decision != golden.decision:
        faults["decision"] = f"decision {_plain(answer.decision)}, expected {_plain(golden.decision)}"
    apart = math.nan
    if len(answer.probabilities) == len(golden.probabilities):
        pairs = zip(answer.probabilities, golden.probabilities, strict=True)
        apart = _largest([abs(one - other) for one, other in pairs])
    if not apart <= tolerance:
        faults["probabilities"] = f"a probability off by {apart:.2g}, allowed {tolerance:g}"
    away, room = _novelty(point, golden, answer)
    if (away is None) is not (golden.novelty is None) or (away is not None and not away <= room):
        faults["novelty"] = f"novelty {answer.novelty}, expected {golden.novelty} give or take {room:.2g}"
    good = golden.decision in point.ok if point.ok else None
    if answer.ok is not good:
        faults["ok"] = f"ok {json.dumps(answer.ok)}, expected {json.dumps(good)}"
    return Judged(golden.file, faults, apart, away)


def _novelty(point: OperatingPoint, golden: Golden, answer: Answer) -> tuple[float | None, float]:
    """How far the distance is off, and how far it may be."""
    if golden.novelty is None:
        return (None if answer.novelty is None else math.nan), 0.0
    room = NOVELTY * (golden.novelty if point.novelty is None else point.novelty)
    return (math.nan if answer.novelty is None else abs(answer.novelty - golden.novelty)), room


def _largest(values: Sequence[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)


def _plain(decision: Decision) -> str:
    return json.dumps(decision)


def ask(command: Sequence[str], bundle: Path, golden: Sequence[Golden], *, timeout: float) -> tuple[Answer, ...]:
    """What a client says of the golden frames.

    Args:
        command: the client's, without the bundle.
        bundle: its folder.
        golden: its frames.
        timeout: seconds for all of them.

    Raises:
        ClientError: it fails, does not end, or says something else than one answer a frame.
    """
    name = shlex.join(command)
    lines = _output([*command, str(bundle.resolve())], name, timeout).splitlines()
    answers = []
    for i, line in enumerate(lines, 1):
        try:
            answers.append(Answer.from_json(json.loads(line, parse_constant=_no_constant)))
        except ValueError as error:
            told = f"{name}: line {i} is no answer: {error}\n  {line[:_LINE]}"
            raise ClientError(told, hint=_PROTOCOL) from error
    if len(answers) != len(golden):
        raise ClientError(f"{name}: {len(answers)} lines for {len(golden)} golden frames", hint=_PROTOCOL)
    for answer, one in zip(answers, golden, strict=True):
        if answer.file != one.file:
            raise ClientError(f"{name}: a line for {answer.file!r} where {one.file} is due", hint=_PROTOCOL)
    return tuple(answers)


def _output(command: Sequence[str], name: str, timeout: float) -> str:
    """Stdout of a command that ended well; whatever it started is ended with it."""
    program = shutil.which(command[0])
    if program is None:
        raise ClientError(f"{name}: no such program", hint="name a program, or its interpreter first")
    with subprocess.Popen(
        [program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise ClientError(f"{name}: no end after {timeout:g} s", hint="give it more by --timeout") from error
        finally:
            _end(process)
    if process.returncode:
        last = [f"  {line[:_LINE]}" for line in err.splitlines()[-_FEW:]]
        raise ClientError("\n".join([f"{name}: ended with exit code {process.returncode}", *last]))
    return out


def _end(process: subprocess.Popen[str]) -> None:
    """A client may have started a browser: all of its group goes, or the pipes would stay open."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except AttributeError:  # Windows knows no groups
        process.kill()
    except (ProcessLookupError, PermissionError):  # nothing is left of it
        return


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON; null stands for a number that is none")


def conformance(bundle: Path, command: Sequence[str], *, tolerance: float = TOLERANCE, timeout: float = 300) -> Verdict:
    """Ask a client about a bundle, and judge.

    Raises:
        BundleError: the bundle cannot be used, does not decide, or has no golden frames.
        ClientError: the client cannot be judged.
    """
    manifest = load_manifest(bundle)
    point = manifest.point
    golden = read_golden(bundle)
    if not golden:
        raise BundleError(f"{bundle.as_posix()}: no golden frames, nothing to compare with", hint="export it again")
    return judge(point, golden, ask(command, bundle, golden, timeout=timeout), tolerance)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    utf8_output()
    own, command = _split(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    args = parser.parse_args(own)
    if not command:
        parser.error("no client: write -- and its command at the end")
    try:
        verdict = conformance(args.bundle, command, tolerance=args.tolerance, timeout=args.timeout)
        print(f"{shlex.join(command)} on {args.bundle.as_posix()}\n{verdict}")
        _check(verdict, args.bundle)
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("keeps the contract")
    return 0


def _check(verdict: Verdict, bundle: Path) -> None:
    """Refuse a client of which a frame is wrong.

    Raises:
        MismatchError: the first of them.
    """
    wrong = verdict.wrong
    if not wrong:
        return
    shown = [f"  {one.file}: {'; '.join(one.faults.values())}" for one in wrong[:_FEW]]
    more = [f"  and {len(wrong) - _FEW} more"] if len(wrong) > _FEW else []
    what = (
        f"{len(wrong)} of {len(verdict.frames)} golden frames of {bundle.as_posix()} answered otherwise than in the lab"
    )
    hint = "does the client hand over the frame as it is, RGB and unscaled? export/CONTRACT.md"
    raise MismatchError("\n".join([what, *shown, *more]), hint=hint)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and the client's behind `--`."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:at]), list(argv[at + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="conformance.py",
        usage="%(prog)s --bundle BUNDLE [--tolerance P] [--timeout S] -- COMMAND ARGUMENT...",
        description="Does a client keep the contract? Its answers for a bundle's golden frames, against the lab's.",
    )
    parser.add_argument("--bundle", type=Path, required=True, help="folder with model.onnx and manifest.json")
    parser.add_argument("--tolerance", type=_positive, default=TOLERANCE, metavar="P", help="of a probability; 0.001")
    parser.add_argument("--timeout", type=_positive, default=300.0, metavar="S", help="seconds for all frames; 300")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
