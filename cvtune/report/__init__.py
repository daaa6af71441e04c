"""A run becomes one self-contained page, report.html."""

from cvtune.report.page import build_report

__all__ = ["build_report"]
