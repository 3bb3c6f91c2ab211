"""Numbers in prose: the passages of the project's Markdown files are what their stores say; each kind says it right."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness.errors import InputError
from harness.report.quotations import KINDS, quote, quoted
from harness.report.results import read_results
from harness.report.scores.leaderboard import leaderboard
from harness.store.store import Store
from harness.suites.comparisons import registered_comparisons
from harness.suites.suite import PrimaryComparison
from tests.synthetic_store import fill_store, trial_spec, trial_tables

ROOT = Path(__file__).resolve().parents[2]
SET = ROOT / "results" / "fashion_mnist_small"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("**/*.md"))]
QUOTING = [path for path in DOCUMENTS if "<!-- from " in path.read_text()]


@pytest.mark.parametrize("path", QUOTING, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_quoted_is_in_the_store(path):
    text = path.read_text()
    assert quoted(text, path.parent, registered_comparisons) == text, f"run-bench quote {path.relative_to(ROOT)}"


def passage(words: str) -> str:
    """What a passage about the set says."""
    return quoted(f"<!-- from {SET}: {words} -->\n<!-- end -->", ROOT, registered_comparisons)


def cells(text: str) -> dict[str, list[str]]:
    """The lines of a table by their first cell, without the marks of Markdown."""
    lines = [
        [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if "|" in line
    ]
    return {line[0]: line[1:] for line in lines[2:]}


def of_the_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Those of the seeds that all variants of three seeds or more have, of a variant of fewer all."""
    seeds = {name: set(part["seed"]) for name, part in rows.groupby("variant")}
    common = set.intersection(*(own for own in seeds.values() if len(own) >= 3))
    few = [name for name, own in seeds.items() if len(own) < 3]
    return rows[rows["seed"].isin(common) | rows["variant"].isin(few)]


@pytest.fixture(scope="module")
def by_seed():
    """Average, worst and NSD under PGD-20 of each variant and seed, from the rows themselves."""
    rows = Store(SET).read("class_accuracy")
    rows = rows[(rows["attack"] == "pgd20") & (rows["checkpoint"] == "best_validation") & (rows["role"] == "student")]
    rows = of_the_table(rows.assign(rate=rows["correct"] / rows["n"]).astype({"variant": str}))
    found = rows.groupby(["variant", "seed"])["rate"].agg(["mean", "min", lambda rate: rate.std(ddof=0) / rate.mean()])
    return found.set_axis(["average", "worst", "nsd"], axis=1)


def test_scores(by_seed):
    table = cells(passage("scores attack=pgd20"))
    assert set(table) == set(by_seed.index.get_level_values(0))
    for variant, values in by_seed.groupby(level=0):
        average, worst, nsd, seeds, images = table[variant]
        assert float(average.split()[0]) == pytest.approx(100 * values["average"].mean(), abs=0.051)
        assert float(worst.split()[0]) == pytest.approx(100 * values["worst"].mean(), abs=0.051)
        assert float(nsd.split()[0]) == pytest.approx(values["nsd"].mean(), abs=0.00051)
        own = values.index.get_level_values("seed")
        assert (seeds, images) == (", ".join(map(str, sorted(own))), "10,000")


def test_differences(by_seed):
    words = "differences attack=pgd20 against=rslad variants=at metrics=nsd"
    (line,) = cells(passage(words)).values()
    wanted = (by_seed.loc["at"] - by_seed.loc["rslad"])["nsd"]
    assert float(line[1]) == pytest.approx(wanted.mean(), abs=0.00051)
    low, high = (float(number) for number in re.findall(r"-?\d\.\d+", line[2]))
    assert low < wanted.mean() < high


def test_what_was_registered_is_told_in_its_order_with_its_verdict():
    """The lines of the store's own primary.json, beside what the leaderboard says of them."""
    text = passage("primary")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][2:]
    wanted = [
        (each.variant, each.against, metric)
        for each in registered_comparisons(SET) for metric in each.metrics
    ]  # fmt: skip
    assert [(line[0].replace("\\", ""), line[1].replace("\\", "")) for line in lines] == [pair[:2] for pair in wanted]
    board = leaderboard(read_results(Store(SET)), primary=registered_comparisons(SET))
    for line, (variant, against, metric) in zip(lines, wanted, strict=True):
        (found,) = board.registered.query(
            f"variant == '{variant}' and against == '{against}' and metric == '{metric}'"
        ).to_dict("records")
        if found["reason"]:
            assert line[3:] == ["–", "–", "–", "–", f"not available: {found['reason']}"]
            continue
        digits = 3 if metric == "nsd" else 1
        scale = 1 if metric == "nsd" else 100
        assert float(line[3]) == pytest.approx(scale * found["difference"], abs=0.51 * 10**-digits)
        assert line[6] == ("–" if pd.isna(found["p"]) else f"{found['p']:.4f}")
        assert line[7] == {True: "stands", False: "inside the noise"}.get(found["stands"], "not compared")


def test_classes_hardest_first():
    table = cells(passage("classes attack=pgd20 variants=rslad"))
    rows = Store(SET).read("class_accuracy").astype({"variant": str})
    rows = of_the_table(rows[(rows["attack"] == "pgd20") & (rows["checkpoint"] == "best_validation")])
    rows = rows[rows["variant"] == "rslad"]
    wanted = (100 * rows["correct"] / rows["n"]).groupby(rows["class_name"].astype(str)).mean().sort_values()
    assert list(table) == list(wanted.index)
    assert [float(line[0]) for line in table.values()] == pytest.approx(list(wanted), abs=0.051)


def test_a_ladder_is_of_the_same_images_and_seeds():
    """aa_standard has 500 images of seed 0, pgd20 all of three seeds: both columns are of the former."""
    table = cells(passage("ladder attacks=pgd20,aa_standard variants=at,rslad"))
    store = Store(SET)
    trials = store.trials().astype({"variant": str}).set_index("trial_id")
    for variant, (*means, seeds, images) in table.items():
        (trial,) = trials.index[(trials["variant"] == variant) & (trials["seed"] == 0)]
        outcomes = store.read("outcomes", [trial]).astype({"attack": str})
        strong = outcomes[outcomes["attack"] == "aa_standard"].set_index("sample_index")
        weak = outcomes[outcomes["attack"] == "pgd20"].set_index("sample_index").loc[strong.index]
        wanted = [part.groupby("label")["robust"].mean().mean() for part in (weak, strong)]
        assert [float(mean) for mean in means] == pytest.approx([100 * each for each in wanted], abs=0.051)
        assert (seeds, images) == ("0", str(len(strong)))


def test_a_difference_over_some_seeds_names_them():
    chosen = cells(passage("validation variants=at,at-45 against=at"))
    assert chosen["at-45"][-1].endswith(" (seed 0 of both)")
    assert "seed" not in cells(passage("validation variants=at,rslad against=at"))["rslad"][-1]


def test_searches_are_told_by_their_own_files():
    root = ROOT / "results" / "absld_temperature_rate"
    table = cells(quoted(f"<!-- from {root}: searches -->\n<!-- end -->", ROOT, registered_comparisons))
    assert list(table) == ["none", "asha", "halving"]
    for path in root.glob("tuning/*/journal.json"):
        asked, cost = json.loads(path.read_text()), json.loads((path.parent / "cost.json").read_text())
        settings, ended, epochs, _, wall, best, metric = table[asked["scheduler"]]
        states = [each["status"] for each in asked["settings"]]
        assert (settings, ended) == (str(len(states)), str(states.count("done")))
        run = sum(each["epochs"] for each in asked["settings"]) * len(asked["seeds"])
        assert epochs == f"{run} of {len(states) * asked['epochs'] * len(asked['seeds'])}"
        assert (wall == "from stored rows") == (cost["epochs_reused"] > 0)
        finished = [each for each in asked["settings"] if each["status"] == "done"]
        winner = max(finished, key=lambda each: each["curve"][-1][0])
        assert best == f"temperature_rate={winner['values']['temperature_rate']:g}"
        assert float(metric.split()[0]) == pytest.approx(100 * winner["curve"][-1][0], abs=0.0051)


def test_a_search_over_methods_tells_the_best_of_each():
    root = ROOT / "results" / "fashion_mnist_small" / "tuning"
    text = quoted(f"<!-- from {root}: searches -->\n<!-- end -->", ROOT, registered_comparisons).replace("\\", "")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| none |" in line]
    journals = [json.loads(path.read_text())["settings"] for path in root.glob("tuning/*/journal.json")]
    assert len(lines) == len(journals) == 2
    for line in lines:
        best, metric = line[-2].split("; "), line[-1].split("; ")
        (settings,) = (each for each in journals if each[0]["method"] in [said.partition(": ")[0] for said in best])
        assert len(best) == len(metric) == len({each["method"] for each in settings})
        for told, value in zip(best, metric, strict=True):
            method, _, said = told.partition(": ")
            winner = max(
                (each for each in settings if each["method"] == method),
                key=lambda each: max(score for score, *_ in each["curve"]),
            )
            assert said == ", ".join(f"{key}={_short(each)}" for key, each in winner["values"].items())
            assert float(value) == pytest.approx(100 * max(score for score, *_ in winner["curve"]), abs=0.0051)


def _short(value):
    return f"{value:g}" if isinstance(value, float) else value


def test_a_search_that_is_not_written_up_stops_no_other(tmp_path):
    shutil.copytree(ROOT / "results" / "absld_temperature_rate", tmp_path / "store")
    first = sorted((tmp_path / "store").glob("tuning/*/cost.json"))[0]
    first.unlink()
    found = cells(quoted(f"<!-- from {tmp_path / 'store'}: searches -->\n<!-- end -->", ROOT, registered_comparisons))
    assert len(found) == 2


def test_a_store_without_a_search_has_none_to_tell():
    with pytest.raises(InputError, match="tuning is missing"):
        passage("searches")


def test_facts():
    trials = Store(SET).trials()
    text = passage("facts")
    assert f"- trials: {len(trials)}, of them {(trials['role'] == 'student').sum()} students" in text
    assert trials["git_commit"].iloc[0][:7] in text
    hours = trials[["train_cpu_s", "eval_cpu_s"]].sum() / 3600
    told = re.search(r"\(([\d.]+) h of the processor\) of training and \S+ h \(([\d.]+) h of the processor\)", text)
    assert [float(each) for each in told.groups()] == pytest.approx(list(hours), abs=0.051)
    older = quoted(
        f"<!-- from {ROOT / 'results' / 'absld_ablation'}: facts -->\n<!-- end -->", ROOT, registered_comparisons
    )
    assert re.search(r"- code: [0-9a-f]{7}\+\n", older)
    assert "of the processor" not in older


def test_a_file_is_written_only_where_it_differs(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"Before.\n<!-- from {SET}: facts -->\nby hand\n<!-- end -->\nAfter.\n")
    assert quote(path, registered_comparisons)
    assert "by hand" not in path.read_text()
    assert path.read_text().startswith("Before.\n")
    assert path.read_text().endswith("After.\n")
    assert not quote(path, registered_comparisons)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("score attack=pgd20", "did you mean scores"),
        ("scores", "attack is missing"),
        ("scores attack=pgd20 variants=rslat", "rslat is missing"),
        ("scores attack=pgd21", "unknown attack 'pgd21': did you mean pgd20"),
        ("facts attack=pgd20", "unknown option"),
        ("scores attack=pgd20 among=rslad,absdl", "absdl"),
        ('scores attack="pgd20', "is not what stands there"),
        ("", "is not what stands there"),
    ],
)
def test_a_passage_that_cannot_be_computed_is_refused(words, says):
    with pytest.raises(InputError, match=says):
        passage(words)


def test_a_store_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no result store"):
        quoted("<!-- from nowhere: facts -->\n<!-- end -->", ROOT, registered_comparisons)


BEGUN = f"<!-- from {SET}: facts -->"
ENDED = f"{BEGUN}\nold\n<!-- end -->\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{BEGUN}\nold\nProse by hand.\n{ENDED}", 1),
        (f"Before.\n{BEGUN}\nold\n", 2),
        (f"{ENDED}{BEGUN}\nold\n", 4),
        (f"{ENDED.replace('from', 'From')}", 1),
        (f"{ENDED.replace(' -->', '-->', 1)}", 1),
        (f"<!-- from {SET} facts -->\nold\n<!-- end -->\n", 1),
    ],
)
def test_a_passage_that_is_begun_and_not_ended_is_refused_and_nothing_is_lost(text, line, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(text)
    with pytest.raises(InputError, match=f"line {line}, '<!-- .*a passage stands between lines"):
        quote(path, registered_comparisons)
    assert path.read_text() == text


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("facts -->", "facts -->  ")])
def test_line_ends_and_blanks_hide_no_passage(change, tmp_path):
    path = tmp_path / "page.md"
    path.write_bytes(ENDED.replace(*change).encode())
    assert quote(path, registered_comparisons)
    assert "old" not in path.read_text()
    assert "trials: " in path.read_text()


def test_a_store_s_name_may_have_blanks(tmp_path):
    fill_store(tmp_path / "my store", [trial_spec("at", 0)])
    path = tmp_path / "page.md"
    path.write_text("<!-- from my store: facts -->\n<!-- end -->\n")
    assert quote(path, registered_comparisons)
    assert "trials: 1, of them 1 students" in path.read_text()


def test_a_page_without_a_passage_is_said_to_have_none(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("Prose.\n")
    assert quote(path, registered_comparisons) is None
    assert path.read_text() == "Prose.\n"


def test_every_kind_is_explained():
    text = (ROOT / "docs" / "results.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}" not in text] == []


def test_the_seeds_of_a_quoted_number_are_its_attack_s(tmp_path):
    """AutoAttack on the first of three seeds."""
    fill_store(
        tmp_path, [trial_spec("at", seed, attacks=("pgd20", "aa_short")[: 1 + (seed == 0)]) for seed in range(3)]
    )
    for attack, seeds in (("pgd20", "0, 1, 2"), ("aa_short", "0")):
        text = quoted(f"<!-- from {tmp_path}: scores attack={attack} -->\n<!-- end -->", ROOT, registered_comparisons)
        assert cells(text)["at"][3:] == [seeds, "2,000"]


def test_a_table_of_some_variants_is_over_the_seeds_that_these_have(tmp_path):
    fill_store(tmp_path, [trial_spec(name, seed) for name in ("rslad", "absld") for seed in range(4)])
    fill_store(tmp_path, [trial_spec("at", seed) for seed in range(3)])

    def lines(words):
        return cells(quoted(f"<!-- from {tmp_path}: {words} -->\n<!-- end -->", ROOT, registered_comparisons))

    assert {line[3] for line in lines("scores attack=pgd20").values()} == {"0, 1, 2"}
    table = lines("scores attack=pgd20 among=rslad,absld")
    assert {name: line[3] for name, line in table.items()} == dict.fromkeys(("rslad", "absld"), "0, 1, 2, 3")
    rows = Store(tmp_path).read("class_accuracy").astype({"variant": str})
    rows = rows[(rows["attack"] == "pgd20") & (rows["checkpoint"] == "best_validation")]
    rates = (100 * rows["correct"] / rows["n"]).groupby([rows["variant"], rows["seed"]]).mean()
    difference = rates["absld"].mean() - rates["rslad"].mean()
    words = "differences attack=pgd20 against=rslad variants=absld metrics=average among=rslad,absld"
    assert float(lines(words)["absld"][1]) == pytest.approx(difference, abs=0.051)


def test_a_quoted_difference_says_its_seeds(tmp_path):
    """One of three variants has the first seed and one of its own."""
    specs = [trial_spec(name, seed) for name in ("at", "absld") for seed in range(3)]
    fill_store(tmp_path, [*specs, trial_spec("rslad", 0), trial_spec("rslad", 4)])
    words = "differences attack=pgd20 against=at metrics=average"
    text = quoted(f"<!-- from {tmp_path}: {words} -->\n<!-- end -->", ROOT, registered_comparisons)
    assert cells(text)["rslad"][1].endswith(" (over seeds 0)")
    assert cells(text)["absld"][1].endswith(" (over seeds 0, 1, 2)")
    text = quoted(f"<!-- from {tmp_path}: {words} variants=absld -->\n<!-- end -->", ROOT, registered_comparisons)
    assert "points and NSD, over seeds 0, 1, 2:" in text
    assert "seeds" not in cells(text)["absld"][1]


TWO = [trial_spec(name, seed, eps=eps) for name in ("at", "absld") for seed in range(3) for eps in (0.1, 8 / 255)]


@pytest.mark.parametrize(
    "words",
    [
        "scores attack=pgd20",
        "differences attack=pgd20 against=at",
        "validation against=at",
        "classes attack=pgd20 variants=at",
        "ladder attacks=clean,pgd20",
        "primary",
    ],
)
def test_a_passage_is_of_one_table(words, tmp_path):
    fill_store(tmp_path, TWO)
    primary = [PrimaryComparison(variant="absld", against="at", metrics=("nsd",))]

    def says(more):
        return quoted(f"<!-- from {tmp_path}: {words}{more} -->\n<!-- end -->", ROOT, lambda root: primary)

    with pytest.raises(InputError, match=r"a passage is of one table .* choose it by dataset, student, eps"):
        says("")
    with pytest.raises(InputError, match="unknown eps '8/256'"):
        says(" eps=8/256")
    alone = tmp_path / "alone"
    fill_store(alone, [spec for spec in TWO if spec.eps != 0.1])
    expected = quoted(f"<!-- from {alone}: {words} -->\n<!-- end -->", ROOT, lambda root: primary)
    assert says(" eps=8/255").splitlines()[1:] == expected.splitlines()[1:]


def test_what_has_no_result_is_a_dash(tmp_path):
    """A variant without an attack; and one with a seed whose logits were not finite under another, of which a mean over
    the other seeds would be another row's."""
    attacks = {"at": ("clean", "pgd20", "cw20"), "absld": ("clean", "pgd20"), "rslad": ("clean", "pgd20", "cw20")}
    store = fill_store(
        tmp_path, [trial_spec(n, seed, attacks=a) for n, a in attacks.items() for seed in range(3) if n != "rslad"]
    )
    for seed in range(3):
        trial, tables = trial_tables(trial_spec("rslad", seed, attacks=attacks["rslad"]))
        if seed == 1:
            lost = tables["class_accuracy"]["attack"] == "cw20"
            tables["class_accuracy"] = tables["class_accuracy"].astype({"correct": "Int64"})
            tables["class_accuracy"].loc[lost, ["correct", "accuracy"]] = None
        store.commit(trial, tables)

    def lines(words):
        return cells(quoted(f"<!-- from {tmp_path}: {words} -->\n<!-- end -->", ROOT, registered_comparisons))

    for name in ("absld", "rslad"):
        assert lines("scores attack=cw20")[name] == ["–"] * 5
        assert lines("differences attack=cw20 against=at metrics=average")[name][1:] == ["–", "–", "–", "not compared"]
        assert lines("ladder attacks=clean,cw20")[name] == ["–"] * 4
    assert "–" not in lines("ladder attacks=clean,cw20")["at"]
    assert {tuple(line[1:]) for line in lines("classes attack=cw20 variants=at,absld,rslad").values()} == {("–", "–")}


def test_a_variant_without_validation_is_a_line_of_dashes(tmp_path):
    store = fill_store(tmp_path, [trial_spec("at", seed) for seed in range(3)])
    for seed in range(3):
        trial, tables = trial_tables(trial_spec("absld", seed))
        tables["epochs"] = tables["epochs"][:0]
        store.commit(trial, tables)
    words = "validation variants=at,absld against=at"
    table = cells(quoted(f"<!-- from {tmp_path}: {words} -->\n<!-- end -->", ROOT, registered_comparisons))
    assert table["absld"] == ["–"] * 7
    assert table["at"][0] == "0, 1, 2"


def test_facts_are_of_the_whole_store(tmp_path):
    """Also of seeds that its tables are not over."""
    fill_store(
        tmp_path, [trial_spec("at", seed) for seed in range(5)] + [trial_spec("absld", seed) for seed in range(3)]
    )
    text = quoted(f"<!-- from {tmp_path}: facts -->\n<!-- end -->", ROOT, registered_comparisons)
    assert "trials: 8, of them 8 students" in text
    assert "seeds: 0, 1, 2, 3, 4\n" in text


def test_validation_is_that_of_the_chosen_epoch():
    """Against the rows themselves: of equal selection scores the later epoch."""
    trials, epochs = Store(SET).trials().astype({"variant": str}), Store(SET).read("epochs").astype({"trial_id": str})
    chosen = epochs.sort_values(["selection_score", "epoch"]).groupby("trial_id").tail(1)
    chosen = chosen.merge(of_the_table(trials[trials["role"] == "student"]), on="trial_id").set_index(
        ["variant", "seed"]
    )
    table = cells(passage("validation against=rslad"))
    assert set(table) == set(chosen.index.get_level_values(0))
    for variant in table:
        seeds, picked, average, worst, nsd, span, change = table[variant]
        own = chosen.loc[variant].sort_index()
        assert seeds == ", ".join(map(str, own.index))
        assert picked == f"{', '.join(map(str, own['epoch']))} of {own['epochs'].iloc[0]}"
        for text, column in ((average, "val_robust_avg"), (worst, "val_robust_worst")):
            assert float(text) == pytest.approx(100 * own[column].mean(), abs=0.051)
        assert float(nsd) == pytest.approx(own["val_robust_nsd"].mean(), abs=0.00051)
        late = epochs[epochs["trial_id"].isin(own["trial_id"]) & (epochs["epoch"] / own["epochs"].iloc[0] > 0.75)]
        found = 100 * late["val_robust_avg"].to_numpy()
        assert [float(number) for number in span.split(" to ")] == pytest.approx([found.min(), found.max()], abs=0.051)
        if variant == "rslad":
            assert change == "–"
        else:
            both = (100 * (own["val_robust_avg"] - chosen.loc["rslad"]["val_robust_avg"])).dropna()
            number, _, over = change.partition(" (")
            assert float(number) == pytest.approx(both.mean(), abs=0.051)
            everywhere = len(both) == len(own) == len(chosen.loc["rslad"])
            assert over == (
                "" if everywhere else f"seed{'s' * (len(both) > 1)} {', '.join(map(str, both.index))} of both)"
            )
