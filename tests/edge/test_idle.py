"""A camera PC that waits for the next part: the process does nothing, and its memory does not grow.

What counts is the processor time of the process itself, so a busy machine does not fail the test.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cvtune_edge.manifest import file_sha256

from tests.edge.conftest import CLASSES, manifest_tree, tiny_model

IDLE_SECONDS = 10
MOST = 0.02  # of one core
# Two threads: one alone has nobody to wait for it. The frames are large enough for both to get a share of the work.
WAITING = f"""
import json, sys, time
from pathlib import Path
import numpy as np
from cvtune_edge import Bundle

def idle(seconds={IDLE_SECONDS} / 2):
    began = time.process_time()
    time.sleep(seconds)
    return time.process_time() - began

def frame():
    return random.integers(0, 256, (480, 640, 3), np.uint8)

def megabytes():
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * 4096 / 1e6 if file.is_file() else 0.0

random = np.random.default_rng(0)
bundle = Bundle(sys.argv[1], threads=2, spin=sys.argv[2] == "spin")
found = {{"fresh": idle()}}
for _ in range(100):
    bundle.predict(frame())
found["used"] = idle()
found["between"] = 0.0
for _ in range(20):  # a part every 0.1 s
    bundle.predict(frame())
    found["between"] += idle(0.1)

def sizes(count):  # no two alike
    for i in range(count):
        bundle.predict(np.zeros((200 + i % 97, 200 + i % 89, 3), np.uint8))

sizes(100)
before = megabytes()
sizes(1000)
found["grown"] = megabytes() - before
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def waited(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """What two processes measured, one beside the other: both sleep most of the time."""
    folder = tmp_path_factory.mktemp("idle")
    (folder / "model.onnx").write_bytes(tiny_model(CLASSES).SerializeToString())
    tree = manifest_tree(files={"model.onnx": file_sha256(folder / "model.onnx")})
    (folder / "manifest.json").write_text(json.dumps(tree), encoding="utf-8")
    commands = {spin: [sys.executable, "-c", WAITING, str(folder), spin] for spin in ("quiet", "spin")}
    processes = {spin: subprocess.Popen(command, stdout=subprocess.PIPE) for spin, command in commands.items()}
    answers = {spin: process.communicate()[0] for spin, process in processes.items()}
    assert [process.returncode for process in processes.values()] == [0, 0]
    return {spin: json.loads(answer) for spin, answer in answers.items()}


@pytest.mark.parametrize("spin", ["quiet", "spin"])
@pytest.mark.parametrize("when", ["fresh", "used"])
def test_a_process_that_waits_leaves_the_processor_alone(
    waited: dict[str, dict[str, float]], spin: str, when: str
) -> None:
    assert waited[spin][when] < MOST * IDLE_SECONDS / 2


@pytest.mark.parametrize("spin", ["quiet", "spin"])
def test_no_thread_spins_behind_an_answer(waited: dict[str, dict[str, float]], spin: str) -> None:
    assert waited[spin]["between"] < MOST * 20 * 0.1


@pytest.mark.parametrize("spin", ["quiet", "spin"])
def test_memory_does_not_grow_with_frames_of_many_sizes(waited: dict[str, dict[str, float]], spin: str) -> None:
    assert waited[spin]["grown"] < 5
