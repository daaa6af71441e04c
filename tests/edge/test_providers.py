"""Who computes is asked for by name, and nobody else does it in silence.

No GPU was there when this was written: what onnxruntime does without the libraries of a provider was seen with the
packages onnxruntime-gpu 1.31.1 and onnxruntime-openvino 1.24.1, and is played back here.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from cvtune_edge import Bundle, CvtuneError, session
from cvtune_edge.cli import main
from cvtune_edge.providers import CPU, chosen, names, short_name

from tests.edge.conftest import CLASSES, tiny_model

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
GPU_PACKAGE = [TENSORRT, CUDA, CPU]


@pytest.mark.parametrize(
    ("asked", "taken"),
    [
        ("cpu", (CPU,)),
        ("CUDA", (CUDA, CPU)),
        ("tensorrt, cuda", (TENSORRT, CUDA, CPU)),  # the order of preference
        (["TensorRT", "cpu"], (TENSORRT, CPU)),
        ("cudaexecutionprovider", (CUDA, CPU)),  # onnxruntime's own name
        (("cuda", "cuda"), (CUDA, CPU)),
    ],
)
def test_names_as_people_write_them(asked: Any, taken: tuple[str, ...]) -> None:
    assert chosen(asked, GPU_PACKAGE, "1.31.1") == taken


def test_a_provider_of_this_onnxruntime_alone_has_its_own_name() -> None:
    own = "MIGraphXExecutionProvider"
    assert chosen("MIGraphXExecutionProvider", [own, CPU], "1.31.1") == (own, CPU)
    assert short_name(own) == "migraphx"
    assert names([own, "AzureExecutionProvider", CPU]) == "cpu, migraphx"


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ("cudda", "there is no provider 'cudda'", "did you mean cuda? known are cpu, cuda, tensorrt, openvino, "),
        ("npu9", "there is no provider 'npu9'", "known are cpu, "),
        ("", "there is no provider ''", "known are cpu, "),
        ([], "no provider is named", "one of cpu, cuda"),
        ("cuda", "this onnxruntime (1.32.0) has no provider cuda, it has cpu", "install the package onnxruntime-gpu ("),
        ("OpenVINO", "this onnxruntime (1.32.0) has no provider openvino, it has cpu", "onnxruntime-openvino ("),
        ("cpu,coreml", "this onnxruntime (1.32.0) has no provider coreml, it has cpu", "onnxruntime on macOS ("),
        ("xnnpack", "this onnxruntime (1.32.0) has no provider xnnpack, it has cpu", "built with XNNPACK ("),
    ],
)
def test_what_there_is_not_is_said_with_what_brings_it(asked: Any, message: str, hint: str) -> None:
    with pytest.raises(CvtuneError) as caught:
        chosen(asked, ["AzureExecutionProvider", CPU], "1.32.0")
    assert caught.value.message == message
    assert hint in caught.value.hint


class Loaded:
    """A session that has these providers, and gave each so many nodes; `told` keeps how it was opened."""

    told: dict[str, Any]

    def __init__(self, has: list[str], nodes: dict[str, int], error: Exception | None = None) -> None:
        self.has, self.nodes, self.error = has, nodes, error

    def __call__(self, source: str, options: Any, **told: Any) -> Loaded:
        Loaded.told = {**told, "options": options}
        if self.error is not None:
            raise self.error
        return self

    def get_providers(self) -> list[str]:
        return self.has

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in self.nodes.items()]


def play(monkeypatch: pytest.MonkeyPatch, loaded: Loaded, has: list[str] = GPU_PACKAGE) -> None:
    monkeypatch.setattr("cvtune_edge.session.ort.get_available_providers", lambda: has)
    monkeypatch.setattr("cvtune_edge.session.ort.InferenceSession", loaded)


def test_one_that_runs_gets_the_cpu_for_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, Loaded([CUDA, CPU], {CUDA: 140, CPU: 6}))
    opened = session.open_session("model.onnx", provider="cuda")
    assert session.nodes_by_provider(opened) == {CUDA: 140, CPU: 6}
    assert Loaded.told["providers"] == [CUDA, CPU]
    assert Loaded.told["enable_fallback"] == 0
    entry = Loaded.told["options"].get_session_config_entry("session.record_ep_graph_assignment_info")
    assert entry == "1"


@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        # onnxruntime-gpu 1.31.1 without CUDA: a line on stderr, then the CPU
        (Loaded([CPU], {CPU: 146}), "no device for it, or another driver than it needs"),
        # the same for TensorRT, but onnxruntime raises
        (Loaded([], {}, RuntimeError("Please install TensorRT libraries\nas mentioned")), "Please install TensorRT"),
        # onnxruntime-openvino 1.24.1 with the nodes that decide
        (Loaded([], {}, ValueError("")), "ValueError"),
        (Loaded([CUDA, CPU], {CPU: 146}), "it takes none of the 146 nodes of this model"),
        (Loaded([CUDA, CPU], {}), "it takes none of the 0 nodes of this model"),
    ],
)
def test_one_that_does_not_run_is_refused_with_the_reason(
    loaded: Loaded, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch, loaded)
    with pytest.raises(CvtuneError) as caught:
        session.open_session("model.onnx", provider="cuda")
    start = f"provider cuda: this onnxruntime has it, and it does not run here: {why}"
    assert caught.value.message.startswith(start)
    assert "\n" not in caught.value.message
    assert caught.value.hint.endswith("or use --provider cpu")


def test_the_second_of_several_must_be_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, Loaded([TENSORRT, CPU], {TENSORRT: 100}))
    with pytest.raises(CvtuneError, match="provider cuda: this onnxruntime has it, and it does not run here"):
        session.open_session("model.onnx", provider=["tensorrt", "cuda"])


@pytest.mark.parametrize("loaded", [Loaded([CPU], {CPU: 146}), Loaded([], {}, RuntimeError("a long story"))])
def test_a_library_that_cannot_be_loaded_says_why(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    play(monkeypatch, loaded)
    (tmp_path / "capi").mkdir()
    for name in (
        "libonnxruntime_providers_cuda.so",
        "libonnxruntime_providers_cuda.dylib",
        "onnxruntime_providers_cuda.dll",
    ):
        (tmp_path / "capi" / name).write_bytes(b"no library")
    monkeypatch.setattr("cvtune_edge.session.ort.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(CvtuneError, match=r"it does not run here: .*onnxruntime_providers_cuda"):
        session.open_session("model.onnx", provider="cuda")


def test_the_real_cpu(bundle_folder: Path) -> None:
    bundle = Bundle(bundle_folder, provider="CPU", threads=1)
    assert bundle.nodes == {}
    frame = np.full((4, 4, 3), 200, np.uint8)
    again = Bundle(bundle_folder, provider=["cpu"], threads=1).predict(frame)
    assert np.array_equal(bundle.predict(frame).probabilities, again.probabilities)


def test_onnxruntime_says_which_nodes_a_provider_took() -> None:
    """What is asked of another provider's session, asked of the one that every onnxruntime has."""
    options = session._options(1, spin=False)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = tiny_model(CLASSES).SerializeToString()
    opened = onnxruntime.InferenceSession(model, options, providers=[CPU], enable_fallback=0)
    (part, *_) = opened.get_provider_graph_assignment_info()
    assert part.ep_name == CPU
    assert len(part.get_nodes()) >= 1


def test_every_verb_refuses_with_exit_2(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvtune_edge.session.ort.get_available_providers", lambda: [CPU])
    verbs = (["predict", str(bundle_folder), str(tmp_path)], *([v, str(bundle_folder)] for v in ("verify", "info")))
    for verb in (*verbs, ["bench", str(bundle_folder)]):
        assert main([*verb, "--provider", "cuda"]) == 2
        error = capsys.readouterr().err
        assert "has no provider cuda, it has cpu" in error
        assert "hint: install the package onnxruntime-gpu" in error


def test_info_says_what_runs(
    bundle_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_line(*flags: str) -> str:
        assert main(["info", str(bundle_folder), *flags]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    version, _ = session.runtime_facts()
    assert last_line().startswith(f"runs on         cpu; onnxruntime {version} here has cpu")
    assert last_line("--provider", "cpu") == f"runs on         cpu; onnxruntime {version}"
    monkeypatch.setattr(Bundle, "nodes", {"cuda": 140, "cpu": 6})
    assert last_line("--provider", "cpu").startswith("runs on         cuda 140 of 146 nodes, cpu 6 of 146 nodes;")
