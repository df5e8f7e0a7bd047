"""What the page of a study shows of its table: all points, or the best and a sample of them.

Public: `study_view`.
"""

from __future__ import annotations

from typing import Any

from sim.ask.sweep.store import quoted
from sim.ask.sweep.sweep_table import SweepTable
from sim.report.page.study import Density, StudyView

MOST = 1000  # points on a page
CELLS = 60  # of the density along each objective


def study_view(table: SweepTable, name: str, description: str, whole: str = "") -> StudyView:
    """The view of a sweep's table. whole: the file with all its rows, if there is one."""
    total = len(table)
    sampled = total > MOST
    return StudyView(
        name=name,
        description=description,
        keys=tuple(map(table.title, table.keys)),
        objectives=table.directions,
        counts=table.counts(),
        total=total,
        rows=table.told(_sample(table, total) if sampled else table.rows()),
        density=_density(table) if sampled and len(table.objectives) > 1 else None,
        whole=whole,
    )


def _sample(table: SweepTable, total: int) -> list[dict[str, Any]]:
    """The best points, and every n-th of the others, each with all its seeds."""
    step = -(-total // (MOST // 2))
    best = "coalesce(pareto, false)" if table.objectives else "false"
    query = f"""
        SELECT * EXCLUDE (best, seeds, place, first) FROM (
            SELECT *, dense_rank() OVER (ORDER BY point) AS place,
                dense_rank() OVER (PARTITION BY best ORDER BY point) AS first
            FROM (SELECT *, bool_or({best}) OVER (PARTITION BY point) AS best,
                count(*) OVER (PARTITION BY point) AS seeds FROM points)
        ) WHERE (best AND first * seeds <= {MOST // 2}) OR place % {step} = 0 ORDER BY point, seed
    """
    found = table.store.connection.sql(query)
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def _density(table: SweepTable) -> Density:
    """Counts of all good points over the first two objectives."""
    x, y = (quoted(name) for name in table.objectives[:2])
    good = f"FROM points WHERE status = 'ok' AND {x} IS NOT NULL AND {y} IS NOT NULL"
    bounds = table.store.connection.execute(f"SELECT min({x}), max({x}), min({y}), max({y}) {good}").fetchone()
    if bounds is None or bounds[0] is None:
        return Density((), (), ())
    x0, x1, y0, y1 = (float(bound) for bound in bounds)
    width, height = (x1 - x0) / CELLS or 1.0, (y1 - y0) / CELLS or 1.0
    cells = f"least({CELLS - 1}, floor(({{}} - {{}}) / {{}}))::INT"
    query = f"SELECT {cells.format(x, x0, width)}, {cells.format(y, y0, height)}, count(*) {good} GROUP BY ALL"
    counts = [[0] * CELLS for _ in range(CELLS)]
    for column, row, count in table.store.connection.execute(query).fetchall():
        counts[row][column] = count
    return Density(
        tuple(x0 + (number + 0.5) * width for number in range(CELLS)),
        tuple(y0 + (number + 0.5) * height for number in range(CELLS)),
        tuple(map(tuple, counts)),
    )
