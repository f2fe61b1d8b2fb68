"""A program that uses the public API, for mypy: it is checked, and never run."""

from typing import assert_type

import keras
import numpy as np

import keras_alexnet as ka

paths, problems = ka.find_images(["photos"])
assert_type(paths, list[str])
assert_type(problems, list[tuple[str, str]])

image_map = ka.read_map("data/val_map.txt", 1000)
assert_type(image_map, ka.ImageMap)
assert_type(image_map.read(0), bytes)

try:
    model: keras.Model = ka.load_model("model.keras")
except ka.UserError as error:
    assert_type(str(error), str)

results: dict[str, float] = ka.evaluate_model(model, image_map, 64)
assert_type(ka.predict_images(model, paths), np.ndarray)
assert_type(ka.extract_features(model, paths, layer="relu7"), np.ndarray)

config = ka.TrainConfig("data", "model", epochs=5, lr_drop_epochs=(3,))
history: list[dict[str, float]] = ka.train(config, restart=True)
assert_type(ka.PRESETS["cntk"], ka.Preset)
ka.build_alexnet(10, preset="bvlc", dense_units=512)
ka.build_alexnet(10, preset=ka.PRESETS["cntk"], seed=1)
assert_type(ka.import_model("bvlc.caffemodel").classes, list[str] | None)
ka.export_model(model, "model.onnx")
assert_type(ka.__version__, str)

ka.read_map(3)  # type: ignore[arg-type]
ka.TrainConfig(epochs="5")  # type: ignore[arg-type]
ka.load_model()  # type: ignore[call-arg]
_ = ka.load  # type: ignore[attr-defined]
