"""Formats that are Megatron's own words in another dress: FlagScale, functional tests, Primus, ms-swift, verl, Python snippets.

Each is turned into the words or the nodes that the readers of Megatron-LM, Megatron-Bridge and NeMo take. What these
programs do not say is their own or a model's, so it stays open.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import yaml

from .. import dotted
from ..export.megatron_lm import destination
from ..export.megatron_lm_parser import by_dest
from . import megatron_arguments, megatron_bridge, megatron_flags, nemo, openings, shell, yamls
from .intake import ABSENT, Intake, Unknown, UnreadableError
from .launchers import Ranks, is_count, launch

Read = tuple[Intake, Callable[[str], str]]
SWITCHES = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
UNDERSCORES = re.compile(r"--[a-z]\w*_\w+(=|$)")
VERL = re.compile(
    r"\+*((?:actor_rollout_ref\.(?:actor|ref|rollout)|actor|ref|critic|reward_model|engine|model_engine)\.megatron)\.([\w.]+)=(.*)",
    re.DOTALL,
)
OVERRIDES = ("override_transformer_config", "override_ddp_config", "override_mcore_model_config")
MEGATRON = re.compile(
    r"_model_parallel_size|tp_comm_overlap|overlap_grad_reduce|overlap_param_gather"
)  # no other library says it so
NEMO_LAUNCHER = re.compile(r"\+*(training|peft|fine_tuning)\.(model|trainer)\.")
LEAVES = {
    place.rpartition(".")[2]: place for place in megatron_bridge.PLACES if not place.startswith("mixed_precision")
}


def read(text: str, around: shell.Around, core: str | None) -> list[Read]:
    """What was read in one of these formats; empty if it is none of them. Raises UnreadableError."""
    content = _yaml(text)
    if content is not None:
        return _of_yaml(content, core)
    return _of_python(text) or _of_script(text, around, core)


# YAML


def _yaml(text: str) -> dict[str, Any] | None:
    try:
        content = yamls.load(text)
    except yaml.YAMLError:
        return None
    return content if isinstance(content, dict) and all(isinstance(name, str) for name in content) else None


def _of_yaml(content: dict[str, Any], core: str | None) -> list[Read]:
    if isinstance(content.get("MODEL_ARGS"), Mapping):
        intake = _of_values(content["MODEL_ARGS"], core, "Megatron-LM functional test")
        variables = content.get("ENV_VARS")
        intake.env = (
            {str(name): str(value) for name, value in variables.items()} if isinstance(variables, Mapping) else {}
        )
        return [(intake, megatron_arguments.say)]
    if isinstance(content.get("system"), Mapping) and isinstance(content.get("model"), Mapping):
        values = dict(_leaves({"system": content["system"], "model": content["model"]}))
        return [(_of_values(values, core, "FlagScale configuration"), megatron_arguments.say)]
    modules = content.get("modules")
    if isinstance(modules, Mapping):
        trainers = [one for one in modules.values() if isinstance(one, Mapping) and one.get("framework") == "megatron"]
        found = [one["overrides"] for one in trainers if isinstance(one.get("overrides"), Mapping)]
        return [
            (_open(_of_values(one, core, "Primus configuration")), _underscored(megatron_arguments.say))
            for one in found
        ]
    return []


def _leaves(content: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Names and values below; FlagScale forgets under which node one stood."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            if depth < 20:
                yield from _leaves(value, depth + 1)
        else:
            yield str(name), value


def _of_values(content: Mapping[str, Any], core: str | None, kind: str) -> Intake:
    """Flags as a mapping: `tensor_model_parallel_size: 2`, `--bf16: true`."""
    words: list[str] = []
    for name, value in content.items():
        words += _flag(str(name), value)
    intake = megatron_arguments.read(words, Ranks(), core=core)
    intake.kind = kind
    for name, value in content.items():
        if SWITCHES.get(_text(value).lower()) is False:
            _said_off(intake, str(name), _text(value))
    return intake


def _said_off(intake: Intake, name: str, value: str) -> None:
    """A switch that is said to be off is not merely absent."""
    dest = name.lstrip("-").replace("-", "_")
    for key in intake.flat:
        if destination(key) == dest and intake.said.get(key, "").startswith(ABSENT):
            intake.said[key] = f"{name} {value}"


def _flag(name: str, value: Any) -> list[str]:
    """A setting as words of Megatron-LM's command line; none where it says what the absent flag says."""
    dest = name.lstrip("-").replace("-", "_")
    row = by_dest().get(dest)
    flag = next((one for one in row["flags"] if one.startswith("--")), "") if row else f"--{dest.replace('_', '-')}"
    whole = isinstance(value, list) and row is not None and not row.get("nargs")  # Megatron-LM takes "[1, 0]" there
    values = [_text(one) for one in (value if isinstance(value, list) and not whole else [value])]
    if row is not None and row.get("nargs"):  # "mlp moe" is two words on the command line that such a file becomes
        values = [word for one in values for word in one.split()]
    if value is None or any(one == "" for one in values):
        return []
    if row is not None and row["action"] != "store":
        wanted = SWITCHES.get(values[0].lower()) if len(values) == 1 else None
        if wanted is None:
            return [flag, *values]
        return [flag] if wanted == (row["action"] != "store_false") else []
    if row is None and values == ["false"]:
        return []
    return [flag] if row is None and values == ["true"] else [flag, *values]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    text = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
    default = re.fullmatch(r"\$\{[\w.]+:(.*)\}", text)  # Primus: ${NAME:default}
    return default[1] if default else text


def _open(intake: Intake) -> Intake:
    """What is not said is another file's or the model's."""
    intake.rest_is_default = False
    intake.asserts_connections = False
    return intake


def _underscored(say: Callable[[str], str]) -> Callable[[str], str]:
    """A fix as `name: value` has it: Megatron-LM's flag without its dashes."""

    def said(override: str) -> str:
        flag, _, value = say(override).partition(" ")
        if flag == "without":
            return f"{value.removeprefix('--').replace('-', '_')}: false"
        return (
            f"{flag.removeprefix('--').replace('-', '_')}: {value or 'true'}"
            if flag.startswith("--")
            else say(override)
        )

    return said


# scripts


def _of_script(text: str, around: shell.Around, core: str | None) -> list[Read]:
    try:
        script = shell.read(text, around)
    except ValueError:
        return []
    found: list[Read] = []
    for command in script.commands:
        for one in (_verl, _nemo_launcher):
            read_ = one(command.words)
            if read_ is not None:
                found.append((_placed(read_[0], command), read_[1]))
        swift = _swift(command, core)
        found += [] if swift is None else [(_placed(swift, command), _with_underscores)]
    return found


def _placed(intake: Intake, command: shell.Command) -> Intake:
    intake.lines = (command.line,)
    intake.ways, intake.group = command.ways, command.group
    intake.notes += shell.conditions(command)
    intake.env = {name: value for name, value in command.variables.items() if name.isupper()}
    if "parallelism.world_size" not in intake.flat:
        started = launch([*command.outer, *command.words], command.variables)
        megatron_arguments.take_ranks(intake, started.ranks)
        openings.ranks(intake, started.outer)
    return intake


def _swift(command: shell.Command, core: str | None) -> Intake | None:
    """Flags with underscores and a value after each: ms-swift's `megatron sft`, and what HfArgumentParser reads."""
    flags = [word for word in command.words if word.startswith("--")]
    named = [word for word in flags if UNDERSCORES.match(word) and word[2:].partition("=")[0] in by_dest()]
    program = [word.rpartition("/")[2] for word in command.words[:2]]
    swift = program[:1] in (["megatron"], ["swift"])
    if not named or (
        not swift
        and (
            any(word.partition("=")[0] in _dashed() for word in flags) or not any(MEGATRON.search(one) for one in named)
        )
    ):
        return None
    content: dict[str, Any] = {}
    for flag, *values in megatron_flags.chunks(command.words):
        name, equals, value = flag[2:].partition("=")
        content[name] = value if equals else (values if len(values) > 1 else values[0] if values else True)
    intake = _open(_of_values(content, core, "ms-swift command line" if swift else "command line with underscores"))
    gpus = command.variables.get("NPROC_PER_NODE", "")
    if is_count(gpus):
        nodes = command.variables.get("NNODES", "1")
        if is_count(nodes) and int(gpus) * int(nodes):
            world = int(gpus) * int(nodes)
            intake.take("parallelism.world_size", world, f"NPROC_PER_NODE={gpus} NNODES={nodes}: {world} ranks")
    return intake


def _dashed() -> frozenset[str]:
    """Flags of Megatron-LM with a dash inside, which no parser of dataclasses has."""
    return frozenset(flag for flag in megatron_flags.known_flags() if "-" in flag[2:])


def _with_underscores(override: str) -> str:
    flag, space, value = megatron_arguments.say(override).partition(" ")
    if flag == "without":
        return f"{value.replace('-', '_').replace('__', '--', 1)} false"
    return f"--{flag[2:].replace('-', '_')} {value or 'true'}" if flag.startswith("--") else f"{flag}{space}{value}"


def _verl(words: Sequence[str]) -> Read | None:
    """Overrides of the Megatron engine of one of verl's roles; the actor's, where there are several."""
    found = [match for word in words if (match := VERL.fullmatch(word))]
    if not found:
        return None
    role = next(
        (match[1] for match in found if "actor" in match[1].rpartition(".megatron")[0].split(".")[-1]), found[0][1]
    )
    nested: dict[str, Any] = {}
    for match in found:
        name = next((match[2].removeprefix(f"{one}.") for one in OVERRIDES if match[2].startswith(f"{one}.")), match[2])
        if match[1] == role and name in LEAVES:
            dotted.put(nested, LEAVES[name], _value(match[3]))
    if not nested:
        return None
    intake = megatron_bridge.read(megatron_bridge.Content(nested))
    intake.kind = "verl configuration"
    return intake, _of_role(role)


def _of_role(role: str) -> Callable[[str], str]:
    def said(override: str) -> str:
        place, equals, value = megatron_bridge.say(override).partition("=")
        node, _, name = place.partition(".")
        if node not in megatron_bridge.NODES or not equals:
            return override
        inner = (
            ""
            if name.endswith("_parallel_size")
            else "override_ddp_config."
            if node == "ddp"
            else "override_transformer_config."
        )
        return f"{'+' if inner else ''}{role}.{inner}{name}={value}"

    return said


def _nemo_launcher(words: Sequence[str]) -> Read | None:
    """Overrides of NeMo-Framework-Launcher: `training.model.ub_tp_comm_overlap=true`."""
    nested: dict[str, Any] = {}
    prefix = ""
    for word in words:
        match = NEMO_LAUNCHER.match(word)
        name, equals, value = word.lstrip("+").partition("=")
        if match and equals:
            prefix = match[1]
            with suppress(TypeError):
                dotted.put(nested, name.removeprefix(f"{prefix}."), _value(value))
    if not isinstance(nested.get("model"), dict):
        return None
    intake = nemo.read(nested)
    intake.rest_is_default = False
    intake.kind = "overrides of NeMo-Framework-Launcher"
    return (
        intake,
        lambda override: (
            f"{prefix}.{nemo.say(override)}"
            if nemo.say(override).startswith(("model.", "trainer."))
            else nemo.say(override)
        ),
    )


def _value(text: str) -> Any:
    return Unknown(text) if "$" in text else yamls.number_or_text(text.strip("'\""))


# Python


def _of_python(text: str) -> list[Read]:
    """Assignments to fields of a ConfigContainer: `cfg.ddp.overlap_grad_reduce = True`. Parsed, never run."""
    if (
        "=" not in text
        or len(text) > shell.BYTES
        or not re.search(r"^[ \t]*\w+\.\w+(\.\w+)* *= *\w", text, re.MULTILINE)
    ):
        return []
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    nested: dict[str, Any] = {}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            _assigned(nested, statement.targets[0], statement.value)
    content = megatron_bridge.Content(nested)
    if not any(sign in nested for sign in megatron_bridge.SIGNS):
        return []
    intake = megatron_bridge.read(content)
    intake.kind = "Python configuration of Megatron-Bridge"
    intake.notes.append("assignments are read as if all of them ran, in their order; conditions are not followed")
    return [(intake, _in_python)]


def _assigned(nested: dict[str, Any], target: ast.expr, value: ast.expr) -> None:
    names: list[str] = []
    while isinstance(target, ast.Attribute):
        names.insert(0, target.attr)
        target = target.value
    if not isinstance(target, ast.Name) or not names or names[0] not in megatron_bridge.NODES:
        return
    place = ".".join(names)
    with suppress(TypeError):
        if isinstance(value, ast.Call) and len(names) == 1:
            for keyword in value.keywords:
                if keyword.arg is not None:
                    dotted.put(nested, f"{place}.{keyword.arg}", _literal(keyword.value))
        else:
            dotted.put(nested, place, _literal(value))


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
        return Unknown(ast.unparse(node))


def _in_python(override: str) -> str:
    place, equals, value = megatron_bridge.say(override).partition("=")
    if not equals or place.partition(".")[0] not in megatron_bridge.NODES:
        return override
    meant = yamls.number_or_text(value)
    return f"cfg.{place} = {meant!r}"


def ours(intake: Intake, nodes: Iterable[str]) -> bool:
    """Whether settings of Megatron-Bridge were really read, and the file is not mostly something else's."""
    names = list(nodes)
    texts = (*intake.said.values(), *intake.undecided.values())
    was_read = any(not said.startswith(ABSENT) for said in texts)
    signs = any(name in megatron_bridge.SIGNS for name in names)
    return bool(intake.findings) or (was_read and (signs or all(name in megatron_bridge.NODES for name in names)))


def none_of_them(broken: str) -> UnreadableError:
    """That a text is none of the formats. broken: what is wrong with it as YAML."""
    return UnreadableError(
        "This is not a configuration that audit can read: neither flags of Megatron-LM's pretrain_gpt.py, nor a YAML, a Python snippet "
        "or overrides for Megatron-Bridge, nor a YAML of NeMo, FlagScale, Primus or Megatron-LM's functional tests, nor a command of "
        f"ms-swift or verl.{f' It is not valid YAML: {broken}.' if broken else ''}"
    )
