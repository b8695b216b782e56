"""What the command line chooses is in the config, or refused by name: never silently without effect."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from hydra_overlap import dotted, option_files, refusal_in
from hydra_overlap.compose import enforce, origins, pitfalls
from tests.compose.commands import Compose, fixes_of, refusal_of, rules_of

GROUPS = ("comm_overlap", "comm_overlap/tp", "comm_overlap/pp", "comm_overlap/dp", "comm_overlap/ep", "parallelism", "userbuffers",
          "platform", "model", "precision", "ddp", "optimizer", "training", "data", "launch")  # fmt: skip
RECIPE = "experiment=llama3_70b_64gpu_h100_bf16"


def values_of(group: str, name: str) -> dict[str, Any]:
    """Flat key -> value that an option of ours says itself, null aside: the extended option's, then its own."""
    _, content = origins.read(f"{group}/{name}")
    said: dict[str, Any] = {}
    for entry in content.get("defaults") or ():
        if isinstance(entry, str) and entry in option_files.options(group):
            said |= values_of(group, entry)
    own = {key: value for key, value in content.items() if key != "defaults"}
    package = "" if group == "comm_overlap" else group.replace("/", ".")
    return said | {key: value for key, value in dotted.flatten(own, package).items() if value is not None}


def brought_by(bundle: str) -> Iterator[tuple[str, str]]:
    """(group, option) of what a bundle brings."""
    for entry in origins.read(f"comm_overlap/{bundle}")[1]["defaults"]:
        for key, name in entry.items() if isinstance(entry, dict) else ():
            yield key.partition("@")[0].lstrip("/"), name


def draw(chance: random.Random) -> list[str]:
    """An experiment or a bundle, and one to four choices beside it."""
    experiment = chance.choice([None, *option_files.options("experiment")])
    start = (
        f"experiment={experiment}"
        if experiment
        else f"comm_overlap={chance.choice(option_files.options('comm_overlap'))}"
    )
    groups = chance.sample([group for group in GROUPS if experiment or group != "comm_overlap"], chance.randint(1, 4))
    return [start, *(f"{group}={chance.choice(option_files.options(group))}" for group in groups)]


def missing(cfg: DictConfig, choices: list[str]) -> list[str]:
    """What the choices say and the config does not."""
    chosen = dict(choice.split("=") for choice in choices if not choice.startswith("experiment="))
    options = dict(chosen)
    if "comm_overlap" in chosen:
        options = {group: name for group, name in brought_by(chosen["comm_overlap"]) if name not in ("default", "auto", "none")} | {
            group: name for group, name in brought_by(chosen["comm_overlap"]) if group.startswith("comm_overlap/") and name == "none"
        } | chosen  # fmt: skip
    lost = []
    for group, name in options.items():
        for key, value in values_of(group, name).items():
            found = OmegaConf.select(cfg, key)
            if OmegaConf.to_container(found) != value if OmegaConf.is_config(found) else found != value:
                lost.append(f"{group}={name}: {key}={value}, and the config has {found}")
    return lost


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compositions end with what looks at choices, and no other rule: a config is what was chosen, possible or not."""

    def check(root: DictConfig) -> list[str]:
        with enforce._refusing(root.hydra):
            pitfalls.check(root)
        return []

    monkeypatch.setattr(enforce, "_check", check)


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize(("seed", "lines"), [pytest.param(0, 40), pytest.param(1, 120, marks=pytest.mark.slow)])
def test_whatever_the_command_line_chooses_is_in_the_config_or_refused_by_name(
    composed: Compose, seed: int, lines: int
) -> None:
    chance, refused = random.Random(seed), 0
    for _ in range(lines):
        choices = draw(chance)
        try:
            cfg = composed(*choices)
        except ConfigCompositionException as error:
            rules = {finding.rule for finding in getattr(refusal_in(error), "findings", ())}
            if rules != {"CFG010"}:
                raise AssertionError(choices) from error
            refused += 1
        else:
            assert missing(cfg, choices) == [], choices
    assert 0 < refused < lines * 0.4  # a bundle for another layout or GPU than the experiment's


@pytest.mark.parametrize(
    ("choices", "tp", "overlap"),
    [
        ((RECIPE,), 4, True),
        ((RECIPE, "comm_overlap=none"), 4, False),
        ((RECIPE, "comm_overlap/tp=none"), 4, False),
        ((RECIPE, "parallelism=tp4", "comm_overlap=tp4_h100"), 4, True),
        ((RECIPE, "parallelism=tp2_pp4_vpp5_cp2_64gpu", "userbuffers=none"), 2, True),
    ],
)
def test_a_choice_beside_an_experiment_takes_effect(
    composed: Compose, choices: tuple[str, ...], tp: int, overlap: bool
) -> None:
    cfg = composed(*choices)
    assert cfg.parallelism.tensor_model_parallel_size == tp
    assert cfg.overlap.effective.transformer_config.tp_comm_overlap is overlap


def test_the_baseline_of_an_experiment_overlaps_nothing(composed: Compose) -> None:
    effective = composed(RECIPE, "comm_overlap=none").overlap.effective
    said = {**effective.transformer_config, **effective.optimizer_config, **effective.ddp_config}
    assert {key: value for key, value in said.items() if "overlap" in key and value} == {}
    assert effective.userbuffers in (None, {})


def test_one_tensor_parallel_rank_beside_an_experiment_is_judged_as_one(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(RECIPE, "parallelism=tp1")
    assert "TP001" in rules_of(error)


def test_a_bundle_for_another_layout_than_the_experiments_is_refused_with_both_ways_out(composed: Compose) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        composed(RECIPE, "comm_overlap=tp8_h100")
    assert rules_of(error) == ["CFG010"]
    bundles, experiments = (fix.split() for fix in fixes_of(error))
    assert (bundles, experiments) == (["parallelism=tp8"], ["parallelism=tp4_pp4_vpp5_cp2_64gpu"])
    assert composed(RECIPE, "comm_overlap=tp8_h100", *bundles).parallelism.tensor_model_parallel_size == 8
    with pytest.raises(ConfigCompositionException) as error:  # judged as what it is: a preset for TP8 at TP4
        composed(RECIPE, "comm_overlap=tp8_h100", *experiments)
    assert rules_of(error) == ["UB001"]


def test_a_value_of_an_experiment_that_overrules_a_choice_is_named_with_its_file(
    composed: Compose, tmp_path: Any
) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    file.write_text(
        "# @package _global_\nparallelism: {tensor_model_parallel_size: 2, sequence_parallel: true}\ntraining: {seed: 7}\n"
    )
    mine: Any = {"config_dir": tmp_path, "extends": True}
    with pytest.raises(ConfigCompositionException) as error:
        composed("experiment=mine", "parallelism=tp4", **mine)
    (finding,) = refusal_of(error).findings
    places = {place.key: (place.value, place.origin) for place in finding.where}
    assert places["parallelism.tensor_model_parallel_size"] == ("2", "experiment/mine.yaml")
    for fix, tp in zip(finding.fixes, (4, 2), strict=True):
        assert (
            composed(
                "experiment=mine", "parallelism=tp4", *fix.override.split(), **mine
            ).parallelism.tensor_model_parallel_size
            == tp
        )
    cfg = composed(
        "experiment=mine", "parallelism=tp2", "training=smoke", **mine
    )  # the same, and a default that says nothing
    assert (cfg.parallelism.tensor_model_parallel_size, cfg.training.train_iters) == (2, 5)


def test_an_experiment_of_ones_own_does_not_put_overlap_into_the_baseline(composed: Compose, tmp_path: Any) -> None:
    (tmp_path / "experiment").mkdir()
    listed = "# @package _global_\ndefaults: [override /comm_overlap/tp: userbuffers, override /parallelism@_global_.parallelism: tp4]\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(listed)
    mine: Any = {"config_dir": tmp_path, "extends": True}
    with pytest.raises(ConfigCompositionException) as error:
        composed("experiment=mine", "comm_overlap=none", **mine)
    assert rules_of(error) == ["CFG010"]
    baseline, kept = fixes_of(error)
    assert (baseline, kept) == ("comm_overlap/tp=none", "comm_overlap/tp=userbuffers")
    cfg = composed("experiment=mine", "comm_overlap=none", baseline, **mine)
    assert (cfg.overlap.effective.transformer_config.tp_comm_overlap, cfg.parallelism.tensor_model_parallel_size) == (
        False,
        4,
    )


def test_what_the_command_line_says_itself_overrules_its_own_choice(composed: Compose) -> None:
    cfg = composed(
        "comm_overlap=tp4_h100", "parallelism=tp4", "parallelism.world_size=8", "comm_overlap.pp.overlap_p2p_comm=false"
    )
    assert (cfg.parallelism.world_size, cfg.comm_overlap.pp.overlap_p2p_comm) == (8, False)
