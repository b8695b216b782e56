"""Where Hydra reads our option files: a config source that reads each file once, with libyaml.

Hydra's own sources parse YAML in Python and wrap every value with all checks, again for every composition; that was a third
of a composition's time. A file whose parts this module does not know, or that cannot be parsed, is left to omegaconf, whose
result, or error, is then what Hydra gets. A test compares both on all our files.
"""

import os
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import AnyNode, DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import typed_nodes
from .typed_nodes import AS_KNOWN, Fresh, copied, put

SCHEME = "overlap"
HOST_SCHEME = "overlap_host"
GUARD = "HYDRA_OVERLAP_PLAN"  # the variable in hydra.job.env_set that every bundle brings
PREFIX = "overlap"  # of the groups below in another app, where their names may be its own
PREFIXED = ("ddp", "model", "parallelism", "platform", "precision", "software")
INTERNAL = "_overlap"  # group of what our own files refer to: the check, and the schemas, which are no files
_OFFERED = ("comm_overlap", "userbuffers")  # there, under these names
PACKAGE = "pkg://hydra_overlap.conf"  # the same files, by a source of Hydra's
_HEADER = 512  # characters of a file in which Hydra looks for `# @package`
_PLAIN = (bool, int, float, str, type(None))


@cache
def folder() -> str | None:
    """The folder of our option files; None where there is none, as in a zipped package."""
    spec = find_spec("hydra_overlap.conf")
    found = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    return found if found and os.path.isdir(found) else None


def path(scheme: str = SCHEME) -> str:
    """Our option files on a search path of Hydra's. scheme: HOST_SCHEME as another app sees them."""
    here = folder()
    return PACKAGE if here is None else f"{scheme}://{here}"


def ours(path: str | None) -> bool:
    """Whether an entry of a search path is the folder of our option files."""
    here, name = folder(), (path or "").removeprefix("file://")
    if here is None or path == PACKAGE:
        return path == PACKAGE
    return os.path.isdir(name) and os.path.samefile(name, here)


def own_group(group: str) -> str:
    """The folder of our option files behind a group, which other apps know under a prefix."""
    return group.removeprefix(f"{PREFIX}/")


def seen_by_host(choices: Any) -> bool:
    """Whether chosen options are named as another app names them: then its bundle chose a platform there."""
    return f"{PREFIX}/platform" in choices


def offered(choice: str) -> bool:
    """Whether a choice is of a group that another app has of us: `comm_overlap/tp`, `overlap/parallelism@x`."""
    group = choice.partition("@")[0]
    first, _, rest = group.partition("/")
    return first in _OFFERED or (first == PREFIX and rest in PREFIXED)


def absent(root: DictConfig) -> bool:
    """Whether nothing in a finished config is ours: no option, no bundle's guard, no comm_overlap."""
    chosen = any(offered(str(choice)) for choice in root.hydra.runtime.choices)
    return not chosen and not asked(root) and not guarded(root)


def guarded(root: DictConfig) -> bool:
    """Whether a bundle was composed: it alone brings the guard and the typed node of the answer.

    The guard is looked for and not read: `in` would resolve it.
    """
    return root.hydra.job.env_set._get_node(GUARD, validate_access=False) is not None


def asked(root: DictConfig) -> bool:
    """Whether a config says anything under comm_overlap; null only makes room for it."""
    node = root._get_node("comm_overlap", validate_access=False)
    return isinstance(node, Node) and not node._is_none()


class OptionFileSource(ConfigSource):
    """`overlap:///FOLDER`: option files in a folder, as of Hydra's `file://`."""

    @staticmethod
    def scheme() -> str:
        """The scheme."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """One option file. Raises ConfigLoadError if there is none, yaml.YAMLError if it is no YAML."""
        schema = _schema(config_path)
        if schema is not None:
            where = f"{self.scheme()}://{self.path}"
            return ConfigResult(
                config=typed_nodes.schema(schema), path=where, provider=self.provider, header={"package": None}
            )
        file = self._file(config_path)
        if not os.path.isfile(file):
            raise ConfigLoadError(f"Config not found : {file}")
        header, _, node = _read(file, *_version(file))
        return ConfigResult(
            config=copied(node, Fresh) if isinstance(node, DictConfig) else OmegaConf.load(file),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=dict(header),
        )

    def read(self, config_path: str) -> tuple[Mapping[str, Any], Any]:
        """The header of a file, and what it says as plain data, to read and not to change; interpolations as written."""
        file = self._file(config_path)
        return _read(file, *_version(file))[:2]

    def available(self) -> bool:
        """Whether the folder is there."""
        return os.path.isdir(self.path)

    def is_group(self, config_path: str) -> bool:
        """Whether there is a folder of that name."""
        return os.path.isdir(os.path.join(self.path, config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether there is a file of that name."""
        return _schema(config_path) is not None or os.path.isfile(self._file(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the groups and options in a folder, sorted; what only our own files refer to is not listed."""
        found: list[str] = []
        for name in set(os.listdir(os.path.join(self.path, config_path))) - {INTERNAL}:
            self._list_add_result(found, os.path.join(config_path, name), name, results_filter)
        return sorted(set(found))

    def _file(self, config_path: str) -> str:
        return os.path.join(self.path, self._normalize_file_name(config_path))


class HostFileSource(OptionFileSource):
    """`overlap_host:///FOLDER`: our option files as another app sees them, under names that are not its own.

    `comm_overlap` and `userbuffers` are what they are, `parallelism/tp4` is `overlap/parallelism/tp4` and still fills the
    node `parallelism`; bundles bring that one. What only train.py needs, such as experiments, is not offered.
    """

    @staticmethod
    def scheme() -> str:
        """The scheme."""
        return HOST_SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """One option file. Raises ConfigLoadError if there is none, yaml.YAMLError if it is no YAML."""
        found = super().load_config(config_path)
        found.header = self._header(config_path, found.header)
        if isinstance(found.config, DictConfig) and "defaults" in found.config:
            found.config["defaults"] = _for_hosts(OmegaConf.to_container(found.config["defaults"]))
        return found

    def read(self, config_path: str) -> tuple[Mapping[str, Any], Any]:
        """The header and the content of a file, as this app gets them."""
        header, content = super().read(config_path)
        if isinstance(content, dict) and "defaults" in content:
            content = {**content, "defaults": _for_hosts(content["defaults"])}
        return self._header(config_path, header), content

    def is_group(self, config_path: str) -> bool:
        """Whether another app has this group of us."""
        own = self._own(config_path)
        return own is not None and super().is_group(own)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Names of the groups and options that another app has of us, sorted."""
        at_top = {"": (*_OFFERED, PREFIX), PREFIX: PREFIXED}.get(config_path.strip("/"))
        if at_top is not None:
            return [] if results_filter == ObjectType.CONFIG else sorted(at_top)
        own = self._own(config_path)
        return [] if own is None else OptionFileSource(self.provider, path()).list(own, results_filter)

    def _file(self, config_path: str) -> str:
        return os.path.join(self.path, self._normalize_file_name(self._own(config_path) or "not offered"))

    @staticmethod
    def _own(config_path: str) -> str | None:
        """The path below our folder that another app means by `config_path`; None if it is offered none."""
        first, _, rest = config_path.strip("/").partition("/")
        if first in (*_OFFERED, INTERNAL) or not first:
            return config_path
        if first != PREFIX:
            return None
        return rest if rest.partition("/")[0] in PREFIXED or not rest else None

    @staticmethod
    def _header(config_path: str, header: Mapping[str, Any]) -> dict[str, Any]:
        """With the package that an option fills: the node of its group, wherever the group stands."""
        first, _, rest = config_path.partition("/")
        if first != PREFIX or header.get("package"):
            return dict(header)
        return {**header, "package": f"_global_.{rest.partition('/')[0]}"}


def _for_hosts(defaults: Any) -> Any:
    """A defaults list of ours with the names that groups have in another app."""
    return [
        {_for_host(str(key)): name for key, name in entry.items()} if isinstance(entry, dict) else entry
        for entry in defaults
    ]


def _for_host(key: str) -> str:
    """`/parallelism@_global_.parallelism` -> `/overlap/parallelism`, whose files say themselves where they go."""
    name = key.partition("@")[0]
    group = name.removeprefix("/")
    return f"/{PREFIX}/{group}" if name != group and group in PREFIXED else key


def _schema(config_path: str) -> str | None:
    """The schema that a path of Hydra's means: `_overlap/schema/model` -> model."""
    folder, _, name = config_path.removesuffix(".yaml").rpartition("/")
    return name if folder == f"{INTERNAL}/schema" and name in typed_nodes.SCHEMAS else None


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
    try:
        module = import_module("omegaconf._yaml")  # 2.4.1
    except ModuleNotFoundError:
        module = import_module("omegaconf._utils")
    theirs: Any = module.get_yaml_loader()
    parser: Any = getattr(getattr(yaml, "cyaml", None), "CParser", None)
    if parser is None or issubclass(theirs, parser):
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
