"""Completion and help: what a person types against. Neither ever loads torch."""

import os
import subprocess
import sys

import pytest

from hydra_overlap import help as page
from hydra_overlap.facts import options
from tests.docs.blocks import ROOT

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


def test_the_shell_completes_commands():
    done = subprocess.run(
        [sys.executable, "-c", f"{NO_TORCH}\nfrom hydra_overlap.cli import main; main(prog_name='hydra-overlap')"],
        env={
            **os.environ,
            "_HYDRA_OVERLAP_COMPLETE": "bash_complete",
            "COMP_WORDS": "hydra-overlap exp",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["plain,explain", "plain,export"]


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
