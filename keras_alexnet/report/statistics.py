"""Statistics of predictions: per class, by confidence, and which of them to look at. NumPy only."""

from dataclasses import dataclass

import numpy as np

from keras_alexnet.inference.predictions import Predictions

# Two-sided 95% of a normal distribution.
_Z = 1.959964


def wilson_interval(share, total):
    """The 95% confidence interval of a share of `total`, by Wilson's score (1927): good near 0 and 1 and for few.

    Args:
        share: of those counted, 0 to 1; a number or an array.
        total: how many there are, above 0; of the same shape.

    Returns:
        The lower and the upper bound.
    """
    z2 = _Z**2 / total
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * np.sqrt(share * (1 - share) / total + z2 / (4 * total))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% confidence interval of the mean of values that are not negative, by the normal approximation."""
    half = _Z * values.std() / np.sqrt(len(values))
    return max(float(values.mean() - half), 0.0), float(values.mean() + half)


@dataclass(frozen=True)
class ConfusionMatrix:
    """How many images of the row's class were predicted as the column's: the nonzero cells, row by row.

    There are at most as many of them as images. All cells of 21,841 classes would take 3.8 GB.

    Attributes:
        num_classes: rows and columns of the matrix.
        rows: int64 (cells,), true labels, ascending.
        columns: int64 (cells,), predicted labels, ascending within a row.
        counts: int64 (cells,), images, 1 or more.
    """

    num_classes: int
    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray

    def dense(self) -> np.ndarray:
        """int64 (num_classes, num_classes): all cells."""
        matrix = np.zeros((self.num_classes, self.num_classes), np.int64)
        matrix[self.rows, self.columns] = self.counts
        return matrix


def confusion_matrix(predictions: Predictions, num_classes: int) -> ConfusionMatrix:
    """Counts the images of each pair of true and predicted class."""
    cells = predictions.labels.astype(np.int64) * num_classes + predictions.top_labels[:, 0]
    cells, counts = np.unique(cells, return_counts=True)
    rows, columns = np.divmod(cells, num_classes)
    return ConfusionMatrix(num_classes, rows, columns, counts)


@dataclass(frozen=True)
class ClassResults:
    """How well each class is recognized; arrays (num_classes,), rates NaN where there is nothing to divide by.

    Attributes:
        images: of the class.
        predicted: images predicted as it.
        precision: share of these that are of the class.
        recall: share of its images that are recognized.
        top5_recall: share of them with the class among the best five.
        confused_with: the class that its images are most often confused with; -1 for none.
        confused_count: how many of them.
    """

    images: np.ndarray
    predicted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    top5_recall: np.ndarray
    confused_with: np.ndarray
    confused_count: np.ndarray


def class_results(predictions: Predictions, confusion: ConfusionMatrix) -> ClassResults:
    """Computes the results of each class from `predictions` and their confusion matrix."""

    def per_class(labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels, minlength=confusion.num_classes)

    images = per_class(predictions.labels)
    predicted = per_class(predictions.top_labels[:, 0])
    right = per_class(predictions.labels[predictions.correct])
    in_top5 = per_class(predictions.labels[predictions.in_top5])
    confused_with = np.full(confusion.num_classes, -1)
    confused_count = np.zeros(confusion.num_classes, np.int64)
    mistakes = _mistakes_by_count(confusion)
    # The first mistake of a class is its most frequent one.
    rows, first = np.unique(confusion.rows[mistakes], return_index=True)
    confused_with[rows] = confusion.columns[mistakes[first]]
    confused_count[rows] = confusion.counts[mistakes[first]]
    return ClassResults(
        images=images,
        predicted=predicted,
        precision=_share(right, predicted),
        recall=_share(right, images),
        top5_recall=_share(in_top5, images),
        confused_with=confused_with,
        confused_count=confused_count,
    )


def most_confused(confusion: ConfusionMatrix, count: int) -> list[tuple[int, int, int, float]]:
    """The most frequent mistakes: (class, predicted class, images, share of the class's images)."""
    images = np.bincount(confusion.rows, weights=confusion.counts)
    cells = _mistakes_by_count(confusion)[:count]
    rows, columns, counts = confusion.rows[cells], confusion.columns[cells], confusion.counts[cells]
    shares = counts / images[rows]
    return list(zip(rows.tolist(), columns.tolist(), counts.tolist(), shares.tolist(), strict=True))


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities mean what they say (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Attributes:
        edges: float64 (bins + 1,), of the probability of the best class.
        counts: int64 (bins,), images in each bin.
        confidence: float64 (bins,), their mean probability; NaN in an empty bin.
        accuracy: float64 (bins,), the share of them that is right; NaN in an empty bin.
        error: expected calibration error: the mean of |accuracy - confidence| over the images.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """The calibration of the best classes' probabilities, in bins of equal width."""
    probabilities = predictions.top_probabilities[:, 0].astype(np.float64)
    numbers = np.minimum((probabilities * bins).astype(int), bins - 1)
    counts = np.bincount(numbers, minlength=bins)
    confidence = _share(np.bincount(numbers, probabilities, bins), counts)
    accuracy = _share(np.bincount(numbers, predictions.correct, bins), counts)
    gaps = np.nan_to_num(np.abs(accuracy - confidence))
    return Calibration(
        edges=np.linspace(0, 1, bins + 1),
        counts=counts,
        confidence=confidence,
        accuracy=accuracy,
        error=float((gaps * counts).sum() / counts.sum()),
    )


def most_confident(predictions: Predictions, correct: bool, count: int) -> np.ndarray:
    """The rows of the images with the highest probability of the best class, among the correct or the wrong ones."""
    rows = np.flatnonzero(predictions.correct == correct)
    return rows[np.argsort(-predictions.top_probabilities[rows, 0], kind="stable")][:count]


def _mistakes_by_count(confusion: ConfusionMatrix) -> np.ndarray:
    """The positions of the cells off the diagonal, the highest count first; equal ones stay in order."""
    mistakes = np.flatnonzero(confusion.rows != confusion.columns)
    return mistakes[np.argsort(-confusion.counts[mistakes], kind="stable")]


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
