"""Against Megatron-LM itself, where a checkout of core_v0.16.1 is at hand: HYDRA_OVERLAP_MEGATRON_LM=PATH.

Its own parser must take the flags, and its own `validate_args` and `core_transformer_config_from_args` must make of them
the settings of the plan. Without a checkout the recorded table of its flags stands in (test_megatron_lm.py).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = os.environ.get("HYDRA_OVERLAP_MEGATRON_LM", "")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not CHECKOUT, reason="HYDRA_OVERLAP_MEGATRON_LM names no checkout of Megatron-LM")


def test_the_recorded_table_is_the_real_parser() -> None:
    from hydra_overlap.export.megatron_lm_parser import VERSION
    from hydra_overlap.export.megatron_lm_parser import rows as recorded
    from tools.megatron_lm_flags import read

    assert read([f"{VERSION}={CHECKOUT}"])[VERSION] == list(recorded())


def test_megatron_lm_makes_of_the_flags_what_the_plan_says() -> None:
    """In a process of its own: stand-ins for `megatron.training` must not stay."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.export.test_real_megatron_lm", CHECKOUT],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout)


def differences(resolution, megatron) -> list[str]:
    """What Megatron-LM's own config would hold and the plan does not say."""
    from hydra_overlap.export._base import effective
    from hydra_overlap.export.megatron_lm import arguments, irrelevant, words
    from hydra_overlap.schema.targets import DDP_FIELDS, OPTIMIZER_FIELDS, TRANSFORMER_FIELDS

    c = effective(resolution)
    values, problems = arguments(c)
    if problems:
        return ["not exported"]
    sys.argv = ["pretrain_gpt.py", *" ".join(flag for _, flag in words(values)).split()]
    sys.argv.append("--no-rope-fusion")  # it wants Transformer Engine installed
    os.environ["WORLD_SIZE"] = str(c["parallelism.world_size"])
    os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
    os.environ.update(resolution.env)
    megatron.get_device_arch_version = lambda: (c["platform.sm"] or 90) // 10
    args = megatron.validate_args(megatron.parse_args())
    config = megatron.core_transformer_config_from_args(args)
    args.ddp = {"bucket_size": args.ddp_bucket_size, "delay_wgrad_compute": args.delay_wgrad_compute}
    found = []
    for name, key in TRANSFORMER_FIELDS.items():
        if not irrelevant(key, c) and getattr(config, name) != c[key]:
            found.append(f"{name}: Megatron-LM {getattr(config, name)!r}, plan {c[key]!r}")
    for name, key in (OPTIMIZER_FIELDS | DDP_FIELDS).items():
        got = args.ddp.get(name, getattr(args, name, None))
        if not irrelevant(key, c) and got != c[key]:
            found.append(f"{name}: Megatron-LM {got!r}, plan {c[key]!r}")
    if args.data_parallel_size * c["parallelism.tensor_model_parallel_size"] > c["parallelism.world_size"]:
        found.append("data_parallel_size")
    return found


def main(checkout: Path, wanted: int = 200) -> None:
    """Plans of the strategies with a small model filled in, since Megatron-LM starts no run without one."""
    import torch
    from hypothesis import HealthCheck, assume, given, settings

    from hydra_overlap import GatingError, resolve
    from tests.strategies import plausible
    from tools.megatron_lm_flags import arguments_module

    megatron = arguments_module(checkout)
    megatron._print_args = lambda title, args: None
    megatron.is_te_min_version = lambda version, check_equality=True: True
    torch.cuda.get_device_capability = lambda *args: (9, 0)
    counts = {"compared": 0, "not exported": 0}
    wrong: list[str] = []

    @given(request=plausible())
    @settings(
        max_examples=wanted, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    def each(request) -> None:
        model = request.setdefault("model", {})
        for name, value in {"num_layers": 8, "hidden_size": 256, "num_attention_heads": 8, "seq_length": 256}.items():
            if model.get(name) is None:
                model[name] = value
        request.setdefault("software", {}).setdefault("transformer_engine", "2.11.0")
        try:
            resolution = resolve(request)
        except GatingError:
            assume(False)
        try:
            found = differences(resolution, megatron)
        except (AssertionError, ValueError, RuntimeError) as error:
            found = [f"Megatron-LM refuses: {type(error).__name__} {str(error)[:160]}"]
        counts["not exported" if found == ["not exported"] else "compared"] += 1
        wrong.extend(line for line in found if line != "not exported")

    each()
    print(counts)
    for line in sorted(set(wrong)):
        print(wrong.count(line), line)
    sys.exit(1 if wrong or counts["compared"] < wanted / 2 else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
