"""Where each law runs: its devices, dtypes, depths and shards, as parameters of its test."""

from typing import List

import pytest
import torch

from frostproof.properties.harness.core import shards
from frostproof.properties.harness.session import axes
from frostproof.properties.harness.session.profiles import ENUMERATED_DEPTH
from frostproof.properties.harness.session.state import of


def devices_of(mark: pytest.Mark, config: pytest.Config) -> List[str]:
    """The devices of a law; one that compares with the CPU needs another."""
    devices = of(config).devices
    return [name for name in devices if name != "cpu"] if mark.kwargs["beside_cpu"] else devices


def parametrize(metafunc: pytest.Metafunc, mark: pytest.Mark) -> None:
    """Fill in ``device`` and ``dtype``, and put both in the id: ``[cpu-float32]``."""
    if "device" in metafunc.fixturenames:
        _parametrize_cells(metafunc, mark)
    shards.parametrize(metafunc, of(metafunc.config).shards)


def _parametrize_cells(metafunc: pytest.Metafunc, mark: pytest.Mark) -> None:
    session = of(metafunc.config)
    devices = devices_of(mark, metafunc.config)
    cells = [
        (device, name)
        for device in devices
        for name in axes.dtypes_of(mark.kwargs["dtypes"], device, session.dtypes, session.thorough)
    ]
    if "dtype" in metafunc.fixturenames and not cells:
        left_out = pytest.mark.skip(reason=f"{axes.LEFT_OUT} {' '.join(session.dtypes)}")
        cell = pytest.param(devices[0], None, id=f"{devices[0]}-none", marks=left_out)
        metafunc.parametrize(("device", "dtype"), [cell])
    elif "dtype" in metafunc.fixturenames:
        metafunc.parametrize(
            ("device", "dtype"),
            [(device, getattr(torch, name)) for device, name in cells],
            ids=[f"{device}-{name}" for device, name in cells],
        )
    else:
        metafunc.parametrize("device", devices)
    if "depth" in metafunc.fixturenames:
        depths = range(1, 1 + ENUMERATED_DEPTH.get(session.profile, 4))
        metafunc.parametrize("depth", depths, ids=[f"depth{depth}" for depth in depths])
