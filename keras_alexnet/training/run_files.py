"""Names of what a run leaves in its folder. No framework is imported."""

MODEL_FILE = "model.keras"
BEST_MODEL_FILE = "best.keras"
HISTORY_FILE = "history.csv"
RUN_FILE = "run.json"
FLAGS_FILE = "flags.txt"
CHECKPOINT_FOLDER = "checkpoint"
TENSORBOARD_FOLDER = "tensorboard"
