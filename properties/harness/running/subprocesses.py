"""Training in a process of its own: ``python -m`` of this module, ``DEVICE DTYPE [PLUGIN...]``.

It reads runs from its standard input, one repr a line, and prints for each the digest of
every gradient and value at the end. The environment's hash seed does not go along; the
plugins of ``pytest -p``, its further arguments, do, since they may be what makes this torch another.
"""

import hashlib
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import List, Sequence

import torch

import frostproof
from frostproof import strategies
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import TrainingRun

PACKAGE = str(Path(frostproof.__file__).parents[1])  # where a child finds it, installed or not


def digest(run: TrainingRun, device: str, dtype: torch.dtype) -> str:
    """A digest of every gradient and every value after training."""
    trainer = Trainer(run, device, dtype).train()
    told = hashlib.sha256()
    for name, bits in trainer.bits().items():
        told.update(name.encode() + bits + (trainer.gradient_bits()[name] or b"none"))
    return told.hexdigest()


class Subprocess:
    """Another process that trains these runs, begun at once; plugins: modules it imports first."""

    def __init__(
        self, runs: Sequence[TrainingRun], device: str, dtype: torch.dtype, plugins: Sequence[str]
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONHASHSEED"}
        paths = (PACKAGE, environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "frostproof.properties.harness.running.subprocesses",
                device,
                str(dtype),
                *plugins,
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{run!r}\n" for run in runs))
        self.process.stdin.flush()

    def digests(self) -> List[str]:
        """Wait for the digests; RuntimeError, with what the process said, where it fails."""
        output, errors = self.process.communicate(timeout=120)
        if self.process.returncode:
            raise RuntimeError(f"the other process failed:\n{errors[-2000:]}")
        return output.split()


def main() -> None:
    """Train what the standard input says."""
    device, dtype = sys.argv[1], getattr(torch, sys.argv[2].rpartition(".")[2])
    torch.set_num_threads(1)
    for plugin in sys.argv[3:]:
        importlib.import_module(plugin)
    for line in sys.stdin:
        print(digest(eval(line, vars(strategies)), device, dtype))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # autograd's threads of a device can end a process that is being taken down
