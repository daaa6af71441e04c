"""The smallest client that keeps the contract, written from export/CONTRACT.md alone: `reference.py BUNDLE`.

It needs numpy and onnxruntime, and nothing of cvtune. A client in another language does what this one does.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import
import onnxruntime as ort


def main(folder: Path) -> None:
    """Verify the files, then answer for every golden frame."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["schema"] != 3:
        sys.exit(f"schema {manifest['schema']}, expected 3")
    for name, digest in manifest["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            sys.exit(f"{name}: changed after the export")
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for golden in json.loads((folder / "golden/golden.json").read_text(encoding="utf-8"))["frames"]:
        pixels = np.fromfile(folder / golden["file"], np.dtype(golden["pixels"]).newbyteorder("<"))
        frame = pixels.reshape(1, *golden["shape"]).astype(golden["pixels"])
        found = dict(zip(names, session.run(names, {"image": frame}), strict=True))
        asked = ("decision", "probabilities", "novelty", "ok")
        answer = {name: found[name][0].tolist() if name in found else None for name in asked}
        print(json.dumps({"file": golden["file"], **answer}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
