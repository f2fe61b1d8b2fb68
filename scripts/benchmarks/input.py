"""Input pipelines, from paths to finished batches, beside libjpeg-turbo and PyTorch.

The training pipeline, its parts and the evaluation pipeline, and the training pipeline on the same images kept decoded
in memory and on copies of them (`prepare --resize_shorter_side=256`): files, in a tar, and decoded. Beside them
libjpeg-turbo, which decodes the same files, held in memory, to whole images, and a PyTorch DataLoader with Pillow where
PyTorch is installed. libjpeg-turbo runs in as many threads as there are cores, so that every side loads the machine
alike; files that it cannot decode are left out of its count and of "decode and crop". Images per second are given by
the clock and per core, which is per second of the processor's time in all threads and worker processes. It needs the
extra `bench`.

The processor's time of a side is that of all threads of this process and of all its worker processes. A running
pipeline reads ahead, so its processor time is taken between two moments at which it has read ahead as far as it will
and rests. Its wall time is taken in between, over batches that come as they are made.
"""

import argparse
import dataclasses
import functools
import importlib.util
import io
import itertools
import multiprocessing
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import common
from benchmarks.drawn import draw_images
from keras_alexnet import cli
from keras_alexnet.data.image_map import ImageMap
from keras_alexnet.data.map_file import read_map
from keras_alexnet.errors import UserError
from keras_alexnet.presets import IMAGE_SIZE
from keras_alexnet.system.process_pool import cpu_count

LIBJPEG_TURBO = "libjpeg-turbo, full decode"
READ = "read"
DECODE = "+ decode and crop"
TRAINING = "+ resize, round, mirror: training_dataset"
CACHED = "training_dataset of cached images"
# Of copies, by the format of prepare.
COPIES = {
    "files": "training_dataset of resized copies",
    "tar": "training_dataset of resized copies in a tar",
    "pixels": "training_dataset of stored pixels",
}
EVALUATION = "evaluation_dataset"
TORCH = "torch DataLoader, Pillow"

QUICK = {"images": 128, "batch_size": 32, "repeats": 1}

# Batches that wait to be asked for: of a tf.data pipeline, and of each of PyTorch's worker processes.
_PREFETCHED = 2


@dataclass(frozen=True)
class Sample:
    """One measurement of a side, in images per second: of the clock, and of the processor's time."""

    wall: float
    per_core: float


@dataclass(frozen=True)
class Stage:
    """A side's measurements: `samples`, one a repeat, over `images` images each or somewhat more."""

    name: str
    images: int
    samples: list[Sample]

    def median(self, figure: str) -> float:
        """The median of "wall" or "per_core"."""
        return statistics.median(self.values(figure))

    def values(self, figure: str) -> list[float]:
        """All measurements of "wall" or "per_core"."""
        return [getattr(sample, figure) for sample in self.samples]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument("--map", help="map file, such as train_map.txt; images are drawn if it is not given")
    parser.add_argument("--batch_size", type=common.at_least_1, default=64, help="images a batch (%(default)s)")
    parser.add_argument(
        "--images",
        type=common.at_least_1,
        default=2000,
        help="images a repeat, chosen from the map, or again and again (%(default)s)",
    )


def run(options: argparse.Namespace) -> dict:
    """Prints the images per second of the input pipelines and of what they are compared with."""
    with tempfile.TemporaryDirectory() as folder:
        image_map = read_map(options.map) if options.map else _drawn_map(Path(folder))
        stages = measure(image_map, options.batch_size, options.images, options.repeats, Path(folder))
    source = options.map or f"{len(image_map)} drawn images"
    print(f"{options.images:,} images a repeat out of {source}, batches of {options.batch_size}")
    print(f"{'img/s':43}{'by the clock':>25}{'per core':>25}")
    for stage in stages:
        wall, per_core = (common.spread_text(stage.values(figure)) for figure in ("wall", "per_core"))
        print(f"{stage.name:43}{wall:>25}{per_core:>25}")
    named = {stage.name: stage for stage in stages}
    ours, turbo, torch = (named.get(name) for name in (TRAINING, LIBJPEG_TURBO, TORCH))
    ratio = ours.median("per_core") / turbo.median("per_core")
    print(f"training_dataset does {ratio:.2f} of libjpeg-turbo's images per core")
    return {
        "per_core": ours.median("per_core"),
        "wall": ours.median("wall"),
        "libjpeg_turbo_per_core": turbo.median("per_core"),
        "torch_per_core": torch and torch.median("per_core"),
        "ratio": ratio,
        "stages": [
            {"name": stage.name, "images": stage.images}
            | {figure: common.spread(stage.values(figure)) for figure in ("wall", "per_core")}
            for stage in stages
        ],
    } | {name: getattr(options, name) for name in ("images", "batch_size", "repeats")}


def _drawn_map(folder: Path) -> ImageMap:
    paths, labels = zip(*draw_images(folder), strict=True)
    return ImageMap(list(paths), list(labels))


def choose_rows(num_images: int, count: int) -> list[int]:
    """`count` rows of a map: a seeded random choice, or all rows again and again where there are fewer."""
    order = random.Random(0).sample(range(num_images), min(count, num_images))
    return list(itertools.islice(itertools.cycle(order), count))


def measure(image_map: ImageMap, batch_size: int, images: int, repeats: int, folder: Path) -> list[Stage]:
    """Measures every side that is installed.

    Args:
        image_map: the images.
        batch_size: of the batches that are made.
        images: how many images a side goes through in a repeat.
        repeats: how often each side's turn comes, after a first round that is not counted: it fills the page cache,
            traces the functions and lets tf.data find its number of threads.
        folder: for the copies, 0.3 MB an image.

    Raises:
        UserError: simplejpeg is not installed, a batch is larger than the images, or an image cannot be read.
    """
    if not importlib.util.find_spec("simplejpeg"):
        raise UserError("the benchmark compares with libjpeg-turbo, of simplejpeg: pip install -e '.[bench]'")
    if images < batch_size:
        raise UserError(f"--images is {images}, expected at least the {batch_size} of a batch: see --batch_size.")
    rows = choose_rows(len(image_map), images)
    chosen = image_map.take(rows)
    with cli.quiet_framework_start():
        import tensorflow as tf

        from keras_alexnet.data.unreadable import find_unreadable
    try:
        sides = _sides(chosen, batch_size, folder)
        samples: dict[str, list[Sample]] = {name: [] for name in sides}
        for round_number in range(repeats + 1):
            for name, (_, run) in sides.items():
                sample = run()
                if round_number:
                    samples[name].append(sample)
    except (OSError, tf.errors.OpError):
        # TensorFlow does not name the file.
        unreadable = find_unreadable(image_map, sorted(set(rows)))
        if unreadable is None:
            raise
        raise unreadable from None
    return [Stage(name, count, samples[name]) for name, (count, _) in sides.items()]


def _sides(image_map: ImageMap, batch_size: int, folder: Path) -> dict[str, tuple[int, Callable[[], Sample]]]:
    """Of each side, the images in a measurement and what measures it once."""
    from keras_alexnet.data.image_cache import ImageCache
    from keras_alexnet.data.pipeline import evaluation_dataset, training_dataset

    encoded, jpegs = _jpegs(image_map)
    read = _reader(image_map)
    count = -(-len(image_map) // batch_size)
    # Besides those prefetched, each thread may hold a whole batch, and one or two are being put together.
    read_ahead = _PREFETCHED + cpu_count() + 2
    sides = {LIBJPEG_TURBO: (len(encoded), lambda: _measure_whole(functools.partial(_decode_all, encoded)))}
    cache = ImageCache(image_map, mean_bytes=1e6, min_free=0)
    datasets = {
        READ: _read_dataset(range(len(image_map)), read, batch_size),
        DECODE: _decode_dataset(jpegs, read, batch_size),
        TRAINING: training_dataset(image_map, batch_size, seed=0),
        CACHED: training_dataset(image_map, batch_size, seed=0, decoded=cache),
        **{
            name: training_dataset(_copies(image_map, folder, resized_format), batch_size, seed=0)
            for resized_format, name in COPIES.items()
        },
    }
    for name, dataset in datasets.items():
        sides[name] = (count * batch_size, _run(iter(dataset), batch_size, read_ahead, count))
    evaluation = evaluation_dataset(image_map, batch_size)
    sides[EVALUATION] = (len(image_map), lambda: _measure_whole(lambda: sum(len(labels) for _, labels in evaluation)))
    # Of worker processes, only Linux tells the processor's time while they run.
    if importlib.util.find_spec("torch") and os.path.exists("/proc/self/stat"):
        read_ahead = _PREFETCHED * cpu_count() + 1
        sides[TORCH] = (count * batch_size, _run(_torch_batches(image_map, batch_size), batch_size, read_ahead, count))
    return sides


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
        raise UserError(f"{next(found.path for found in findings if not found.usable)} cannot be read.")
    position = {path: number for number, path in enumerate(unique.paths)}
    return copies.take([position[path] for path in image_map.paths])


def _run(batches: Iterator, batch_size: int, read_ahead: int, count: int) -> Callable[[], Sample]:
    return functools.partial(_measure_running, batches, batch_size, read_ahead, count)


def _measure_whole(work: Callable[[], int]) -> Sample:
    """Measures work that begins and ends with nothing read ahead; it returns its number of images."""
    _rest()
    cpu, start = _cpu_seconds(), time.perf_counter()
    images = work()
    wall, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    return Sample(images / wall, images / cpu)


def _measure_running(batches: Iterator, batch_size: int, read_ahead: int, count: int) -> Sample:
    """Measures an endless iterator of batches, of which `read_ahead` at most lie ready when it is not asked."""
    _rest()
    cpu = _cpu_seconds()
    for _ in range(read_ahead):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    wall = time.perf_counter() - start
    _rest()
    cpu = _cpu_seconds() - cpu
    return Sample(count * batch_size / wall, (read_ahead + count) * batch_size / cpu)


def _rest(interval: float = 0.1) -> None:
    """Waits until no pipeline works any more: each has read ahead as far as it will."""
    busy = interval
    for _ in range(300):
        if busy <= 0.1 * interval:
            break
        before = _cpu_seconds()
        time.sleep(interval)
        busy = _cpu_seconds() - before


def _cpu_seconds() -> float:
    """The processor's time that this process and its worker processes have used, in all their threads."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        with open(f"/proc/{worker.pid}/stat", encoding="utf-8") as file:
            # The command's name, in parentheses, may hold blanks. Behind it, fields 14 and 15 are utime and stime.
            fields = file.read().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _jpegs(image_map: ImageMap) -> tuple[list[tuple[bytes, str]], list[int]]:
    """Of the images that libjpeg-turbo decodes: (bytes, colour space to decode to) pairs, and the rows."""
    import simplejpeg

    encoded: dict[str, tuple[bytes, str] | None] = {}
    for row, path in enumerate(image_map.paths):
        if path in encoded:
            continue
        data = image_map.read(row)
        try:
            space = "CMYK" if simplejpeg.decode_jpeg_header(data)[2] in ("CMYK", "YCCK") else "RGB"
            simplejpeg.decode_jpeg(data, space, strict=False)
            encoded[path] = data, space
        except ValueError:
            encoded[path] = None
    rows = [row for row, path in enumerate(image_map.paths) if encoded[path]]
    if not rows:
        raise UserError(f"none of the images is a JPEG, {image_map.paths[0]} for one: give a map with JPEGs in it.")
    return [encoded[image_map.paths[row]] for row in rows], rows


def _decode_all(encoded: list[tuple[bytes, str]]) -> int:
    """Decodes with as many threads as cores: simplejpeg lets go of Python's lock, so this loads the machine alike."""
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


def _reader(image_map: ImageMap) -> Callable:
    """Gives the bytes of the image of a row, inside a tf.data map."""
    import tensorflow as tf

    if image_map.locations is None:
        paths = tf.constant(image_map.encoded_paths(range(len(image_map))))
        return lambda row: tf.io.read_file(paths[row])
    read = lambda row: image_map.read(int(row))  # noqa: E731
    return lambda row: tf.ensure_shape(tf.numpy_function(read, [row], tf.string, stateful=False), ())


def _read_dataset(rows: Sequence[int], read: Callable, batch_size: int):
    """Reads files; the batches hold a number per file, so that collecting them costs nothing."""
    import tensorflow as tf

    return _endless(rows, lambda row: tf.strings.length(read(row)), batch_size)


def _decode_dataset(rows: Sequence[int], read: Callable, batch_size: int):
    """Reads JPEGs and decodes training squares of them, all with the operation that decodes a plain JPEG."""
    import tensorflow as tf

    def load(row: tf.Tensor) -> tf.Tensor:
        data = read(row)
        size = tf.io.extract_jpeg_shape(data)[:2]
        side = _crop_side(tf.reduce_min(size))
        corner = tf.cast(tf.random.uniform((2,)) * tf.cast(size - side + 1, tf.float32), tf.int32)
        part = tf.concat([tf.minimum(corner, size - side), [side, side]], axis=0)
        return tf.io.decode_and_crop_jpeg(data, part, channels=3, dct_method="INTEGER_ACCURATE")[0, 0, 0]

    return _endless(rows, load, batch_size)


def _endless(rows: Sequence[int], load: Callable, batch_size: int):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(list(rows)).repeat()
    return dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(_PREFETCHED)


def _crop_side(shorter):
    """The training crop's side, of 227/256 of the shorter side."""
    return (2 * 227 * shorter + 256) // (2 * 256)


def _torch_batches(image_map: ImageMap, batch_size: int) -> Iterator:
    """What a PyTorch user has: worker processes that do with Pillow what our training pipeline does."""
    import torch.utils.data

    return iter(
        torch.utils.data.DataLoader(
            TorchImages(image_map.images(), list(image_map.labels)),
            batch_sampler=_EndlessBatches(len(image_map), batch_size),
            num_workers=cpu_count(),
            prefetch_factor=_PREFETCHED,
            # A fork of a process in which TensorFlow's threads run may hang.
            multiprocessing_context="spawn",
        )
    )


class TorchImages:
    """A map-style dataset of (uint8 (227, 227, 3) tensor, label). The workers import this module anew."""

    def __init__(self, images: list, labels: list[int]):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int):
        import torch

        source = self.images[row]
        with Image.open(source if isinstance(source, str) else io.BytesIO(source.read())) as file:
            image = file.convert("RGB")
        side = _crop_side(min(image.size))
        left, top = random.randint(0, image.width - side), random.randint(0, image.height - side)
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)), self.labels[row]


class _EndlessBatches:
    """A batch sampler without end, in an order that is new in every pass."""

    def __init__(self, num_images: int, batch_size: int):
        self.num_images, self.batch_size = num_images, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng(0)
        while True:
            order = rng.permutation(self.num_images)
            for begin in range(0, self.num_images - self.batch_size + 1, self.batch_size):
                yield order[begin : begin + self.batch_size].tolist()
