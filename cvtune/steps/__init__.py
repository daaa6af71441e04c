"""The steps of the main path, in the order in which `pipeline` calls them; no step calls another."""

from cvtune.steps.begin import check, find_weights, new_run, resumed, scratch, threads
from cvtune.steps.divide import Audited, audited, divide, record, window
from cvtune.steps.examine import Seen, examine
from cvtune.steps.final import FinalFit, final_fit
from cvtune.steps.folds import cross_validate
from cvtune.steps.lighten import lighten
from cvtune.steps.read import Data, aim, index, network, read, settle
from cvtune.steps.strange import Shown, Strange, strangeness
from cvtune.steps.study import Evidence, study
from cvtune.steps.train import Crossed, Lab, Plugins, prepare, wants_final

__all__ = [
    "Audited",
    "Crossed",
    "Data",
    "Evidence",
    "FinalFit",
    "Lab",
    "Plugins",
    "Seen",
    "Shown",
    "Strange",
    "aim",
    "audited",
    "check",
    "cross_validate",
    "divide",
    "examine",
    "final_fit",
    "find_weights",
    "index",
    "lighten",
    "network",
    "new_run",
    "prepare",
    "read",
    "record",
    "resumed",
    "scratch",
    "settle",
    "strangeness",
    "study",
    "threads",
    "wants_final",
    "window",
]
