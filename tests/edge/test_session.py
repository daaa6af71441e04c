from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from cvtune_edge import session

from tests.edge.conftest import CLASSES, tiny_model


def test_bytes_and_paths_with_the_options_asked_for(tmp_path: Path) -> None:
    data = tiny_model(CLASSES).SerializeToString()
    path = tmp_path / "modèle.onnx"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        opened = session.open_session(source, threads=1)
        assert opened.get_providers() == ["CPUExecutionProvider"]
        options = opened.get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.log_severity_level == 4, "an error is raised, and would be said twice"
        assert options.get_session_config_entry("session.load_model_format") == "ONNX"
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        (answer,) = opened.run(["probabilities"], {"image": np.zeros((7, 2, 2, 3), np.uint8)})
        assert answer.shape == (7, 3)
    spinning = session.open_session(data, spin=True).get_session_options()
    assert spinning.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert spinning.get_session_config_entry("session.force_spinning_stop") == "1", "or it spins behind each answer"


@pytest.mark.parametrize(
    ("text", "granted"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 0), ("6400000 100000", 0)]
)
def test_threads_stay_within_a_containers_quota(
    text: str, granted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(text, encoding="ascii")
    monkeypatch.setattr(session, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert session.granted_threads() == granted


def test_threads_stay_within_the_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_CGROUP_QUOTA", tmp_path / "none")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert session.granted_threads() == 2
