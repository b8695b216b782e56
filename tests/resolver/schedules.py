"""megatron-core's real pipeline schedules, run in one process: `schedules.py < requests.json`.

Process groups are torch's fake ones (sends and receives return at once), the model chunks hold one parameter each. So a
schedule goes through all its own checks and its whole order of calls, for the first and the last pipeline rank. Prints
one line of JSON per request: "" or the exception of the schedule.
"""

import json
import sys
import warnings
from typing import Any

SEQ, HIDDEN = 8, 4


def run(request: dict[str, Any], rank: int) -> str:
    """What the schedule of a request raises on one pipeline rank; "" if nothing."""
    import torch
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch.testing._internal.distributed.fake_pg import FakeStore

    layout = request["layout"]
    stages, chunks = layout["pipeline_model_parallel_size"], layout["virtual_pipeline_model_parallel_size"]
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=stages)
    try:
        parallel_state.initialize_model_parallel(
            pipeline_model_parallel_size=stages,
            virtual_pipeline_model_parallel_size=chunks,
            create_gloo_process_groups=False,
        )
        config = TransformerConfig(
            num_layers=stages * (chunks or 1), hidden_size=HIDDEN, num_attention_heads=1,
            pipeline_dtype=torch.float32, **layout, **request["transformer_config"],
        )  # fmt: skip
        model = [_chunk(config) for _ in range(chunks or 1)]
        get_forward_backward_func()(
            forward_step_func=_forward_step,
            data_iterator=[None] * chunks if chunks else None,
            model=model if chunks else model[0],
            num_microbatches=request["num_microbatches"],
            seq_length=SEQ,
            micro_batch_size=1,
            forward_only=False,
        )
    except (ValueError, RuntimeError, AssertionError, IndexError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
    return ""


def _chunk(config: Any) -> Any:
    import torch
    from megatron.core.enums import ModelType

    class Chunk(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config, self.model_type = config, ModelType.encoder_or_decoder
            self.weight = torch.nn.Parameter(torch.ones(HIDDEN))
            self.input: Any = None

        def set_input_tensor(self, tensor: Any) -> None:
            self.input = tensor[0] if isinstance(tensor, list) else tensor

        def forward(self) -> Any:
            given = torch.zeros(SEQ, 1, HIDDEN) if self.input is None else self.input
            return given * self.weight

    return Chunk()


def _forward_step(_: Any, model: Any) -> tuple[Any, Any]:
    return model(), lambda output: (output.sum(), {})


def main() -> None:
    """Requests as one JSON list on standard input."""
    from hydra_overlap.megatron import cpu

    warnings.simplefilter("ignore")
    cpu.install()
    for request in json.load(sys.stdin):
        stages = request["layout"]["pipeline_model_parallel_size"]
        raised = [run(request, rank) for rank in sorted({0, stages - 1})]
        print(json.dumps(next((text for text in raised if text), "")), flush=True)


if __name__ == "__main__":
    main()
