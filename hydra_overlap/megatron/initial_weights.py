"""Initial weights that depend on the seed alone, whatever the layout.

megatron-core draws a weight on the rank that holds it, so TP=1 and TP=2 start from different models. Here every full
parameter is drawn by megatron-core's own init function, under a generator seeded by (seed, global name), and each rank
keeps its share. That makes losses comparable across layouts. Every rank draws whole parameters, one at a time, which is
wasteful at scale: rehearsals use it, runs on GPUs keep megatron-core's initialisation.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import torch

_LAYER = re.compile(r"^(decoder\.layers\.)(\d+)\.")
_EXPERT = re.compile(r"(experts\.local_experts\.)(\d+)\.")
_ROW_PARALLEL = ("linear_proj.weight", "linear_fc2.weight")


def initialise(chunk: Any, seed: int) -> None:
    """Overwrite every parameter of one model chunk (a GPTModel, not wrapped yet); on the meta device there is nothing to."""
    if all(parameter.is_meta for parameter in chunk.parameters()):
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for name, parameter in global_names(chunk):
            torch.manual_seed(_seed_of(seed, name))
            full = _full_parameter(name, parameter, chunk.config)
            parameter.copy_(_share(name, full, parameter, chunk.config))


def global_names(chunk: Any) -> Iterator[tuple[str, Any]]:
    """(name, parameter) with layers and experts numbered over the whole model.

    The last stage's copy of a tied embedding bears the embedding's name, so that both copies are equal.
    """
    from megatron.core import parallel_state

    for name, parameter in chunk.named_parameters():
        layer = _LAYER.match(name)
        if layer:
            number = chunk.decoder.layers[int(layer[2])].layer_number - 1  # megatron-core counts from 1
            name = f"{layer[1]}{number}." + name[layer.end() :]
        expert = _EXPERT.search(name)
        if expert:
            experts = chunk.config.num_moe_experts // chunk.config.expert_model_parallel_size
            number = parallel_state.get_expert_model_parallel_rank() * experts + int(expert[2])
            name = name[: expert.start(2)] + str(number) + name[expert.end(2) :]
        if name == "output_layer.weight" and chunk.share_embeddings_and_output_weights:
            name = "embedding.word_embeddings.weight"
        yield name, parameter


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def _full_parameter(name: str, parameter: Any, config: Any) -> torch.Tensor:
    """The whole parameter in fp32: [dims of the shard, the partitioned one times the ranks that share it]."""
    shape = list(parameter.shape)
    if getattr(parameter, "tensor_model_parallel", False):
        shape[parameter.partition_dim] *= _ranks(name, config)[1]
    full = torch.empty(shape, dtype=torch.float32)
    if name.endswith("bias"):
        return full.zero_()
    if "norm" in name:
        return full.fill_(1.0)
    if "embedding" in name:
        config.embedding_init_method(full)
    elif name.endswith(_ROW_PARALLEL):
        config.output_layer_init_method(full)
    else:
        config.init_method(full)
    return full


def _share(name: str, full: torch.Tensor, parameter: Any, config: Any) -> torch.Tensor:
    """This rank's part of a full parameter.

    QKV rows lie in whole query groups and vocabulary rows in order, so contiguous parts are right. A gated fc1 is
    [gate; up] on each rank: both halves are cut.
    """
    if not getattr(parameter, "tensor_model_parallel", False):
        return full
    rank, ranks = _ranks(name, config)
    dim = parameter.partition_dim
    gated = config.gated_linear_unit and "linear_fc1" in name
    blocks = full.chunk(2, dim) if gated else (full,)
    return torch.cat([block.chunk(ranks, dim)[rank] for block in blocks], dim)


def _ranks(name: str, config: Any) -> tuple[int, int]:
    """(rank, ranks) of the group that shares a parameter: expert TP for experts, TP for the rest."""
    from megatron.core import parallel_state

    if ".experts." in name:
        return parallel_state.get_expert_tensor_parallel_rank(), config.expert_tensor_parallel_size
    return parallel_state.get_tensor_model_parallel_rank(), config.tensor_model_parallel_size
