"""Reading tab-separated tables of recordings, bounded in size: columns they must have, rows with their lines."""

import csv
from pathlib import Path

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.files import require_file

MAX_TABLE, MAX_ROWS = 2**26, 500_000  # bytes and rows of a table; the largest of TAU has 230,350 rows
MAX_LENGTH, MAX_NAME = 1_000, 64  # characters of a path, and of a label, place or recording device
LABEL = "scene_label"


def read_table(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Rows, with their line numbers, of a tab-separated table that must have `columns`."""
    require_file(path)
    if path.stat().st_size > MAX_TABLE:
        raise InputError(f"{path}: larger than {MAX_TABLE >> 20} MB")
    rows = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t")
            if missing := [column for column in columns if column not in (reader.fieldnames or [])]:
                raise InputError(
                    f"{path}: lacks the column {missing[0]!r}; a tab-separated table needs {', '.join(columns)}"
                )
            for row in reader:
                if len(rows) == MAX_ROWS:
                    raise InputError(f"{path}: has more than {MAX_ROWS:,} rows")
                rows.append((reader.line_num, _fields(row, columns, f"{path} line {reader.line_num}")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return rows


def _fields(row: dict[str, str], columns: tuple[str, ...], place: str) -> dict[str, str]:
    """The fields of a row that are used, with a list's label. Raises InputError where one is empty or too long."""
    for column in columns:
        if not row[column]:
            raise InputError(f"{place}: {column} is empty")
        if len(row[column]) > (most := MAX_LENGTH if column == "filename" else MAX_NAME):
            raise InputError(f"{place}: {column} has more than {most} characters")
        if not row[column].isprintable():
            raise InputError(f"{place}: {column} has characters that are no text, such as a line's end")
    return {column: row[column] for column in {*columns, LABEL} if row.get(column)}
