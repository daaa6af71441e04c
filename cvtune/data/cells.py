"""Tables as text: CSV as programs and spreadsheets write it, and Parquet.

A CSV file is UTF-8 (with or without a byte order mark) or UTF-16. Its cells are separated by the one of `,`, `;` and
tab that cuts a cell `path` out of the header line; a first line `sep=;` is obeyed. A cell that holds the separator is
in double quotes: in a table separated by semicolons two labels of one image read `a.png;"scratch;dent"`, which
spreadsheets write by themselves.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cvtune_edge.manifest import LABEL_SEPARATOR

from cvtune.errors import DataError

_PARQUET: Final = frozenset({".parquet", ".pq"})
TABLE_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt"}) | _PARQUET
KNOWN: Final = ("path", "label", "labels", "group", "side")  # columns with a meaning of their own
LAYOUT: Final = "expected columns path,label and, if wanted, group and side; several labels an image: dent;scratch"

Problem = tuple[int, str]  # number of the row, what is wrong in it


@dataclass(frozen=True)
class Cells:
    """A table of text.

    Args:
        path: of the file.
        header: names of the columns, without spaces around them.
        rows: cells, as many a row as the header has names.
        numbers: of the rows as a spreadsheet shows them; those of a Parquet file begin with 1.
        problems: rows of another length, which are left out.

    Raises:
        DataError: there is no column `path`, or two columns have one name.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...]
    problems: tuple[Problem, ...] = ()

    def __post_init__(self) -> None:
        folded = [name.casefold() for name in self.header]
        twice = [name for name in dict.fromkeys(folded) if name and folded.count(name) > 1]
        if twice:
            raise DataError(f"{self.path}: several columns are called '{twice[0]}'", hint="rename all but one")
        if "path" not in folded:
            names = ", ".join(self.header) or "none"
            raise DataError(f"{self.path}: there is no column 'path'; the columns are: {names}", hint=LAYOUT)

    def column(self, name: str) -> tuple[str, ...] | None:
        """Cells of a column, whatever the case of its name; None where there is none."""
        folded = [other.casefold() for other in self.header]
        return tuple(row[folded.index(name)] for row in self.rows) if name in folded else None

    def raise_problems(self, more: Iterable[Problem], *, hint: str, most: int = 5) -> None:
        """Tell what is wrong in the rows: the first ones in full, the others by their number.

        Raises:
            DataError: there is something wrong.
        """
        problems = sorted({*self.problems, *more})
        if problems:
            lines = [f"  row {number}: {text}" for number, text in problems[:most]]
            lines += [f"  and {len(problems) - most} more"] * (len(problems) > most)
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise DataError(f"{self.path}: {count} in the table:\n" + "\n".join(lines), hint=hint)


def read_cells(path: Path) -> Cells:
    """Read a CSV or Parquet file that has a column `path`.

    Raises:
        DataError: it is missing or unreadable, or :class:`Cells` refuses it.
    """
    if not path.is_file():
        raise DataError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}", hint=LAYOUT)
    return _read_parquet(path) if path.suffix.lower() in _PARQUET else _read_csv(path)


def _read_csv(path: Path) -> Cells:
    text = _decode(path)
    dialect = re.match(r"sep=(.)\r?\n", text, re.IGNORECASE)
    separator = dialect[1] if dialect else _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = list(enumerate(reader, start=1))[1 if dialect else 0 :]
    except csv.Error as error:
        raise DataError(
            f"{path}: damaged in line {reader.line_num} ({error})", hint="look for a quote that is never closed"
        ) from None
    filled = [(number, cells) for number, cells in lines if any(cell.strip() for cell in cells)]
    header = tuple(cell.strip() for cell in filled[0][1]) if filled else ()
    good = [(number, tuple(cells)) for number, cells in filled[1:] if len(cells) == len(header)]
    problems = tuple(
        (number, f"{len(cells)} cells, expected {len(header)}; a cell that holds '{separator}' needs double quotes")
        for number, cells in filled[1:]
        if len(cells) != len(header)
    )
    return Cells(path, header, tuple(cells for _, cells in good), tuple(number for number, _ in good), problems)


def _decode(path: Path) -> str:
    try:
        data = path.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))  # what spreadsheets call Unicode text
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})", hint="save the table as 'CSV UTF-8'") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint="check its permissions") from error


def _separator(text: str) -> str:
    """The character that cuts a cell `path` out of the header line; the one with the most cells if several do."""
    line = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]

    def cells(separator: str) -> int:
        names = [name.strip().strip('"').casefold() for name in line.split(separator)]
        return len(names) if "path" in names else 0

    return max(",;\t", key=cells)


def _read_parquet(path: Path) -> Cells:
    try:
        from pyarrow import ArrowException, types
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(
            f"{path}: pyarrow is not installed, which reads Parquet files",
            hint="pip install 'cvtune[parquet]', or save the table as CSV",
        ) from None
    try:
        with ParquetFile(path) as file:
            # pictures inside the table would fill the memory
            wanted = [
                f.name for f in file.schema_arrow if _is_text(f.type, types) or f.name.strip().casefold() in KNOWN
            ]
            table = file.read(columns=wanted)
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error})", hint="write the table anew") from None
    lists = {f.name for f in table.schema if types.is_nested(f.type)}
    header = tuple("labels" if name in lists and name.casefold() == "label" else name for name in table.column_names)
    columns = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    rows = tuple(zip(*columns, strict=True))
    return Cells(path, tuple(name.strip() for name in header), rows, tuple(range(1, len(rows) + 1)))


def _is_text(kind: Any, types: Any) -> bool:
    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _text(value: Any) -> str:
    if value is None or value != value:  # not a number: how some writers spell an empty cell
        return ""
    if isinstance(value, list):
        return LABEL_SEPARATOR.join(map(_text, value))
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
