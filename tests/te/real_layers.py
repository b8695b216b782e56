"""A plan's model in Transformer Engine's real layers, on the GPU path without a GPU: `real_layers.py WHEEL FOLDER`.

Reads a JSON list of lists of overrides from standard input, and prints for each what was built: the userbuffers calls,
every layer's overlap flags, megatron-core's settings as read back, or what was refused. One process for all of them, for
importing takes the time. The line: modules are constructed by their own code and never run, since what they call is
compiled for CUDA.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hydra_overlap.megatron import cpu

cpu.install()

from tests.te import real_package, upstream  # noqa: E402

real_package.install(Path(sys.argv[1]), Path(sys.argv[2]))

import torch  # noqa: E402

from hydra_overlap.launch.plan import Plan, world_size  # noqa: E402
from hydra_overlap.megatron import build, configs, readback, userbuffers  # noqa: E402
from tests.plans import plan_of  # noqa: E402

TINY = (
    "model=tiny", "model.num_layers=2", "model.moe_ffn_hidden_size=128", "training.global_batch_size=16",
    "comm_overlap.tp.tp_comm_bootstrap_backend=gloo", "software=reference",
)  # fmt: skip


@contextmanager
def first_rank(plan: Plan) -> Iterator[None]:
    """This process as rank 0 of the plan's world, with torch believing in a GPU; nothing is communicated."""
    with upstream.world(world_size(plan)), mock.patch.object(torch.cuda, "is_available", return_value=True):
        build.initialize_parallel_state(plan)
        try:
            yield
        finally:
            build.release()


def built(*overrides: str) -> dict[str, Any]:
    """What train.py's stage 6 makes of a plan, and what stage 7 says of it."""
    from transformer_engine.pytorch.module import base

    plan = plan_of(*TINY, *overrides)
    with first_rank(plan):
        userbuffers.initialize(plan)
        try:
            communicators = sorted({gemm for gemm, _ in base._ub_communicators or {}})
            made = build.build(plan)
            return {
                "layers": made.layers,
                "communicators": communicators,
                "linears": [linear(layer) for layer in userbuffers.layers(made.model[0])],
                "compared": [where for where, _, _ in readback.fields(plan, made)],
                "differences": differences(plan, made),
                "optimizer": type(made.optimizer.chained_optimizers[0].optimizer).__module__,
                **fp8(made.config),
            }
        finally:
            base.destroy_ub()


def linear(layer: Any) -> list[Any]:
    """Class, buffer name, and the overlaps that are on."""
    return [type(layer).__name__, layer.ub_name, sorted(name for name, on in userbuffers.flags(layer).items() if on)]


def differences(plan: Plan, made: Any) -> list[str]:
    """As read-back words them."""
    return [str(difference) for difference in readback.differences(0, readback.fields(plan, made))]


def fp8(config: Any) -> dict[str, Any]:
    """Which recipe megatron-core hands to Transformer Engine, and in which layers parameters are made under it."""
    from megatron.core.fp8_utils import get_fp8_context, get_fp8_recipe

    if not config.fp8:
        return {"recipe": None, "in_fp8": []}
    layers = [
        number for number in range(config.num_layers) if not plain(get_fp8_context(config, number, is_init=False))
    ]
    return {"recipe": type(get_fp8_recipe(config)).__name__, "in_fp8": layers}


def plain(context: Any) -> bool:
    """Whether a context does nothing: the layer is computed in bf16."""
    return isinstance(context, nullcontext)


def latent(*overrides: str) -> dict[str, Any]:
    """Multi-latent attention, which train.py does not build: megatron-core's own layers, read back as any others."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
    from megatron.core.transformer.transformer_config import MLATransformerConfig

    plan = plan_of(*TINY, *overrides)
    settings = {name: value for name, value in plan.resolution.transformer_config.items() if value is not None}
    settings.pop("tp_comm_overlap_cfg", None)
    with first_rank(plan):
        config = MLATransformerConfig(
            num_layers=2, hidden_size=128, num_attention_heads=8, sequence_parallel=True, bf16=True,
            tensor_model_parallel_size=4, params_dtype=torch.bfloat16, **settings,
        )  # fmt: skip
        model = GPTModel(
            config=config, transformer_layer_spec=get_gpt_layer_with_transformer_engine_spec(multi_latent_attention=True),
            vocab_size=512, max_sequence_length=128, position_embedding_type="none",
        )  # fmt: skip
        chunk = SimpleNamespace(
            config=config, ddp_config=configs.ddp_config(plan), modules=model.modules, named_modules=model.named_modules
        )
        made = SimpleNamespace(model=[chunk], optimizer=SimpleNamespace(chained_optimizers=[]))
        return {"differences": differences(plan, made)}


if __name__ == "__main__":
    answers = []
    for overrides in json.load(sys.stdin):
        make = latent if overrides[0] == "MLA" else built
        answers.append(make(*[text for text in overrides if text != "MLA"]))
    print(json.dumps(answers))
