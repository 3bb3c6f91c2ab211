"""The gallery: every figure that the harness draws, from the published results, with the question it answers.

`python -m harness.report.figures.gallery`, at the root of the repository, writes docs/gallery.md and docs/gallery/;
again whenever results or figures change. A figure whose results are not published yet has its place and says what it
needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from harness.files import make_folder, write_bytes
from harness.report import escape
from harness.report.captions import caption
from harness.report.figures.draw import FIGURES, draw
from harness.report.figures.style import save
from harness.report.results import in_setting, read_results, some_trials
from harness.report.scores.leaderboard import leaderboard
from harness.store.store import Store

DOTS = 150  # an inch: for a screen; papers take the PDF


@dataclass(frozen=True)
class Entry:
    """A figure of the gallery. store: a folder of results/. methods: which it shows, all where empty."""

    figure: str
    store: str
    question: str
    methods: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What draws it, as PNG and PDF, into a folder `mine`."""
        methods = f" --methods {','.join(self.methods)}" if self.methods else ""
        return f"run-bench report results/{self.store}{methods} --figures {self.figure} --into mine"


ENTRIES = (
    Entry(
        "class_accuracy",
        "fashion_mnist_matrix",
        "Which classes does a method help, and which does it give up?",
        ("at", "dafa", "absld_reweight"),
    ),
    Entry("average_worst", "fashion_mnist_matrix", "What does a better worst class cost on average?"),
    Entry("nsd", "fashion_mnist", "How unevenly are the classes protected, under each attack?"),
    Entry("attack_ladder", "fashion_mnist", "Which classes fall, and at which attack?"),
    Entry("confusion", "fashion_mnist_matrix", "What are the images of a class taken for under attack?"),
    Entry(
        "training_curves",
        "fashion_mnist_matrix",
        "When does the worst class learn, and does it overfit?",
        ("at", "trades", "dafa", "rslad", "absld_reweight"),
    ),
    Entry("temperatures", "fashion_mnist", "Which classes get sharper labels, and when?", ("absld",)),
    Entry("hyperparameter_response", "absld_temperature_rate", "How much does a hyper-parameter matter?"),
    Entry("selection_gap", "absld_ablation", "How much better would results look, chosen on the test set?"),
)
HEAD = """# Gallery

Every figure that `run-bench report` draws, from the [published results](../results/README.md). Each is a function of a
DataFrame too, for a notebook: `from harness.report.figures import draw; draw.nsd(store.read("class_accuracy"))`.

`--formats png,pdf,svg` and `--width column` or `text` (3.25 and 6.75 inches) make them for a paper: fonts are embedded,
a variant has one colour, marker and line everywhere, and without colour it is told apart by the others. Intervals are
95 % over test samples, from three seeds on over seeds ([statistics.md](statistics.md)). This page is written by
`python -m harness.report.figures.gallery`.
"""


def gallery(results: Path, docs: Path) -> list[Path]:
    """Write gallery.md and gallery/*.png into `docs`, from the stores in `results`; returns the paths."""
    folder = docs / "gallery"
    make_folder(folder)
    parts, written = [HEAD], []
    for entry in ENTRIES:
        figure, text = _drawn(entry, results)
        if isinstance(figure, Figure):
            path = folder / f"{entry.figure}.png"
            save(figure, path, dots=DOTS)
            written.append(path)
        parts.append(_section(entry, text, isinstance(figure, Figure)))
    write_bytes(docs / "gallery.md", "\n".join(parts).encode())
    return [docs / "gallery.md", *written]


def _drawn(entry: Entry, results: Path) -> tuple[Figure | str, str]:
    """The figure and its caption, or in both places why there is none."""
    store = Store(results / entry.store)
    if not (store.root / "trials").is_dir():
        reason = f"results/{entry.store} is not published yet"
        return reason, reason
    ids = some_trials(store, entry.methods, []) if entry.methods else None
    found = read_results(store, trial_ids=ids)
    board = leaderboard(found, paired=False)
    setting = board.settings[0]
    part = found.select(in_setting(found.rows, setting))
    figure = draw(part, [entry.figure], baseline=board.baselines.get(setting))[entry.figure]
    if isinstance(figure, str):
        return figure, figure.split(": ", 1)[1]
    title, seeds, *_ = caption(board, setting, "best_validation")
    description = FIGURES[entry.figure].description
    return figure, f"`{entry.figure}`: {description}. {escape.markdown(f'{title} {seeds}')}"


def _section(entry: Entry, text: str, drawn: bool) -> str:
    description = FIGURES[entry.figure].description
    missing = f"`{entry.figure}`, {description}: not drawn here, {escape.markdown(text)}."
    picture = f"![{description}](gallery/{entry.figure}.png)\n\n{text}" if drawn else missing
    return f"## {entry.question}\n\n{picture}\n\n```bash\n{entry.command}\n```\n"


if __name__ == "__main__":
    for written_path in gallery(Path("results"), Path("docs")):
        print(written_path)
