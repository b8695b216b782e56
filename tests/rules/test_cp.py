"""CP: where context parallelism runs, and by which exchange."""

import pytest

from tests.overrides import refusing, remarks

TE = "software.transformer_engine=2.11.0"
CP2 = ("parallelism.context_parallel_size=2", TE)


def test_refuses_context_parallelism_on_a_gpu_without_transformer_engine() -> None:
    assert refusing(CP2[0], "platform=h100") == ["CP001"]
    assert refusing(CP2[0], "platform=h100", TE) == []
    assert refusing("platform=h100") == []


def test_leaves_a_plan_for_no_gpu_to_the_rehearsal() -> None:
    assert refusing(CP2[0], "platform=cpu") == []
    assert refusing(CP2[0]) == []


@pytest.mark.parametrize(("heads", "groups", "rules"), [
    (8, "null", []), (6, "null", ["CP002"]), (8, 4, []), (8, 2, ["CP002"]), ("null", "null", []),
])  # fmt: skip
def test_refuses_an_all_to_all_over_part_of_a_head(heads: int | str, groups: int | str, rules: list[str]) -> None:
    shape = (
        f"model.num_attention_heads={heads}",
        f"model.num_query_groups={groups}",
        "parallelism.tensor_model_parallel_size=2",
    )
    assert refusing(*CP2, *shape, "model.cp_comm_type=a2a") == rules
    assert refusing(*CP2, *shape, "model.cp_comm_type=p2p") == []
    assert refusing(*CP2, *shape) == []


@pytest.mark.parametrize(("kind", "rules"), [
    ("p2p", []), ("all_gather", []), ("a2a", []), ("null", []), ("a2a+p2p", ["CP003"]), ("ring", ["CFG003"]),
])  # fmt: skip
def test_refuses_exchanges_that_do_not_exist_or_need_more_groups(kind: str, rules: list[str]) -> None:
    assert refusing(*CP2, f"model.cp_comm_type={kind}") == rules


def test_notes_an_exchange_that_never_happens() -> None:
    assert remarks("model.cp_comm_type=p2p") == ["CP201"]
    assert remarks(*CP2, "model.cp_comm_type=p2p") == []
