"""Writes into docs/published.md what the files of harness/published say: python docs/write_published.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from harness.attacks.registry import attack_place
from harness.data.registry import DATASETS
from harness.published.papers import papers, published
from harness.report.captions import attack_title, eps_text
from harness.report.escape import markdown
from harness.report.published import called, protocol, shown
from harness.report.results import records
from harness.report.tables.tables import markdown_table

PAGE = Path(__file__).with_name("published.md")
BEGIN, END = "<!-- published -->\n", "<!-- /published -->\n"
SETTING = ["dataset", "network", "eps"]
SOURCE = ["year", "cite", "link", "place", "file", "second_hand"]
ROW = ["method", "variant", "checkpoint", "remark"]


def written(page: str) -> str:
    """The page with what stands between its marks written anew."""
    return page[: page.index(BEGIN) + len(BEGIN)] + "\n" + "\n".join(sections()) + "\n" + page[page.index(END) :]


def sections() -> Iterator[str]:
    """For each data set, network and radius the tables of its sources; methods that are not here; the papers."""
    frame = published()
    order = {name: place for place, name in enumerate(DATASETS)}
    settings: Any = frame.groupby(SETTING)
    for (dataset, network, eps), part in sorted(settings, key=lambda pair: (order[pair[0][0]], *pair[0][1:])):
        yield f"## {dataset}, {network}, L-inf eps {eps_text(eps)}\n"
        sources: Any = part.groupby(SOURCE, dropna=False)
        for key, rows in sources:
            yield from table(dict(zip(SOURCE, key, strict=True)), rows)
    yield "## Methods that are not here\n"
    others = {name: title for paper in papers().values() for name, title in paper.others.items()}
    yield from (f"- {markdown(name)}: {markdown(title)}" for name, title in sorted(others.items()))
    yield "\n## Papers and places\n"
    for name, paper in papers().items():
        yield f"- [{markdown(paper.title)}]({paper.link}), {markdown(paper.cite)} (`{name}.yaml`)"


def table(source: dict[str, Any], rows: pd.DataFrame) -> Iterator[str]:
    """What one source states: a row per network, average / worst / NSD under each attack."""
    file, second = (source[name] if isinstance(source[name], str) else "" for name in ("file", "second_hand"))
    text = f"[{markdown(source['cite'])}]({source['link']}): {markdown(source['place'])}"
    yield text + (f" of `{file}`" if file else "") + (f"; **second hand**: {markdown(second)}" if second else "") + "\n"
    attacks = sorted(dict.fromkeys(rows["attack"]), key=attack_place)
    networks: Any = rows.groupby(ROW, dropna=False, sort=False)
    lines = []
    for _, part in networks:
        facts = {fact["attack"]: fact for fact in records(part)}
        first = next(iter(facts.values()))
        cells = [" / ".join(shown(facts[attack])) if attack in facts else "–" for attack in attacks]
        lines.append([markdown(cell) for cell in (called(first), *cells, protocol(list(facts.values())))])
    yield markdown_table(["method", *(f"{attack_title(attack)}" for attack in attacks), "protocol"], lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
