"""`overlap.reads`: an app says where it keeps what the rules read."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from hydra_overlap.compose.enforce import judged, refusal_in

HOST = """
net: {width: 8192, heads: 64, depth: "${net.blocks}", blocks: 80}
batch: 1
precision: {bf16: true}
overlap:
  reads:
    model: {hidden_size: net.width, num_attention_heads: net.heads, num_layers: net.depth}
    training: {micro_batch_size: batch}
"""


@pytest.fixture
def composed(tmp_path: Path):
    """`composed(*overrides, host=)`: the config of an app whose primary is `host`, with a bundle added."""
    GlobalHydra.instance().clear()

    def build(*overrides: str, host: str = HOST):
        (tmp_path / "host.yaml").write_text(host)
        with initialize_config_dir(str(tmp_path), version_base=None):
            return compose("host", ["+comm_overlap=tp4_h100", *overrides])

    yield build
    GlobalHydra.instance().clear()


def refusal(composed, *overrides: str, **host: str):
    with pytest.raises(Exception) as error:  # noqa: PT011  (Hydra wraps it)
        composed(*overrides, **host)
    found = refusal_in(error.value)
    assert found is not None, error.value
    return found.findings


def test_mapped_values_are_judged_as_if_they_stood_in_our_fields(composed) -> None:
    cfg = composed()
    resolution = judged(cfg, foreign_nodes=True)
    assert resolution.request["model"]["hidden_size"] == 8192
    assert resolution.request["model"]["num_layers"] == 80  # an interpolation of the app's own, resolved
    assert not [note for note in cfg.overlap.notes if "net" in note]


def test_an_app_that_lists_the_bundle_in_its_defaults_maps_as_well(tmp_path: Path) -> None:
    GlobalHydra.instance().clear()
    (tmp_path / "host.yaml").write_text("defaults: [{comm_overlap: tp4_h100}, _self_]\n" + HOST)
    with initialize_config_dir(str(tmp_path), version_base=None):
        cfg = compose("host", ["net.width=4096"])
    assert judged(cfg, foreign_nodes=True).request["model"]["hidden_size"] == 4096


@pytest.mark.parametrize(
    ("override", "rule", "fix"),
    [
        ("++overlap.reads.model.hidden_size=net.widht", "CFG001", "++overlap.reads.model.hidden_size=net.width"),
        ("++overlap.reads.model.hiden_size=net.width", "CFG001", "~overlap.reads.model.hiden_size ++overlap.reads.model.hidden_size=net.width"),
        ("++overlap.reads.parallelism.tensor_model_parallel_size=batch", "CFG002",
         "parallelism.tensor_model_parallel_size='${batch}'"),
        ("net.heads=6", "PAR006", "net.heads=8"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_a_fix_in_the_apps_own_words(composed, override: str, rule: str, fix: str) -> None:
    fixes = {finding.rule: [found.override for found in finding.fixes] for finding in refusal(composed, override)}
    assert fix in fixes[rule]
    if rule == "CFG001":
        composed(override, *fix.split())  # pasted after the command, it is accepted


def test_a_value_of_another_type_names_field_and_place(composed) -> None:
    (finding,) = refusal(composed, "net.width=wide")
    assert finding.rule == "CFG002" and "net.width holds wide" in finding.why


def test_a_mapped_value_changed_after_composition_is_not_believed(composed) -> None:
    cfg = composed()
    OmegaConf.set_struct(cfg, False)
    cfg.net.width = 4096
    with pytest.raises(Exception, match="CFG006"):
        judged(cfg, foreign_nodes=True)
