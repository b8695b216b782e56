"""YAML of other programs: loaded safely and within bounds, its interpolations replaced by what they name.

`${oc.env:NAME,default}` is its default: the file is judged, not this shell. Other interpolations are followed inside the
file where they name a node, and through the arithmetic that NeMo and MLPerf register; of the rest the text is kept.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from .intake import Unknown, UnreadableError

NODES = 100_000  # with every alias and interpolation written out; the longest recipe has some thousands
DEPTH = 100  # interpolations in interpolations
FLOAT = re.compile(r"[-+]?[0-9](?:_?[0-9])*[eE][-+]?[0-9]+$")  # `1e9`, a number to OmegaConf and text in YAML 1.1
MISSING = "???"  # OmegaConf's mandatory value that is not there yet
INNERMOST = re.compile(r"\$\{([^${}]*)\}")
PATH = re.compile(r"(\.*)([\w-]+(?:\.[\w-]+|\[\w+\])*)")

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "floor_div": lambda x, y: x // y,
    "divide_floor": lambda x, y: x // y,
    "ceil_div": lambda x, y: math.ceil(x / y),
    "divide_ceil": lambda x, y: math.ceil(x / y),
}
"""Resolvers as NeMo's core/classes/modelPT.py, NeMo-Framework-Launcher and the MLPerf submissions register them."""


class Loader(yaml.SafeLoader):
    """As OmegaConf loads, but unmoved by tags: their content is taken as it stands."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises ConstructorError on a key that is there twice."""
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value}", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


def _scalar(constructor: Callable[[Any, yaml.ScalarNode], Any]) -> Callable[[Any, yaml.ScalarNode], Any]:
    """A value that cannot be (`!!int x`, 31 February, 5,000 digits) is its text."""

    def construct(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
        try:
            return constructor(loader, node)
        except (ValueError, OverflowError, AttributeError, KeyError, TypeError):
            return node.value

    return construct


def _prepare(loader: Any) -> None:
    loader.add_multi_constructor("!", _untagged)
    loader.add_multi_constructor("tag:", _untagged)
    loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789"))
    for kind in ("int", "float", "timestamp", "bool", "binary"):
        tag = f"tag:yaml.org,2002:{kind}"
        loader.add_constructor(tag, _scalar(yaml.SafeLoader.yaml_constructors[tag]))


_prepare(Loader)
LONG = 50_000  # characters, from which on libyaml reads: PyYAML's own scanner takes 20 s for 1 MB
_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class LongLoader(_Fast):  # type: ignore[misc]
    """The same for long texts."""

    construct_mapping = Loader.construct_mapping


_prepare(LongLoader)


def load(text: str, loader: type[yaml.SafeLoader] = Loader) -> Any:
    """The content of a YAML file. Raises YAMLError on broken text, UnreadableError on content beyond bounds."""
    if len(text) > LONG:
        loader = LongLoader if loader is Loader else _Fast
        for number, _ in enumerate(yaml.parse(text, Loader=_Fast)):
            if number > 2 * NODES:
                raise UnreadableError(f"This YAML has more than {NODES} values.")
    reader = loader(text)
    try:
        node = reader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > NODES:
            raise UnreadableError(f"This YAML has more than {NODES} values when its aliases are expanded.")
        return reader.construct_document(node)
    except RecursionError:
        raise UnreadableError("This YAML is nested too deeply.") from None
    except (ValueError, OverflowError, AttributeError, TypeError) as error:
        if isinstance(error, yaml.YAMLError):
            raise
        raise UnreadableError(f"A value in this YAML cannot be: {str(error)[:100]}.") from None
    finally:
        reader.dispose()


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """Values below a node, those of an alias counted at each use; infinite if it holds itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf
        children = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = [child if isinstance(child, tuple) else (child,) for child in children]
        sizes[id(node)] = 1 + sum(_size(child, sizes) for pair in pairs for child in pair)
    return sizes[id(node)]


def problem(text: str, loader: type[yaml.SafeLoader] = Loader) -> str:
    """What is wrong with a text that is meant as YAML, and where; empty if nothing is."""
    try:
        load(text, loader)
    except yaml.YAMLError as error:
        return describe(error)
    return ""


def describe(error: yaml.YAMLError) -> str:
    """What a YAMLError says and where, in one line."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    said = [text for name in ("context", "problem") if (text := getattr(error, name, None))]
    return where + (", ".join(said) or str(error).splitlines()[0])


def number_or_text(text: str) -> Any:
    """The value that a text has in YAML; the text where it is none."""
    try:
        return load(text.strip())
    except (yaml.YAMLError, UnreadableError):
        return text


def shown(value: Any) -> str:
    """A value as it stands in YAML; text that looks like another value in quotes."""
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, str) and not isinstance(value, Unknown) and not isinstance(number_or_text(value), str):
        return repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def resolved(root: Any) -> Any:
    """A copy of the content without interpolations. Raises UnreadableError where they make it grow beyond bounds."""
    return _Resolver(root).copy(root, ())


class _Resolver:
    def __init__(self, root: Any) -> None:
        self.root, self.left, self.depth = root, NODES, 0

    def copy(self, value: Any, parents: tuple[Any, ...]) -> Any:
        """parents: the nodes around it, the nearest last."""
        self.left -= 1
        if self.left < 0:
            raise UnreadableError(f"This YAML has more than {NODES} values when its interpolations are expanded.")
        if isinstance(value, Mapping):
            return {name: self.copy(child, (*parents, value)) for name, child in value.items()}
        if isinstance(value, list):
            return [self.copy(child, (*parents, value)) for child in value]
        if value == MISSING:
            return Unknown(value)
        return self._text(value, parents) if isinstance(value, str) and "${" in value else value

    def _text(self, value: str, parents: tuple[Any, ...]) -> Any:
        text = value
        self.depth += 1
        try:
            while found := INNERMOST.search(text):
                known, meant = self._meant(found[1].strip(), parents) if self.depth < DEPTH else (False, None)
                if not known or isinstance(meant, Unknown):
                    return Unknown(value)
                if found[0] == text:
                    return meant
                text = text[: found.start()] + ("null" if meant is None else str(meant)) + text[found.end() :]
        finally:
            self.depth -= 1
        return value if "${" in text else text

    def _meant(self, inner: str, parents: tuple[Any, ...]) -> tuple[bool, Any]:
        """(whether it is known, what stands between `${` and `}`)."""
        name, _, rest = inner.partition(":")
        if name == "oc.env":
            _, comma, default = rest.partition(",")
            meant = number_or_text(default)
            # Without oc.decode it is text, and in Python `False` as text is true.
            return bool(comma), default.strip() if meant is False else meant
        if name == "oc.decode":
            return True, number_or_text(rest)
        if name in ARITHMETIC:
            return self._computed(name, [number_or_text(part) for part in rest.split(",")])
        path = PATH.fullmatch(inner)
        return self._named(path[1], re.findall(r"[\w-]+", path[2]), parents) if path else (False, None)

    def _computed(self, name: str, values: list[Any]) -> tuple[bool, Any]:
        if len(values) != 2 or not all(type(value) in (int, float) for value in values):
            return False, None
        try:
            return True, ARITHMETIC[name](*values)
        except ArithmeticError:
            return False, None

    def _named(self, dots: str, parts: list[str], parents: tuple[Any, ...]) -> tuple[bool, Any]:
        """A node of the file: from its root, or from the node that as many dots reach."""
        if len(dots) > len(parents):
            return False, None
        above = parents[: len(parents) - len(dots) + 1] if dots else (self.root,)
        for part in parts:
            node = above[-1]
            if isinstance(node, Mapping) and part in node:
                above = (*above, node[part])
            elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
                above = (*above, node[int(part)])
            else:
                return False, None
        return True, self.copy(above[-1], above[:-1])
