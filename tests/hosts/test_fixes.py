"""In an app that has none of our nodes but those of the bundle, every fix can be pasted as it is printed."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from hydra_overlap.compose.enforce import judged, refusal_in
from hydra_overlap.compose.key_mapping import reworded
from hydra_overlap.reference.examples import example
from hydra_overlap.rules import RULES, Rule
from hydra_overlap.rules.cfg import CfgRule
from tests import warm
from tests.hosts.conftest import Host

# Of rules that judge values: a typed node takes none of a wrong type.
EXAMPLES = [rule for rule in RULES if rule.refused and not issubclass(rule, CfgRule)]


def pasted(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """The config after overrides of values, as Hydra's own function applies them; those that choose options left out."""
    config = copy.deepcopy(cfg)
    lines = OverridesParser.create().parse_overrides(overrides)
    values = [line for line in lines if "." in line.key_or_group or line.key_or_group == "gating"]
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    for line in values:
        if not line.is_delete():
            assert OmegaConf.select(config, line.key_or_group) == line.value(), line.input_line
    return config


def refused(build: Host, /, *overrides: str, **files: str) -> list[Any]:
    with pytest.raises(ConfigCompositionException) as error:
        build(*overrides, **files)
    refusal = refusal_in(error.value)
    assert refusal is not None, error.value
    return list(refusal.findings)


@pytest.fixture
def bare(host: Host) -> DictConfig:
    return host("+comm_overlap=none", host="lr: 1\n", hydra=True)


def test_every_fix_of_every_rule_can_be_pasted_and_has_its_plus_only_where_it_must(bare: DictConfig) -> None:
    for rule in EXAMPLES:
        _can_be_pasted(bare, rule)


def _can_be_pasted(bare: DictConfig, rule: type[Rule]) -> None:
    finding = example(rule)
    assert finding is not None
    config = pasted(bare, [f"++{line}" for line in rule.refused if "." in line.partition("=")[0]])
    for fix in reworded(config, [finding])[0].fixes:
        tokens = fix.override.split()
        pasted(config, tokens)
        for token in tokens:
            if token.startswith("++"):
                with pytest.raises(ConfigCompositionException):
                    pasted(config, [token.removeprefix("++")])


@pytest.mark.parametrize(
    ("overrides", "rule", "fix"),
    [
        (["+comm_overlap=tp4_h100", "+overlap/model=llama3_70b"], "TP009", "++precision.bf16=true"),
        (["+comm_overlap=dp", "overlap/parallelism=dp2"], "DP002",
         "++ddp.use_distributed_optimizer=true ++optimizer.use_distributed_optimizer=true"),
        (["+comm_overlap=tp4_h100", "+modle=llama3_70b"], "CFG001", "+overlap/model=llama3_70b"),
        (["+comm_overlap=none", "+trainig.micro_batch_size=2"], "CFG001", "++training.micro_batch_size=2"),
        (["+comm_overlap=none", "+parallelism.tensor_model_parallel_sise=2"], "CFG001",
         "parallelism.tensor_model_parallel_size=2"),
    ],
)  # fmt: skip
def test_a_fix_says_plus_where_the_config_has_no_such_key(
    host: Host, overrides: list[str], rule: str, fix: str
) -> None:
    (finding,) = refused(host, *overrides, host="lr: 1\n")
    assert (finding.rule, finding.fixes[0].override) == (rule, fix)
    if rule != "CFG001":  # those stand in place of the mistake
        found = host(*overrides, *fix.split()).overlap.plan
        assert found is not None


def test_a_key_that_the_app_has_is_set_without_a_plus(host: Host) -> None:
    files = {"host": "precision: {bf16: false}\nddp: {bucket_size: null}\noptimizer: null\n"}
    (finding,) = refused(host, "+comm_overlap=tp4_h100", "+overlap/model=llama3_70b", **files)
    assert finding.fixes[0].override == "precision.bf16=true"
    (finding,) = refused(host, "+comm_overlap=dp", "overlap/parallelism=dp2")
    fix = "++ddp.use_distributed_optimizer=true ++optimizer.use_distributed_optimizer=true"
    assert finding.fixes[0].override == fix
    assert host("+comm_overlap=dp", "overlap/parallelism=dp2", *fix.split()).overlap.plan is not None


def test_a_fix_that_takes_the_place_of_a_value_says_so(host: Host) -> None:
    (finding,) = refused(host, "+comm_overlap=dp", "overlap/parallelism=dp2", host="ddp: fast\n")
    assert finding.fixes[0].effect == "keeps the overlap; takes the place of ddp=fast"
    cfg = host("+comm_overlap=dp", "overlap/parallelism=dp2", *finding.fixes[0].override.split())
    assert cfg.ddp.use_distributed_optimizer is True


def test_the_text_says_it_as_well(host: Host) -> None:
    with pytest.raises(ConfigCompositionException) as error:
        host("+comm_overlap=tp4_h100", "+overlap/model=llama3_70b", host="lr: 1\n")
    assert "  fix     ++precision.bf16=true" in str(refusal_in(error.value))


def test_warnings_and_refusals_in_the_job_say_it_as_well(host: Host) -> None:
    cfg = host("+comm_overlap=tp4_h100", "+overlap/model=llama3_8b", host="lr: 1\nprecision: {bf16: true}\n")
    overrides = [fix.override for finding in judged(cfg, foreign_nodes=True).findings for fix in finding.fixes]
    for override in overrides:
        pasted(cfg, override.split())
    OmegaConf.set_struct(cfg, False)
    del cfg.precision
    with pytest.raises(Exception, match=r"fix     \+\+precision\.bf16=true"):
        judged(cfg, foreign_nodes=True)


def test_a_sweep_in_a_foreign_app_prints_it(tmp_path: Path) -> None:
    (tmp_path / "host.yaml").write_text("lr: 1\n")
    (tmp_path / "app.py").write_text(
        "import hydra\n"
        "@hydra.main(version_base=None, config_path='.', config_name='host')\n"
        "def main(cfg):\n"
        "    print('TASK RAN')\n"
        "main()\n"
    )
    point = ("+comm_overlap=dp", "overlap/parallelism=dp2,dp4")
    for sweeper in ("basic", "overlap"):
        done = warm.run(["app.py", "-m", f"hydra/sweeper={sweeper}", *point], cwd=tmp_path)
        assert "TASK RAN" not in done.stdout
        assert "++ddp.use_distributed_optimizer=true ++optimizer" in done.stdout + done.stderr, sweeper
