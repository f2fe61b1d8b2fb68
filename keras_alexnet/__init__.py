"""AlexNet as CNTK's example has it, as a Keras 3 application, and the AlexNets of others."""

import importlib

# The public names, by the module that has them. They are loaded when first used: `import keras_alexnet` is cheap, and
# the Keras backend can still be chosen after it.
_MODULES = {
    "ImageMap": "keras_alexnet.data.image_map",
    "InputOptions": "keras_alexnet.importers.preprocessing",
    "LRN": "keras_alexnet.presets",
    "PRESETS": "keras_alexnet.presets",
    "PreparationConfig": "keras_alexnet.data.preparation",
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
    "scan": "keras_alexnet.data.scanning.data_set",
    "train": "keras_alexnet.report.train",
    "training_dataset": "keras_alexnet.data.pipeline",
    "write_data_dir": "keras_alexnet.data.data_dir",
    "write_report": "keras_alexnet.report.write",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
