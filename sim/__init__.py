"""clustersim: a discrete-event simulator of large-model training clusters."""

__version__ = "0.1.0"
