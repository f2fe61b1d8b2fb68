"""Stops the threads of datasets before the interpreter exits."""

import atexit
import functools
import gc

import tensorflow as tf


@functools.cache
def end_iterators_at_exit() -> None:
    """Lets a script exit while it still has an iterator of a dataset that calls Python functions.

    Once the interpreter is being finalized, Python ends each other thread that asks for its lock, and so a dataset's
    threads in the middle of their work. The destructor of the iterator waits for that work, and would do so forever.
    """
    atexit.register(_end_iterators)


def _end_iterators() -> None:
    gc.unfreeze()  # Objects that a server has frozen would not be listed.
    kinds = (tf.data.Iterator, tf.distribute.DistributedIterator)
    iterators = [found for found in gc.get_objects() if issubclass(type(found), kinds)]
    for iterator in iterators:
        vars(iterator).clear()
    if iterators:
        gc.collect()  # Those of a strategy are cycles of references.
