"""What the points of a sweep share: option files merged once for every distinct set of group choices.

Each point gets a copy of such a base, and its values are applied to it by Hydra's own function. Only what a point can change
is copied: what its overrides name, and what the end of Hydra's composition writes; the rest is borrowed by the copy made
last. Source: hydra-core 1.3.8 _internal/config_loader_impl.py `_load_configuration_impl`, `load_sweep_config`; 1.3.2 to
1.3.8 are the same to the letter. Imports names of Hydra's that 1.4 has not: see `composer`.
"""

import copy
import os
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import hydra
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.conf import ConfigSourceInfo
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, StringNode, open_dict
from omegaconf.errors import OmegaConfBaseException

from .. import dotted
from ..compose.interpolations import stands_alone
from ..compose.overrides import parsed
from ..resolver.from_config import ours, plain_node
from ..schema.fields import NODES, OUTPUT

KEPT_BASES = 32  # configs of distinct group choices held at once; about a megabyte each
# What the end of a composition writes, for every point anew.
WRITTEN = (
    "hydra.job.env_copy",
    "hydra.job.env_set",
    "hydra.job.override_dirname",
    "hydra.overrides.task",
    "hydra.runtime.version",
)
# What it fills after our check ran, with the same values for every point.
FINISHED = (
    *(("runtime", name) for name in ("version", "version_base", "cwd", "config_sources")),
    *(("job", name) for name in ("name", "config_name")),
)

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the points of one set of group choices share.

    config: before any value of a point is applied. plain: its request nodes without interpolations, as plain data.
    dirname: hydra.job.config.override_dirname. finished: nodes that Hydra fills after our check, filled. lent: nodes of
    config that stand in the copy made last, and where they belong.
    """

    config: DictConfig
    plain: dict[str, Any]
    dirname: dict[str, Any]
    finished: dict[tuple[str, str], Any]
    lent: list[tuple[Any, DictConfig]] = field(default_factory=list)

    def copy(self, paths: Iterable[Key]) -> DictConfig:
        """A config that owns what stands at `paths` and the nodes on the way there; all else it borrows."""
        for node, parent in self.lent:
            node.__dict__["_parent"] = parent
        self.lent.clear()
        tree: dict[str, Any] = {}  # name -> what is owned below it; True = all
        for *way, last in paths:
            branch: Any = tree
            for part in way:
                branch = branch.setdefault(part, {}) if branch is not True else True
            if branch is not True:
                branch[last] = True
        return _owned(self.config, None, tree, self.lent)

    def finish(self, config: DictConfig, overrides: Sequence[Override]) -> None:
        """What Hydra does after the check: facts of the process, and the overrides as the name of a directory."""
        for (part, name), node in self.finished.items():
            parent = config.hydra._get_node(part)
            node.__dict__["_parent"] = parent
            parent._content[name] = node
        config.hydra.job.override_dirname = get_overrides_dirname(overrides=list(overrides), **self.dirname)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A point up to the check. plain: what is known of its request. task: its overrides that are not Hydra's own."""

    base: Base
    config: DictConfig
    plain: dict[str, Any]
    task: list[Override]

    def finish(self) -> None:
        """What Hydra does after the check."""
        with hydras_errors():
            self.base.finish(self.config, self.task)

    def errors(self) -> AbstractContextManager[None]:
        """What Hydra makes of an error of omegaconf's."""
        return hydras_errors()


class _Unmergeable(Exception):
    """The option files of a base do not merge. error: what Hydra raised."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error, self.traceback = error, error.__traceback__


class Bases:
    """The bases of one sweep. master: the config Hydra composed for the sweep itself."""

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        self._loader = loader
        self._config_name = master.hydra.job.config_name
        self._of_master: list[str] = OmegaConf.to_container(master.hydra.overrides.hydra)  # type: ignore[assignment]
        _, repository = loader._parse_overrides_and_create_caching_repo(self._config_name, self._of_master)
        self._repository = _Repository(repository, loader)
        self._kept: OrderedDict[Key, Base | Exception] = OrderedDict()

    def key(self, overrides: Sequence[str]) -> Key:
        """What decides which base a point starts from."""
        return tuple(str(o.input_line) for o in map(parsed, overrides) if self._in_base(o))

    def point(self, overrides: Sequence[str], *written: str) -> Prepared | None:
        """A point's config up to the check; None if Hydra has to compose it.

        written: what is going to be written into besides the point's own values, and what Hydra writes.
        """
        lines = [parsed(line) for line in overrides]
        ConfigLoaderImpl.validate_sweep_overrides_legal(lines, run_mode=RunMode.RUN, from_shell=True)
        if any(o.key_or_group == "hydra.searchpath" for o in lines):
            return None  # its groups are not those of the other points
        base = self._base(self.key(overrides))
        values = [o for o in lines if not self._in_base(o)]
        paths = [tuple(dotted.parts(o.key_or_group)) for o in values]
        if base is None or not _only_there(base.config, values, paths):
            return None
        config = base.copy([*paths, *(tuple(dotted.parts(key)) for key in (*WRITTEN, *written))])
        task = [o for o in lines if not o.is_hydra_override()]
        with hydras_errors():
            ConfigLoaderImpl._apply_overrides_to_config(values, config)
            _fill(config.hydra.overrides.task, [str(o.input_line) for o in task])
        return Prepared(base=base, config=config, plain=_with_changes(base.plain, config, paths), task=task)

    def _in_base(self, override: Override) -> bool:
        """Whether an override takes part in the merge of option files, or sets something of Hydra's own."""
        if override.is_hydra_override():
            return True
        return not isinstance(override.value(), dict) and self._repository.group_exists(override.key_or_group)

    def _base(self, key: Key) -> Base | None:
        """The base of these choices; None if only Hydra can say what is wrong. Raises what merging them raises."""
        if key not in self._kept:
            try:
                self._kept[key] = self.build(key)
            except Exception as error:
                self._kept[key] = error
            if len(self._kept) > KEPT_BASES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        base = self._kept[key]
        if isinstance(base, _Unmergeable):  # before any value of a point is looked at: the same for all of them
            raise base.error.with_traceback(base.traceback)
        return None if isinstance(base, Exception) else base

    def build(self, key: Key) -> Base:
        """Merge option files as Hydra does, and set what is the same for every point of this base."""
        self._loader.ensure_main_config_source_available()
        lines = [parsed(line) for line in (*self._of_master, *key)]
        repository, name = self._repository, self._config_name
        try:
            with hydras_errors():
                defaults = create_defaults_list(
                    repo=repository, config_name=name, overrides_list=lines, prepend_hydra=True, skip_missing=False
                )
                config = repository.merge(defaults.defaults)
        except Exception as error:
            raise _Unmergeable(error) from error
        with hydras_errors():
            OmegaConf.set_struct(config, True)
            OmegaConf.set_readonly(config.hydra, False)
            ConfigLoaderImpl._apply_overrides_to_config(defaults.config_overrides, config)
            for override in lines:
                if override.is_hydra_override():
                    config.hydra.overrides.hydra.append(override.input_line)
            with open_dict(config.hydra):
                config.hydra.runtime.choices.update(defaults.overrides.known_choices)
            settings: Any = config.hydra.job.config.override_dirname
            dirname = {part: settings[part] for part in ("kv_sep", "item_sep")}
            dirname["exclude_keys"] = list(settings.exclude_keys)
            finished = copy.deepcopy(config.hydra)
            finished.runtime.version = hydra.__version__
            finished.runtime.version_base = version.getbase()
            finished.runtime.cwd = os.getcwd()
            finished.runtime.config_sources = [
                ConfigSourceInfo(path=source.path, schema=source.scheme(), provider=source.provider)
                for source in repository.get_sources()
            ]
            if "name" not in finished.job:
                finished.job.name = JobRuntime().get("name")
            finished.job.config_name = name
        nodes = {(part, key): finished[part]._get_node(key) for part, key in FINISHED}
        return Base(config=config, plain=_plain_nodes(config), dirname=dirname, finished=nodes)


class _Repository(IConfigRepository):
    """A caching repository of Hydra's that also remembers which groups and configs there are, and merges them."""

    def __init__(self, kept: IConfigRepository, loader: ConfigLoaderImpl) -> None:
        self._kept = kept
        self._merger = _Merger(loader)
        self._exists: dict[tuple[str, str], bool] = {}

    def get_schema_source(self) -> ConfigSource:
        return self._kept.get_schema_source()

    def initialize_sources(self, config_search_path: Any) -> None:
        raise AssertionError("the search path of a sweep's points is fixed")

    def load_config(self, config_path: str) -> ConfigResult | None:
        return self._kept.load_config(config_path)

    def group_exists(self, config_path: str) -> bool:
        return self._remembered("group", config_path)

    def config_exists(self, config_path: str) -> bool:
        return self._remembered("config", config_path)

    def merge(self, defaults: list[ResultDefault]) -> DictConfig:
        """What `defaults` compose to."""
        return self._merger._compose_config_from_defaults_list(defaults=defaults, repo=self)

    def _remembered(self, kind: str, path: str) -> bool:
        key = (kind, path)
        if key not in self._exists:
            ask = self._kept.group_exists if kind == "group" else self._kept.config_exists
            self._exists[key] = ask(path)
        return self._exists[key]

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        return self._kept.get_group_options(group_name, results_filter)

    def get_sources(self) -> list[ConfigSource]:
        return self._kept.get_sources()


class _Merger(ConfigLoaderImpl):
    """Hydra's loader, merging copies of configs that were loaded, typed and put under their package once."""

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self.__dict__.update(vars(loader))
        self._loaded: dict[tuple[Any, ...], ConfigResult] = {}

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        key = (default.config_path, default.package, default.primary)
        if key not in self._loaded:
            self._loaded[key] = super()._load_single_config(default, repo)
        result = copy.copy(self._loaded[key])
        result.config = copy.deepcopy(result.config)  # a merge takes the nodes of a loaded config into its result
        return result


@contextmanager
def hydras_errors() -> Iterator[None]:
    """What `load_configuration` makes of an error of omegaconf's."""
    try:
        yield
    except OmegaConfBaseException as error:
        raise ConfigCompositionException().with_traceback(error.__traceback__) from error


def _owned(
    node: DictConfig, parent: DictConfig | None, tree: dict[str, Any], lent: list[tuple[Any, DictConfig]]
) -> DictConfig:
    """A DictConfig with the types and flags of `node`: of its children, those in `tree` are its own, the others `lent`."""
    result = DictConfig.__new__(DictConfig)  # its constructor would set a value, which takes longer than all the rest
    metadata = copy.copy(node._metadata)
    metadata.flags = copy.copy(metadata.flags)
    metadata.resolver_cache = copy.deepcopy(metadata.resolver_cache) if metadata.resolver_cache else defaultdict(dict)
    content: dict[Any, Any] = {}
    result.__dict__.update(_metadata=metadata, _flags_cache=None, _parent=parent, _content=content)
    for name, child in node._content.items():  # type: ignore[union-attr]
        inside = tree.get(str(name))
        if isinstance(inside, dict) and isinstance(child, DictConfig) and isinstance(child._content, dict):
            child = _owned(child, result, inside, lent)
        else:
            if inside is None:
                lent.append((child, node))
            else:
                child = copy.deepcopy(child)
            child.__dict__["_parent"] = result
        content[name] = child
    return result


def _with_changes(plain: dict[str, Any], config: DictConfig, paths: Iterable[Key]) -> dict[str, Any]:
    """The request nodes of `config` as plain data: those of its base, with what was changed at `paths`."""
    found = dict(plain)
    for path in paths:
        name = path[0]
        if name == OUTPUT and path[1:2] == ("reads",):
            return {}
        if name in found and not _patch(found, config, path):
            del found[name]  # to be read as a whole
    return found


def _patch(plain: dict[str, Any], config: DictConfig, path: Key) -> bool:
    """Put what stands at `path` of config into plain data, in copies of the dicts on the way; -> whether that was possible."""
    node: Any = config
    for part in path[:-1]:
        node = node._content.get(part) if isinstance(node, DictConfig) and isinstance(node._content, dict) else None
        inner = plain.get(part)
        if not isinstance(inner, dict):
            return False
        plain[part] = dict(inner)
        plain = plain[part]
    if not isinstance(node, DictConfig) or not isinstance(node._content, dict):
        return False
    changed = node._content.get(path[-1])
    if changed is None:
        plain.pop(path[-1], None)
        return True
    if not stands_alone(changed):
        return False
    plain[path[-1]] = OmegaConf.to_container(changed) if OmegaConf.is_config(changed) else changed._value()
    return True


def _fill(texts: Any, lines: Sequence[str]) -> None:
    """Put lines into an empty list of texts, without what omegaconf checks on each of them."""
    optional = texts._metadata.element_type is not str
    texts.__dict__["_content"] = [
        StringNode(line, key=index, parent=texts, is_optional=optional) for index, line in enumerate(lines)
    ]


def _only_there(config: DictConfig, values: Sequence[Override], paths: Sequence[Key]) -> bool:
    """Whether every value changes what stands at its path, and nothing elsewhere that an interpolation leads to."""
    for value, path in zip(values, paths, strict=True):
        if path[0] == "hydra" or _through_interpolation(config, path, merged=isinstance(value.value(), (dict, list))):
            return False
        if "${" in str(value.input_line) and any(other[: len(path)] == path for other in paths if other is not path):
            return False
    return True


def _through_interpolation(config: DictConfig, path: Key, *, merged: bool) -> bool:
    """Whether what is written at `path` would land in a node elsewhere. merged: it may land below `path` as well."""
    node: Any = config
    for part in path:
        if not isinstance(node, DictConfig) or not isinstance(node._content, dict):
            return OmegaConf.is_config(node) and node._is_interpolation()
        node = node._content.get(part)
    return node is not None and (not stands_alone(node) if merged else node._is_interpolation())


def _plain_nodes(config: DictConfig) -> dict[str, Any]:
    """The request nodes that say all they say by themselves: no interpolation in them, nothing missing."""
    if OUTPUT not in config or config[OUTPUT].get("reads"):
        return {}  # mapped values are written into the request
    found = {}
    for name in NODES:
        if name in config and ours(config, name) and stands_alone(config._get_node(name)):
            found[name] = plain_node(config, name)
    return found
