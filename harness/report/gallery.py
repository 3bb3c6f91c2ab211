"""The gallery: every figure that the harness draws, from the published results, with the question it answers.

`python -m harness.report.gallery`, at the root of the repository, writes docs/gallery.md and docs/gallery/;
again whenever results or figures change. A figure whose results are not published yet has its place and says what it
needs.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.files import make_folder, write_bytes
from harness.report import escape
from harness.report.captions import setting_title
from harness.report.figures.draw import FIGURES, draw
from harness.report.figures.registry import Example
from harness.report.figures.style import Drawing, save
from harness.report.results import read_results, some_trials
from harness.report.rows import in_setting
from harness.report.scores.leaderboard import leaderboard
from harness.store.folder import is_store
from harness.store.store import Store

DOTS = 150  # an inch: for a screen; papers take the PDF


HEAD = """# Gallery

Every figure that `run-bench report` draws, from the [published results](../results/README.md). Each is a function of a
DataFrame too, for a notebook: `from harness.report.figures.variants import nsd; nsd(store.read("class_accuracy"))`. One
of your own is a function in a file of its own in `harness/report/figures`, registered where it stands; a quantity of
the classes, whatever a method logs, needs none: `--figures class_quantity:QUANTITY`.

`--formats png,pdf,svg` and `--width column` or `text` (3.25 and 6.75 inches) make them for a paper: fonts are embedded,
a variant has one colour, marker and line everywhere, and without colour it is told apart by the others. What bars and
bands are ([statistics.md](statistics.md)), the seeds, the images and what was left out stand in each caption, here and
in `figures.md`; where there are too many variants, a figure shows the baseline and the best on validation. This page is
written by `python -m harness.report.gallery`.
"""


def gallery(results: Path, docs: Path) -> list[Path]:
    """Write gallery.md and gallery/*.png into `docs`, from the stores in `results`; returns the paths."""
    folder = docs / "gallery"
    make_folder(folder)
    parts, written = [HEAD], []
    for kind, info in FIGURES.items():
        if info.example is None:
            continue
        name = f"{kind}:{info.example.quantity}" if info.example.quantity else kind
        figure, text = _drawn(name, info.example, results)
        if isinstance(figure, Drawing):
            path = folder / f"{kind}.png"
            save(figure, path, dots=DOTS)
            written.append(path)
            shown = f"![{info.shows}](gallery/{kind}.png)\n\n`{kind}`: {info.shows}. {text}"
        else:
            shown = f"`{kind}`, {info.shows}: not drawn here, {text}."
        parts.append(f"## {info.question}\n\n{shown}\n\n```bash\n{command(name, info.example)}\n```\n")
    write_bytes(docs / "gallery.md", "\n".join(parts).encode())
    return [docs / "gallery.md", *written]


def command(name: str, example: Example) -> str:
    """What draws a figure, as PNG and PDF, into a folder `mine`."""
    methods = f" --methods {shlex.quote(','.join(example.methods))}" if example.methods else ""
    return f"run-bench report results/{example.store}{methods} --figures {name} --into mine"


def _drawn(name: str, example: Example, results: Path) -> tuple[Drawing | None, str]:
    """The figure and its caption, or why there is none."""
    store = Store(results / example.store)
    if not is_store(store.root, begun=False):
        return None, escape.markdown(f"results/{example.store} is not published yet")
    ids = some_trials(store, example.methods, []) if example.methods else None
    found = read_results(store, trial_ids=ids)
    board = leaderboard(found, paired=False)
    setting = board.settings[0]
    part = found.select(in_setting(found.rows, setting))
    figure = draw(part, [name], baseline=board.baselines.get(setting))[name]
    if isinstance(figure, str):
        return None, escape.markdown(figure.removeprefix(f"{name}: "))
    return figure, escape.markdown(f"{setting_title(setting)}. {figure.says}")


if __name__ == "__main__":
    for written_path in gallery(Path("results"), Path("docs")):
        print(written_path)
