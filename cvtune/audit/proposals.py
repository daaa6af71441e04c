"""The CSV of proposed corrections: for the user to read and edit, and for `cvtune fit --corrections` to apply."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cvtune_edge.manifest import LABEL_SEPARATOR

from cvtune.audit.copies import conflicts
from cvtune.audit.duplicates import Pair
from cvtune.audit.labels import Suspect
from cvtune.data.index import DatasetIndex, write_rows

_COLUMNS: Final = ("path", "label", "new_label", "p_label", "p_new", "reason")


def write_corrections(path: Path, index: DatasetIndex, suspects: Sequence[Suspect], pairs: Sequence[Pair] = ()) -> int:
    """Write `path,label,new_label,p_label,p_new,reason`, one row an image.

    Suspects come first, the worst on top, each with the label that it looks like. A picture that is under two labels
    follows with an empty new label, which changes nothing: only a person can say which one is right.

    Args:
        path: of the CSV, UTF-8.
        index: the images as they are labelled now.
        suspects: of the same index.
        pairs: near-duplicates; identical files are known without.

    Returns:
        The rows written.
    """
    twice = conflicts(index, pairs)
    rows = [
        (
            suspect.path,
            suspect.label,
            suspect.proposed or LABEL_SEPARATOR,  # none of the labels: an empty cell would change nothing
            f"{suspect.p_label:.4f}",
            f"{suspect.p_proposed:.4f}",
            "; ".join(("looks like another class", *twice.get(suspect.position, ()))),
        )
        for suspect in suspects
    ]
    suspected = {suspect.position for suspect in suspects}
    names = index.label_names
    rows += [
        (index.images[position].path, names[position], "", "", "", "; ".join(clauses))
        for position, clauses in sorted(twice.items())
        if position not in suspected
    ]
    write_rows(path, _COLUMNS, rows)
    return len(rows)
