"""Classifies your own photos with a trained AlexNet: first by its features, then by a network fine-tuned on them.

python scripts/fine_tune_photos.py saved_models/imagenet/model.keras photos saved_models/photos
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from keras_alexnet import (
    TrainConfig,
    UserError,
    evaluate_model,
    extract_features,
    load_model,
    scan_image_folders,
    train,
    write_data_dir,
)


def main(model_path: str, photos: str, output: str) -> None:
    """Prints the error of both ways on a fifth of the photos, which is held out; `output` becomes the run's folder."""
    found = scan_image_folders(photos, None, None, val_fraction=0.2)

    # Without training: the class whose mean feature vector has the largest cosine similarity.
    model = load_model(model_path)
    known, unknown = (extract_features(model, part.paths, layer="relu7") for part in (found.train, found.val))
    labels = np.array(found.train.labels)
    means = np.stack([known[labels == label].mean(axis=0) for label in range(len(found.classes))])
    cosines = unknown @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    error = np.mean(cosines.argmax(axis=1) != np.array(found.val.labels))
    print(f"features of {model_path}: {100 * error:.1f}% error on {len(found.val)} photos")

    # With training: a new last layer on the same features. Without freeze_through, the other layers learn as well.
    data_dir = Path(output) / "data"
    write_data_dir(data_dir, found.train, found.val, found.classes)
    settings = {"learning_rate": 0.001, "lr_drop_epochs": (6,), "epochs": 8, "batch_size": min(32, len(found.train))}
    train(TrainConfig(str(data_dir), output, initial_model=model_path, freeze_through="fc7", **settings))
    results = evaluate_model(load_model(Path(output) / "best.keras"), found.val)
    print(f"fine-tuned: {100 * results['top1_error']:.1f}% error on {len(found.val)} photos")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("photos", help="a folder with one folder of images per class")
    parser.add_argument("output", help="the folder for the new model")
    options = parser.parse_args()
    try:
        main(options.model, options.photos, options.output)
    except UserError as error:
        sys.exit(f"{parser.prog}: {error}")
