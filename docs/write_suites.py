"""Writes into docs/suites.md what can be set in a suite, as the declarations say it: python docs/write_suites.py"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import methods
from harness.cli.reference import (
    RECORDS,
    Block,
    all_attacks,
    key_block,
    method_block,
    network_block,
    policy_blocks,
)
from harness.models.registry import MODELS

PAGE = Path(__file__).with_name("suites.md")
BEGIN, END = "<!-- what can be set -->\n", "<!-- /what can be set -->\n"
METHODS = """## Methods

The settings of each. Those of the policies that it comes with stand [below](#policies), and here where the method has
another default for them; `run-bench list methods NAME` shows all of one together.
"""
OWN_ROWS = ("name", "images", "seeds")  # of an attack, the same for all


def written(page: str) -> str:
    """The page with what stands between its marks written anew."""
    return page[: page.index(BEGIN) + len(BEGIN)] + "\n" + "\n".join(sections()) + "\n" + page[page.index(END) :]


def sections() -> Iterator[str]:
    """What can be set, from the suite itself to its methods, policies, networks and attacks."""
    names = dict.fromkeys(name for table in methods.POLICIES.values() for name in table)
    policies = [block for name in names for block in policy_blocks(name)]
    yield "## Keys\n"
    yield from map(section, map(key_block, RECORDS))
    yield METHODS
    yield from (section(apart(method_block(name), policies)) for name in sorted(methods.METHODS))
    yield "## Policies\n\nSettings of those that stand in place of a method's own: `weights: {name: kappa, beta: 3}`.\n"
    yield from map(section, policies)
    yield "## Networks\n"
    yield from (section(network_block(name)) for name in MODELS)
    yield "## Attacks\n\nWhat each does where a suite does not say otherwise; a name may have other steps, `pgd50`.\n"
    yield attacks(all_attacks())


def apart(method: Block, policies: list[Block]) -> Block:
    """The method without what stands in the sections of its policies."""
    known = {(policy.name, key) for policy in policies for key in policy.keys}
    keys = [key for key in method.keys if (key.owner, replace(key, owner="")) not in known]
    if all(key.owner == method.name for key in keys):
        keys = [replace(key, owner="") for key in keys]
    return replace(method, keys=tuple(keys))


def section(block: Block) -> str:
    """A heading, what the block is, and a row for each key."""
    head = f"### {block.name}\n\n{block.text.rstrip('.')}.\n"
    if not block.keys:
        return f"{head}\nNo settings.\n"
    owned = any(key.owner for key in block.keys)
    rows = [
        [f"`{key.name}`", key.kind, key.default, key.meaning, f"`{key.example}`", *([key.owner] if owned else [])]
        for key in block.keys
    ]
    return (
        f"{head}\n{table(['key', 'type and range', 'default', 'meaning', 'example', *(['of'] if owned else [])], rows)}"
    )


def attacks(blocks: list[Block]) -> str:
    """A row for each attack, a column for each key with its default."""
    names = list(dict.fromkeys(key.name for block in blocks for key in block.keys if key.name not in OWN_ROWS))
    own = [{key.name: key.default for key in block.keys} for block in blocks]
    rows = [
        [f"`{block.name}`", block.text, *(values.get(name, "") for name in names)]
        for block, values in zip(blocks, own, strict=True)
    ]
    return table(["attack", "", *(f"`{name}`" for name in names)], rows)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
