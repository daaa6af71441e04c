"""What is wrong with the folder, found before training: copies, wrong labels, shortcuts, classes too small to judge."""

from cvtune.audit.classes import rate_not_excluded
from cvtune.audit.duplicates import Pair, clusters, exact_clusters, near_pairs
from cvtune.audit.finding import Finding, worst_severity
from cvtune.audit.findings import audit, load_audit, load_suspects, save_audit
from cvtune.audit.labels import Judged, Suspect, judge_labels, suspects
from cvtune.audit.proposals import write_corrections

__all__ = [
    "Finding",
    "Judged",
    "Pair",
    "Suspect",
    "audit",
    "clusters",
    "exact_clusters",
    "judge_labels",
    "load_audit",
    "load_suspects",
    "near_pairs",
    "rate_not_excluded",
    "save_audit",
    "suspects",
    "worst_severity",
    "write_corrections",
]
