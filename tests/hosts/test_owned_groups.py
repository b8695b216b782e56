"""Apps that have groups, nodes or a primary config where a bundle wants its own: what Hydra says, and the way out."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf

from hydra_overlap import resolve
from hydra_overlap.compose.enforce import judged, refusal_in
from hydra_overlap.compose.hydra_errors import explain
from tests.hosts.conftest import Host

PAGE = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text()
BUNDLE = "+comm_overlap=tp4_h100"
OWN = {"host": "defaults: [{parallelism: mine}, _self_]\nlr: 1\n", "parallelism__mine": "tp: 8\npp: 2\n"}
RENAMED = OWN | {
    "host": "defaults: [{parallelism@layout: mine}, _self_]\nlr: 1\n",
    "overlap__parallelism__from_layout": (
        "# @package _global_.parallelism\n"
        "tensor_model_parallel_size: ${layout.tp}\npipeline_model_parallel_size: ${layout.pp}\nsequence_parallel: true\n"
    ),
    "experiment__tp": (
        "# @package _global_\n"
        "defaults: [{/comm_overlap: tp4_h100}, {override /overlap/parallelism: from_layout}, {override /userbuffers: none}]\n"
    ),
}
BELOW = {"train__main": "lr: 1\n"}


def tp(cfg: Any) -> int:
    size: int = judged(cfg, foreign_nodes=True).request["parallelism"]["tensor_model_parallel_size"]
    return size


def mistake(build: Host, /, *overrides: str, primary: str = "host", **files: str) -> tuple[str, list[str]]:
    """What Hydra says, and the fixes that our own command line gives for it."""
    with pytest.raises(HydraException) as error:
        build(*overrides, primary=primary, **files)
    told = explain(error.value, overrides)
    assert told is not None
    return str(error.value), [fix.override for finding in told.findings for fix in finding.fixes]


def documented(said: str) -> None:
    """The line of Hydra's that a user would search for stands on the page, word by word."""
    assert said in PAGE, said


def test_a_group_of_the_same_name_stays_the_apps_own(host: Host) -> None:
    """Ours has another name; only the node that both fill needs another one."""
    with pytest.raises(HydraException) as error:
        host(BUNDLE, **OWN)
    assert "needs another name beside a bundle" in re.sub(r"\s+", " ", str(refusal_in(error.value)))
    assert tp(host(BUNDLE, "~parallelism=mine")) == 4
    renamed = "defaults: [{parallelism@my_parallelism: mine}, _self_]\n"
    cfg = host(BUNDLE, "overlap/parallelism=tp8", "userbuffers=none", host=renamed)
    assert (tp(cfg), cfg.my_parallelism) == (8, {"tp": 8, "pp": 2})


def test_an_option_of_ours_in_the_defaults_list_goes_behind_the_bundle(host: Host) -> None:
    listed = "defaults: [{comm_overlap: tp4_h100}, {overlap/parallelism: tp8}, {override userbuffers: none}, _self_]\n"
    _, fixes = mistake(host, host=listed)
    assert fixes == ["~overlap/parallelism=tp8", "override /overlap/parallelism: tp8"]
    assert tp(host(fixes[0])) == 4
    assert tp(host(host=listed.replace("{overlap/parallelism: tp8}", f"{{{fixes[1]}}}"))) == 8


def test_a_name_of_train_py_is_answered_with_the_one_for_other_apps(host: Host) -> None:
    for before, now in (
        ("parallelism=tp8", "overlap/parallelism=tp8"),
        ("+model=llama3_70b", "+overlap/model=llama3_70b"),
    ):
        with pytest.raises(HydraException) as error:
            host(BUNDLE, before, host="lr: 1\n")
        refusal = refusal_in(error.value)
        assert refusal is not None
        (finding,) = refusal.findings
        assert (finding.rule, [fix.override for fix in finding.fixes]) == ("CFG001", [now])
    cfg = host(BUNDLE, now, "++precision.bf16=true")
    assert cfg.model.hidden_size == 8192


@pytest.mark.parametrize(
    "asked", [(BUNDLE, "overlap/parallelism=from_layout", "userbuffers=none"), ("+experiment=tp",)]
)
def test_a_layout_under_another_name_decides_through_an_option_file(host: Host, asked: tuple[str, ...]) -> None:
    cfg = host(*asked, **RENAMED)
    assert (tp(cfg), cfg.layout.tp) == (8, 8)
    assert tp(host(*asked, "layout.tp=2")) == 2
    with pytest.raises(HydraException) as error:
        host(*asked, "layout.tp=1")
    assert "PAR003" in str(error.value)


def test_a_node_in_our_words_is_judged_in_place_of_the_bundles(host: Host) -> None:
    listed = (
        "defaults: [{comm_overlap: tp4_h100}, {override overlap/parallelism: null}, {override userbuffers: none}, _self_]\n"
        "parallelism: {tensor_model_parallel_size: 2, sequence_parallel: true}\n"
    )
    assert tp(host(host=listed)) == 2


@pytest.mark.parametrize("listed", [False, True])
def test_a_node_of_the_same_name_needs_another(host: Host, listed: bool) -> None:
    primary = "parallelism: {tp: 8}\n"
    if listed:
        said, _ = mistake(host, host="defaults: [{comm_overlap: tp4_h100}, _self_]\n" + primary)
        documented(said.splitlines()[1])
        return
    with pytest.raises(HydraException) as error:
        host(BUNDLE, host=primary)
    assert "needs another name beside a bundle" in re.sub(r"\s+", " ", str(error.value))


def test_a_userbuffers_group_of_the_apps_own_is_told_with_the_way_out(host: Host) -> None:
    files = {"host": "defaults: [{userbuffers: mine}, _self_]\n", "userbuffers__mine": "os: linux\n"}
    said, fixes = mistake(host, BUNDLE, **files)
    assert said.startswith("Multiple values for userbuffers. To override a value use 'override userbuffers: ")
    cfg = host(BUNDLE, *fixes[1].split())
    assert (tp(cfg), cfg.my_userbuffers.os) == (4, "linux")


def test_a_model_group_stays_the_apps(host: Host) -> None:
    files = {"host": "defaults: [{model: gpt}, _self_]\nprecision: {bf16: true}\n", "model__gpt": "net: {width: 8}\n"}
    assert tp(host(BUNDLE, **files)) == 4


def test_a_primary_in_a_subdirectory_lists_the_bundle_from_the_top(host: Host) -> None:
    said, fixes = mistake(host, BUNDLE, primary="train/main", **BELOW)
    documented(said.splitlines()[0].partition(": ")[2])
    assert fixes == ["/comm_overlap@_global_.comm_overlap: tp4_h100", "comm_overlap=tp4_h100"]
    listed = f"defaults: [{{{fixes[0]}}}, _self_]\n"
    for text in (listed, "# @package _global_\n" + listed):
        assert tp(host(primary="train/main", train__main=text)) == 4
        assert tp(host("comm_overlap=tp8_h100", primary="train/main")) == 8
        with pytest.raises(HydraException, match="Could not find"):
            host(BUNDLE, primary="train/main")


@dataclass
class Config:
    lr: float = 0.1


@dataclass
class Roomy(Config):
    comm_overlap: Any = None
    parallelism: Any = None
    userbuffers: Any = None
    platform: Any = None
    software: Any = None
    overlap: Any = None
    gating: Any = None


@pytest.fixture
def structured() -> None:
    for name, node in (("bare_config", Config), ("roomy_config", Roomy)):
        ConfigStore.instance().store(name=name, node=node)


@pytest.mark.usefixtures("structured")
@pytest.mark.parametrize("by_file", [False, True])
def test_a_structured_primary_makes_room_with_fields_of_type_any(host: Host, by_file: bool) -> None:
    def primary(name: str) -> dict[str, str]:
        return {"host": f"defaults: [{name}, _self_]\n"} if by_file else {"primary": name}

    said, fixes = mistake(host, BUNDLE, **primary("bare_config"))
    documented(said.splitlines()[1])
    assert fixes == []
    cfg = host(BUNDLE, "++precision.bf16=true", "+model.hidden_size=8192", **primary("roomy_config"))
    assert tp(cfg) == 4
    assert OmegaConf.get_type(cfg.parallelism).__name__ == "Parallelism"
    assert host(**primary("roomy_config")).comm_overlap is None


def test_the_page_shows_the_fields_that_make_room() -> None:
    shown = re.findall(r"    (\w+): Any = None", PAGE)
    assert shown == [name for name in Roomy.__dataclass_fields__ if name != "lr"]


@pytest.mark.parametrize("written", [
    "recompute_modules: [my_block]", "cuda_graph_scope: [my_part]", "hidden_dropout: 1.0", "num_layers: 0", "rotary_base: -1",
])  # fmt: skip
def test_a_value_of_the_apps_own_that_our_field_cannot_hold_goes_unread(host: Host, written: str) -> None:
    cfg = host("+comm_overlap=none", host=f"model: {{hidden_size: 64, {written}}}\n")
    key = written.partition(":")[0]
    assert f"model.{key} is a key of your app; no rule reads it." in cfg.overlap.notes
    assert resolve(cfg).request["model"]["hidden_size"] == 64
