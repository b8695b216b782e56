"""What libraries print while they are imported goes to a file; errors stay visible."""

import subprocess
import sys

import pytest

WORDY = """
import logging, os, sys, warnings
from pathlib import Path
from hydra_overlap.megatron.library_imports import kept_from_terminal

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
print("before")
with kept_from_terminal(sys.argv[1]):
    print("printed")
    warnings.warn("warned")
    logging.getLogger("theirs").info("logged")
    os.write(1, b"written by C\\n")
    os.write(2, b"and to its error stream\\n")
with kept_from_terminal(sys.argv[1]):
    print("later")
print("after")
print("an error", file=sys.stderr)
try:
    with kept_from_terminal(sys.argv[1]):
        print("said before it failed")
        raise ImportError("no such library")
except ImportError as error:
    print(f"raised: {error}")
"""


def test_every_way_of_writing_is_kept_from_the_terminal_while_it_lasts_and_errors_come_through(tmp_path):
    log = tmp_path / "ranks" / "imports.log"
    done = subprocess.run([sys.executable, "-c", WORDY, str(log)], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\nraised: no such library\n" and done.stderr == "an error\n"
    kept = log.read_text()
    said = ("printed", "warned", "logged", "written by C", "and to its error stream", "later", "said before it failed")
    assert sorted(said, key=kept.index) == list(said)


LOADED = """
import gc, sys
from hydra_overlap.launch import processes
from hydra_overlap.megatron import library_imports
print(library_imports.load(sys.argv[1]))
print(processes.single_threaded(), gc.isenabled())
before = set(sys.modules)
from hydra_overlap.megatron import data, initial_weights
import megatron.core.parallel_state
import torch.utils.tensorboard
print(sorted(name for name in set(sys.modules) - before if name.startswith(("torch.", "megatron."))))

from hydra_overlap.dry_run import build
build._enter()
print(library_imports.load(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_process_that_has_loaded_all_may_fork(tmp_path):
    """No thread was begun, and what ranks import where they first need it is there. After a dry run it may not."""
    environment = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = ["env", *(f"{name}={value}" for name, value in environment.items()), sys.executable, "-c", LOADED]
    done = subprocess.run([*command, str(tmp_path / "log")], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "True True", "[]", "False"] and done.stderr == ""
    assert "Transformer Engine and Apex are not installed" in (tmp_path / "log").read_text()
