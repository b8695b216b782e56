"""Judging is little work, so that it can stand at the end of every composition: counted, for no clock is right on every machine."""

import sys

from hydra_overlap import resolve
from tests.overrides import request_of

FULL = request_of(
    "comm_overlap.tp.tp_comm_overlap=true", "parallelism=tp4", "parallelism.world_size=8", "platform=h100",
    "userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192", "software=reference", "ddp=distributed_optimizer", "optimizer=adam",
    "model=llama3_70b", "precision=bf16", "training.global_batch_size=256", "launch=local_margin", "data=mock",
)  # fmt: skip
MOST = 3_000
"""Calls of Python functions; 1,845 on Python 3.11. Some thousands take a millisecond."""


def test_a_full_request_is_resolved_in_few_calls() -> None:
    resolve(FULL)  # what is made once in a process
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        resolve(FULL)
    finally:
        sys.setprofile(None)
    assert 100 < calls < MOST
