"""Measures this project next to its alternatives, interleaved in one run.

    python scripts/benchmark.py step --json=step.json
    python scripts/benchmark.py input --map=data/train_map.txt
    python scripts/benchmark.py fit --data_dir=data

`python scripts/benchmark.py BENCHMARK --help` explains what is measured, the baselines, and what to install. Figures
are the median over the repeats and their range, together with the facts of the machine.
"""

import argparse
import json
import sys

from benchmarks import common, fit, step
from benchmarks import input as input_benchmark

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import check_target, write_text

BENCHMARKS = {"step": step, "input": input_benchmark, "fit": fit}


def run(options: argparse.Namespace) -> None:
    """Runs a benchmark and writes its figures with the facts of the machine, which each row of a list gets."""
    if options.json:
        check_target(options.json)
    facts = common.facts()
    print(f"{facts['machine']}; {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}")
    sys.stdout.flush()
    figures = BENCHMARKS[options.benchmark].run(options)
    if options.json:
        figures = [row | facts for row in figures] if isinstance(figures, list) else figures | facts
        write_text(options.json, json.dumps(figures, indent=2) + "\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line; explicit options override those of --quick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="benchmark", metavar="BENCHMARK")
    parsers = {}
    for name, module in BENCHMARKS.items():
        text = module.__doc__
        command = parsers[name] = commands.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument("--json", metavar="FILE", help="also write the figures to this file")
        command.add_argument("--quick", action="store_true", help="smaller settings, for a first impression")
        command.add_argument(
            "--repeats", type=common.at_least_1, default=5, help="measurements per variant (%(default)s)"
        )
        module.add_arguments(command)
    options = parser.parse_args(arguments)
    if options.quick:
        parsers[options.benchmark].set_defaults(**BENCHMARKS[options.benchmark].QUICK)
        options = parser.parse_args(arguments)
    return options


def main() -> None:
    """Runs the benchmark that the command line names."""
    options = parse()
    try:
        run(options)
    except UserError as error:
        sys.exit(f"benchmark.py: {error}")
    except KeyboardInterrupt:
        print("benchmark.py: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
