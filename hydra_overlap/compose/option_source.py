"""Where Hydra reads our option files: a config source that reads each file once, with libyaml.

Hydra's own sources parse YAML in Python and wrap every value with all checks, again for every composition; that was a third
of a composition's time. A file whose parts this module does not know, or that cannot be parsed, is left to omegaconf, whose
result, or error, is then what Hydra gets. A test compares both on all our files.
"""

import os
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import AnyNode, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .typed_nodes import AS_KNOWN, Fresh, copied, put

SCHEME = "overlap"
PACKAGE = "pkg://hydra_overlap.conf"  # the same files, by a source of Hydra's
_HEADER = 512  # characters of a file in which Hydra looks for `# @package`
_PLAIN = (bool, int, float, str, type(None))


@cache
def folder() -> str | None:
    """The folder of our option files; None where there is none, as in a zipped package."""
    spec = find_spec("hydra_overlap.conf")
    found = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    return found if found and os.path.isdir(found) else None


def path() -> str:
    """Our option files on a search path of Hydra's."""
    here = folder()
    return PACKAGE if here is None else f"{SCHEME}://{here}"


def ours(path: str | None) -> bool:
    """Whether an entry of a search path is the folder of our option files."""
    here, name = folder(), (path or "").removeprefix("file://")
    if here is None or path == PACKAGE:
        return path == PACKAGE
    return os.path.isdir(name) and os.path.samefile(name, here)


class OptionFileSource(ConfigSource):
    """`overlap:///FOLDER`: option files in a folder, as of Hydra's `file://`."""

    @staticmethod
    def scheme() -> str:
        """The scheme."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """One option file. Raises ConfigLoadError if there is none, yaml.YAMLError if it is no YAML."""
        file = self._file(config_path)
        if not os.path.isfile(file):
            raise ConfigLoadError(f"Config not found : {file}")
        header, _, node = _read(file, *_version(file))
        return ConfigResult(
            config=copied(node, Fresh) if isinstance(node, DictConfig) else OmegaConf.load(file),
            path=f"{SCHEME}://{self.path}",
            provider=self.provider,
            header=dict(header),
        )

    def content(self, config_path: str) -> Any:
        """What a file says, as plain data, to read and not to change; interpolations as they are written."""
        file = self._file(config_path)
        return _read(file, *_version(file))[1]

    def available(self) -> bool:
        """Whether the folder is there."""
        return os.path.isdir(self.path)

    def is_group(self, config_path: str) -> bool:
        """Whether there is a folder of that name."""
        return os.path.isdir(os.path.join(self.path, config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether there is a file of that name."""
        return os.path.isfile(self._file(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the groups and options in a folder, sorted."""
        found: list[str] = []
        for name in os.listdir(os.path.join(self.path, config_path)):
            self._list_add_result(found, os.path.join(config_path, name), name, results_filter)
        return sorted(set(found))

    def _file(self, config_path: str) -> str:
        return os.path.join(self.path, self._normalize_file_name(config_path))


def _version(file: str) -> tuple[int, int]:
    """What changes when a file does."""
    status = os.stat(file)
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1024)
def _read(file: str, *version: int) -> tuple[dict[str, str | None], Any, DictConfig | None]:
    """The header of a file, its content, and that as a node that is never changed, only copied; None if omegaconf has to read it."""
    text = Path(file).read_text(encoding="utf-8")
    header = ConfigSource._get_header_dict(text[:_HEADER])
    content = None
    try:
        content = yaml.load(text, _loader())
        return header, content, _mapping(content, None) if AS_KNOWN else None
    except (_Unknown, yaml.YAMLError, OmegaConfBaseException):
        return header, content, None


class _Unknown(Exception):
    """Something that only omegaconf can wrap."""


@cache
def _loader() -> Any:
    """The loader of omegaconf, with libyaml as its parser."""
    from omegaconf._utils import get_yaml_loader

    theirs: Any = get_yaml_loader()
    parser: Any = getattr(getattr(yaml, "cyaml", None), "CParser", None)
    if parser is None:
        return theirs

    class Loader(parser, theirs):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            parser.__init__(self, stream)
            yaml.constructor.SafeConstructor.__init__(self)
            yaml.resolver.Resolver.__init__(self)

    return Loader


def _node(value: Any, key: Any) -> Any:
    """What omegaconf wraps a value of an option file in. Raises _Unknown."""
    if isinstance(value, dict):
        return _mapping(value, key)
    if isinstance(value, list):
        node = copied(_empty_list())
        node._set_key(key)
        for index, child in enumerate(value):
            put(node, index, _node(child, index))
        return node
    if type(value) not in _PLAIN:
        raise _Unknown
    if isinstance(value, str) and "${" in value:
        return AnyNode(value, key=key)  # omegaconf reads the interpolation
    node = copied(_value())
    node._set_key(key)
    node.__dict__["_val"] = value
    return node


def _mapping(value: Any, key: Any) -> DictConfig:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise _Unknown
    node: DictConfig = copied(_empty_mapping())
    node._set_key(key)
    for name, child in value.items():
        put(node, name, _node(child, name))
    return node


@cache
def _empty_mapping() -> DictConfig:
    return OmegaConf.create({})


@cache
def _empty_list() -> ListConfig:
    return OmegaConf.create([])


@cache
def _value() -> AnyNode:
    return AnyNode(None)
