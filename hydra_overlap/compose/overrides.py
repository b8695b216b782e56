"""The overrides of a job: as they were written, and parsed by Hydra's grammar."""

from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

COMMAND_LINE = "command line"  # the origin of a value that an override says


def task_overrides(hydra: DictConfig) -> list[str]:
    """The overrides of the task as they were written: interpolations in their texts are not ours to resolve."""
    task: list[str] = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # type: ignore[assignment]
    return task


def overrides_of(hydra: DictConfig) -> list[Override]:
    """The overrides of the task, parsed by Hydra's grammar."""
    return [parsed(line) for line in task_overrides(hydra)]


@lru_cache(maxsize=8192)
def parsed(line: str) -> Override:
    """One override. Shared: nobody changes it. Raises Hydra's OverrideParseException."""
    return OverridesParser.create().parse_overrides([line])[0]


def quoted(key: str, value: str) -> str:
    """The override `key='value'`, quoted so that Hydra reads the very text back, whatever is in it."""
    escaped = value.replace("\\'", "\\\\'").replace("'", "\\'")
    return f"{key}='{escaped}'"
