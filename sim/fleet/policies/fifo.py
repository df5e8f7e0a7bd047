"""`fifo`: by time of submission; the first that does not fit keeps the others waiting."""

from __future__ import annotations

from sim.fleet.policies.policy import Policy


class Fifo(Policy):
    """First in, first out."""
