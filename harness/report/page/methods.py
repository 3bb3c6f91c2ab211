"""What is known of the methods in a report: the notes on each, and its paper."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from typing import Any

import methods


def method_notes(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """By method that is known here: `reference`, its `venue` and year, the `notes` on its file, all `papers` that they
    cite (title, year, arXiv number), and the `paper` of the method itself, null where none is of its year."""
    found = {}
    for name in sorted(set(names) & set(methods.METHODS)):
        cls = methods.METHODS[name]
        notes, _, bibtex = (sys.modules[cls.__module__].__doc__ or "").partition("```bibtex")
        papers = [_paper(entry) for entry in re.findall(r"@\w+\{(.*?)\n\}", bibtex, re.S)]
        year = next(iter(re.findall(r"\d{4}", cls.reference)), "")
        own = next((paper for paper in papers if paper["year"] == year), None)
        cited = cls.reference.split(" (")[0]
        venue = cited if cited.rpartition(", ")[2].isdigit() else cited.rpartition(", ")[2]
        found[name] = {
            "reference": cls.reference, "venue": venue, "notes": notes.strip(), "papers": papers, "paper": own,
        }  # fmt: skip
    return found


def _paper(entry: str) -> dict[str, str]:
    """A BibTeX entry's title without braces, year and arXiv number, empty where it has none."""
    title = re.search(r"title\s*=\s*\{(.*?)\},?\n", entry)
    year = re.search(r"year\s*=\s*\{(\d{4})\}", entry)
    arxiv = re.search(r"arXiv(?: preprint arXiv)?:(\d{4}\.\d{4,5})", entry)
    return {
        "title": re.sub(r"[{}]", "", title[1]) if title else "",
        "year": year[1] if year else "",
        "arxiv": arxiv[1] if arxiv else "",
    }
