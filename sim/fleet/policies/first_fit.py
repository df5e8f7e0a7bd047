"""`first_fit`: by time of submission, and what does not fit is passed by."""

from __future__ import annotations

from sim.fleet.policies.policy import Policy


class FirstFit(Policy):
    """Whatever fits, in order of submission."""

    blocks = False
