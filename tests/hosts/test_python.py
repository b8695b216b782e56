"""What README.md and docs/hosts.md show in Python: `judged`, `resolve` and the findings of a refusal."""

import re
from pathlib import Path

import pytest
from hydra import initialize_config_dir, initialize_config_module
from omegaconf import OmegaConf

from hydra_overlap import GatingError, resolve
from hydra_overlap.compose.enforce import judged
from tests.hosts.conftest import Host

PAGE = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text()
HOST = """
lr: 1
net: {width: 8192, heads: 64}
model: {kind: gpt, num_layers: 80}
precision: {bf16: true}
overlap: {reads: {model: {hidden_size: net.width, num_attention_heads: net.heads}}}
"""


def test_resolve_reads_a_composed_config_of_a_foreign_app_as_its_check_did(host: Host) -> None:
    cfg = host("+comm_overlap=tp4_h100", host=HOST)
    answer, in_job = resolve(cfg), judged(cfg, foreign_nodes=True)
    assert answer.request == in_job.request and answer.request["model"]["hidden_size"] == 8192
    assert answer.transformer_config == in_job.transformer_config and answer.env == in_job.env


@pytest.mark.parametrize("overrides", [(), ("comm_overlap=tp4_h100",), ("userbuffers=auto", "comm_overlap=tp4_h100")])
@pytest.mark.parametrize("with_hydra", [False, True])
def test_resolve_reads_a_composed_config_of_our_own(overrides: tuple[str, ...], with_hydra: bool) -> None:
    from hydra import compose

    with initialize_config_module("hydra_overlap.conf", version_base=None):
        cfg = compose("config", list(overrides), return_hydra_config=with_hydra)
    assert resolve(cfg).request == judged(cfg, foreign_nodes=with_hydra).request


def test_resolve_judges_a_composed_config_that_was_changed_anew(host: Host) -> None:
    cfg = host("+comm_overlap=tp4_h100", host=HOST)
    cfg.net.heads = 62
    with pytest.raises(GatingError, match="PAR006"):
        resolve(cfg)


@pytest.mark.parametrize("make", [dict, OmegaConf.create])
def test_a_misspelt_node_of_a_request_that_nobody_composed_is_a_mistake(make) -> None:
    with pytest.raises(GatingError, match="There is no modle"):
        resolve(make({"modle": {"hidden_size": 64}}))


def test_the_lines_that_catch_a_refusal_of_hydra_compose_work(tmp_path: Path, capsys) -> None:
    (tmp_path / "train.yaml").write_text(HOST)
    (lines,) = re.findall(r"```python\n(from hydra import compose\n.*?)```", PAGE, re.DOTALL)
    with initialize_config_dir(str(tmp_path), version_base=None):
        exec(lines, {})
    printed = capsys.readouterr().out
    assert printed.startswith("refused by 1 rule; nothing was started.\n\nerror TP001  ")
    assert printed.endswith(" ['TP001']\n")
