"""Trains this project's network and the PyTorch reference with several seeds, and compares their error curves.

    python scripts/compare_trainings.py --data_dir=data --output_dir=saved_models/agree --seeds 0 1 2 -- \\
        --preset=tiny --batch_size=16 --epochs=30 --lr_drop_epochs=7,13,20,27

Arguments after `--` go to both python -m keras_alexnet.fit and scripts/pytorch_reference.py train. Weights, crops and
dropout differ between the implementations and between seeds, so the curves agree up to the spread of the seeds. The
output directory gets a run ours-SEED and a history pytorch-SEED.csv per seed, the plot curves.html, and curves.csv, a
table of the validation top-1 errors. Complete trainings are kept: run the same command again to resume after an
interruption. It needs the extras `torch` and `report`.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

from keras_alexnet.system.atomic import atomic_path

OURS, REFERENCE = "keras_alexnet", "pytorch"
_COLORS = {OURS: "#1f5fa8", REFERENCE: "#d1661f"}


def train(implementation: str, folder: Path, seed: int, arguments: list[str]) -> list[dict[str, float]]:
    """Trains, unless that has been done; returns the history."""
    if implementation == OURS:
        history = folder / f"ours-{seed}" / "history.csv"
        # It resumes where it stopped, and does nothing if it is complete.
        command = [sys.executable, "-m", "keras_alexnet.fit", f"--output_dir={history.parent}", "--strategy=none"]
    else:
        history = folder / f"pytorch-{seed}.csv"
        command = [sys.executable, str(Path(__file__).parent / "pytorch_reference.py"), "train", f"--output={history}"]
    if implementation == OURS or not history.exists():
        print(f"{implementation}, seed {seed}", flush=True)
        if subprocess.run([*command, f"--seed={seed}", *arguments], check=False).returncode:
            sys.exit(f"{sys.argv[0]}: training {implementation} with seed {seed} failed; its message is above")
    with open(history, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def write_table(path: Path, errors: dict[tuple[str, int], list[float]]) -> None:
    """Writes one row per epoch and one column per training."""
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *(f"{implementation} {seed}" for implementation, seed in errors)])
        for epoch, row in enumerate(zip(*errors.values(), strict=True), 1):
            writer.writerow([epoch, *row])


def plot(path: Path, errors: dict[tuple[str, int], list[float]]) -> None:
    """Writes a page with the errors over the epochs, one color per implementation."""
    import plotly.graph_objects as go

    figure = go.Figure(layout={"xaxis_title": "epoch", "yaxis_title": "validation top-1 error, %"})
    for (implementation, seed), values in errors.items():
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=[100 * value for value in values],
            name=f"{implementation}, seed {seed}",
            line={"color": _COLORS[implementation], "width": 1},
        )
    with atomic_path(path) as partial:
        figure.write_html(partial)


def print_agreement(errors: dict[tuple[str, int], list[float]]) -> None:
    """Prints the final errors, and the difference of their means with its standard error."""
    last = {
        implementation: [values[-1] for (name, _), values in errors.items() if name == implementation]
        for implementation in (OURS, REFERENCE)
    }
    for implementation, values in last.items():
        deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        seeds = ", ".join(f"{100 * value:.1f}" for value in values)
        print(f"{implementation:14} {100 * statistics.mean(values):.1f}{deviation}% final top-1 error (seeds: {seeds})")
    difference = statistics.mean(last[OURS]) - statistics.mean(last[REFERENCE])
    print(f"the means differ by {100 * difference:+.1f} points", end="")
    if len(last[OURS]) > 1:
        error = sum(statistics.variance(values) / len(values) for values in last.values()) ** 0.5
        print(f", with a standard error of {100 * error:.1f}", end="")
    print()


def main() -> None:
    """Trains and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="after --, of both trainings")
    options = parser.parse_args()
    arguments = [f"--data_dir={options.data_dir}", *options.arguments]
    errors = {}
    for seed in options.seeds:
        for implementation in (OURS, REFERENCE):
            history = train(implementation, options.output_dir, seed, arguments)
            errors[implementation, seed] = [row["val_top1_error"] for row in history]
    epochs = {f"{implementation} {seed}": len(values) for (implementation, seed), values in errors.items()}
    if len(set(epochs.values())) > 1:
        sys.exit(f"{sys.argv[0]}: the trainings differ in their epochs: {epochs}. Choose another --output_dir.")
    write_table(options.output_dir / "curves.csv", errors)
    plot(options.output_dir / "curves.html", errors)
    print_agreement(errors)


if __name__ == "__main__":
    main()
