"""`python -m benchmarks NAME ...` is `python -m benchmarks.NAME ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path


def names() -> tuple[str, ...]:
    """The benchmarks: the modules beside this one."""
    return tuple(sorted(file.stem for file in Path(__file__).parent.glob("[!_]*.py")))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the named benchmark with the rest of the arguments; 2 where there is none of that name."""
    asked = list(sys.argv[1:] if argv is None else argv)
    if not asked or asked[0] not in names():
        wrong = f"error: no benchmark {asked[0]}\n" if asked and not asked[0].startswith("-") else ""
        print(f"{wrong}usage: python -m benchmarks {{{','.join(names())}}} ...", file=sys.stderr)
        return 0 if asked and asked[0] in ("-h", "--help") else 2
    name, *rest = asked
    sys.argv = [f"python -m benchmarks {name}", *rest]
    return int(importlib.import_module(f"benchmarks.{name}").main() or 0)


if __name__ == "__main__":
    sys.exit(main())
