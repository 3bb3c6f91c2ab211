"""`evaluate`: a network that was trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.messages import (
    err,
    out,
    say_unused_gpu,
)
from harness.cli.options import Address, DataRoot, Download, Plugins, Serial, load_plugins, path_of, read_names


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="a PyTorch state dict or .safetensors file")],
    model: Annotated[
        str, typer.Option("--model", help="the network's name (`list models`), torchvision:NAME or FILE.py:FUNCTION")
    ],
    dataset: Annotated[
        str,
        typer.Option("--dataset", help="a name, the path of a folder, .npz or .parquet file, or as a suite writes it"),
    ],
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", help="parameters of the network: width=16, or {depth: 28, widen: 10}; repeatable"),
    ] = None,
    normalization: Annotated[
        str, typer.Option("--normalization", help="inside the network: none, dataset, or {mean: [...], std: [...]}")
    ] = "none",
    weights: Annotated[
        str | None, typer.Option("--weights", help="of a file with several: ema or raw, best or last")
    ] = None,
    expect_clean: Annotated[
        float | None,
        typer.Option("--expect-clean", help="its clean accuracy, percent: more than half a point off is refused"),
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(
            "--claim",
            help="what is reported of it, percent: 'aa_standard: 49.2', 'pgd20: {average: 52, worst: 30}'; repeatable",
        ),
    ] = None,
    attacks: Annotated[str, typer.Option("--attacks", help="separated by commas")] = "clean,fgsm,pgd20,cw20,aa_short",
    eps: Annotated[str, typer.Option("--eps", help="L-infinity radius, such as 8/255")] = "8/255",
    images: Annotated[int | None, typer.Option("--images", help="a stratified subset of the test images")] = None,
    gradient_precision: Annotated[
        str, typer.Option("--gradient-precision", help="of PGD and its kin: float32 or bfloat16; verdicts are float32")
    ] = "float32",
    split_seed: Annotated[
        int, typer.Option("--split-seed", min=0, help="of the test images of a folder of classes that has none apart")
    ] = 0,
    name: Annotated[str | None, typer.Option("--name", help="what tables call it; the file's name by default")] = None,
    results: Annotated[Path, typer.Option("--results", parser=path_of, help="the result store")] = Path(
        "results/runs/evaluations"
    ),
    gpu: Annotated[
        str, typer.Option("--gpu", "--device", help="share of a GPU: 1 or cuda, 1/k such as 0.5, 0 or cpu, or auto")
    ] = "0",
    cpu: Annotated[float, typer.Option("--cpu", help="processors that it takes, one a thread at least")] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="threads that it computes with")] = 1,
    address: Address = None,
    serial: Serial = False,
    data: DataRoot = None,
    download: Download = False,
    plugin: Plugins = None,
) -> int:
    """Evaluate a network that was trained elsewhere, class by class, stored and reported like any trial."""
    from harness.cli.progress import Progress
    from harness.evaluation.claims import read_claims
    from harness.evaluation.given import (
        check_clean_accuracy,
        check_expected,
        evaluation_trial,
        given_dataset,
        given_network,
    )
    from harness.running.run import Options, check_inputs
    from harness.running.run import run as run_trials
    from harness.store.folder import check_results_folder
    from harness.store.store import Store

    load_plugins(plugin)
    check_expected(expect_clean)
    check_results_folder(results)
    read_as = given_dataset(dataset)
    network = given_network(checkpoint, model, parameter or [], normalization, weights, read_as)
    evaluation = {
        "attacks": read_names(attacks, "--attacks"),
        "images": images,
        "gradient_precision": gradient_precision,
    }
    resources = {"gpu": {"cpu": "0", "cuda": "1"}.get(gpu, gpu), "cpu": cpu}
    spec = evaluation_trial(
        network, read_as, evaluation, eps, name or checkpoint.stem,
        resources=resources, threads=threads, split_seed=split_seed,
    )  # fmt: skip
    claims = read_claims(claim or [], [attack.name for attack in spec.evaluation.attacks])
    if gpu == "0":
        say_unused_gpu("--gpu 1 computes on it")
    store = Store(results)
    options = Options(serial=serial, address=address, data_root=data, download=download)
    odd = check_inputs([spec], store, options)
    for line in check_clean_accuracy(spec, expect_clean, data):
        out.print(line, soft_wrap=True)
    with Progress([spec], err) as progress:
        for text in odd:
            progress({"event": "warning", "text": text})
        outcome = run_trials([spec], store, options=options, on_event=progress)
    for reason in outcome.failed.values():
        err.print(f"failed: {reason}", soft_wrap=True)
    if not outcome.failed:
        from harness.report.results import read_results
        from harness.report.scores.leaderboard import leaderboard
        from harness.report.tables.claims import table
        from harness.report.write import print_leaderboard

        called, data_called = {spec.trial_id: spec.variant}, {spec.trial_id: spec.dataset.label}
        found = read_results(store, trial_ids=[spec.trial_id], variants=called, datasets=data_called)
        print_leaderboard(out, found)
        if claims:
            out.print(table(leaderboard(found), claims))
        (stored,) = store.read("trials", [spec.trial_id], ["variant"])["variant"].astype(str)
        out.print(f"stored in {results}" + (f", where it is called {stored}" if stored != spec.variant else ""))
    return outcome.exit_code
