"""cvtune beside fastai, vyntri and a plain fine-tune: test accuracy over time, same weights, same files, same machine.

    python -m benchmarks compare --setup                            once: the peers' own environment
    python -m benchmarks compare --data ../shared/data --tools cvtune,fastai,vyntri,plain
    python -m benchmarks compare --table README.md --svg compare.svg

Each run is one row of benchmarks/results/compare.jsonl and is not done again: stop it when you like (Ctrl-C loses the
run in progress) and go on later. All of it takes hours, on a machine that does nothing else. While there is a file HOLD
in the folder of work (runs/compare), a peer's run stands still, and its clock with it; cvtune's own runs do not.

- Files: cvtune's splitter deals each folder out once; copies and groups stay on one side, a test side that the folder
  has is kept. Every tool gets the same train/, val/ and test/; no test image is used for choosing anything.
- cvtune: runs of its own with --budget 10s, 60s, 5m and without, five seeds each, caches empty.
- fastai: vision_learner, fine_tune(5) and fine_tune(20), aug_transforms(), 224 px, its defaults. vyntri: its defaults,
  Lite0 registered. plain: all layers, AdamW 1e-3, one cycle, eight epochs, random resized crops and flips.
- Time: from the start of the process, imports included, for all alike. A peer's accuracy at a time is that of its last
  finished epoch; scoring test images is taken out of its time, not out of cvtune's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import RESULTS, ROOT, machine
from benchmarks.peers.curve import curve
from benchmarks.peers.environment import PLACE, python_of, set_up
from benchmarks.peers.load import BUSY, Load, Meter, warn_if_busy
from benchmarks.peers.rows import Key, Row, add_row, check_files, read_rows, told_seconds
from benchmarks.peers.runs import LEFT_OUT, TOOLS, VARIANTS, Measured, Setting, run_tool, warm, warm_up
from benchmarks.peers.sides import Source, prepare, sources, weights_file
from benchmarks.peers.table import missed, tables, write_readme
from cvtune.errors import ConfigError, CvtuneError, RunError
from cvtune.rundir import write_text

FILE = RESULTS / "compare.jsonl"
WORK = ROOT / "runs" / "compare"
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Job:
    """One row to be measured."""

    source: Source
    split_seed: int
    tool: str
    variant: str
    seed: int

    @property
    def key(self) -> Key:
        """That of its row."""
        return self.source.name, self.split_seed, self.tool, self.variant, self.seed

    def __str__(self) -> str:
        return f"{self.source.name}, split {self.split_seed}: {self.tool} {self.variant}, seed {self.seed}"


def jobs(found: Iterable[Source], args: argparse.Namespace) -> Iterator[Job]:
    """All rows that are asked for: every seed for cvtune, the first one for the peers; seed after seed."""
    runs = [(tool, variant) for tool in args.tools for variant in VARIANTS[tool]]
    for seed in args.seeds:
        for source in found:
            for tool, variant in runs:
                asked = variant in (args.variants or [variant]) and (source.name, tool, variant) not in LEFT_OUT
                if asked and (tool == "cvtune" or seed == args.seeds[0]):
                    yield Job(source, args.split_seed, tool, variant, seed)


def missing(todo: Iterable[Job], results: Path) -> list[Job]:
    """Those that have no row yet."""
    done = {row.key for row in read_rows(results)}
    return [job for job in todo if job.key not in done]


def campaign(todo: Sequence[Job], args: argparse.Namespace) -> None:
    """Measure what is not there yet, and keep each row as soon as it is there.

    Raises:
        RunError: tools failed; the other rows were measured all the same.
    """
    open_jobs = missing(todo, args.results)[: args.rows]
    print(f"{len(todo)} rows asked for, {len(open_jobs)} to measure", file=sys.stderr)
    setting = _setting(open_jobs, args)
    failed = []
    for number, job in enumerate(open_jobs, start=1):
        print(f"[{number} of {len(open_jobs)}] {job}", file=sys.stderr)
        try:
            row = measure(job, setting, args)
        except RunError as error:
            print(f"error: {error}", file=sys.stderr)
            failed.append(job)
            continue
        add_row(args.results, row)
        print(f"  {row.last.right} of {row.last.n} right after {told_seconds(row.seconds)}", file=sys.stderr)
    if failed:
        raise RunError("not measured: " + "; ".join(map(str, failed)), hint="run it again: finished rows are kept")


def _setting(todo: Sequence[Job], args: argparse.Namespace) -> Setting:
    """What all runs share; a missing environment is told before anything is measured."""
    from cvtune.training.hardware import threads  # torch is not needed to list or to show

    peers = any(job.tool != "cvtune" for job in todo)
    python = python_of(args.peers_env) if peers else None
    return Setting(args.work, args.threads or threads().network, weights_file(args.work), python, args.epochs)


def measure(job: Job, setting: Setting, args: argparse.Namespace) -> Row:
    """One row, with everything that one wants to know of it later."""
    prepared = prepare(job.source, args.work, seed=job.split_seed, images=args.images)
    same = [row for row in read_rows(args.results) if row.key[:2] == job.key[:2]]
    check_files(same, prepared.digest, file=args.results)
    warm(prepared)
    warm_up(job.tool, setting.python)
    warn_if_busy()
    meter = Meter()
    measured = run_tool(job.tool, job.variant, job.seed, job.source, prepared, setting, meter)
    load = meter.read()
    if load.busy:
        print(
            f"  warning: other programs used {load.others:.1f} cores meanwhile (more than {BUSY}): measure it again",
            file=sys.stderr,
        )
    facts = _facts(measured, load) | {"threads": setting.threads, "files": prepared.record()}
    return Row(*job.key, measured.seconds, measured.snapshots, facts)


def _facts(measured: Measured, load: Load) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "command": measured.command,
        "versions": dict(measured.versions),
        "commit": commit(),
        "load": asdict(load),
        **measured.more,
    }


def commit() -> str:
    """The commit that was measured, `+` behind it where files differ from it; empty without git."""
    git = ("git", "--no-optional-locks", "-C", str(ROOT))
    try:
        named = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return named.stdout.strip() + ("+" if changed else "")


def show(found: Sequence[Source], args: argparse.Namespace) -> None:
    """Tables and curve of the rows of one split, from whatever is there.

    Raises:
        ConfigError: there is no row, or the README has no place for the table.
    """
    rows = [row for row in read_rows(args.results) if row.split_seed == args.split_seed]
    if not rows:
        raise ConfigError(f"{args.results}: no row of split {args.split_seed} yet", hint="measure first: --rows 1")
    titles = {source.name: source.title for source in found}
    if args.table:
        write_readme(args.table, tables(rows, titles))
    if args.svg:
        write_text(args.svg, curve(rows, titles))
    print("\n".join(missed(rows)) or "nothing missed", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    text = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=text)
    add = parser.add_argument
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets, or one of classes")
    add("--tools", type=_tools, default=list(TOOLS), help=",".join(TOOLS))
    add("--sets", nargs="+", help="only these data sets")
    add("--variants", nargs="+", help="only these, such as 60s or 1+5")
    add("--seeds", nargs="+", type=int, default=list(SEEDS), help="of cvtune; the peers take the first")
    add("--split-seed", type=int, default=0)
    add("--preset", help="of cvtune, for a folder of your own")
    add("--group-by", help="likewise, and for the sides of all tools")
    add("--rows", type=int, help="measure at most so many")
    add("--dry", action="store_true", help="list the rows that are missing")
    add("--threads", type=int, help="of every tool; as many as there are cores when unset")
    add("--results", type=Path, default=FILE)
    add("--work", type=Path, default=WORK, help="prepared folders and whatever a run needs; can be deleted")
    add("--peers-env", type=Path, default=PLACE, help="the peers' own environment")
    add("--setup", action="store_true", help="make it, and nothing else; asks the package index")
    add("--table", type=Path, nargs="?", const=ROOT / "README.md", help="write the table between its markers")
    add("--svg", type=Path, help="write accuracy over time here")
    add("--images", type=int, help="about so many images a set, for trying; needs --results")
    add("--epochs", type=int, help="for every peer, for trying; needs --results")
    return parser


def _tools(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in TOOLS]
    if wrong:
        raise argparse.ArgumentTypeError(f"no tool {', '.join(wrong)}; there are {', '.join(TOOLS)}")
    return names


def _check(args: argparse.Namespace, found: Sequence[Source]) -> tuple[Source, ...]:
    """The sets that are asked for; everything that can be wrong with the flags is told at once."""
    known = {source.name: source for source in found}
    variants = [variant for tool in args.tools for variant in VARIANTS[tool]]
    wrong = [f"no data set {name}; there are {', '.join(known)}" for name in args.sets or () if name not in known]
    strange = [one for one in args.variants or () if one not in variants]
    wrong += [f"no variant {one}; there are {', '.join(variants)}" for one in strange]
    if (args.images or args.epochs) and args.results == FILE:
        wrong.append("--images and --epochs are for trying and need --results FILE of their own")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return tuple(known[name] for name in args.sets) if args.sets else tuple(found)


def _main(args: argparse.Namespace) -> None:
    if args.setup:
        set_up(args.peers_env)
        return
    found = _check(args, sources(args.data, preset=args.preset, group_by=args.group_by))
    if args.table or args.svg:
        show(found, args)
        return
    todo = list(jobs(found, args))
    if args.dry:
        print("\n".join(map(str, missing(todo, args.results))) or "all of it is measured")
        return
    campaign(todo, args)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or show; 2 and a message for what the user can mend, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        _main(args)
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped: the row in progress is lost, those before are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
