"""Predictions for labeled images, and their metrics. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_alexnet.training.top_k import TOP


@dataclass(frozen=True)
class Predictions:
    """The predictions for n images with known labels, in their order.

    Attributes:
        labels: int32 (n,), the true ones.
        losses: float64 (n,), cross-entropy.
        ranks: int32 (n,), number of classes before the true one: those with higher logits, or equal logits and lower
            labels.
        top_labels: int32 (n, k), the best classes, best first; k is 5, or the number of classes if that is lower.
        top_probabilities: float32 (n, k), theirs.
    """

    labels: np.ndarray
    losses: np.ndarray
    ranks: np.ndarray
    top_labels: np.ndarray
    top_probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """bool (n,): whether the best class is the true one."""
        return self.top_labels[:, 0] == self.labels

    @property
    def in_top5(self) -> np.ndarray:
        """bool (n,): whether less than five classes come before the true one."""
        return self.ranks < TOP

    @property
    def probabilities(self) -> np.ndarray:
        """float64 (n,): those of the true classes."""
        return np.exp(-self.losses)

    def metrics(self) -> dict:
        """Number of `examples`; error and accuracy, `top1_…` and `top5_…`, as fractions; `loss`, mean cross-entropy."""
        total, correct, in_top5 = len(self), int(self.correct.sum()), int(self.in_top5.sum())
        return {
            "examples": total,
            "top1_error": (total - correct) / total,
            "top1_accuracy": correct / total,
            "top5_error": (total - in_top5) / total,
            "top5_accuracy": in_top5 / total,
            "loss": float(self.losses.mean()),
        }


def predictions_of(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    """The predictions of a batch: float32 (n, num_classes) logits, int32 (n,) labels."""
    log_probabilities = log_softmax(logits)
    rows = np.arange(len(labels))
    best = best_classes(logits, TOP)
    true = logits[rows, labels][:, np.newaxis]
    before = np.arange(logits.shape[1]) < labels[:, np.newaxis]
    return Predictions(
        labels=labels,
        losses=0.0 - log_probabilities[rows, labels],  # a certain one has 0, not -0
        ranks=((logits > true) | ((logits == true) & before)).sum(axis=1, dtype=np.int32),
        top_labels=best,
        top_probabilities=np.exp(np.take_along_axis(log_probabilities, best, axis=1)).astype(np.float32),
    )


def concatenate(batches: Sequence[Predictions]) -> Predictions:
    """The predictions of one batch after the other."""
    names = Predictions.__dataclass_fields__
    return Predictions(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names})


def best_classes(logits: np.ndarray, count: int) -> np.ndarray:
    """int32 (n, count): the labels of the highest logits, the highest first; of equal ones the lower label first.

    A `count` above the number of classes gives them all.
    """
    count = min(count, logits.shape[1])
    best = np.empty((len(logits), count), np.int32)
    for row, values in enumerate(logits):
        # For 21,841 classes a full sort takes 30 times as long. A partition by itself would pick arbitrary labels among
        # the logits that are equal to the lowest of the best, so all of these are candidates.
        lowest = np.partition(values, -count)[-count]
        labels = np.flatnonzero(values >= lowest)
        best[row] = labels[np.argsort(-values[labels], kind="stable")[:count]]
    return best


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, float64 (n, num_classes)."""
    result = logits.astype(np.float64)
    # In place: each further array of 256 images and 21,841 classes would be 45 MB.
    result -= logits.max(axis=1, keepdims=True)
    result -= np.log(np.exp(result).sum(axis=1, keepdims=True))
    return result
