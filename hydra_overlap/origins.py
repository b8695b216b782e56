"""Where each value of a composed config came from: command line, option file, or default."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from .request import DEFAULTS, NODES

COMMAND_LINE = "command line"


class _Origins(dict[str, str]):
    """key -> origin, worked out when asked for: only a few of the 150 keys are ever printed."""

    def __init__(self, cfg: DictConfig) -> None:
        super().__init__()
        self._cfg = cfg
        self._overrides = dict(_overridden(cfg))
        self._options = list(_options(cfg))

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = self._find(key) or default
        return self[key]

    def _find(self, key: str) -> str:
        if key in self._overrides:
            return COMMAND_LINE
        value = OmegaConf.select(self._cfg, key, default=None)
        for package, group, option in reversed(self._options):
            if key.startswith(f"{package}."):
                content = _option_file(group, option)
                found = _lookup(content, key[len(package) + 1 :])
                if found is not _ABSENT and found == value:
                    return f"{group}/{option}.yaml"
        return "default" if key in DEFAULTS and DEFAULTS[key] == value else "config"


def of(cfg: DictConfig) -> dict[str, str]:
    """Origins of the values of `cfg`, which must still have its hydra node."""
    return _Origins(cfg)


def _overridden(cfg: DictConfig) -> Iterator[tuple[str, str]]:
    for override in cfg.hydra.overrides.task:
        key, _, value = str(override).lstrip("+~").partition("=")
        yield key, value


def _options(cfg: DictConfig) -> Iterator[tuple[str, str, str]]:
    """(package, group, option) of every chosen option of ours, the outer ones first."""
    for choice, option in sorted(cfg.hydra.runtime.choices.items()):
        group, _, package = str(choice).partition("@")
        node = package.removeprefix("_global_.") or group.replace("/", ".")
        if node.partition(".")[0] in NODES and isinstance(option, str):
            yield node, group, option


@lru_cache(maxsize=256)
def _option_file(group: str, option: str) -> Any:
    """Content of an option file, from wherever Hydra would load it."""
    for source in GlobalHydra.instance().config_loader().get_sources():  # type: ignore[no-untyped-call]
        if source.scheme() in ("file", "pkg") and source.is_config(f"{group}/{option}"):
            loaded = source.load_config(f"{group}/{option}")
            return OmegaConf.to_container(loaded.config, resolve=False)
    return yaml.safe_load("{}")


_ABSENT = object()


def _lookup(content: Any, path: str) -> Any:
    for name in path.split("."):
        if not isinstance(content, dict) or name not in content:
            return _ABSENT
        content = content[name]
    return content
