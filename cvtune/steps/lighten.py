"""Lighter models in the bundle, where the user asked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cvtune.config import Precision
from cvtune.data.split import Split
from cvtune.errors import GateError
from cvtune.steps.train import Lab

if TYPE_CHECKING:
    from cvtune.bundle.lighter.add import Lighter


def lighten(lab: Lab, split: Split) -> None:
    """Add what `[export]` asks for and the bundle has not; what its gate refuses is told and left out.

    This is not part of the budget: the model stands, and each takes minutes.
    """
    for precision in lab.config.export.precisions:
        try:
            lab.console.step(precision, _told(_added(lab, split, precision)))
        except GateError as error:
            lab.console.step(precision, "left out", more=tuple(error.message.splitlines()))
        except _StoppedError:
            lab.console.step(precision, "left out, on request")
            return


class _StoppedError(Exception):
    """Ctrl-C: the bundle is as it was."""


def _added(lab: Lab, split: Split, precision: Precision) -> Lighter:
    from cvtune.bundle.lighter.add import add_lighter  # onnxruntime's quantisation: half a second

    def tell(what: str, done: int, of: int) -> None:
        if lab.stop:
            raise _StoppedError
        lab.console.progress(what, done, of)

    return add_lighter(
        lab.run.bundle,
        precision,
        lab.data.index,
        split,
        max_drop=lab.config.export.int8_max_drop,
        untrusted=lab.config.data.untrusted,
        tell=tell,
    )


def _told(found: Lighter) -> str:
    before, after = found.chosen.before, found.chosen.after
    return (
        f"{after.right} of {after.images} right on val and calib ({before.right} before), "
        f"{100 * found.share:.0f} % of the time, {found.size}"
    )
