"""What the user wants of the decisions: which classes are good, how many defects may escape, what a mistake costs."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from cvtune.config import CostsConfig, ObjectiveConfig
from cvtune.errors import ConfigError
from cvtune.evaluation.metrics import is_good_name

Aim = Literal["escape", "overkill", "error"]
Words = Literal["factory", "clinic"]

LEVEL: Final = 0.95  # of every "at most"

# The words of the clinic, where the figure is the share that is right: "sensitivity>=99%" is "escape<=1%".
_AIMS: Final[Mapping[str, Aim]] = {
    "escape": "escape",
    "escapes": "escape",
    "overkill": "overkill",
    "error": "error",
    "errors": "error",
}
_RIGHTS: Final[Mapping[str, Aim]] = {"sensitivity": "escape", "specificity": "overkill", "accuracy": "error"}
_TARGET: Final = re.compile(r"\s*([a-z]+)\s*(<=|>=|<|>|=)\s*([0-9.]+)\s*(%?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """An upper bound of a rate.

    Attributes:
        aim: "escape", a defective image that is decided OK; "overkill", a good one decided NG; "error", a wrong class.
        share: 0 < share < 1.
    """

    aim: Aim
    share: float

    @property
    def needed(self) -> int:
        """Images without such a mistake that would prove the target at 95 %: 598 for 0.5 %."""
        return math.ceil(math.log(1 - LEVEL) / math.log1p(-self.share) - 1e-9)

    def __str__(self) -> str:
        return f"{self.aim}<={100 * self.share:g}%"

    def said(self, words: Words) -> str:
        """In the words of the factory, escape<=1%, or of the clinic, sensitivity>=99%."""
        if words == "factory":
            return str(self)
        right = next(name for name, aim in _RIGHTS.items() if aim == self.aim)
        return f"{right}>={100 * (1 - self.share):g}%"


@dataclass(frozen=True)
class Costs:
    """What decisions cost, in any unit; a right decision costs nothing.

    Attributes:
        escape: of a defective image decided OK, by the name of its class; "" for all that are not named.
        overkill: of a good image decided NG.
        review: of an image that a person looks at; None where nobody does.

    Raises:
        ConfigError: a cost that is not positive, or a review that costs more than every mistake.
    """

    escape: Mapping[str, float]
    overkill: float
    review: float | None = None

    def __post_init__(self) -> None:
        values = [*self.escape.values(), self.overkill, *([] if self.review is None else [self.review])]
        if not self.escape or any(not value > 0 or math.isinf(value) for value in values):
            raise ConfigError(
                f"costs {values}: expected positive numbers, one for escapes at least",
                hint="for example: [objective.costs] escape = 100, overkill = 1, review = 0.3",
            )

    def of(self, name: str) -> float:
        """The cost of an escape of a class."""
        return self.escape.get(name, self.escape.get("", max(self.escape.values())))


@dataclass(frozen=True)
class Objective:
    """What the operating point is chosen for.

    Attributes:
        classes: K names.
        ok: positions of the good classes, ascending; empty where none is good.
        guessed: whether `ok` was guessed from the names.
        targets: one an aim.
        own: targets of single classes, by position.
        review: share of images that a person may look at; None for as few as the targets need.
        proven: whether calib has to prove the target at 95 %, not only to meet it in the mean.
        costs: in place of targets.
    """

    classes: tuple[str, ...]
    ok: tuple[int, ...] = ()
    guessed: bool = False
    targets: tuple[Target, ...] = ()
    own: Mapping[int, Target] = field(default_factory=dict)
    review: float | None = None
    proven: bool = False
    costs: Costs | None = None

    def target(self, aim: Aim) -> Target | None:
        """The target of an aim, if there is one."""
        return next((target for target in self.targets if target.aim == aim), None)

    @property
    def defects(self) -> tuple[int, ...]:
        """Positions of the classes that are not good."""
        return tuple(position for position in range(len(self.classes)) if position not in self.ok)


def parse_target(text: str) -> Target:
    """`escape<=0.5%`, `overkill<=0.02`, `error<=1%`, `sensitivity>=99%`, `specificity>=98%`.

    Raises:
        ConfigError: it is none of those.
    """
    found = _TARGET.fullmatch(text)
    name = found[1].lower() if found else ""
    upper = found is not None and found[2] in ("<=", "<", "=")
    known = _AIMS if upper else _RIGHTS
    if found is None or name not in known:
        hint = _near(name, known) or "for example: escape<=0.5%, overkill<=2%, sensitivity>=99.5%"
        raise ConfigError(f"target '{text}': expected a figure, <= or >=, and a share", hint=hint)
    try:
        share = float(found[3]) / (100 if found[4] else 1)
    except ValueError:
        share = math.nan
    share = share if upper else 1 - share
    if not 0 < share < 1:
        raise ConfigError(
            f"target '{text}': expected a share between 0 and 1; no number of images proves 0",
            hint="for example: escape<=0.5%",
        )
    return Target(known[name], share)


def good_classes(classes: Sequence[str], asked: Sequence[str] | None) -> tuple[tuple[int, ...], bool]:
    """Positions of the good classes, and whether they were guessed from names like ok, good, normal, functional, free.

    Args:
        classes: K names.
        asked: names that the user gave; empty for "none is good"; None to guess.

    Raises:
        ConfigError: no such class, or all of them.
    """
    if asked is None:
        found = tuple(position for position, name in enumerate(classes) if is_good_name(name))
        return (found, bool(found)) if len(found) < len(classes) else ((), False)
    wrong = [name for name in asked if name not in classes]
    if wrong:
        there = ", ".join(classes)
        raise ConfigError(f"--ok {wrong[0]}: there is no such class; there are {there}", hint=_near(wrong[0], classes))
    found = tuple(sorted({classes.index(name) for name in asked}))
    if len(found) == len(classes):
        raise ConfigError("--ok names every class: there is nothing left that could escape")
    return found, False


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""


def build_objective(config: ObjectiveConfig, classes: Sequence[str], *, several: bool = False) -> Objective:
    """What the settings ask for, with the classes of a folder.

    Args:
        config: the section `objective`.
        classes: K names.
        several: whether an image may have several labels, none of which is good then.

    Raises:
        ConfigError: classes that do not exist, targets that nothing is said by, or two of one kind.
    """
    ok, guessed = ((), False) if several and not config.ok else good_classes(classes, config.ok)
    targets, own = tuple(map(parse_target, config.target)), _own_targets(config.targets, classes, ok)
    aims = [target.aim for target in targets]
    fitting: tuple[Aim, ...] = ("escape", "overkill") if ok or several else ("error",)
    for aim in aims:
        if aims.count(aim) > 1:
            raise ConfigError(f"two targets for {aim}: {', '.join(config.target)}", hint="give one of each kind")
        if aim not in fitting:
            raise ConfigError(
                f"target for {aim}: {'a class is good' if ok else 'no class is known to be good'}, so that the figures "
                f"are {' and '.join(fitting)}",
                hint="say with --ok which classes are good" if not ok else "take escape<=... or overkill<=...",
            )
    if ok and several:
        raise ConfigError("--ok is for classes that exclude each other; here an image may have several labels")
    if config.costs is not None and (targets or not ok):
        raise ConfigError(
            "objective.costs are in place of targets, and need good classes", hint="take one of the two, and --ok"
        )
    costs = None if config.costs is None else _costs(config.costs, classes)
    return Objective(tuple(classes), ok, guessed, targets, own, config.review_rate, config.guarantee, costs)


def _own_targets(asked: Mapping[str, str], classes: Sequence[str], ok: Sequence[int]) -> dict[int, Target]:
    found = {}
    for name, text in asked.items():
        target = parse_target(text)
        if name not in classes or classes.index(name) in ok or target.aim != "escape" or not ok:
            raise ConfigError(
                f"objective.targets: {name} = '{text}': expected a class that is not good, and escape<=...",
                hint=f"the classes are {', '.join(classes)}",
            )
        found[classes.index(name)] = target
    return found


def _costs(config: CostsConfig, classes: Sequence[str]) -> Costs:
    escape = config.escape if isinstance(config.escape, dict) else {"": config.escape}
    wrong = [name for name in escape if name and name not in classes]
    if wrong:
        raise ConfigError(f"objective.costs: no class {', '.join(wrong)}; there are {', '.join(classes)}")
    return Costs(escape, config.overkill, config.review)
