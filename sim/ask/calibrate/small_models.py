"""Small models whose whole training step is timed and then predicted with the profile: it was not made from them."""

from __future__ import annotations

from typing import Any

from sim.ask.run.step import simulate_step
from sim.inputs.load import load_experiment
from sim.inputs.records import Accelerator
from sim.metrics.calibration import SmallModel

DENSE = {"kind": "mlp", "activation": "relu", "bias": True}
GPT = {"kind": "transformer", "activation": "gelu", "norm": "layernorm", "positions": "learned", "bias": True}


def _small(inner: int, layers: int, hidden: int, batch: int, length: int) -> tuple[SmallModel, ...]:
    dense = {**DENSE, "name": "small-mlp", "inputs": inner, "hidden": [inner, inner, inner], "outputs": 16}
    sizes = {"layers": layers, "hidden": hidden, "heads": hidden // 64, "ffn": 4 * hidden, "vocab": 1024}
    gpt = {**GPT, **sizes, "name": "small-transformer", "tied_embeddings": False}
    return SmallModel("small-mlp", dense, 64 * batch, None), SmallModel("small-transformer", gpt, batch, length)


SMALL_MODELS: dict[str, tuple[SmallModel, ...]] = {
    "gpu": _small(8192, 4, 2048, 64, 1024),
    "systolic": _small(8192, 4, 2048, 64, 1024),
    "cpu": _small(1024, 2, 256, 8, 256),
}


def predicted_step(model: SmallModel, board: Accelerator, software: str, precision: str, issue: float) -> float:
    """Seconds of the training step of `model` on one such board, as the engine runs it.

    software: a stack of the catalogue; issue: what the host needs for a kernel [s], where it issues them beside.
    """
    stack: dict[str, Any] = {"extends": software}
    if board.kind == "gpu":
        stack |= {"name": f"{software}-here", "host_issue": issue}
    node = {"name": "here", "accelerator": board.model_dump(), "accelerators": 1, "local": {"kind": "none"}}
    training = {"global_batch": model.batch, "microbatch": model.batch, "precision": precision}
    if model.sequence_length is not None:
        training["sequence_length"] = model.sequence_length
    experiment = {
        "cluster": {"name": "here", "nodes": 1, "node": {**node, "nics": {"count": 0}}},
        "workload": model.workload,
        "software": stack,
        "training": training,
    }
    return simulate_step(load_experiment(experiment, si=True).experiment).trace.time
