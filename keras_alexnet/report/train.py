"""Training that ends with a report."""

from keras_alexnet.report.check import check_run_report
from keras_alexnet.training import loop
from keras_alexnet.training.config import TrainConfig


def train(config: TrainConfig, *, restart: bool = False) -> list[dict]:
    """Trains as `training.loop.train`, and writes a report at the end if `config.report` is on.

    Raises:
        UserError: as there; or a report is wanted, and packages are missing or its folder cannot be written to.
    """
    check_run_report(config)
    if not config.report:
        return loop.train(config, restart=restart)
    # Its packages are optional.
    from keras_alexnet.report.run_report import write_run_report

    return loop.train(config, restart=restart, write_report=write_run_report)
