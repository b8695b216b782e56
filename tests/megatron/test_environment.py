"""The launch environment as real ranks find it: every promised variable is read again in each of them."""

import json
from pathlib import Path

import pytest

from hydra_overlap.launch import local, preflight
from hydra_overlap.megatron import rehearsal
from tests import needs
from tests import ranks as warm_ranks
from tests.plans import plan_of

pytestmark = needs.MEGATRON

# A100: userbuffers without multicast; margins for LayerNorm kernels.
PLAN = (
    "training=smoke", "data=mock", "platform=a100", "parallelism=tp2", "comm_overlap.tp.tp_comm_overlap=true",
    "launch=local_margin", "software=reference",
)  # fmt: skip
PROMISED = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "NVTE_FWD_LAYERNORM_SM_MARGIN": "16",
    "NVTE_BWD_LAYERNORM_SM_MARGIN": "16",
    "UB_SKIPMC": "1",
}
# As train.py's command worker; rank 1 loses a variable between its start and its first import.
RANK = """
import os, sys
sys.path.insert(0, {root!r})
import train
from hydra_overlap.launch import local
if os.environ["RANK"] == "1":
    os.environ.update({changed!r})
local.as_rank(train.train, local.plan_of_this_rank())
"""


def ranks(folder: Path, changed: dict[str, str]) -> None:
    """Two real ranks of the plan; rank 1 with other variables."""
    plan = rehearsal.rehearse(plan_of(*PLAN, output_dir=folder))
    assert plan.resolution.env == PROMISED
    script = folder / "rank.py"
    script.write_text(RANK.format(root=str(Path(__file__).parents[2]), changed=changed))
    warm_ranks.start(plan, str(script), preflight.rank_environment(plan, 2))


@pytest.mark.slow
def test_every_rank_has_the_promised_variables_and_says_so(tmp_path: Path) -> None:
    ranks(tmp_path, {})
    assert json.loads((tmp_path / "manifest.json").read_text())["readback"]["env"] == PROMISED


@pytest.mark.slow
def test_one_rank_with_other_variables_stops_all_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(local.RankError) as failure:
        ranks(tmp_path, {"UB_SKIPMC": "0", "NVTE_BWD_LAYERNORM_SM_MARGIN": "0"})
    for text in ("UB_SKIPMC is 0, promised 1", "NVTE_BWD_LAYERNORM_SM_MARGIN is 0, promised 16"):
        assert f"rank 1: environment {text}" in str(failure.value)
    assert "rank 0: environment" not in str(failure.value)
    assert not (tmp_path / "metrics.jsonl").exists()
