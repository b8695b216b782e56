"""ADV: every advisory has a public thread and a range, and stops where the range stops."""

import re

import pytest

from hydra_overlap.rules import ADVISORIES, RULES
from hydra_overlap.rules.advisories import NAMES, Advisory, Affected
from tests.overrides import errors_of, refusing, remarks, request_of

CORE = "software.megatron_core"


def found(*overrides: str) -> list[str]:
    """Ids of everything that is said about the overrides."""
    errors = refusing(*overrides)
    return errors or remarks(*overrides)


def at(advisory: type[Advisory], version: str) -> tuple[str, ...]:
    """The advisory's example, with another version of the component."""
    component = advisory.affected.component
    return (
        *(override for override in advisory.refused if not override.startswith(component)),
        f"{component}={version}",
    )


@pytest.mark.parametrize("advisory", ADVISORIES, ids=lambda advisory: advisory.__name__)
def test_an_advisory_cites_a_public_thread_an_effect_and_a_component(advisory: type[Advisory]) -> None:
    assert re.fullmatch(r"https://github\.com/[\w-]+/[\w-]+/(issues|pull)/\d+", advisory.thread)
    assert advisory.source.startswith(advisory.thread)
    assert advisory.affected.component in NAMES
    assert advisory.why.startswith(f"{advisory.effect} with {advisory.affected}. ")
    assert advisory.severity in ("note", "warning", "error")
    assert advisory.severity != "error" or "Silently wrong" in advisory.effect


@pytest.mark.parametrize(
    "advisory", [a for a in ADVISORIES if a.affected.until], ids=lambda advisory: advisory.__name__
)
def test_an_advisory_ends_with_the_version_that_mends_it(advisory: type[Advisory]) -> None:
    assert advisory.__name__ in found(*advisory.refused)
    assert advisory.__name__ not in found(*at(advisory, str(advisory.affected.until)))
    assert advisory.__name__ not in found(*at(advisory, "null"))


@pytest.mark.parametrize(("version", "covered"), [
    ("1.9", False), ("2.0.0", True), ("2.1.4", True), ("2.2.0rc1", True), ("2.2.0", False), (None, False),
])  # fmt: skip
def test_a_range_includes_its_first_version_and_excludes_the_mended_one(version: str | None, covered: bool) -> None:
    assert Affected("software.transformer_engine", since="2.0.0", until="2.2.0").covers(version) is covered


def test_a_range_without_an_end_covers_every_version_so_far() -> None:
    assert Affected(CORE).covers("99.0")
    assert str(Affected(CORE)) == "megatron-core, all versions so far"
    assert str(Affected(CORE, since="0.14.0", until="0.17.0")) == "megatron-core from 0.14.0 before 0.17.0"


def test_advisories_are_rules_and_come_last() -> None:
    assert RULES[-len(ADVISORIES) :] == ADVISORIES


def test_a_warning_does_not_refuse_and_an_error_does() -> None:
    for advisory in ADVISORIES:
        refused = advisory.__name__ in refusing(*advisory.refused)
        assert refused is (advisory.severity == "error"), advisory.__name__


ONE = ("parallelism.world_size=4", "ddp.use_distributed_optimizer=true", "optimizer.use_distributed_optimizer=true", f"{CORE}=0.16.1")  # fmt: skip


def test_allows_overlapped_reduction_with_one_instance_or_several_without_overlap() -> None:
    assert found(*ONE) == []
    several = (*ONE, "ddp.num_distributed_optimizer_instances=2")
    assert refusing(*several, "comm_overlap.dp.overlap_grad_reduce=true") == ["ADV001"]
    assert "ADV001" not in found(*several, "comm_overlap.dp.overlap_grad_reduce=false")


def test_allows_overlapped_p2p_that_keeps_its_outputs() -> None:
    pipeline = (
        "parallelism.pipeline_model_parallel_size=2", "parallelism.virtual_pipeline_model_parallel_size=2",
        f"{CORE}=0.16.1",
    )  # fmt: skip
    assert "ADV002" not in found(*pipeline)
    assert "ADV002" in found(*pipeline, "model.deallocate_pipeline_outputs=true")
    plain = ("parallelism.pipeline_model_parallel_size=2", "model.deallocate_pipeline_outputs=true", f"{CORE}=0.16.1")
    assert "ADV002" not in found(*plain)


def test_the_message_says_effect_versions_and_thread() -> None:
    asked = ("ddp.num_distributed_optimizer_instances=2", "comm_overlap.dp.overlap_grad_reduce=true")
    (error,) = errors_of(request_of(*ONE, *asked))
    assert "Silently wrong gradients with megatron-core from 0.14.0 before 0.17.0" in error.why
    assert "https://github.com/NVIDIA/Megatron-LM/issues/3670" in error.message
    assert error.fixes[0].override == "ddp.num_distributed_optimizer_instances=1"
