"""The environment of a rank, read again: promised variables, and those that undo what was asked for."""

import pytest

from hydra_overlap.megatron import readback, rehearsal
from tests import needs
from tests.plans import plan_of

pytestmark = [needs.MEGATRON, needs.IN_PROCESS]

BUNDLE = "comm_overlap=tp4_h100"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a rank of the plan starts: nothing but what was promised, and one variable that undoes it."""
    monkeypatch.setattr(readback.os, "environ", {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "CUDA_LAUNCH_BLOCKING": "1"})


def test_a_rank_on_a_gpu_stops_on_a_variable_that_undoes_the_plan() -> None:
    (difference,) = readback._environment(plan_of(BUNDLE), 3)
    assert str(difference).startswith(
        "rank 3: environment CUDA_LAUNCH_BLOCKING is 1, promised unset (it undoes every overlap"
    )


def test_a_rank_of_a_rehearsal_does_not() -> None:
    assert readback._environment(rehearsal.rehearse(plan_of(BUNDLE)), 0) == []
