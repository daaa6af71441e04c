"""fastai as its own introduction has it: `vision_learner` and `fine_tune`, default augmentation, batch, rates and head.

`fine_tune(n)` trains the new head for one epoch and all layers for n more. Its validation pass after each epoch is part
of it and counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.task import NETWORK, SIZE, Log, Task, read_task


def main() -> None:
    """Fine-tune, with a snapshot after each epoch."""
    task = read_task()
    import torch
    from fastai.vision.all import (  # type: ignore[import-not-found]
        Callback,
        ImageDataLoaders,
        Resize,
        accuracy,
        aug_transforms,
        vision_learner,
    )

    log = Log(task)
    data = ImageDataLoaders.from_folder(
        task.folder, train="train", valid="val", seed=task.seed, item_tfms=Resize(SIZE), batch_tfms=aug_transforms()
    )

    def answer(files: Sequence[Path]) -> list[str]:
        model = learner.model.eval()
        with torch.no_grad():
            logits = torch.cat([model(images) for (images,) in data.test_dl(files, num_workers=0)])
        return [str(data.vocab[int(row)]) for row in logits.argmax(1)]

    class Snapshots(Callback):  # type: ignore[misc]
        order = 90  # behind the recorder

        def before_fit(self) -> None:
            self.offset = getattr(self, "done", 0)  # fine_tune fits twice

        def after_epoch(self) -> None:
            self.done = self.offset + self.epoch + 1
            log.snapshot(f"epoch {self.done}", answer)

    learner = vision_learner(data, NETWORK, metrics=accuracy, **_local(task))
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task.epochs, cbs=Snapshots())
    log.close("fastai", "fastcore")


def _local(task: Task) -> dict[str, object]:
    """The way timm itself has to take pretrained weights from a file in place of the hub."""
    return {"pretrained_cfg_overlay": {"file": str(task.weights)}}


if __name__ == "__main__":
    main()
