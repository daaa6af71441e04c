"""Pages of one file each: report.html of a run, and what `cvtune check` found."""

from cvtune.report.checkup import build_check_page
from cvtune.report.page import build_report

__all__ = ["build_check_page", "build_report"]
