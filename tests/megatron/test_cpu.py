"""What makes torch on a CPU fit for megatron-core, each in a process of its own: it changes torch for good."""

import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource
from hydra_overlap.megatron import cpu
assert cpu.install()
import torch

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        small = [torch.ones(size * 2**16) for size in range(1, 17)]  # up to 4 MiB
        del small
        large = [torch.ones(size * 2**18) for size in range(16, 0, -1)]  # up to 16 MiB
        del large
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, settling = faults(10), faults(10)
print(first, faults(10))
"""


@pytest.mark.slow
def test_memory_that_a_step_frees_is_there_for_the_next_one():
    """Ten rounds take 240,000 page faults with glibc's own settings, and none or few with these once the first are over.

    Few: where the heap happens to lie so that one block does not fit the place of its like.
    """
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    first, later = map(int, done.stdout.split())
    assert first > 10_000 and later < 5_000


THREADS = """
import os
from hydra_overlap.megatron import cpu
import torch
for threads in ("1", "2", "1"):
    os.environ["OMP_NUM_THREADS"] = threads
    assert cpu.install()
    print(torch.get_num_threads())
"""


def test_a_forked_rank_sets_the_threads_of_its_own_environment():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "2", "1"]


def test_a_number_of_threads_that_is_none_is_one_thread():
    from hydra_overlap.megatron.cpu import threads

    said = {
        "8": 8,
        "4,2": 4,
        " 3 ": 3,
        "junk": 1,
        "": 1,
        "0": 1,
        "-2": 1,
        "1e3": 1,
        "9" * 5000: 1,
        "\u00b2": 1,
        "99999": 1,
    }
    assert {text: threads({"OMP_NUM_THREADS": text}) for text in said} == said
    assert threads({}) == 1
