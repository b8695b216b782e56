"""The table of Megatron-LM's flags per release."""

import pytest

from hydra_overlap.audit import Audit, audit
from hydra_overlap.export.megatron_lm_parser import VERSION, by_dest, parser, release_of, releases, rows
from tests.audit.test_audit import MODEL
from tools.megatron_lm_flags import merged

COUNTS = {
    "core_v0.15.3": 565, "core_v0.16.1": 651, "core_v0.17.1": 704, "core_v0.18.2": 750, "core_v0.19.0": 807, "main": 838,
}  # fmt: skip


def test_every_release_has_the_options_of_its_own_parser() -> None:
    assert {release: len(rows(release)) for release in releases()} == COUNTS
    for release in releases():
        parser(release=release)  # no flag is there twice
    assert not any("in" in row for row in rows())


@pytest.mark.parametrize(
    ("core", "release"),
    [
        (None, VERSION), ("0.14.0", "core_v0.15.3"), ("0.15.0", "core_v0.15.3"), ("0.16.0", "core_v0.16.1"), ("0.17.1", "core_v0.17.1"),
        ("0.18.0rc0", "core_v0.18.2"), ("0.19.2", "core_v0.19.0"), ("0.20.0.dev0", "main"), ("1.0", "main"),
    ],
)  # fmt: skip
def test_a_version_goes_with_the_flags_of_its_minor_release(core: str | None, release: str) -> None:
    assert release_of(core) == release


def test_the_table_keeps_what_each_release_says() -> None:
    one, other, third = ({"flags": [name], "dest": name} for name in ("--a", "--b", "--c"))
    made = merged({"core_v0.15.3": [third, one], VERSION: [one, other]})
    assert made == [one, {**other, "in": [VERSION]}, {**third, "in": ["core_v0.15.3"]}]


def test_flags_have_releases() -> None:
    assert "cuda_graph_modules" in by_dest("core_v0.18.2") and "cuda_graph_modules" not in by_dest()


def judged(flags: str, *overrides: str) -> Audit:
    found = audit(f"torchrun --nproc_per_node 8 pretrain_gpt.py {MODEL} {flags}", ["platform=h100", *overrides])
    assert isinstance(found, Audit)
    return found


GRAPHS = "--cuda-graph-impl transformer_engine --cuda-graph-modules attn"


def test_an_audit_reads_the_flags_of_the_version_that_is_said() -> None:
    found = judged(GRAPHS, "software.megatron_core=0.19.0")
    assert found.request["model"]["cuda_graph_scope"] == ["attn"] and found.overlooked == ()
    old = judged(GRAPHS, "software.megatron_core=0.16.1")
    assert any("is no flag of Megatron-LM core_v0.16.1" in note for note in old.notes)


def test_flags_of_a_newer_release_alone_tell_the_release() -> None:
    found = judged(GRAPHS)
    assert found.request["software"]["megatron_core"] == "0.18.2"
    assert any("--cuda-graph-modules" in note and "core_v0.18.2" in note for note in found.notes)
    assert judged("--tp-comm-overlap").request["software"]["megatron_core"] == "0.16.1"
