"""What a composition may cost: files, nodes, depth, interpolations and words, each counted before it is expanded.

A few hundred bytes of YAML can stand for billions of nodes, by anchors, by defaults lists that double, or by interpolations. Hydra and
omegaconf expand them all. Here they are counted first, in linear time, and refused with exit code 2.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig

from ..findings import Place
from . import interpolations
from .unreadable import UnreadableError

FILE_BYTES = 10 * 2**20
SMALL = 20_000  # characters of a file that any parser reads at once
NODES = 30_000  # of all files of a composition, after anchors are expanded; omegaconf takes 50 us and more for each
DEPTH = 60
CONFIGS = 2_000  # entries of all defaults lists together
OVERRIDE = 20_000  # characters
OVERRIDES = 200_000  # characters of all
EXPANDED = 20_000  # nodes that are read to resolve one value
OURS = ("hydra", "hydra_overlap")  # packages whose files need no look
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_short(overrides: Sequence[str]) -> None:
    """Raise UnreadableError for words of a command line that would keep Hydra's parser busy, or overflow its stack."""
    for word in overrides:
        if len(word) > OVERRIDE or _nesting(word) > DEPTH:
            what = f"It has {len(word):,} characters, {_nesting(word):,} brackets deep"
            why = f"{what}; overrides may have {OVERRIDE:,}, {DEPTH} deep. Write it in an option file."
            raise UnreadableError("An override is too long", why, Place(f"{word[:40]}...", "", "command line"))
    if sum(map(len, overrides)) > OVERRIDES:
        raise UnreadableError(
            "The command line is too long", f"Overrides may have {OVERRIDES:,} characters together. Write them in an option file."
        )  # fmt: skip


def _nesting(word: str) -> int:
    depth = most = 0
    for char in word:
        depth += (char in "[{(") - (char in "]})")
        most = max(most, depth)
    return most


@contextmanager
def bounded() -> Iterator[None]:
    """While this is open, every config file is looked at before Hydra loads it, and defaults lists may not grow without end."""
    original = CachingConfigRepository.load_config

    def load_config(self: Any, config_path: str) -> Any:
        spent = self.__dict__.setdefault("_overlap_spent", _Spent())
        spent.load(self.delegate, config_path)
        return original(self, config_path)  # type: ignore[no-untyped-call]

    CachingConfigRepository.load_config = load_config  # type: ignore[method-assign]
    try:
        yield
    finally:
        CachingConfigRepository.load_config = original  # type: ignore[method-assign]


class _Spent:
    """What one composition has used so far."""

    def __init__(self) -> None:
        self.configs, self.nodes, self.seen = 0, 0, set[str]()

    def load(self, repository: Any, name: str) -> None:
        """Count a config, and look at its file the first time. Raises UnreadableError."""
        self.configs += 1
        if self.configs > CONFIGS:
            why = f"They load more than {CONFIGS:,} configs: some file is chosen again and again, directly or by files that it chooses."
            raise UnreadableError("The defaults lists have too many entries", why, Place(f"{name}.yaml", ""))
        if name in self.seen:
            return
        self.seen.add(name)
        source = repository._find_object_source(name, ObjectType.CONFIG)
        file = None if source is None else _file(source, name)
        if file is not None:
            self.nodes += nodes_of(file)
            if self.nodes > NODES:
                why = f"The files of this configuration have more than {NODES:,} nodes together."
                raise UnreadableError("The configuration is too large", why, Place(str(file), ""))


def _file(source: Any, name: str) -> Path | None:
    """The file behind a config; None for those of Hydra and ours, and for what is no file."""
    kind, place = source.scheme(), str(source.path)
    if kind == "file":
        return Path(place, source._normalize_file_name(name))
    if kind == "pkg" and place.partition(".")[0] not in OURS:
        found = resources.files(place).joinpath(source._normalize_file_name(name))
        return found if isinstance(found, Path) else None
    return None


def nodes_of(file: Path) -> int:
    """Nodes of a YAML file once its anchors are expanded. Raises UnreadableError for a file that cannot, or may not, be read.

    A file that is no YAML counts as none: Hydra says where its mistake is.
    """
    text = read(file)
    sizes: dict[Any, int] = {}  # anchor -> nodes
    open_: list[list[Any]] = [[None, 0]]  # anchor and nodes so far of each node that is open
    try:
        for event in yaml.parse(text, _Loader):
            anchor = getattr(event, "anchor", None)
            if isinstance(event, yaml.AliasEvent):
                if anchor in (name for name, _ in open_):
                    raise UnreadableError(
                        "A YAML file contains itself", f"*{anchor} stands inside of &{anchor}.", _place(file, event)
                    )
                open_[-1][1] += sizes.get(anchor, 0)
            elif isinstance(event, yaml.ScalarEvent):
                sizes[anchor] = 1
                open_[-1][1] += 1
            elif isinstance(event, yaml.CollectionStartEvent):
                open_.append([anchor, 1])
                if len(open_) > DEPTH:
                    raise UnreadableError(
                        "A YAML file is nested too deep", f"It may be {DEPTH} deep.", _place(file, event)
                    )
            elif isinstance(event, yaml.CollectionEndEvent):
                name, size = open_.pop()
                sizes[name] = size
                open_[-1][1] += size
            if open_[-1][1] > NODES:
                why = f"It stands for more than {NODES:,} nodes, with what its anchors (&, *) repeat."
                raise UnreadableError("A YAML file is too large", why, _place(file, event))
    except yaml.YAMLError as error:
        if len(text) > SMALL:  # Hydra's parser would take minutes until it is there
            raise UnreadableError("A config file is not valid YAML", f"{error}", Place(str(file), "")) from None
        return 0
    return int(open_[0][1])


def read(file: Path) -> str:
    """The text of a config file. Raises UnreadableError."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode) or str(Path(file).resolve()).startswith("/proc/"):
                raise UnreadableError(
                    "A config file is no regular file",
                    "It is a device, a pipe or a file of the system.",
                    Place(str(file), ""),
                )
            if found.st_size > FILE_BYTES:
                why = f"It has {found.st_size:,} bytes; config files may have {FILE_BYTES:,}."
                raise UnreadableError("A config file is too large", why, Place(str(file), ""))
            content = stream.read(FILE_BYTES + 1)
    except OSError as error:
        raise UnreadableError(
            "A config file cannot be read", f"{error.strerror or error}.", Place(str(file), "")
        ) from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = (
            "It looks like UTF-16"
            if content[:2] in (b"\xff\xfe", b"\xfe\xff")
            else f"Byte {content[error.start]:#04x} is none of UTF-8"
        )
        why = f"{what}. Save it as UTF-8: iconv -f ENCODING -t UTF-8 FILE."
        raise UnreadableError("A config file is not UTF-8", why, Place(f"{file} line {line}", "")) from None


def require_few_interpolations(root: DictConfig) -> None:
    """Raise UnreadableError if resolving a value reads more nodes than EXPANDED: interpolations that double. Linear in their number."""
    counted: dict[int, int] = {}
    for name, node in root._content.items() if isinstance(root._content, dict) else ():
        if name != "hydra" and interpolations.expanded(node, counted, EXPANDED) > EXPANDED:
            why = f"To resolve it, more than {EXPANDED:,} other values would be read: its interpolations name values that name others again."
            raise UnreadableError("Interpolations expand without end", why, Place(str(name), ""))


def _place(file: Path, event: Any) -> Place:
    return Place(f"{file} line {event.start_mark.line + 1}", "")
