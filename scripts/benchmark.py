"""Measures this project beside what people would use instead, the sides in turns in one run.

    python scripts/benchmark.py step --json=step.json
    python scripts/benchmark.py input --map=data/train_map.txt
    python scripts/benchmark.py all --quick

`python scripts/benchmark.py BENCHMARK --help` says what one measures, beside what, and what it needs installed; `all`
does one after the other. Figures are the median over the repeats and their range, with the facts of the machine.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import common

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import check_target, write_text

BENCHMARKS = ("step", "layers", "input", "fit", "scaling", "prepare", "checkpoint", "startup", "convert")


def run(name: str, options: argparse.Namespace) -> None:
    """Does a benchmark and writes its figures, with the facts beside them, or beside each row of a list."""
    if options.json:
        check_target(options.json)
    facts = common.facts()
    print(f"{facts['machine']}; {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}")
    sys.stdout.flush()
    figures = _module(name).run(options)
    if options.json:
        figures = [row | facts for row in figures] if isinstance(figures, list) else figures | facts
        write_text(options.json, json.dumps(figures, indent=2) + "\n")


def run_all(options: argparse.Namespace) -> None:
    """Does benchmarks with their defaults, each in a process of its own: a framework that is loaded slows others."""
    failed = []
    for name in options.only:
        command = [sys.executable, os.path.abspath(__file__), name, *(["--quick"] if options.quick else [])]
        if options.json:
            command.append(f"--json={Path(options.json, name)}.json")
        print(f"\n{name}", flush=True)
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(options.only)} benchmarks failed, with a message above: {', '.join(failed)}"
        )


def _module(name: str):
    return importlib.import_module(f"benchmarks.{name}")


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the benchmarks by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="benchmark", metavar="BENCHMARK")
    parsers = {}
    for name in BENCHMARKS:
        text = _module(name).__doc__
        command = parsers[name] = commands.add_parser(
            name, help=text.splitlines()[0], description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.add_argument("--json", metavar="FILE", help="write the figures there as well")
        command.add_argument("--quick", action="store_true", help="less of everything")
        command.add_argument(
            "--repeats", type=common.at_least_1, default=5, help="how often each side's turn comes (%(default)s)"
        )
        _module(name).add_arguments(command)
    everything = commands.add_parser("all", help="All of these, one after the other.")
    everything.add_argument("--json", metavar="FOLDER", help="write the figures there as well, a file a benchmark")
    everything.add_argument("--quick", action="store_true", help="less of everything")
    everything.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, help="these alone")
    return parser, parsers


def _options(parser: argparse.ArgumentParser, parsers: dict[str, argparse.ArgumentParser]) -> argparse.Namespace:
    options = parser.parse_args()
    if options.quick and options.benchmark in parsers:
        # What the command line says counts still.
        parsers[options.benchmark].set_defaults(**_module(options.benchmark).QUICK)
        options = parser.parse_args()
    return options


def main() -> None:
    """Runs the benchmark that the command line names."""
    parser, parsers = _parser()
    options = _options(parser, parsers)
    try:
        if options.benchmark == "all":
            run_all(options)
        else:
            run(options.benchmark, options)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
