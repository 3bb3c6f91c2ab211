"""The tables of a result store: columns, types, and the way from a DataFrame to Arrow.

Every number is a plain float, int or string, so that pandas, DuckDB and a reader in ten years agree on it. Undefined
is null (NaN in pandas), never infinite.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

TEXT, REAL, WHOLE, SMALL = pa.string(), pa.float64(), pa.int64(), pa.int32()
STATUSES = ("done", "failed", "stopped", "interrupted")
_TRIAL_ID = re.compile(r"^(?!compacted-)[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([("trial_id", TEXT), *columns.items()])


TABLES: dict[str, pa.Schema] = {
    "trials": _schema(
        training_id=TEXT, role=TEXT, dataset=TEXT, student=TEXT, teacher=TEXT, method=TEXT, variant=TEXT,
        label_policy=TEXT, weight_policy=TEXT, margin_policy=TEXT, norm=TEXT, eps=REAL, seed=WHOLE, split_seed=WHOLE,
        train_images=WHOLE, epochs=WHOLE, precision=TEXT, spec=TEXT, numerics_version=WHOLE, git_commit=TEXT,
        code_fingerprint=TEXT, versions=TEXT, device=TEXT, attempts=WHOLE, status=TEXT, error=TEXT, train_s=REAL,
        eval_s=REAL, peak_memory_mb=REAL, started=TEXT, finished=TEXT, tuning_id=TEXT, stop_reason=TEXT,
        train_git_commit=TEXT, train_code_fingerprint=TEXT, train_versions=TEXT, train_device=TEXT, teacher_sha256=TEXT,
        train_cpu_s=REAL, eval_cpu_s=REAL, command=TEXT, teacher_seed=WHOLE, init_sha256=TEXT,
        peak_reserved_mb=REAL,
    ),
    "class_accuracy": _schema(
        dataset=TEXT, student=TEXT, teacher=TEXT, method=TEXT, variant=TEXT, seed=WHOLE, role=TEXT, eps=REAL,
        checkpoint=TEXT, attack=TEXT, class_index=SMALL, class_name=TEXT, n=SMALL, correct=SMALL, accuracy=REAL,
    ),
    "outcomes": _schema(
        checkpoint=TEXT, attack=TEXT, sample_index=SMALL, label=SMALL, prediction=SMALL, robust=pa.bool_()
    ),
    "epochs": _schema(
        epoch=SMALL, lr=REAL, loss=REAL, val_clean_avg=REAL, val_clean_worst=REAL, val_robust_avg=REAL,
        val_robust_worst=REAL, val_robust_nsd=REAL, selection_score=REAL, seconds=REAL,
    ),
    "class_state": _schema(epoch=SMALL, class_index=SMALL, quantity=TEXT, value=REAL),
    "notes": _schema(source=TEXT, text=TEXT),
}  # fmt: skip

# Text that repeats from row to row: read as categories (a few bytes a row). Long or mostly unique text stays text.
_PLAIN_TEXT = {"trials": set(TABLES["trials"].names), "notes": {"text"}}


def categories(table: str) -> list[str]:
    """The columns of a table that are read as pandas categories."""
    plain = _PLAIN_TEXT.get(table, set())
    return [field.name for field in TABLES[table] if field.type == TEXT and field.name not in plain]


def reading_schema(table: str, columns: list[str]) -> pa.Schema:
    """The Arrow schema in which `columns` of a table are read: repeated text as dictionaries."""
    coded = set(categories(table))
    kind = pa.dictionary(pa.int32(), TEXT)
    return pa.schema([(name, kind if name in coded else TABLES[table].field(name).type) for name in columns])


def checked_id(trial_id: Any) -> str:
    """A trial id, which is also the name of its files. ValueError for anything that is not one."""
    if not isinstance(trial_id, str) or not _TRIAL_ID.fullmatch(trial_id):
        raise ValueError(f"{trial_id!r:.100} is not a trial id")
    return trial_id


def content_hash(rows: pa.Table) -> str:
    """32 hexadecimal digits of the values in a trial's rows, in their order. Columns that are null throughout do not
    count, so that a table may get new ones; neither does how the values are stored."""
    digest = hashlib.sha256(str(rows.num_rows).encode())
    for name in sorted(rows.column_names):
        column = rows[name].combine_chunks()
        if column.null_count == len(column):
            continue
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        digest.update(f"\0{name}\0".encode() + column.is_valid().to_numpy(zero_copy_only=False).tobytes())
        digest.update(_values(column))
    return digest.hexdigest()[:32]


def _values(column: pa.Array) -> bytes:
    """The values of a column without nulls, whatever its width."""
    column = column.drop_null()
    if pa.types.is_string(column.type):
        lengths = pc.binary_length(column).to_numpy().astype("<i8")
        return lengths.tobytes() + "".join(column.to_pylist()).encode()
    wide = "<f8" if pa.types.is_floating(column.type) else "<i8"
    return column.to_numpy(zero_copy_only=False).astype(wide).tobytes()


def to_arrow(table: str, frame: pd.DataFrame, trial: Mapping[str, Any]) -> pa.Table:
    """The rows of `frame` in the table's schema; a column that is absent is taken from `trial`, else null.

    Raises ValueError for a column that the table does not have and for values of another type.
    """
    schema = TABLES[table]
    foreign = sorted(set(frame.columns) - set(schema.names))
    if foreign:
        raise ValueError(f"table {table} has no column {', '.join(map(repr, foreign))}")
    if "trial_id" in frame and not (frame["trial_id"] == trial["trial_id"]).all():
        raise ValueError(f"table {table} holds rows of another trial than {trial['trial_id']}")
    columns = [
        _column(table, field, frame[field.name] if field.name in frame else [trial.get(field.name)] * len(frame))
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def trial_row(trial: Mapping[str, Any]) -> pa.Table:
    """One row of `trials`: dicts become JSON, times (seconds since 1970 or datetime) become ISO 8601 in UTC."""
    schema = TABLES["trials"]
    foreign = sorted(set(trial) - set(schema.names))
    if foreign:
        raise ValueError(f"table trials has no column {', '.join(map(repr, foreign))}")
    return pa.table(
        [_column("trials", field, [_plain(field.name, trial.get(field.name))]) for field in schema], schema=schema
    )


def _column(table: str, field: pa.Field, values: pd.Series | list[Any]) -> pa.Array:
    try:
        array = pa.array(values, from_pandas=True)
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        return array.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"table {table}, column {field.name}: {error}") from error


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, sort_keys=True)
    if name in ("started", "finished") and isinstance(value, (int, float)):
        value = datetime.fromtimestamp(value, tz=timezone.utc)
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
