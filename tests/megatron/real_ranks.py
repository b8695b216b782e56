"""Real ranks of a plan on gloo, one step, and what each holds: `torchrun real_ranks.py FOLDER OVERRIDES` -> rankN.json.

What a dry run says is compared with this; nothing of megatron/dry_run.py is used here.
"""

import json
import sys
from pathlib import Path

from hydra_overlap.megatron import cpu, rehearsal
from tests.plans import plan_of


def main(folder: Path, *overrides: str) -> None:
    plan = rehearsal.rehearse(plan_of(*overrides, output_dir=folder))
    assert not plan["rehearsal"]["shrunk"], "compare at the planned size"
    cpu.install()
    import torch.distributed as dist

    from hydra_overlap.megatron import build, data, step

    dist.init_process_group("gloo")
    cpu.finish()
    build.initialize_parallel_state(plan)
    built = build.build(plan)
    training = plan["request"]["training"]
    samples = data.dataset(plan, training["global_batch_size"])
    step.run_step(plan, built, [data.microbatches(plan, samples, 0) for _ in built.model], 1)
    Path(folder, f"rank{dist.get_rank()}.json").write_text(json.dumps(held(built)))
    dist.barrier()
    build.release()
    dist.destroy_process_group()


def held(built) -> dict:
    chunks, weights, gradients = [], 0, 0
    for ddp in built.model:
        parameters = list(ddp.parameters())
        buffers = ddp.buffers + ddp.expert_parallel_buffers
        module = ddp.module
        while not hasattr(module, "decoder"):
            module = module.module
        chunks.append(
            {
                "layers": [layer.layer_number for layer in module.decoder.layers],
                "parameters": sum(parameter.numel() for parameter in parameters),
                "buckets": [bucket.grad_data.numel() for buffer in buffers for bucket in buffer.buckets],
            }
        )
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in parameters}
        weights += sum(storages.values())
        gradients += sum(buffer.grad_data.untyped_storage().nbytes() for buffer in buffers)
    return {
        "chunks": chunks,
        "weights_bytes": weights,
        "gradients_bytes": gradients,
        "optimizer_bytes": sum(optimizer_bytes(one) for one in built.optimizer.chained_optimizers),
        "num_microbatches": built.num_microbatches,
    }


def optimizer_bytes(optimizer) -> int:
    """Bytes of everything torch's optimizer keeps after a step, and of main parameters apart from the model's."""
    states = [value for state in optimizer.optimizer.state.values() for value in state.values()]
    total = sum(value.numel() * value.element_size() for value in states if value.dim() > 0)
    stepped = [parameter for group in optimizer.optimizer.param_groups for parameter in group["params"]]
    half = any(buffer.param_dtype.itemsize == 2 for buffer in getattr(optimizer, "buffers", []))
    half = half or hasattr(optimizer, "fp32_from_float16_groups")
    return total + (sum(p.numel() * p.element_size() for p in stepped) if half else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
