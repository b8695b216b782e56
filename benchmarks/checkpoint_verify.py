"""What verifying a checkpoint costs, as a share of loading it.

    python benchmarks/checkpoint_verify.py [--rounds 3] [--hidden 1024] [--layers 8] [OVERRIDE ...]

Trains one step of a GPT of that size on two ranks, saves, and resumes `rounds` times; each resume says what it took. Files
lie in the disk cache, as after a crash on the same node: cold, both shares grow by the same reads. Beside it, what this
machine hashes in one thread: the checksum in use and those that were not chosen.
"""

import argparse
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from xxhash import xxh3_128

ROOT = Path(__file__).resolve().parents[1]
SAID = re.compile(r"its (\d+) files, ([\d.,]+) MiB, verified in ([\d.]+) s, read in ([\d.]+) s")
HASHES = {"xxh3_128": xxh3_128, "blake2b": hashlib.blake2b, "sha256": hashlib.sha256}


def run(*overrides: str) -> str:
    """Output of a run. Raises RuntimeError if it fails."""
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *overrides], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return " ".join(done.stdout.split())


def hashing() -> None:
    data = os.urandom(2**26)
    for name, function in HASHES.items():
        began = time.perf_counter()
        function(data).hexdigest()
        print(f"{name:9} {len(data) / (time.perf_counter() - began) / 1e9:6.2f} GB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=1024, help="model.hidden_size")
    parser.add_argument("--layers", type=int, default=8, help="model.num_layers")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = f"{name}/checkpoints"
        common = [
            "training=smoke", "data=mock", f"model.hidden_size={arguments.hidden}", f"model.num_layers={arguments.layers}",
            f"model.ffn_hidden_size={4 * arguments.hidden}", "training.train_iters=1", "optimizer.lr_warmup_iters=0", f"hydra.run.dir={name}/run",
            *arguments.overrides,
        ]  # fmt: skip
        run(*common, f"checkpoint.save={folder}")
        found = []
        for _ in range(arguments.rounds):
            said = SAID.search(run(*common, f"checkpoint.load={folder}"))
            assert said is not None
            found.append((float(said[3]), float(said[4])))
            files, size = said[1], said[2]
    verified, read = (statistics.median(values) for values in zip(*found, strict=True))
    print(f"{files} files, {size} MiB: verified in {verified:.2f} s, read in {read:.2f} s")
    print(f"verifying is {verified / (verified + read):.0%} of loading")
    hashing()


if __name__ == "__main__":
    main()
