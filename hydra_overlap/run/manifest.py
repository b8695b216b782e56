"""manifest.json: what ran, with which versions, and what every rank was found to hold before its first step."""

import dataclasses
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import files
from .._version import __version__
from ..launch.plan import Plan

FILE_NAME = "manifest.json"
GIT_S = 10  # seconds for git to answer, on a slow file system
_WHOLE_HASH = ("--always", "--dirty", "--abbrev=40", "--exclude=*")
DISTRIBUTIONS = ("torch", "megatron-core", "transformer-engine", "hydra-core", "omegaconf")


def write(plan: Plan, readback: Mapping[str, Any]) -> Path:
    """Everything needed to tell what ran: versions, command line, config, ledger, environment as re-read."""
    answer = plan.resolution.to_dict()
    manifest = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"hydra-overlap": __version__, "python": platform.python_version(), **installed_versions()},
        "command": ["hydra-overlap", "train", *plan.overrides],
        "commit": commit(Path(sys.argv[0])),
        "overrides": list(plan.overrides),
        "config": plan.config,
        "ledger": answer["ledger"],
        "findings": answer["findings"],
        "settings": {
            name: answer[name]
            for name in ("transformer_config", "optimizer_config", "ddp_config", "userbuffers", "env")
        },
        "rehearsal": None if plan.rehearsal is None else dataclasses.asdict(plan.rehearsal),
        "readback": dict(readback),
    }
    return files.write_json(Path(plan.output_dir, FILE_NAME), manifest, allow_nan=True)


def commit(script: Path) -> str | None:
    """Commit of the git repository that tracks the script, `-dirty` behind it if files differ; None if none does."""
    git = ["git", "-C", str(script.absolute().parent)]
    try:
        for command in (["ls-files", "--error-unmatch", script.name], ["describe", *_WHOLE_HASH]):
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=True, timeout=GIT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def installed_versions() -> dict[str, str | None]:
    """Versions of what a run depends on; None where it is not installed."""
    versions: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
