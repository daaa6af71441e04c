"""Lighter models for the same bundle: int8 that is faster here, float16 that is smaller; each only if it is as good."""
