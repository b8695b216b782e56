"""Flags that are known only where a script runs."""

from hydra_overlap.audit import audit

SCRIPT = "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size ${TPSIZE} --overlap-grad-reduce $EXTRA --bf16"


def test_a_setting_known_only_where_the_script_runs_leaves_it_undecided() -> None:
    found = audit(SCRIPT)
    assert (found.verdict, found.exit_code, found.findings) == ("undecided", 1, ())
    assert found.undecided == ("parallelism.tensor_model_parallel_size",)
    assert "parallelism.tensor_model_parallel_size=..." in str(found) and "not known: $EXTRA" in str(found)


def test_saying_it_behind_the_file_name_decides() -> None:
    assert audit(SCRIPT, ["parallelism.tensor_model_parallel_size=2"]).verdict == "accepted"
    assert "DP001" in {finding.rule for finding in audit(SCRIPT, ["parallelism.tensor_model_parallel_size=8"]).errors}
