"""Pages of one file each: report.html of a run, and what `cvtune check` found."""

from cvtune.report.card import CARD, build_card
from cvtune.report.checkup import build_check_page
from cvtune.report.facts import read_facts
from cvtune.report.page import build_report

__all__ = ["CARD", "build_card", "build_check_page", "build_report", "read_facts"]
