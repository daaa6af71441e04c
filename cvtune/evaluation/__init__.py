"""Predictions, figures with intervals, calibration."""
