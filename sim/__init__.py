"""clustersim: a discrete-event simulator of large-model training clusters.

`sim.simulate`, `sim.simulate_fleet`, `sim.sweep` and `sim.check` are the Python interface; `sim.api` documents them.
They are imported when they are first used.
"""

__version__ = "0.1.0"

_API = ("check", "simulate", "simulate_fleet", "sweep")


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _API:
        return getattr(import_module("sim.api"), name)
    if name == "ConfigError":
        return import_module("sim.errors").ConfigError
    raise AttributeError(f"module 'sim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_API, "ConfigError"]
