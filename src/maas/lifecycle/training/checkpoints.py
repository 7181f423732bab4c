"""Checkpoints: everything that an interrupted training needs to resume with the same results."""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint that is durable on return.

    A kill at any moment leaves either the previous checkpoint or this one.
    """
    staging = path.with_name(path.name + ".new")
    with staging.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The state; None if there is no readable checkpoint or it belongs to another build.

    Reads tensors and plain values only (`weights_only`), no arbitrary pickled objects.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile):
        return None
    if not isinstance(state, dict) or state.get("fingerprint") != fingerprint:
        return None
    return state


def random_states() -> dict[str, Any]:
    """The states of the generators of torch, NumPy and Python, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "numpy": (str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(gauss)),
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    kind, keys, position, has_gauss, gauss = states["numpy"]
    torch.set_rng_state(states["torch"])
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
