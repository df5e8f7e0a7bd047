"""Schedules with weight gradients of their own: what they idle and hold, against what their authors say.

Chunks of a V are halves of a stage: there are two.
"""

from __future__ import annotations

import pytest
from test_schedule import ends_of_tasks, walk

from sim.phase import Phase
from sim.schedule.catalogue import schedule_of
from sim.schedule.table import Schedule

F, B, W = Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT
ALIKE = {F: 1.0, B: 1.0, W: 1.0}
SHAPES = [(2, 4), (3, 12), (4, 8), (4, 24), (5, 16), (8, 32), (12, 40), (16, 48)]  # stages, microbatches


def most_held(schedule: Schedule) -> list[int]:
    """Chunks that each stage holds at its fullest."""
    return [int(schedule.held(stage).sum(axis=1).max()) for stage in range(schedule.course.stages)]


class TestZbH2:
    @pytest.mark.parametrize(("stages", "microbatches"), SHAPES)
    def test_stages_never_wait_between_their_own_ends(self, stages: int, microbatches: int) -> None:
        """(p - 1)(F + B - 2W) is nothing where tasks take equally long (Qi 2023, table 2)."""
        schedule = schedule_of("zb-h2", stages, 1, microbatches)
        end = ends_of_tasks(schedule, ALIKE)
        for stage in range(stages):
            mine = [end[task] for task in schedule.tasks(stage)]
            assert mine[0] - 1.0 == stage
            assert max(mine) - stage == 3.0 * microbatches

    @pytest.mark.parametrize(("stages", "microbatches"), SHAPES)
    def test_all_stages_hold_twice_as_many_less_one(self, stages: int, microbatches: int) -> None:
        assert most_held(schedule_of("zb-h2", stages, 1, microbatches)) == [2 * stages - 1] * stages


class TestControllableMemory:
    @pytest.mark.parametrize(("stages", "microbatches"), SHAPES)
    def test_v_min_holds_a_third_and_v_half_a_half(self, stages: int, microbatches: int) -> None:
        """Of the p microbatches that 1F1B holds, and a constant: (p + 4)/3 and p/2 + 3/2."""
        least, half = (most_held(schedule_of(name, stages, 2, microbatches)) for name in ("v-min", "v-half"))
        assert stages / 3 <= max(least) / 2 <= (stages + 4) / 3
        assert stages / 2 <= max(half) / 2 <= (stages + 3) / 2

    @pytest.mark.parametrize("name", ["v-half", "v-min"])
    @pytest.mark.parametrize(("stages", "microbatches"), SHAPES)
    def test_they_idle_less_than_1f1b(self, name: str, stages: int, microbatches: int) -> None:
        """And as much whatever there are of microbatches, where tasks take equally long: a block fits into the next."""
        _, idle = walk(schedule_of(name, stages, 2, microbatches), ALIKE)
        _, more = walk(schedule_of(name, stages, 2, microbatches + 7), ALIKE)
        assert idle == more
        assert max(idle) < 6.0 * (stages - 1)  # 1F1B, in tasks of a chunk

    def test_v_min_waits_in_each_microbatch_where_tasks_differ(self) -> None:
        """V-Half has room for that (Qi 2024, section 4.2)."""
        uneven = {F: 1.0, B: 1.25, W: 0.75}
        grows = []
        for name in ("v-min", "v-half"):
            (_, few), (_, many) = (walk(schedule_of(name, 8, 2, number), uneven) for number in (24, 48))
            grows.append(max(many) - max(few))
        assert grows[0] > 10.0
        assert grows[1] == pytest.approx(0.0, abs=1e-9)


class TestDualPipeV:
    @pytest.mark.parametrize(("stages", "microbatches"), SHAPES)
    def test_it_idles_no_longer_than_published(self, stages: int, microbatches: int) -> None:
        """(PP/2 - 1)(F&B + B + W - 3W) of chunks for PP = 2p, B + W the whole backward pass; pairs run in turn here."""
        for seconds in (ALIKE, {F: 1.0, B: 1.25, W: 0.75}):
            _, idle = walk(schedule_of("dualpipe-v", stages, 2, microbatches), seconds)
            assert max(idle) <= (stages - 1) * (seconds[F] + 2 * seconds[B] - seconds[W])
        assert walk(schedule_of("dualpipe-v", stages, 2, microbatches), ALIKE)[1] == [stages - 1.0] * stages

    @pytest.mark.parametrize(("stages", "microbatches"), SHAPES)
    def test_it_holds_one_chunk_more_than_there_are(self, stages: int, microbatches: int) -> None:
        """PP + 1 (DeepSeek-AI, table of DualPipe's repository)."""
        assert most_held(schedule_of("dualpipe-v", stages, 2, microbatches)) == [2 * stages + 1] * stages
