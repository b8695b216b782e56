"""Counting calls, which of them userbuffers make, and the calls of context parallelism, which are modelled."""

import pytest

from hydra_overlap.dry_run.collectives import Call, Work, context_parallel, of_step, summary
from tests.plans import plan_of

GATHER = Call("all-gather", "tensor model parallel", 4, 1000, layer=True)
OUTPUT = Call("all-gather", "tensor model parallel", 4, 1000)


def step(calls, microbatches):
    calls = tuple(calls)
    works = [("forward", number) for number in range(microbatches)] + [
        ("backward", number) for number in range(microbatches)
    ]
    return [
        Work(kind=kind, chunk=0, microbatch=number, calls=calls if kind == "forward" else ()) for kind, number in works
    ]


def test_equal_calls_are_counted_and_works_that_share_them_multiplied():
    norm = Call("all-reduce", "default pg", 8, 4)
    rows = summary([*step([GATHER, GATHER, OUTPUT], 5), norm])
    assert [(row.dimension, row.times, row.bytes_per_step) for row in rows] == [("TP", 15, 15000), ("all", 1, 4)]
    assert all(row.userbuffers == 0 for row in rows)


def test_userbuffers_make_what_layers_gather_and_nothing_else():
    (row,) = summary(step([GATHER, GATHER, OUTPUT], 5), tp_comm_overlap=True)
    assert (row.times, row.userbuffers) == (15, 10)


@pytest.mark.parametrize(
    ("group", "dimension"),
    [
        ("tensor model parallel", "TP"),
        ("data parallel with CP", "DP"),
        ("expert data parallel", "DP"),
        ("expert tensor and model parallel", "EP"),
        ("embedding", "PP"),
        ("intra distributed optimizer instance", "all"),
    ],
)
def test_groups_belong_to_dimensions(group, dimension):
    assert Call("all-reduce", group, 2, 1).dimension == dimension


def test_messages_belong_to_the_pipeline_through_whichever_group_they_go():
    assert (
        Call("send", "default pg", 4, 1).dimension == "PP"
    )  # with two stages megatron-core uses the group of all ranks


# context parallelism: 2 layers, 3 microbatches; one head of keys is seq / cp x width x 2 bytes


def cp_plan(*overrides):
    return plan_of(
        "model=llama3_8b",
        "platform=h100",
        "parallelism.context_parallel_size=4",
        "parallelism.world_size=4",
        "training.global_batch_size=3",
        "training.micro_batch_size=1",
        *overrides,
    )


def cp_rows(plan):
    rows = context_parallel(plan, step([], 3), [2])
    return {(row.operation, row.bytes): row.times for row in rows}


def keys(plan):
    model = plan.request.model
    return model.seq_length // 4 * 128 * model.num_query_groups * 2  # 4 ranks, heads 128 wide, bf16


def test_a_ring_sends_keys_and_values_forward_and_them_with_gradients_backward():
    plan = cp_plan("model.cp_comm_type=p2p")
    one = keys(plan)
    # forward: three times keys and values; backward: those, twice those with gradients, gradients
    assert cp_rows(plan) == {
        (way, size): times * 6 for way in ("send", "receive") for size, times in ((2 * one, 5), (4 * one, 2))
    }
    assert all(row.origin == "modelled" and row.dimension == "CP" for row in context_parallel(plan, step([], 3), [2]))


def test_gathering_attention_gathers_keys_and_values_twice_and_scatters_gradients():
    plan = cp_plan("model.cp_comm_type=all_gather")
    assert cp_rows(plan) == {("all-gather", 4 * keys(plan)): 4 * 6, ("reduce-scatter", 4 * keys(plan)): 2 * 6}


def test_scattering_heads_takes_eight_all_to_alls_a_layer():
    plan = cp_plan("model.cp_comm_type=a2a")
    one = keys(plan)
    queries = one * 32 // 8  # heads by groups
    assert cp_rows(plan) == {("all-to-all", queries): 4 * 6, ("all-to-all", one): 4 * 6}


def test_recomputed_attention_sends_again():
    plan = cp_plan("model.cp_comm_type=all_gather", "model.recompute_granularity=selective")
    assert cp_rows(plan)["all-gather", 4 * keys(plan)] == 6 * 6


def test_without_context_parallelism_nothing_is_modelled():
    assert of_step(plan_of("model=llama3_8b"), step([GATHER], 1), [2])[0].origin == "recorded"
    assert context_parallel(plan_of("model=llama3_8b"), step([], 1), [2]) == ()
