"""Put onnxruntime-web beside the page: `python export/clients/web/build.py`, once, with npm and a network.

npm installs exactly what package-lock.json says, in a temporary folder and without running anybody's scripts; two files
of it go into `vendor/`, which git ignores. From then on the page needs no network.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from cvtune_edge.errors import CvtuneError

HERE: Final = Path(__file__).resolve().parent
VENDOR: Final = HERE / "vendor"
# The build for the processor alone, in one module: those with a GPU are up to twice as large.
FILES: Final = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGE: Final = "node_modules/onnxruntime-web"
_STAMP: Final = "installed.json"  # written last: what is there, as the lock names it
_TAKEN: Final = ("package.json", "package-lock.json", ".npmrc")
_PATIENCE: Final = 300  # seconds


def is_built() -> bool:
    """Whether `vendor/` holds what the lock names."""
    try:
        stamp = json.loads((VENDOR / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(stamp == _locked()) and all((VENDOR / name).is_file() for name in FILES)


def build() -> None:
    """Install, and copy the two files.

    Raises:
        CvtuneError: there is no npm, or it cannot install.
    """
    with tempfile.TemporaryDirectory(prefix="cvtune-web-") as scratch:
        folder = Path(scratch)
        for name in _TAKEN:
            shutil.copyfile(HERE / name, folder / name)
        _install(folder)
        VENDOR.mkdir(exist_ok=True)
        (VENDOR / _STAMP).unlink(missing_ok=True)
        for name in FILES:
            shutil.copyfile(folder / PACKAGE / "dist" / name, VENDOR / name)
    (VENDOR / _STAMP).write_text(json.dumps(_locked(), indent=2) + "\n", encoding="utf-8")


def _locked() -> dict[str, Any]:
    packages = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    return {name: packages[PACKAGE][name] for name in ("version", "integrity")}


def _install(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise CvtuneError("npm is not installed", hint="install Node.js 20 or later, which brings npm")
    try:
        done = subprocess.run(
            [npm, "ci"],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CvtuneError(f"npm ci: no end after {_PATIENCE} s", hint="is a package registry in reach?") from error
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        raise CvtuneError("\n".join(["npm ci failed", *told[:4]]), hint="is a package registry in reach?")


def main() -> int:
    """Build where it is not done yet; returns the exit code."""
    try:
        if not is_built():
            build()
    except CvtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    size = sum(path.stat().st_size for path in VENDOR.iterdir())
    print(f"onnxruntime-web {_locked()['version']} is in {VENDOR.name}/, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
