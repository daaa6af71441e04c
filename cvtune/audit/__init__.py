"""What is wrong with the folder, found before training: duplicates, contradictions, classes too small to judge."""

from cvtune.audit.findings import Finding, audit, duplicate_clusters, load_audit, save_audit

__all__ = ["Finding", "audit", "duplicate_clusters", "load_audit", "save_audit"]
