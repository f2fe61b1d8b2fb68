"""Input pipelines, from paths to finished batches, compared with libjpeg-turbo.

The variants are the training and evaluation pipelines on the images of the map, and the training pipeline on the same
images kept decoded in memory (`fit --cache`) and on copies made by `prepare --resize_shorter_side=256`: files, a tar,
and decoded pixels. The baseline is libjpeg-turbo, which decodes the same files, held in memory, to whole images, in as
many threads as there are cores; it skips files of other formats. Results are images per second of wall-clock time,
and per CPU core, that is per second of CPU time of all threads. It needs the extra `bench`.

A running pipeline reads ahead. Its CPU time is therefore taken between two moments at which it has read ahead as far as
it will and rests, and its wall-clock time in between, over batches that are delivered as they are made.
"""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import common
from keras_alexnet import ImageMap, cli, read_map
from keras_alexnet.errors import UserError, first_line
from keras_alexnet.system.process_pool import cpu_count

LIBJPEG_TURBO = "libjpeg-turbo, full decode"
TRAINING = "training_dataset"
CACHED = "training_dataset of cached images"
COPIES = {  # by the format of prepare
    "files": "training_dataset of resized copies",
    "tar": "training_dataset of resized copies in a tar",
    "pixels": "training_dataset of stored pixels",
}
EVALUATION = "evaluation_dataset"
QUICK = {"images": 128, "batch_size": 32, "repeats": 1}

# Batches that a pipeline prefetches.
_PREFETCHED = 2


@dataclass(frozen=True)
class Sample:
    """One measurement, in images per second of wall-clock time and of CPU time."""

    wall: float
    per_core: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--map", help="map file, such as train_map.txt; without it, images are drawn")
    parser.add_argument("--batch_size", type=common.at_least_1, default=64, help="images per batch (%(default)s)")
    parser.add_argument(
        "--images",
        type=common.at_least_1,
        default=2000,
        help="images per repeat, a random choice from the map, repeated if it has fewer (%(default)s)",
    )


def run(options: argparse.Namespace) -> dict:
    """Prints and returns the throughput of the pipelines and of libjpeg-turbo."""
    if not importlib.util.find_spec("simplejpeg"):
        raise UserError("the baseline, libjpeg-turbo, is missing: pip install -e '.[bench]'")
    if options.images < options.batch_size:
        raise UserError(f"--images is {options.images}, expected at least the {options.batch_size} of --batch_size.")
    with tempfile.TemporaryDirectory() as folder:
        image_map = read_map(options.map) if options.map else _drawn_map(folder)
        chosen = image_map.take(choose_rows(len(image_map), options.images))
        with cli.quiet_framework_start():
            import tensorflow as tf
        try:
            # The first round also lets tf.data choose its number of threads.
            samples = common.interleave(_variants(chosen, options.batch_size, Path(folder)), options.repeats)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"cannot read an image of {options.map}: {_described(error)}. To find all of them: "
                "python -m keras_alexnet.prepare --check_images"
            ) from error
    print(f"{options.images:,} images per repeat from {options.map or 'drawn images'}, batch size {options.batch_size}")
    print(f"{'images/s':45}{'wall-clock':>25}{'per CPU core':>25}")
    figures = {}
    for name, measured in samples.items():
        values = {figure: [getattr(sample, figure) for sample in measured] for figure in ("wall", "per_core")}
        print(f"{name:45}" + "".join(f"{common.spread_text(rates):>25}" for rates in values.values()))
        figures[name] = {figure: common.spread(rates) for figure, rates in values.items()}
    ratio = figures[TRAINING]["per_core"]["median"] / figures[LIBJPEG_TURBO]["per_core"]["median"]
    print(f"{TRAINING}: {ratio:.2f} relative to {LIBJPEG_TURBO}, per CPU core")
    settings = {name: getattr(options, name) for name in ("images", "batch_size", "repeats")}
    return {"variants": figures, "ratio": ratio} | settings


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return first_line(error)


def _drawn_map(folder: str) -> ImageMap:
    paths = common.draw_images(Path(folder))
    return ImageMap(paths, range(len(paths)))


def choose_rows(num_images: int, count: int) -> list[int]:
    """`count` rows of a map: a seeded random choice, or all rows again and again where there are fewer."""
    order = random.Random(0).sample(range(num_images), min(count, num_images))
    return list(itertools.islice(itertools.cycle(order), count))


def _variants(image_map: ImageMap, batch_size: int, folder: Path) -> dict[str, Callable[[], Sample]]:
    from keras_alexnet import evaluation_dataset, training_dataset
    from keras_alexnet.data.image_cache import ImageCache

    encoded = _jpegs(image_map)
    variants = {LIBJPEG_TURBO: lambda: _measure_whole(functools.partial(_decode_all, encoded))}
    sources = {name: _copies(image_map, folder, resized_format) for resized_format, name in COPIES.items()}
    cache = ImageCache(image_map, mean_bytes=1e6, min_free=0)
    datasets = {
        TRAINING: training_dataset(image_map, batch_size, seed=0),
        CACHED: training_dataset(image_map, batch_size, seed=0, decoded=cache),
        **{name: training_dataset(copies, batch_size, seed=0) for name, copies in sources.items()},
    }
    num_batches = -(-len(image_map) // batch_size)
    for name, dataset in datasets.items():
        variants[name] = functools.partial(_measure_running, iter(dataset), batch_size, num_batches)
    evaluation = evaluation_dataset(image_map, batch_size)
    variants[EVALUATION] = lambda: _measure_whole(lambda: sum(len(labels) for _, labels in evaluation))
    return variants


def _copies(image_map: ImageMap, folder: Path, resized_format: str) -> ImageMap:
    """A map of smaller copies of the same images; each is written once, however often it is in the map."""
    from keras_alexnet.data.resizing import files
    from keras_alexnet.data.resizing import tar as resized_tar

    first = {path: row for row, path in reversed(list(enumerate(image_map.paths)))}
    unique = dataclasses.replace(image_map.take(sorted(first.values())), source=os.path.commonpath(list(first)))
    if resized_format == "files":
        findings, copies = files.write_copies(unique, str(folder / "copies"), 256, cpu_count())
    else:
        tar = str(folder / f"{resized_format}.tar")
        findings, copies = resized_tar.write_copies(unique, tar, 256, cpu_count(), resized_format=resized_format)
    if len(copies) < len(unique):
        bad = next(found for found in findings if not found.usable)
        raise UserError(f"cannot read {bad.path}: {bad.problems[0]}.")
    position = {path: number for number, path in enumerate(unique.paths)}
    return copies.take([position[path] for path in image_map.paths])


def _jpegs(image_map: ImageMap) -> list[tuple[bytes, str]]:
    """Of the images that libjpeg-turbo can decode: bytes, and the color space to decode to."""
    import simplejpeg

    encoded: dict[str, tuple[bytes, str] | None] = {}
    for row, path in enumerate(image_map.paths):
        if path not in encoded:
            data = image_map.read(row)
            try:
                space = "CMYK" if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK") else "RGB"
                simplejpeg.decode_jpeg(data, space, strict=False)
                encoded[path] = data, space
            except ValueError:
                encoded[path] = None
    jpegs = list(filter(None, map(encoded.get, image_map.paths)))
    if not jpegs:
        raise UserError(f"none of the images is a JPEG, {image_map.paths[0]} for example. Choose a --map with JPEGs.")
    return jpegs


def _decode_all(encoded: list[tuple[bytes, str]]) -> int:
    """Decodes in as many threads as there are cores (simplejpeg releases Python's lock); returns the count."""
    import simplejpeg

    waiting, lock = iter(encoded), threading.Lock()

    def decode() -> None:
        while True:
            with lock:
                item = next(waiting, None)
            if item is None:
                break
            simplejpeg.decode_jpeg(*item, strict=False)

    with ThreadPoolExecutor(cpu_count()) as pool:
        for future in [pool.submit(decode) for _ in range(cpu_count())]:
            future.result()
    return len(encoded)


def _measure_whole(work: Callable[[], int]) -> Sample:
    """Measures work that reads nothing ahead and returns its number of images."""
    _rest()
    cpu, start = time.process_time(), time.perf_counter()
    images = work()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Sample(images / wall, images / cpu)


def _measure_running(batches: Iterator, batch_size: int, num_batches: int) -> Sample:
    """Measures an endless iterator of batches that reads ahead."""
    # Besides those prefetched, each thread may hold a batch, and one or two are being put together.
    read_ahead = _PREFETCHED + cpu_count() + 2
    _rest()
    cpu = time.process_time()
    for _ in range(read_ahead):
        next(batches)
    start = time.perf_counter()
    for _ in range(num_batches):
        next(batches)
    wall = time.perf_counter() - start
    _rest()
    cpu = time.process_time() - cpu
    return Sample(num_batches * batch_size / wall, (read_ahead + num_batches) * batch_size / cpu)


def _rest(interval: float = 0.1) -> None:
    """Waits until no pipeline works any more: each has read ahead as far as it will."""
    busy = interval
    for _ in range(300):
        if busy <= 0.1 * interval:
            break
        before = time.process_time()
        time.sleep(interval)
        busy = time.process_time() - before
