"""The ledger as people read it with `check --verbose`."""

import io

from rich.console import Console

from hydra_overlap import resolve
from hydra_overlap.resolver.ledger_table import print_ledger

REQUEST = {
    "parallelism": {"tensor_model_parallel_size": 4, "sequence_parallel": True},
    "comm_overlap": {"tp": {"tp_comm_overlap": True}},
    "software": {"transformer_engine": "2.11.0"},
    "platform": {"name": "h100", "sm": 90},
    "userbuffers": {"name": "bf16_h100_h8192_tp4_mbs1_seq8192", "layers": {"qkv_fprop": {"method": "ring_exchange"}}},
    "precision": {"bf16": True},
}


def printed(width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_ledger(resolve(REQUEST, origins={"comm_overlap.tp.tp_comm_overlap": "command line"}).ledger, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(text: str, setting: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.strip().startswith(setting))


def test_an_asked_field_shows_where_it_was_asked() -> None:
    assert row(printed(), "tp_comm_overlap=") == ["tp_comm_overlap=true", "command", "line"]


def test_a_derived_field_shows_its_rule_and_reason() -> None:
    assert row(printed(), "overlap_p2p_comm=")[:2] == ["overlap_p2p_comm=false", "PP101"]


def test_the_launch_environment_is_part_of_it() -> None:
    assert row(printed(), "CUDA_DEVICE_MAX_CONNECTIONS=")[:2] == ["CUDA_DEVICE_MAX_CONNECTIONS=1", "ENV101"]


def test_every_row_of_the_ledger_is_shown_at_every_width_and_fits() -> None:
    for width in (60, 80, 100, 140):
        text = printed(width)
        assert all(f"{one.field.rpartition('.')[2]}=" in text for one in resolve(REQUEST).ledger)
        assert max(len(line) for line in text.splitlines()) <= width
