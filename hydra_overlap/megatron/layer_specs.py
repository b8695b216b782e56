"""The layers a GPT is made of: Transformer Engine's where it works on a GPU, megatron-core's own elsewhere."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch


class SequenceParallelNorm:
    """RMSNorm or LayerNorm whose parameters may see a slice of the sequence.

    megatron-core's WrappedTorchNorm asserts that sequence parallelism is off (torch_norm.py:36). A norm of plain torch is
    right under it as long as its parameters carry `sequence_parallel = True`: finalize_model_grads then sums their
    gradients over the TP ranks (finalize_model_grads.py:290-340), as it does for Transformer Engine's norms.
    """

    def __new__(cls, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any) -> torch.nn.Module:  # type: ignore[misc]
        """A plain torch norm; called with the arguments megatron-core gives its own."""
        kind = {"RMSNorm": torch.nn.RMSNorm, "LayerNorm": torch.nn.LayerNorm}[config.normalization]
        norm = kind(hidden_size, eps=eps, dtype=config.params_dtype)
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        return norm


def transformer_engine_works() -> bool:
    """Whether megatron-core can use Transformer Engine here: it imports, and a GPU is there."""
    if not torch.cuda.is_available():
        return False
    try:
        import transformer_engine.pytorch  # noqa: F401
    except Exception:  # a half-installed Transformer Engine raises anything
        return False
    return True


def layer_spec(config: Any, use_transformer_engine: bool, vp_stage: int | None) -> Any:
    """The decoder block of one model chunk: a TransformerBlockSubmodules, with the norm replaced on the local path."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

    spec = get_gpt_decoder_block_spec(
        config,
        use_transformer_engine=use_transformer_engine,
        normalization=config.normalization,
        vp_stage=vp_stage,
    )
    if not use_transformer_engine:
        _replace_norms(spec)
    return spec


def multi_token_prediction_spec(config: Any, spec: Any, use_transformer_engine: bool, vp_stage: int | None) -> Any:
    """The multi-token-prediction block after the last layer, or None."""
    if not config.mtp_num_layers:
        return None
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_layer_specs, get_gpt_mtp_block_spec

    layers = get_gpt_decoder_layer_specs(config, use_transformer_engine, normalization=config.normalization)
    block = get_gpt_mtp_block_spec(config, layers[-1], use_transformer_engine, vp_stage=vp_stage)
    if block is not None and not use_transformer_engine:
        _replace_norms(block)
    return block


def _replace_norms(spec: Any) -> None:
    """Put SequenceParallelNorm wherever megatron-core's torch norm stands in a tree of specs."""
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    for owner, name, value in _walk(spec, set()):
        if value is WrappedTorchNorm:
            setattr(owner, name, SequenceParallelNorm)


def _walk(node: Any, seen: set[int]) -> Iterator[tuple[Any, str, Any]]:
    """Every (owner, attribute, value) of a tree of ModuleSpecs and their submodules dataclasses."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _walk(item, seen)
        return
    if not is_dataclass(node) or isinstance(node, type):
        return
    for field in fields(node):
        value = getattr(node, field.name)
        yield node, field.name, value
        yield from _walk(value, seen)
