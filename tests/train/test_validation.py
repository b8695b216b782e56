"""Validation losses: on text that is not trained on, the same in every layout, and without effect on training."""

import pytest

from hydra_overlap.megatron import data
from tests import needs
from tests.plans import plan_of

STEPS = 6
RUN = ("precision=fp32", f"training.train_iters={STEPS}", "data.held_out=0.05")
EVALUATED = ("training.eval_interval=2", "training.eval_iters=2")
LAYOUTS = {
    "dp2, gathers overlapped": ("parallelism=dp2",),
    "dp2 pp2 vpp2, gathers aligned": ("parallelism=pp2_vpp2_dp2",),
}


def validated(run):
    return {step["step"]: step["validation_loss"] for step in run.steps if step["validation_loss"] is not None}


@pytest.mark.xdist_group("validation")
@pytest.mark.parametrize(
    "layout",
    [
        LAYOUTS["dp2, gathers overlapped"],
        pytest.param(LAYOUTS["dp2 pp2 vpp2, gathers aligned"], marks=pytest.mark.slow),
    ],
    ids=LAYOUTS.keys(),
)
def test_training_goes_on_as_if_nothing_had_been_measured(train, layout):
    dropout = "model.hidden_dropout=0.1"  # random numbers: one drawn by a validation would show
    without = train(*layout, *RUN, dropout)
    assert without.code == 0, without.output
    expected = without.losses  # before the next run takes its place
    assert not validated(without) and without.record["validation_loss"] is None
    measured = train(*layout, *RUN, *EVALUATED, dropout)
    assert measured.code == 0, measured.output
    assert measured.losses == expected and len(expected) == STEPS
    assert list(validated(measured)) == [2, 4, 6]
    assert measured.record["validation_loss"] == validated(measured)[6]
    assert "validation loss" in measured.output and "on text that was not trained on" in measured.output


@pytest.mark.slow
@pytest.mark.xdist_group("validation")
def test_the_same_loss_in_every_layout(train):
    losses = [
        list(validated(train(*layout, *RUN, *EVALUATED)).values())
        for layout in (("parallelism=tp1",), ("parallelism=tp2",), LAYOUTS["dp2 pp2 vpp2, gathers aligned"])
    ]
    assert len(losses[0]) == 3
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=2e-6)


def tokens(prefix):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    read = IndexedDataset(prefix)
    return [token for number in range(len(read)) for token in read[number]]


@pytest.fixture
def text(tmp_path):
    """A plan of 4000 bytes in three files, the middle one the largest."""
    for name, letter, size in (("a", b"a", 900), ("b", b"b", 3000), ("c", b"c", 100)):
        (tmp_path / name).write_bytes(letter * size)
    files = ",".join(str(tmp_path / name) for name in "abc")

    def made(share):
        return plan_of(
            "training=smoke", "data=text", f"data.files=[{files}]", f"data.cache_dir={tmp_path}/cache",
            f"data.held_out={share}", "model.seq_length=32",
        )  # fmt: skip

    return made


@needs.IN_PROCESS
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
def test_what_is_held_out_is_the_end_of_the_text_and_nowhere_else(text, share):
    whole = [token for token in tokens(data.prepare(text(0))) if token != data.EOD]
    prefix = data.prepare(text(share))
    kept = [token for token in tokens(prefix) if token != data.EOD]
    held = [token for token in tokens(prefix.replace(data.TRAIN, data.HELD_OUT)) if token != data.EOD]
    assert kept + held == whole
    assert len(held) == pytest.approx(share * len(whole), abs=3)


@needs.IN_PROCESS
def test_parts_too_short_for_a_sample_are_refused_with_a_share_that_is_enough(text):
    from hydra_overlap import LaunchError

    with pytest.raises(LaunchError, match="Training or held-out text is too short") as refusal:
        data.prepare(text(0.001))
    share = refusal.value.finding.fixes[0].override.partition("=")[2]
    assert data.prepare(text(float(share)))
