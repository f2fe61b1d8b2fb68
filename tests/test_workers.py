"""Several real processes on this machine that train together, by scripts/launch_local.sh."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from training_process import assert_close, installed, newest_checkpoint

from keras_alexnet import cli, fit
from keras_alexnet.training import loop

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EPOCHS, STEPS_PER_EPOCH = 3, 8


def arguments(data_dir: Path, folder: Path) -> list[str]:
    return [
        *(f"--data_dir={data_dir}", f"--output_dir={folder}", "--preset=tiny", "--batch_size=12", "--dropout=0"),
        *(f"--epochs={EPOCHS}", f"--steps_per_epoch={STEPS_PER_EPOCH}", "--checkpoint_minutes=0.0001"),
        *("--learning_rate=0.001", "--lr_drop_epochs=1"),
    ]


class Workers:
    """Two workers of a backend, which train in one folder."""

    def __init__(self, backend: str, data_dir: Path, folder: Path):
        self._environment = {**os.environ, "KERAS_BACKEND": backend}
        # As for users: a killed process might leave half a program in the cache.
        self._environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        self._data_dir = data_dir
        self._folder = folder

    def start(self, *more: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["scripts/launch_local.sh", "2", *arguments(self._data_dir, self._folder), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self._environment,
        )

    def steps(self) -> int:
        """The steps of the newest checkpoint."""
        return int(newest_checkpoint(self._folder).stem.removeprefix("step-"))

    def signal_in_training(self, process: subprocess.Popen, worker: int, number: signal.Signals) -> None:
        """Signals a worker after the next checkpoint."""
        steps = self.steps()
        while self.steps() == steps:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.kill(self._process_of(worker), number)

    def _process_of(self, worker: int) -> int:
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            except OSError:
                continue
            numbers = [int(a or b) for a, b in re.findall(rb'"index": (\d+)|PROCESS_ID=(\d+)', environment)]
            if b"keras_alexnet.fit" in command and bytes(self._folder) in command and numbers == [worker]:
                return int(entry.name)
        raise AssertionError(f"no worker {worker}")


@pytest.mark.parametrize("backend", installed("tensorflow", "jax"))
def test_workers_that_are_killed_and_signaled_do_what_one_process_does(backend, data_dir, tmp_path, backend_process):
    process, single, folder = backend_process(backend), tmp_path / "single", tmp_path / "run"
    for epochs in (1, EPOCHS):
        flags, _ = cli.parse(fit.define_flags, [*arguments(data_dir, single), f"--epochs={epochs}"])
        process.run(loop.train, fit.config_from(flags))
        if epochs == 1:
            shutil.copytree(single, folder)  # Workers resume what another number of processes has begun.
    workers = Workers(backend, data_dir, folder)

    started = workers.start()
    # JAX's worker 0 holds the service that the others ask; TensorFlow's is no different from the others.
    workers.signal_in_training(started, 0 if backend == "jax" else 1, signal.SIGKILL)
    stdout, stderr = started.communicate(timeout=120)
    assert "2 workers with 1 CPU each" in stdout
    assert "resuming after epoch 1" in stdout
    assert started.returncode not in (0, 2)
    assert len(re.findall("another (worker ended|process of the training)", stderr)) == 1, stderr
    assert "Traceback" not in stderr

    started = workers.start()
    workers.signal_in_training(started, 1, signal.SIGTERM)
    stdout, stderr = started.communicate(timeout=120)
    assert started.returncode == 143, stderr
    assert stdout.count("Stopped and saved after step") == 1

    steps = workers.steps()
    assert steps < EPOCHS * STEPS_PER_EPOCH - 1
    started = workers.start("--report", f"--profile_steps={steps}:{steps + 1}")
    stdout, stderr = started.communicate(timeout=300)
    assert started.returncode == 0, stderr
    assert len(list((folder / "profile").glob(f"plugins/profile/steps-{steps}-{steps + 1}"))) == 1
    assert stdout.splitlines()[-1] == f"The report is {folder}/report/report.html"
    assert (folder / "report" / "report.html").exists()
    assert_close(folder, single)
