"""clustersim: a discrete-event simulator of large-model training clusters.

`sim.simulate`, `sim.simulate_fleet`, `sim.plan`, `sim.scale`, `sim.sweep`, `sim.compare`, `sim.explain`, `sim.validate`
and `sim.check` are the Python interface; `sim.api` documents them. They are imported when they are first used.
"""

__version__ = "0.2.0"

__all__ = [
    "ConfigError",
    "check",
    "compare",
    "explain",
    "plan",
    "scale",
    "simulate",
    "simulate_fleet",
    "sweep",
    "validate",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in __all__:
        return getattr(import_module("sim.api"), name)
    raise AttributeError(f"module 'sim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
