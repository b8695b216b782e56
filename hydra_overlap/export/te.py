"""The userbuffers dictionary of a plan as YAML: `ub_cfgs` of Transformer Engine's initialize_ub."""

from collections.abc import Collection
from typing import Any

import yaml

from ..resolver.resolution import Resolution
from ._base import ExportError, Files, effective, header, unsayable

NAME = "tp_comm_overlap_cfg.yaml"


class _Flow(dict[str, Any]):
    """One entry, written on one line."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(_Flow, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data, True))


def dictionary(layers: dict[str, dict[str, Any]]) -> str:
    """The userbuffers dictionary as YAML, one GEMM a line."""
    entries = {gemm: _Flow(entry) for gemm, entry in layers.items()}
    return yaml.dump(entries, Dumper=_Dumper, sort_keys=False, width=10_000)


def export(resolution: Resolution, command: str = "", *, asked: Collection[str] | None = None) -> Files:
    """tp_comm_overlap_cfg.yaml. Raises ExportError where the plan has no dictionary."""
    flat = effective(resolution)
    if not resolution.transformer_config.get("tp_comm_overlap"):
        why = "TP overlap is off: Transformer Engine makes no userbuffers and reads no dictionary."
        raise ExportError("te", [unsayable("comm_overlap.tp.tp_comm_overlap", False, why)])
    if resolution.userbuffers is None:
        why = "The plan has no dictionary: initialize_ub gets none and takes its defaults for all twelve GEMMs."
        raise ExportError("te", [unsayable("userbuffers", None, why)])
    source = str(flat["userbuffers.source"] or "")
    notes = (f"{flat['userbuffers.name'] or 'unnamed'}; values from: {source or 'not known'}",)
    version = flat["software.transformer_engine"] or "of any version"
    return {NAME: header(f"Transformer Engine {version}", command, flat, *notes) + dictionary(resolution.userbuffers)}
