"""vyntri by its defaults, with EfficientNet-Lite0 put into its registry of backbones.

Its one image transform (256, the centre 224, ImageNet's mean and deviation) stays; the backbone turns the colours into
those that the Lite weights were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.task import MEAN, NETWORK, STD, Log, Task, load_network, read_task


def main() -> None:
    """Fit once: there is one model, at the end."""
    task = read_task()
    from vyntri import Vyntri  # type: ignore[import-not-found]
    from vyntri.data import dataset  # type: ignore[import-not-found]

    dataset.IMAGE_EXTENSIONS.add(".ppm")  # Pillow reads them; the list forgot them
    _register(task)
    log = Log(task)
    model = Vyntri(backbone=NETWORK, cache_dir=str(task.scratch / "vyntri"))
    model.fit(train=str(task.folder / "train"), val=str(task.folder / "val"), progress=False)

    def answer(files: Sequence[Path]) -> list[str]:
        return [str(name) for name in model.predict_batch(list(files)).labels]

    log.snapshot("fit", answer)
    log.close("vyntri")


def _register(task: Task) -> None:
    from vyntri.backbones import registry  # type: ignore[import-not-found]

    def build() -> Any:
        return _recoloured(load_network(task, 0), registry._MEAN, registry._STD).eval()

    network = load_network(task, 0)
    parameters = sum(p.numel() for p in network.parameters())
    info = registry.BackboneInfo(NETWORK, network.num_features, "efficientnet-lite0", parameters, True, build)
    registry._register(info)


def _recoloured(network: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    import torch

    class Recoloured(torch.nn.Module):
        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            ours, theirs = (_column(MEAN), _column(STD)), (_column(mean), _column(std))
            self.register_buffer("scale", theirs[1] / ours[1])
            self.register_buffer("shift", (theirs[0] - ours[0]) / ours[1])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.network(images * self.scale + self.shift)
            return out

    def _column(values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values).view(1, 3, 1, 1)

    return Recoloured()


if __name__ == "__main__":
    main()
