"""Names of what a run leaves in its folder. No framework is imported."""

MODEL_FILE = "model.keras"
BEST_MODEL_FILE = "best.keras"
HISTORY_FILE = "history.csv"
RUN_FILE = "run.json"
FLAGS_FILE = "flags.txt"
CHECKPOINT_FOLDER = "checkpoint"
TENSORBOARD_FOLDER = "tensorboard"
REPORT_FOLDER = "report"
# In the report's folder, whichever model and images it is on.
REPORT_FILE = "report.html"
PER_CLASS_FILE = "per_class.csv"
CONFUSION_FILE = "confusion.npz"
PREDICTIONS_FILE = "predictions.csv"
REPORT_FILES = (REPORT_FILE, PER_CLASS_FILE, CONFUSION_FILE, PREDICTIONS_FILE)
PROFILE_FOLDER = "profile"
