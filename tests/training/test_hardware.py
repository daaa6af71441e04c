from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from cvtune.errors import ConfigError, ModelError
from cvtune.models.backbone import create_empty
from cvtune.training import hardware
from cvtune.training.hardware import (
    ab,
    device_of,
    find_batch_size,
    has_fast_bfloat16,
    loader_workers,
    mixed,
    precision_for,
    set_threads,
    threads,
)

Files = dict[str, str]
MakeRoot = Callable[[Files], Path]


@pytest.fixture
def make_root(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> MakeRoot:
    """With as many physical cores."""
    monkeypatch.setattr(hardware, "_capabilities", lambda: {"num_physical_cores": 16})
    return make_root


@pytest.fixture
def threads_restored() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    with threadpool_limits(1, user_api="blas"):
        yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


GROUP = "sys/fs/cgroup"


@pytest.mark.usefixtures("threads_restored")
@pytest.mark.parametrize(
    ("quota", "workers", "wish", "count"),
    [
        ("250000 100000", 0, None, 2),
        ("50000 100000", 0, None, 1),
        ("800000 100000", 1, None, 7),
        ("200000 100000", 4, None, 1),
        ("max 100000", 2, None, 14),
        ("max 100000", 2, "3", 3),
        ("max 100000", 2, "5,2", 5),
        ("250000 100000", 0, "", 2),
        ("250000 100000", 0, "0", 2),
        ("250000 100000", 0, "many", 2),
    ],
)
def test_threads_follow_the_quota_unless_the_user_says(
    quota: str, workers: int, wish: str | None, count: int, make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if wish is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wish)
    torch.set_num_threads(1)  # what was set before does not count
    done = threads(workers, root=make_root({f"{GROUP}/cpu.max": quota}))
    assert torch.get_num_threads() == 1
    set_threads(done)
    assert (done.network, done.blas, done.opencv) == (count, count, 0)
    assert torch.get_num_threads() == count
    assert cv2.getNumThreads() == 1
    assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {count}
    assert ("OMP_NUM_THREADS" in done.reason) is (wish in ("3", "5,2"))


@pytest.mark.usefixtures("threads_restored")
def test_two_threads_of_one_core_count_once(make_root: MakeRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(hardware, "_capabilities", lambda: {"num_physical_cores": 8})
    assert threads(root=make_root({})).network == 8
    monkeypatch.setattr(hardware, "_capabilities", dict)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert threads(root=make_root({})).network == 5


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_loaders_leave_the_network_its_cores(device: hardware.Device) -> None:
    for available in (0.5, 1, 2, 4):
        assert loader_workers(device, available) == 0
    few, many = ((1, 1, 2, 8), (4, 7, 8, 8))[device != "cpu"], (5.0, 8.5, 16.0, 256.0)
    assert [loader_workers(device, available) for available in many] == list(few)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx2": True, "avx512_f": True, "avx512_vnni": True, "amx_int8": True}, False),
        ({"architecture": "aarch64", "bf16": True}, False),
    ],
)
def test_bfloat16_is_for_processors_that_multiply_it(
    flags: dict[str, Any], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert has_fast_bfloat16() is fast


def test_an_older_torch_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    said = has_fast_bfloat16()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert has_fast_bfloat16()
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert not has_fast_bfloat16()
    flags = Path("/proc/cpuinfo")
    if flags.is_file():
        text = flags.read_text(encoding="utf-8")
        assert said is ("amx_bf16" in text or "avx512_bf16" in text)


@pytest.mark.parametrize(
    ("other", "taken"), [((0.50,) * 5, True), ((0.90,) * 5, True), ((0.92,) * 5, False), ((0.5, 0.5, 2, 2, 2), False)]
)
def test_the_other_way_is_taken_where_it_is_a_tenth_faster(other: tuple[float, ...], taken: bool) -> None:
    now, calls = [0.0], list[str]()
    durations = {"plain": iter((9.0, 1, 1, 1, 1, 30)), "other": iter((9.0, *other))}

    def way(name: str) -> None:
        calls.append(name)
        now[0] += next(durations[name])

    choice = ab(lambda: way("plain"), lambda: way("other"), clock=lambda: now[0])
    assert calls == ["plain", "other"] * 6  # in turn, the first pair for memory and kernels
    assert choice.plain == pytest.approx(1)  # the median: one slow call does not count
    assert choice.other == pytest.approx(sorted(other)[2])
    assert choice.taken is taken


def test_slow_ways_are_timed_once_each() -> None:
    calls: list[str] = []
    clock = iter(range(100))
    ab(lambda: calls.append("plain"), lambda: calls.append("other"), limit=3.0, clock=lambda: float(next(clock)))
    assert calls == ["plain", "other"] * 2


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_bfloat16_in_the_pass_float32_in_weights_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_empty(name, size=64).train()
    dense, depthwise = set[torch.dtype](), set[torch.dtype]()
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            seen = depthwise if getattr(module, "groups", 1) > 1 else dense
            module.register_forward_hook(lambda module, inputs, output, seen=seen: seen.add(output.dtype))
    images = torch.rand(4, 3, 64, 64)
    with mixed(True):
        answer = backbone(images)
    answer.float().square().mean().backward()
    assert dense == {torch.bfloat16}
    assert depthwise == ({torch.float32} if name == "test_efficientnet" else set())
    learnt = [p.grad for p in backbone.parameters() if p.grad is not None]
    assert {tensor.dtype for tensor in (*learnt, *backbone.parameters())} == {torch.float32}
    assert {b.dtype for b in backbone.buffers() if b.is_floating_point()} <= {torch.float32}
    dense.clear()
    with mixed(False):
        backbone(images)
    assert dense == {torch.float32}


def test_depthwise_weights_that_do_not_learn_pass_in_bfloat16_but_for_strides() -> None:
    layers = {
        stride: torch.nn.Conv2d(8, 8, 3, stride=stride, groups=8, bias=False).requires_grad_(False) for stride in (1, 2)
    }
    x = torch.rand(2, 8, 9, 9, requires_grad=True)
    with mixed(True):
        answers = {stride: layer(x) for stride, layer in layers.items()}
    assert {stride: answer.dtype for stride, answer in answers.items()} == {1: torch.bfloat16, 2: torch.float32}
    sum(answer.float().sum() for answer in answers.values()).backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_sleeping_less_is_faster() -> None:
    choice = ab(lambda: time.sleep(0.02), lambda: time.sleep(0.002), repeats=3)
    assert choice.taken
    assert 0.002 <= choice.other < choice.plain < 1


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`gpus("cuda")`: a machine with those, and no other."""

    def have(*names: str) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return have


def test_the_device_is_lightnings(gpus: Callable[..., None]) -> None:
    gpus()
    assert (device_of(), device_of("cpu")) == ("cpu", "cpu")
    gpus("cuda")
    assert [device_of(name) for name in ("auto", "gpu", "cuda", "cpu")] == ["cuda", "cuda", "cuda", "cpu"]
    gpus("mps")
    assert [device_of(name) for name in ("auto", "gpu", "mps", "cpu")] == ["mps", "mps", "mps", "cpu"]
    with pytest.raises(ConfigError, match="no accelerator cuda on this machine; there are: cpu, mps") as caught:
        device_of("cuda")
    assert caught.value.hint == "take auto"
    gpus()
    for name in ("gpu", "mps", "tpu"):
        with pytest.raises(ConfigError, match=f"no accelerator {name} on this machine; there are: cpu"):
            device_of(name)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_precision_is_what_the_device_computes_with(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def supported(including_emulation: bool = True) -> bool:
        asked.append(including_emulation)
        return bfloat16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: bfloat16)
    assert precision_for("cuda") == ("bf16-mixed" if bfloat16 else "16-mixed")
    assert asked == [False]  # before Ampere it is there, emulated and slow
    assert precision_for("mps") == ("16-mixed" if bfloat16 else "32-true")
    assert precision_for("cpu") == "32-true"


class Memory:
    """A step that runs out of memory above so many images."""

    def __init__(self, holds: int, error: Exception) -> None:
        self.holds, self.error, self.tried = holds, error, list[int]()

    def __call__(self, images: int) -> None:
        self.tried.append(images)
        if images > self.holds:
            raise self.error


CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
APPLE = RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)")


@pytest.mark.parametrize("error", [CUDA, APPLE], ids=["cuda", "mps"])
@pytest.mark.parametrize(
    ("holds", "start", "most", "tried"),
    [
        (100, 32, 1024, [32, 64, 128]),
        (10_000, 32, 256, [32, 64, 128, 256]),
        (10_000, 32, 200, [32, 64, 128]),
        (10, 32, 1024, [32, 16, 8]),
        (2, 5, 1024, [5, 2]),
        (2, 3, 1024, [3, 2]),
        (10_000, 32, 20, [20]),
        (64, 64, 64, [64]),
    ],
)
def test_the_batch_grows_until_memory_ends(
    holds: int, start: int, most: int, tried: list[int], error: Exception
) -> None:
    memory = Memory(holds, error)
    found = find_batch_size(memory, start=start, most=most)
    assert memory.tried == tried
    assert found == max(size for size in tried if size <= holds)


def test_caches_are_emptied_when_the_steps_tensors_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, seen = set[int](), list[int]()

    class Held:
        def __init__(self) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    def step(images: int) -> None:
        held = Held()
        if images > 8:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {held}")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(len(alive)))
    assert find_batch_size(step, start=4, most=64) == 8
    assert seen == [0, 0, 0]


def test_a_gpu_that_is_too_small_and_other_errors_are_told() -> None:
    with pytest.raises(ModelError, match="a training step of 2 images does not fit into the memory of the GPU"):
        find_batch_size(Memory(1, CUDA), start=32, most=64)
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory, he said")):
        with pytest.raises(type(error), match=str(error)):
            find_batch_size(Memory(1, error), start=32, most=64)
