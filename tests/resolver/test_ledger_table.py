"""The table people read before a run."""

import io

from rich.console import Console

from hydra_overlap import resolve
from hydra_overlap.resolver.ledger_table import ledger_table, print_ledger

REQUEST = {
    "parallelism": {"tensor_model_parallel_size": 4, "sequence_parallel": True},
    "comm_overlap": {"tp": {"tp_comm_overlap": True}},
    "software": {"transformer_engine": "2.11.0"},
    "platform": {"name": "h100", "sm": 90},
    "userbuffers": {"name": "mine", "tuned_for": {"seq_length": 4096}},
    "model": {"seq_length": 8192},
    "precision": {"bf16": True},
}


def printed(width=140, **request):
    console = Console(file=io.StringIO(), width=width)
    print_ledger(resolve({**REQUEST, **request}, origins={"comm_overlap.tp.tp_comm_overlap": "command line"}), console)
    return console.file.getvalue()


def row(text, name):
    return next(line.split() for line in text.splitlines() if line.strip().startswith(name + " "))


def test_an_asked_field_shows_where_it_was_asked():
    assert row(printed(), "tp_comm_overlap") == ["tp_comm_overlap", "true", "true", "command", "line"]


def test_a_derived_field_shows_its_rule_and_reason():
    assert row(printed(), "overlap_p2p_comm")[:3] == ["overlap_p2p_comm", "false", "PP101"]


def test_the_launch_environment_is_part_of_it():
    assert row(printed(), "CUDA_DEVICE_MAX_CONNECTIONS")[:3] == ["CUDA_DEVICE_MAX_CONNECTIONS", "1", "ENV101"]


def test_findings_follow_with_their_severity():
    assert "note: UB201" in printed()


def test_the_table_fits_a_narrow_terminal():
    console = Console(file=io.StringIO(), width=80)
    console.print(ledger_table(resolve(REQUEST).ledger))
    assert max(len(line.rstrip()) for line in console.file.getvalue().splitlines()) <= 80
