"""What the files of a report contain."""

from keras_alexnet.training.run_files import CONFUSION_FILE, PER_CLASS_FILE, PREDICTIONS_FILE

# What lies beside the page, and what it says of it.
TABLES = (
    (PER_CLASS_FILE, "precision, recall and the most common mistake of each class"),
    (CONFUSION_FILE, "the confusion matrix, for numpy.load: confusion, classes, names"),
    (PREDICTIONS_FILE, "each image with its label, rank, probability and loss, and the five best classes"),
)
# With more classes than this, confusion.npz holds only the nonzero cells: all of them would take over 800 MB to load.
MAX_DENSE_CLASSES = 10_000
_SPARSE_CONFUSION = (
    "the nonzero cells of the confusion matrix, for scipy.sparse.load_npz or numpy.load: row, col, data, shape, "
    "classes, names"
)


def described_tables(num_classes: int) -> list[tuple[str, str]]:
    """What the page says of the tables: (name, description)."""
    sparse = {CONFUSION_FILE: _SPARSE_CONFUSION} if num_classes > MAX_DENSE_CLASSES else {}
    return list((dict(TABLES) | sparse).items())
