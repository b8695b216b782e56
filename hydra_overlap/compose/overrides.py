"""The overrides of a job: as they were written, and parsed by Hydra's grammar."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from .. import dotted, option_files
from ..schema.fields import FIELDS
from .option_source import own_group

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


def asked_keys(lines: Iterable[str]) -> frozenset[str]:
    """The fields that a command line sets: by their keys, and by every option of ours that it names."""
    return frozenset(key for line in lines for key in _asked(parsed(line)))


def _asked(override: Override) -> Iterator[str]:
    key, value = override.key_or_group, override.value()
    if override.is_delete():
        return
    if "." in key or key in FIELDS:
        yield from (one for one in FIELDS if one == key or one.startswith(f"{key}."))
        return
    group = own_group(key)
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, str) and name in option_files.options(group):
            yield from _decided(group, name)
    if isinstance(value, dict):
        yield from (one for one in dotted.flatten(value, key) if one in FIELDS)


def _decided(group: str, name: str) -> Iterator[str]:
    """The fields that an option file of ours sets, and those that the options set which it chooses."""
    values = dotted.flatten(option_files.option(group, name), option_files.package(group, name))
    yield from (one for one in values if one in FIELDS)
    for chosen, option in option_files.chosen(group, name):
        if option in option_files.options(chosen):
            yield from _decided(chosen, option)
