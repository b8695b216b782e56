"""What is exported is run: no value and no word of the command that made it becomes a command of its own."""

import subprocess
import sys

import pytest
import yaml

from hydra_overlap import GatingError, quoting, resolve
from hydra_overlap.audit.intake import facts_of
from hydra_overlap.export import TARGETS, export
from hydra_overlap.rules.cfg import COMMANDS
from hydra_overlap.schema.fields import FIELDS
from tests import hostile
from tests.each import each
from tests.overrides import overridden, request_of

PLAN = request_of(
    "platform=h100", "parallelism=tp4", "comm_overlap.tp.tp_comm_overlap=true", "software=reference", "precision=bf16",
    "userbuffers=bf16_h100_h8192_tp4_mbs1_seq8192", "launch.layernorm_sm_margin=16",
)  # fmt: skip
TEXT_FIELDS = [
    key
    for key, field in FIELDS.items()
    if not field.choices
    and not field.version
    and (field.kind is str or (field.listed and field.item is str))
    and key != COMMANDS
]
TYPED = (" ".join(hostile.ONE_LINE), "$(touch PWNED)", "'''+open('PWNED','w').write('')+'''")
FREE = ("model.name", "userbuffers.source", "userbuffers.name", "checkpoint.save", "platform.name")


def with_texts(text: str) -> dict:
    """The plan with a text in every field that takes any and that a plan for GPUs may have."""
    request = overridden(PLAN)
    for key in FREE:
        node, name = key.split(".")
        request.setdefault(node, {})[name] = text
    return request


def files(text: str, name: str = "h100") -> dict[str, str]:
    """Everything that can be exported of it, by target and file name."""
    request = with_texts(text)
    request["platform"]["name"] = name
    resolution = resolve(request)
    command = quoting.command(["hydra-overlap", "export", "TARGET", f"model.name={text}"])
    made: dict[str, str] = {}
    for target in TARGETS:
        for file, content in export(target, resolution, command, asked=()).items():
            made[f"{target} {file}"] = content
    return made


MODULES = {
    "torch.py": "class _Any:\n    def __getattr__(self, name): return self\n    def __call__(self, *a, **k): return self\n"
    "nn = bfloat16 = _Any()\n",
    "megatron/bridge/training/comm_overlap.py": "from torch import nn\ndef __getattr__(name): return nn\n",
    "megatron/bridge/training/mixed_precision.py": "from torch import nn\ndef __getattr__(name): return nn\n",
    "run.py": "import glob, importlib.util, sys, types\n"
    "class Node:\n    def __init__(self): self.env_vars = {}\n    def __getattr__(self, name):\n"
    "        self.__dict__[name] = Node(); return self.__dict__[name]\n"
    "for path in sys.argv[1:]:\n    spec = importlib.util.spec_from_file_location('snippet', path)\n"
    "    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); module.apply(Node())\n",
}


def test_nothing_of_a_value_runs_in_any_file_that_is_exported(tmp_path) -> None:
    shells, snippets = [], []
    benign = files("tiny")
    for number, text in enumerate(TYPED):
        for name, content in files(text).items():
            if name.endswith(".sh"):
                shells.append(content)
            if name.endswith(".py"):
                snippets.append(tmp_path / f"snippet_{number}.py")
                snippets[-1].write_text(content)
            if name.endswith(".yaml"):
                assert yaml.safe_load(content) == yaml.safe_load(benign[name]), (name, text)
            if name.endswith(".txt"):
                assert arguments(content) == arguments(benign[name])
    hostile.bash(tmp_path, "".join(shells))
    for file, content in MODULES.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    subprocess.run([sys.executable, "run.py", *map(str, snippets)], cwd=tmp_path, check=True)
    assert snippets and shells and not (tmp_path / "PWNED").exists()


def arguments(flags: str) -> list[str]:
    return [line for line in flags.splitlines() if not line.startswith("#")]


def test_the_command_in_the_header_is_a_comment_whatever_was_typed(tmp_path) -> None:
    resolution = resolve(PLAN)
    typed = [text for text in hostile.SEVERAL_LINES if "\ud800" not in text]
    for target in TARGETS:
        plain = export(target, resolution, "hydra-overlap")
        for raw in ("\n".join(typed), quoting.command(typed)):
            for name, content in export(target, resolution, raw).items():
                assert content.count("\n") == plain[name].count("\n") and without_command(content) == without_command(
                    plain[name]
                )


def without_command(content: str) -> list[str]:
    return [line for line in content.splitlines() if not line.startswith("# command: ")]


@each("key", TEXT_FIELDS)
def test_a_text_of_several_lines_is_refused_in_every_field_but_the_commands_of_a_job(key: str) -> None:
    node, _, name = key.rpartition(".")
    for text in (*hostile.SEVERAL_LINES, hostile.NUL):
        value = [text] if FIELDS[key].listed else text
        request: dict = {name: value}
        for part in reversed(node.split(".")):
            request = {part: request}
        with pytest.raises(GatingError) as refused:
            resolve(request)
        assert {finding.rule for finding in refused.value.findings} == {"CFG011"}, (key, text)
        assert all(line.isprintable() for line in str(refused.value).splitlines())


def test_commands_of_a_job_may_have_several_lines() -> None:
    resolve({"launch": {"slurm": {"setup": ["module load cuda\n\tmodule load nccl"]}}})


def test_no_fact_in_a_header_adds_one_when_it_is_read_back() -> None:
    content = files("x", name="h100 parallelism.world_size=3")["megatron-lm megatron_lm_flags.txt"]
    facts = facts_of(content)
    assert "platform.name=h100 parallelism.world_size=3" in facts and "parallelism.world_size=3" not in facts
