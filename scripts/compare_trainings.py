"""Trains this project's network and its twin in plain PyTorch, seed after seed, and puts their curves side by side.

    python scripts/compare_trainings.py --data_dir=data --output_dir=saved_models/agree --seeds 0 1 2 -- \\
        --preset=tiny --batch_size=16 --epochs=30 --lr_drop_epochs=7,13,20,27

What follows `--` goes to both python -m keras_alexnet.fit and scripts/twin.py train. Weights, crops and dropout differ
from side to side and from seed to seed, so the curves agree within what seeds make of them. The folder gets a run
ours-SEED and a history twin-SEED.csv a seed, curves.png, and a table of the validation's top-1 errors, curves.csv. What
is finished is kept, so that the same command goes on after an interruption. It needs the extras `bench` and `torch`.
"""

import argparse
import csv
import statistics
import subprocess
import sys
from pathlib import Path

from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.training.run_files import HISTORY_FILE

OURS, TWIN = "keras_alexnet", "twin"
_COLORS = {OURS: "#1f5fa8", TWIN: "#d1661f"}


def train(side: str, folder: Path, seed: int, arguments: list[str]) -> list[dict[str, float]]:
    """Trains, unless that has been done; returns the history."""
    history = folder / f"ours-{seed}" / HISTORY_FILE if side == OURS else folder / f"twin-{seed}.csv"
    if side == OURS:
        # It goes on where it stopped, and does nothing if it is finished.
        command = [sys.executable, "-m", "keras_alexnet.fit", f"--output_dir={history.parent}", "--strategy=none"]
    else:
        command = [sys.executable, str(Path(__file__).parent / "twin.py"), "train", f"--output={history}"]
    if side == OURS or not history.exists():
        print(f"{side}, seed {seed}", flush=True)
        if subprocess.run([*command, f"--seed={seed}", *arguments], check=False).returncode:
            sys.exit(f"{sys.argv[0]}: the training of {side} with seed {seed} failed; its message is above")
    with open(history, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def write_table(path: Path, errors: dict[tuple[str, int], list[float]]) -> None:
    """Writes a row an epoch, a column a training."""
    with atomic_path(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *(f"{side} {seed}" for side, seed in errors)])
        for epoch, row in enumerate(zip(*errors.values(), strict=True), 1):
            writer.writerow([epoch, *row])


def draw(path: Path, errors: dict[tuple[str, int], list[float]]) -> None:
    """Draws the errors over the epochs, a colour a side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    named = set()
    for (side, _), values in errors.items():
        label = None if side in named else side
        named.add(side)
        axes.plot(range(1, len(values) + 1), [100 * value for value in values], color=_COLORS[side], lw=1, label=label)
    axes.set(xlabel="epoch", ylabel="validation top-1 error, %")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=150, format="png")


def print_agreement(errors: dict[tuple[str, int], list[float]]) -> None:
    """Prints the last errors of both sides and how far their means are apart, in their standard error."""
    last = {side: [values[-1] for (name, _), values in errors.items() if name == side] for side in (OURS, TWIN)}
    for side, values in last.items():
        deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        seeds = ", ".join(f"{100 * value:.1f}" for value in values)
        print(f"{side:14} {100 * statistics.mean(values):.1f}{deviation} % top-1 error at the end (seeds: {seeds})")
    apart = statistics.mean(last[OURS]) - statistics.mean(last[TWIN])
    print(f"the means are {100 * apart:+.1f} points apart", end="")
    if len(last[OURS]) > 1:
        error = sum(statistics.variance(values) / len(values) for values in last.values()) ** 0.5
        print(f", with a standard error of {100 * error:.1f}", end="")
    print()


def main() -> None:
    """Trains and compares as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="of both trainings, after --")
    options = parser.parse_args()
    arguments = [f"--data_dir={options.data_dir}", *options.arguments]
    errors = {}
    for seed in options.seeds:
        for side in (OURS, TWIN):
            history = train(side, options.output_dir, seed, arguments)
            errors[side, seed] = [row["val_top1_error"] for row in history]
    epochs = {f"{side} {seed}": len(values) for (side, seed), values in errors.items()}
    if len(set(epochs.values())) > 1:
        sys.exit(f"{sys.argv[0]}: the trainings differ in their epochs, {epochs}. Take another --output_dir.")
    write_table(options.output_dir / "curves.csv", errors)
    draw(options.output_dir / "curves.png", errors)
    print_agreement(errors)


if __name__ == "__main__":
    main()
