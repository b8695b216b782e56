"""The acceptance run refuses to pass for one where there is no GPU. Its checks need one: docs/gpu.md."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_acceptance.sh"


def test_without_a_gpu_it_fails_and_checks_nothing(tmp_path: Path) -> None:
    stub = tmp_path / "nvidia-smi"
    stub.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([SCRIPT, tmp_path / "out"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No GPU" in done.stderr
    assert not (tmp_path / "out").exists()
