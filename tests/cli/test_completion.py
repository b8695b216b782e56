"""Completion and help: what a person types against. Neither ever loads torch."""

import os
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from hydra_overlap.cli import main
from hydra_overlap.option_files import options
from hydra_overlap.presets.catalogue import catalogue
from hydra_overlap.reference import hydra_help as page
from hydra_overlap.rules import DERIVATIONS, RULES
from hydra_overlap.rules.ub import legal_methods
from hydra_overlap.schema.fields import FIELDS
from tests.docs.blocks import ROOT
from tests.each import each

NO_TORCH = """
import sys
from importlib.abc import MetaPathFinder
class Forbidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] not in ("torch", "megatron"), name
sys.meta_path.insert(0, Forbidden())
"""


def run_train(*arguments, **environment):
    """`python train.py ARGUMENTS` in a process that cannot import torch."""
    script = f"{NO_TORCH}\nimport runpy\nsys.argv = {['train.py', *arguments]!r}\nrunpy.run_path('train.py', run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("train.py comm_overlap=tp4_h", "comm_overlap=tp4_h100"),
        ("train.py comm_overlap.dp.buck", "comm_overlap.dp.bucket_size="),
        ("train.py experiment=llama3_8b_8gpu_h100_b", "experiment=llama3_8b_8gpu_h100_bf16"),
        ("train.py comm_overlap=tp4_h100 parallelism=tp", "parallelism=tp8"),
    ],
)
def test_the_shell_completes_groups_options_and_keys(line, word):
    done = run_train("-sc", "query=bash", COMP_LINE=line)
    assert word in done.stdout.split(), done.stdout + done.stderr


def on_tab(*words):
    """What bash is told at the end of `words`, by a process that cannot import torch."""
    done = subprocess.run(
        [sys.executable, "-c", f"{NO_TORCH}\nfrom hydra_overlap.cli import main; main(prog_name='hydra-overlap')"],
        env={
            **os.environ,
            "_HYDRA_OVERLAP_COMPLETE": "bash_complete",
            "COMP_WORDS": "\n".join(("hydra-overlap", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def offered(*words):
    """What any shell that keeps words together offers at the end of `words`."""
    completer = ShellComplete(main, {}, "hydra-overlap", "_HYDRA_OVERLAP_COMPLETE")
    return [item.value for item in completer.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("exp",), ["explain", "export"]),
        (("check", "comm_overlap", "=", "tp4_h100"), ["tp4_h100", "tp4_h100_fp8"]),
        (("check", "comm_overlap", "="), options("comm_overlap")),
        (("check", "gating", "=", "bridge", "gating", "=", "s"), ["strict"]),
        (("check", "parallelism", "@", "_global_.parallelism", "=", "tp2_d"), ["tp2_dp2"]),
        (("new", "bundle", "mine", "--from", "tp4_h"), ["tp4_h100", "tp4_h100_fp8"]),
    ],
)
def test_bash_gets_the_rest_of_the_word_it_has_in_hand(words, found):
    """It cuts words at `=` and `@`; in a new one the whole override is offered."""
    assert on_tab(*words) == [f"plain,{word}" for word in found]


@pytest.mark.parametrize(
    "command",
    [
        ("check",),
        ("train",),
        ("doctor",),
        ("export", "te"),
        ("presets", "nearest"),
        ("audit", "x"),
        ("gate",),
        ("record",),
    ],
)
def test_every_command_that_takes_overrides_completes_them(command):
    assert offered(*command, "comm_overlap.dp.buck") == ["comm_overlap.dp.bucket_size="]
    assert offered(*command, "model=llama3_8b", "platform=gb") == ["platform=gb200", "platform=gb300"]


@each("group", [*page.GROUPS, page.CATALOGUE])
def test_every_group_and_option_is_offered(group):
    assert f"{group}=" in offered("check", group) or offered("check", group)[0].startswith(f"{group}=")
    assert offered("check", f"{group}=") == [f"{group}={name}" for name in options(group)]


@each("key", FIELDS)
def test_every_key_is_offered(key):
    """Alone with its values, where they are few."""
    lone = offered("check", f"{key}=")
    assert f"{key}=" in offered("check", key) or (lone and set(lone) <= set(offered("check", key)))


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("comm_overlap.", ["comm_overlap.tp.", "comm_overlap.pp.", "comm_overlap.dp.", "comm_overlap.ep."]),
        ("++comm_overlap.dp.align", [f"++comm_overlap.dp.align_param_gather={v}" for v in ("true", "false", "null")]),
        ("+experiment=llama3_8b_8gpu_h100_b", ["+experiment=llama3_8b_8gpu_h100_bf16"]),
        ("precision.fp8=", ["precision.fp8=e4m3", "precision.fp8=hybrid", "precision.fp8=null"]),
        (
            "userbuffers.layers.proj_fprop.method=",
            [f"userbuffers.layers.proj_fprop.method={m}" for m in legal_methods("proj_fprop")],
        ),
        (
            "userbuffers.layers.proj_fprop.fp8",
            [f"userbuffers.layers.proj_fprop.fp8_buf={v}" for v in ("true", "false")],
        ),
        ("no_such_node.", []),
    ],
)
def test_nodes_open_one_by_one_and_fields_with_few_values_name_them(word, found):
    assert offered("check", word) == found


def test_the_names_that_commands_take_are_offered():
    assert offered("presets", "show", "") == offered("presets", "diff", "x", "") == [one.name for one in catalogue()]
    assert offered("presets", "--gpu", "b") == ["b100", "b200"]
    assert set(offered("explain", "")) >= {rule.__name__ for rule in RULES} | {one.id for one in DERIVATIONS}
    assert offered("explain", "tp00")[:2] == ["TP001", "TP002"]
    assert offered("explain", "comm_overlap.dp.buck") == ["comm_overlap.dp.bucket_size"]
    assert offered("explain", "CUDA_DEVICE") == ["CUDA_DEVICE_MAX_CONNECTIONS"]
    assert "comm_overlap=tp4_h100" in offered("explain", "comm_overlap=tp4_h")
    assert "userbuffers=" in offered("explain", "userb")
    assert offered("rules", "--family", "t") == ["TP", "TRN"]
    assert {"model", "comm_overlap", "comm_overlap.tp"} <= set(offered("schema", ""))
    completer = ShellComplete(main, {}, "hydra-overlap", "_HYDRA_OVERLAP_COMPLETE")
    assert [item.type for item in completer.get_completions(["audit"], "pre")] == ["file"]


def test_help_lists_every_option_with_its_line_and_marks_the_chosen_ones():
    done = run_train("--help", "comm_overlap=tp4_h100")
    assert done.returncode == 0, done.stderr
    for group in page.GROUPS:
        for name in options(group):
            assert page.description(group, name) in done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith("  * tp4_h100 ") for line in lines)
    assert any(line.strip() == "tensor_model_parallel_size: 4" for line in lines)


def test_help_of_a_refused_configuration_says_why():
    done = run_train("--help", "comm_overlap=tp4_h100", "parallelism=tp1")
    assert done.returncode == 1 and "TP001" in done.stderr
