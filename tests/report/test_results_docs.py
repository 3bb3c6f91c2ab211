"""docs/results.md: its code runs on a real store, and it names every column of every table."""

from __future__ import annotations

import os
import re

import duckdb
import pytest

from harness.store.store import Store
from harness.store.tables import TABLES
from tests.pages import ROOT, blocks
from tests.small import run_to_end, small_specs

TEXT = (ROOT / "docs" / "results.md").read_text()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    for spec in small_specs(root, "evaluation.attacks=[clean, pgd20]").values():
        run_to_end(spec, root)
    return Store(root)


def test_the_sql_gives_what_pandas_gives(store):
    (query,) = blocks("docs/results.md", "sql")
    answer = duckdb.sql(query.replace("STORE", str(store.root))).df().set_index(["variant", "attack"])
    rows = store.read("class_accuracy")
    rows = rows[(rows.role == "student") & (rows.checkpoint == "best_validation")]
    groups = rows.groupby(["variant", "attack"], observed=True)["accuracy"]
    assert len(answer) == groups.ngroups == 6
    for key, values in groups:
        assert answer.loc[key, "average"] == pytest.approx(values.mean())
        assert answer.loc[key, "worst"] == values.min()
        assert answer.loc[key, "nsd"] == pytest.approx(values.std(ddof=0) / values.mean(), nan_ok=True)


def test_the_python_runs(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    for code in blocks("docs/results.md", "python"):
        exec(compile(code.replace("STORE", str(store.root)), "docs/results.md", "exec"), {})
    assert "absld_reweight" in capsys.readouterr().out
    for name in ("class_accuracy", "classes", "curves"):
        assert os.path.getsize(f"{name}.pdf") > 1000


@pytest.mark.parametrize(("table", "column"), [(table, name) for table in TABLES for name in TABLES[table].names])
def test_every_column_is_explained(table, column):
    assert re.search(rf"\b{column}\b", TEXT), f"{table}.{column}"
