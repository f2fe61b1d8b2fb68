"""Names of the files of a report. Nothing is imported."""

REPORT_FILE = "report.html"
PER_CLASS_FILE = "per_class.csv"
CONFUSION_FILE = "confusion.npz"
PREDICTIONS_FILE = "predictions.csv"
# What lies beside the page, and what it says of it.
TABLES = (
    (PER_CLASS_FILE, "precision, recall and the most common mistake of each class"),
    (CONFUSION_FILE, "the confusion matrix, for numpy.load: confusion, classes, names"),
    (PREDICTIONS_FILE, "each image with its label, rank, probability and loss, and the five best classes"),
)
