"""A straightforward full fine-tune in PyTorch: every layer, AdamW at 1e-3, one cycle, random resized crops, flips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.task import MEAN, SIZE, STD, Log, load_network, read_task

BATCH = 32
RATE = 1e-3


def main() -> None:
    """Train, with a snapshot after each epoch."""
    task = read_task()
    import torch
    from torchvision.datasets import ImageFolder

    log = Log(task)
    data = ImageFolder(str(task.folder / "train"), transform=_transform(training=True))
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, drop_last=len(data) > BATCH, num_workers=0)
    model = load_network(task, len(data.classes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=task.epochs * len(loader))

    def answer(files: Sequence[Path]) -> list[str]:
        return [data.classes[row] for row in _rows(model, files)]

    for epoch in range(task.epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        log.snapshot(f"epoch {epoch + 1}", answer)
    log.close()


def _transform(*, training: bool) -> Any:
    from torchvision import transforms

    shape = (
        [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
        if training
        else [transforms.Resize((SIZE, SIZE))]
    )
    return transforms.Compose([*shape, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def _rows(model: Any, files: Sequence[Path]) -> list[int]:
    import torch
    from PIL import Image

    transform = _transform(training=False)
    model.eval()
    found: list[int] = []
    with torch.no_grad():
        for start in range(0, len(files), BATCH):
            images = [transform(Image.open(file).convert("RGB")) for file in files[start : start + BATCH]]
            found += model(torch.stack(images)).argmax(1).tolist()
    return found


if __name__ == "__main__":
    main()
