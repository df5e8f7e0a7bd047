"""Measurements of a user's own hardware and what was fitted to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sim.metrics.curves import CurveScore
from sim.metrics.fit import CollectiveFit


@dataclass(frozen=True)
class Table:
    """One run: seconds by message size (median where a size was run more than once)."""

    path: Path
    line: int  # of its first row
    collective: str
    ranks: int
    nodes: int
    device: str
    seconds: dict[int, float]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """One table: the curve fitted to it, and what the platform made of all tables predicts for it."""

    table: Table
    fit: CollectiveFit
    check: CurveScore | None = None

    @property
    def scope(self) -> str:
        """Which numbers of a platform the table tells: "local" or "network"."""
        return "local" if self.table.nodes == 1 else "network"


@dataclass(frozen=True)
class Calibration:
    """The measured platform: its fields as written, and the tables they come from."""

    base: str
    name: str
    text: str
    fitted: tuple[Fitted, ...]
    remarks: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "base": self.base,
            "name": self.name,
            "platform": self.text,
            "tables": [
                {
                    "file": str(each.table.path),
                    "line": each.table.line,
                    "collective": each.table.collective,
                    "ranks": each.table.ranks,
                    "nodes": each.table.nodes,
                    "device": each.table.device,
                    "sizes": len(each.table.seconds),
                    "fit": asdict(each.fit),
                    "platform_error": each.check.mean_error if each.check else None,
                }
                for each in self.fitted
            ],
            "remarks": list(self.remarks),
        }
