"""What this machine offers a network: cores, number formats, memory, and how to find out which of two ways is faster.

What a clock decides here is given back as plain values, for plan.json.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import torch
from threadpoolctl import threadpool_limits
from torch.overrides import TorchFunctionMode

from cvtune.cores import cores
from cvtune.errors import ConfigError, ModelError
from cvtune.training.depthwise import depthwise, is_large

Device = Literal["cpu", "cuda", "mps"]
Precision = Literal["32-true", "16-mixed", "bf16-mixed"]

_ROOT: Final = Path("/")
FASTER: Final = 1.1  # times, from which on the other of two ways is worth taking
_SMALLEST_BATCH: Final = 2  # BatchNorm has no variance over one image


def loader_workers(device: Device, available: float) -> int:
    """Processes that load and augment images, without taking cores that the network needs.

    On the processor one in eight: 8 cores learn about 80 images/s (Lite0) to 300 (ResNet-18) of 224 px, one augments
    900 to 2,000 with the presets. Beside a GPU the cores have little else to do.

    Args:
        device: where the network runs.
        available: cores, from :func:`cores`.
    """
    if available <= 4:
        return 0
    return min(8, int(available) // 8 or 1) if device == "cpu" else min(8, int(available) - 1)


def default_workers() -> int:
    """Those of this machine."""
    return loader_workers(device_of(), cores())


@dataclass(frozen=True)
class Threads:
    """Numbers of threads.

    Attributes:
        network: of torch within an operation.
        blas: of numpy and scikit-learn.
        opencv: 0 for none beside the calling one.
        reason: where the number comes from.
    """

    network: int
    blas: int
    opencv: int
    reason: str


def threads(workers: int = 0, *, root: Path = _ROOT) -> Threads:
    """As many threads as there are cores for the network; a user's OMP_NUM_THREADS wins.

    torch and BLAS start one a core seen; where a quota allows less they stop each other in the middle of a step.

    Args:
        workers: loader processes that need a core each.
        root: of the file system, see :func:`cvtune.cores.cores`.
    """
    wish = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wish.isdigit() and int(wish) > 0:
        count, reason = int(wish), "OMP_NUM_THREADS"
    else:
        available = min(cores(root), _physical_cores())
        count, reason = max(1, int(available) - workers), f"{available:g} cores, {workers} for loaders"
    return Threads(count, count, 0, reason)


def set_threads(wanted: Threads) -> None:
    """Set them for the whole process."""
    torch.set_num_threads(wanted.network)
    cv2.setNumThreads(wanted.opencv)
    threadpool_limits(wanted.blas, user_api="blas")


def _physical_cores() -> float:
    """Two threads on one core share its multipliers: torch's own default leaves them out as well."""
    return float(_capabilities().get("num_physical_cores") or os.cpu_count() or 1)


def _capabilities() -> dict[str, Any]:
    read = getattr(torch.cpu, "get_capabilities", None)
    return {} if read is None else dict(read())


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware, by AMX or AVX512-BF16; whether that is faster says `ab`."""
    known = _capabilities()
    if known:
        return bool(known.get("amx_bf16") or known.get("avx512_bf16"))
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # torch without `get_capabilities`
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


@contextmanager
def mixed(half: bool) -> Iterator[None]:
    """On the processor: bfloat16 where it multiplies matrices and dense convolutions, float32 everywhere else.

    Weights and their gradients stay in float32. So do depthwise convolutions that learn or stride, whose backward pass
    is slower in bfloat16: one with a stride of 2 takes 48 ms of a step of 250 (EfficientNet-Lite0 from blocks.4 on).

    Args:
        half: False changes nothing.
    """
    if not half:
        yield
        return
    with _DepthwiseInFloat32(), torch.autocast("cpu", torch.bfloat16):
        yield


class _DepthwiseInFloat32(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        if function is not torch.conv2d or groups == 1:
            return function(*args, **kwargs)
        weight = args[1] if len(args) > 1 else kwargs["weight"]
        stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
        if not weight.requires_grad and stride in (1, (1, 1)):
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            x, *rest = args
            if weight.requires_grad and len(rest) == 6 and rest[4] in (1, (1, 1)) and is_large(weight, groups):
                return depthwise(x.float(), *rest[:4])
            return function(x.float(), *rest, **kwargs)


@dataclass(frozen=True)
class Choice:
    """What came out of timing two ways of doing the same.

    Attributes:
        plain: seconds of the plain way, median.
        other: seconds of the other way, median.
        taken: whether the other way is the one to go.
    """

    plain: float
    other: float
    taken: bool


def ab(
    plain: Callable[[], object],
    other: Callable[[], object],
    *,
    repeats: int = 5,
    least: float = FASTER,
    limit: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Time two ways in turn, so that a busy machine slows both; the other one is taken where it is clearly faster.

    Args:
        plain: float32, say; called once more at the start, for memory and kernels.
        other: bfloat16, say.
        repeats: of each.
        least: how many times faster the other one has to be.
        limit: seconds after which none is repeated that has been timed once.
        clock: seconds.
    """

    def timed(what: Callable[[], object]) -> float:
        started = clock()
        what()
        return clock() - started

    plain()
    other()
    until, pairs = clock() + limit, [(timed(plain), timed(other))]
    while len(pairs) < repeats and clock() < until:
        pairs.append((timed(plain), timed(other)))
    first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Choice(first, second, second * least <= first)


def device_of(accelerator: str = "auto") -> Device:
    """Where the network runs.

    Args:
        accelerator: Lightning's name: auto, cpu, gpu, cuda or mps.

    Raises:
        ConfigError: it is not there, or not one of those.
    """
    have: list[Device] = [name for name, there in _gpus().items() if there]
    if accelerator == "cpu" or (accelerator == "auto" and not have):
        return "cpu"
    if accelerator in ("auto", "gpu") and have:
        return have[0]
    for name in have:
        if name == accelerator:
            return name
    listing = ", ".join(["cpu", *have])
    raise ConfigError(f"no accelerator {accelerator} on this machine; there are: {listing}", hint="take auto")


def _gpus() -> dict[Device, bool]:
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def precision_for(device: Device) -> Precision:
    """Lightning's precision flag: automatic mixed precision on a GPU, float32 on the processor.

    bfloat16 where the GPU computes with it, not where it is emulated (before Ampere); on Apple's, gradient scaling for
    float16 works from torch 2.8 on (pytorch issue 142397).
    """
    if device == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if device == "mps" and torch.amp.is_autocast_available("mps"):
        return "16-mixed"
    return "32-true"


def find_batch_size(try_step: Callable[[int], object], *, start: int, most: int) -> int:
    """The largest batch that fits into the GPU's memory: doubled while it fits, halved while it does not.

    Args:
        try_step: a whole training step, backward and optimizer included, of so many images.
        start: images of the first try.
        most: images; no more than this is tried.

    Raises:
        ModelError: not even two images fit.
    """
    size = max(_SMALLEST_BATCH, min(start, most))
    if _fits(try_step, size):
        while size * 2 <= most and _fits(try_step, size * 2):
            size *= 2
        return size
    while size > _SMALLEST_BATCH:
        size = max(_SMALLEST_BATCH, size // 2)
        if _fits(try_step, size):
            return size
    raise ModelError(
        f"a training step of {size} images does not fit into the memory of the GPU",
        hint="take a smaller --size or --backbone, or train on the processor",
    )


def _fits(try_step: Callable[[int], object], size: int) -> bool:
    fits = True
    try:
        try_step(size)
    except RuntimeError as error:  # torch.OutOfMemoryError is one; Apple's is not of that kind
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error).lower():
            raise
        fits = False
    _empty_caches()  # not inside the except: the error holds on to the step's tensors
    return fits


def _empty_caches() -> None:
    gc.collect()
    torch.cuda.empty_cache()  # nothing where there is no GPU
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
