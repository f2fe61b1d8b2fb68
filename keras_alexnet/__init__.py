"""A Keras 3 reimplementation of CNTK's AlexNet example, which also imports the AlexNets of other frameworks."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # The same names for editors and type checkers, which do not run `__getattr__`.
    from keras_alexnet.data.class_mappings import read_class_mappings as read_class_mappings
    from keras_alexnet.data.class_names import find_classes as find_classes
    from keras_alexnet.data.data_dir import write_data_dir as write_data_dir
    from keras_alexnet.data.find import find_images as find_images
    from keras_alexnet.data.image_map import ImageMap as ImageMap
    from keras_alexnet.data.map_file import read_map as read_map
    from keras_alexnet.data.pipeline import evaluation_dataset as evaluation_dataset
    from keras_alexnet.data.pipeline import image_dataset as image_dataset
    from keras_alexnet.data.pipeline import training_dataset as training_dataset
    from keras_alexnet.data.preparation import PreparationConfig as PreparationConfig
    from keras_alexnet.data.preparation import prepare_data as prepare_data
    from keras_alexnet.data.scanning.data_set import scan_image_folders as scan_image_folders
    from keras_alexnet.errors import UserError as UserError
    from keras_alexnet.exporters.exporter import export_model as export_model
    from keras_alexnet.importers.importer import import_model as import_model
    from keras_alexnet.importers.preprocessing import Preprocessing as Preprocessing
    from keras_alexnet.inference.evaluation import evaluate_model as evaluate_model
    from keras_alexnet.inference.evaluation import predict_map as predict_map
    from keras_alexnet.inference.files import extract_features as extract_features
    from keras_alexnet.inference.files import predict_images as predict_images
    from keras_alexnet.model import build_alexnet as build_alexnet
    from keras_alexnet.model_file import load_model as load_model
    from keras_alexnet.presets import LRN as LRN
    from keras_alexnet.presets import PRESETS as PRESETS
    from keras_alexnet.presets import Preset as Preset
    from keras_alexnet.report.train import train as train
    from keras_alexnet.report.write import write_report as write_report
    from keras_alexnet.training.config import TrainConfig as TrainConfig

__version__ = "0.1.0"

# The public names, by the module that has them. They are loaded when first used: `import keras_alexnet` is cheap, and
# the Keras backend can still be chosen after it.
_MODULES = {
    "ImageMap": "keras_alexnet.data.image_map",
    "LRN": "keras_alexnet.presets",
    "PRESETS": "keras_alexnet.presets",
    "PreparationConfig": "keras_alexnet.data.preparation",
    "Preprocessing": "keras_alexnet.importers.preprocessing",
    "Preset": "keras_alexnet.presets",
    "TrainConfig": "keras_alexnet.training.config",
    "UserError": "keras_alexnet.errors",
    "build_alexnet": "keras_alexnet.model",
    "evaluate_model": "keras_alexnet.inference.evaluation",
    "evaluation_dataset": "keras_alexnet.data.pipeline",
    "export_model": "keras_alexnet.exporters.exporter",
    "extract_features": "keras_alexnet.inference.files",
    "find_classes": "keras_alexnet.data.class_names",
    "find_images": "keras_alexnet.data.find",
    "image_dataset": "keras_alexnet.data.pipeline",
    "import_model": "keras_alexnet.importers.importer",
    "load_model": "keras_alexnet.model_file",
    "predict_images": "keras_alexnet.inference.files",
    "predict_map": "keras_alexnet.inference.evaluation",
    "prepare_data": "keras_alexnet.data.preparation",
    "read_class_mappings": "keras_alexnet.data.class_mappings",
    "read_map": "keras_alexnet.data.map_file",
    "scan_image_folders": "keras_alexnet.data.scanning.data_set",
    "train": "keras_alexnet.report.train",
    "training_dataset": "keras_alexnet.data.pipeline",
    "write_data_dir": "keras_alexnet.data.data_dir",
    "write_report": "keras_alexnet.report.write",
}
__all__ = sorted(_MODULES)


if not TYPE_CHECKING:  # Type checkers would take every name for one that it has.

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
