"""Where each value of a composed config came from: command line, option file, or default."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf, ValueNode

from .. import dotted, option_files
from ..schema.fields import DEFAULTS, NODES
from .interpolations import stands_alone
from .option_source import OptionFileSource, own_group
from .overrides import COMMAND_LINE, overrides_of

File = tuple[Mapping[str, Any], Any]
"""The header of an option file (`# @package`) and its content."""
GLOBAL = "_global_"  # the package of the top level
DEFAULT = "default"  # nobody said it: the schema's default


def of(cfg: DictConfig, hydra: DictConfig | None) -> dict[str, str]:
    """Origins of the values of `cfg`. hydra: the hydra node it was composed with, if there is one.

    A config that was saved and is run again has no choices of option files; it brings what was recorded with it.
    """
    if hydra is not None and any(node_of(str(choice)) for choice in hydra.runtime.choices):
        return Origins(cfg, hydra)
    recorded = OmegaConf.select(cfg, "overlap.origin") or {}
    said = {str(key): str(origin) for key, origin in recorded.items()}
    if "userbuffers" in said:  # the ledger's row for the whole dictionary
        said["userbuffers.name"] = said["userbuffers"]
    if hydra is not None:
        said.update({key: COMMAND_LINE for key in DEFAULTS if _overridden(key, hydra)})
    return said


class Origins(dict[str, str]):
    """key -> origin, worked out when asked for: only a few of the 150 keys are ever printed."""

    def __init__(self, cfg: DictConfig, hydra: DictConfig) -> None:
        super().__init__()
        self._cfg, self._hydra = cfg, hydra
        self._files: dict[str, File] = {}
        self._overrides: dict[str, Any] | None = None
        self._options: list[tuple[str, str]] | None = None

    def get(self, key: str, default: Any = None) -> Any:
        """The origin of one key, e.g. `parallelism/tp4.yaml`."""
        if key not in self:
            self[key] = self._find(key) or default
        return self[key]

    def _find(self, key: str) -> str:
        if self._overrides is None:
            self._overrides = {o.key_or_group: o for o in overrides_of(self._hydra) if not o.is_delete()}
        if said_by(key, self._overrides):
            return COMMAND_LINE
        try:
            value = value_of(self._cfg, key)
        except Exception:  # an interpolation that fails is refused elsewhere; its origin is not worth an error
            return ""
        if value is dotted.ABSENT:
            return DEFAULT
        if self._options is None:
            self._options = list(_options(self._hydra))
        for choice, option in self._options:
            header, content = self._read(option)
            package = package_of(choice, header)
            inside = key if package == "" else key.removeprefix(f"{package}.")
            if (package == "" or inside != key) and dotted.get(content, inside, dotted.ABSENT) == value:
                return f"{option}.yaml"
        if any(said.startswith(f"{key}.") for said in self._overrides):
            return COMMAND_LINE
        return DEFAULT if key in DEFAULTS and DEFAULTS[key] == value else "your config"

    def _read(self, option: str) -> "File":
        if option not in self._files:
            self._files[option] = read(option)
        return self._files[option]


def value_of(cfg: DictConfig, key: str) -> Any:
    """The value of a key, dotted.ABSENT if there is none.

    As plain data where no interpolation stands in it: reading and comparing omegaconf's nodes costs ten times that.
    """
    node: Any = cfg
    for part in key.split("."):
        content = node._content if isinstance(node, DictConfig) else None
        node = content.get(part) if isinstance(content, dict) else None
    if not isinstance(node, (ValueNode, DictConfig)) or not stands_alone(node):
        return OmegaConf.select(cfg, key, default=dotted.ABSENT)
    return node._value() if isinstance(node, ValueNode) else OmegaConf.to_container(node)


def _overridden(key: str, hydra: DictConfig) -> bool:
    return said_by(key, {o.key_or_group: o for o in overrides_of(hydra) if not o.is_delete()})


def said_by(key: str, overrides: Mapping[str, Any]) -> bool:
    """Whether an override sets this key: itself, or as part of a mapping given to one of its parents."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        override = overrides.get(".".join(parts[:length]))
        if override is None:
            continue
        value = override.value()
        if length == len(parts) or dotted.get(value, ".".join(parts[length:]), dotted.ABSENT) is not dotted.ABSENT:
            return length > 1 or len(parts) == 1 or isinstance(value, dict)  # else it chose an option of the group
    return False


def node_of(choice: str) -> str:
    """The node a choice of ours fills: `parallelism@_global_.parallelism` -> parallelism. Empty: not one of ours."""
    group, _, package = choice.partition("@")
    node = package.removeprefix(f"{GLOBAL}.") or own_group(group).replace("/", ".")
    return node if node.partition(".")[0] in NODES else ""


def package_of(choice: str, header: Mapping[str, Any]) -> str:
    """Where Hydra puts the content of a chosen file; empty for the top level. header: of the file."""
    package = choice.partition("@")[2] or str(header.get("package") or "")
    if package == GLOBAL:
        return ""
    return package.removeprefix(f"{GLOBAL}.") or node_of(choice)


def _options(hydra: DictConfig) -> Iterator[tuple[str, str]]:
    """(choice, group/option) of every chosen option that may hold our values; whoever wins in a merge comes first.

    A bundle's own values win over its sub-options (`_self_` is last). Options of other groups, such as an experiment,
    come last: they are searched only for what none of ours explains.
    """
    ours: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    choices: Any = OmegaConf.to_container(hydra.runtime.choices, resolve=False)
    for choice, option in choices.items():
        group = str(choice).partition("@")[0]
        if not isinstance(option, str) or group.startswith("hydra/"):
            continue
        (ours if node_of(str(choice)) else others).append((str(choice), f"{group}/{option}"))
    yield from sorted(ours, key=lambda one: node_of(one[0]))
    yield from others


def read(option: str) -> File:
    """An option file as Hydra finds it; where no Hydra runs (a worker, a notebook), one of our own."""
    try:
        sources = GlobalHydra.instance().config_loader().get_sources()  # type: ignore[no-untyped-call]
    except Exception:  # an origin is a comfort, not a condition
        sources = []
    group, _, name = option.rpartition("/")
    for source in sources:
        if source.provider == "hydra":
            continue  # its own groups alone, and slow to ask
        if isinstance(source, OptionFileSource):
            if source.is_config(option):
                return source.read(option)
        elif source.scheme() == "file":
            file = Path(source.path, f"{option}.yaml")
            if file.is_file():
                text = file.read_text()
                return ConfigSource._get_header_dict(text), option_files.parse(text)
        elif source.scheme() == "pkg" and source.is_config(option):
            found = source.load_config(option)
            return found.header, OmegaConf.to_container(found.config, resolve=False)
    if name not in option_files.options(group):
        return {}, {}
    text = option_files.text(group, name)
    return ConfigSource._get_header_dict(text), option_files.parse(text)
