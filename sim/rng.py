"""Named random streams; the only place randomness comes from.

Public: `stream`, `Generator`. A stream depends on the seed and its name alone: not on the order in which
streams are asked for, not on the process, not on the hash seed of the interpreter.
"""

from __future__ import annotations

import hashlib

import numpy as np

Generator = np.random.Generator


def stream(seed: int, name: str) -> np.random.Generator:
    """Generator of the stream `name`, such as `failures/gpu`, under `seed`.

    PCG64 keyed by SHA-256 of both; equal arguments give equal draws, distinct names independent ones.
    """
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
