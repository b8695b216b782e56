"""Real ranks of a plan on gloo, two steps, what each holds and what it called; started as ranks of that plan.

Writes rankN.json into the plan's directory. What a dry run says is compared with this; nothing of hydra_overlap/dry_run is used here. Calls are those of
the second step, seen where torch's dispatcher takes them, below the process groups that a dry run replaces.
"""

import json
from collections import Counter
from pathlib import Path

from hydra_overlap.launch import local
from hydra_overlap.megatron import cpu

# c10d operator, in older and newer torch -> (operation, which argument is the whole tensor, which the group)
OPERATORS = {
    "allreduce_": ("all-reduce", 0, 1),
    "allreduce_coalesced_": ("all-reduce", 0, 1),
    "_allgather_base_": ("all-gather", 0, 2),
    "all_gather_single_": ("all-gather", 0, 2),
    "allgather_": ("all-gather", 0, 2),
    "allgather_into_tensor_coalesced_": ("all-gather", 0, 2),
    "all_gather_single_coalesced_": ("all-gather", 0, 2),
    "_reduce_scatter_base_": ("reduce-scatter", 1, 2),
    "reduce_scatter_single_": ("reduce-scatter", 1, 2),
    "reduce_scatter_tensor_coalesced_": ("reduce-scatter", 1, 2),
    "reduce_scatter_single_coalesced_": ("reduce-scatter", 1, 2),
    "alltoall_base_": ("all-to-all", 1, 2),
    "all_to_all_single_": ("all-to-all", 1, 2),
    "broadcast_": ("broadcast", 0, 1),
    "send": ("send", 0, 1),
    "recv_": ("receive", 0, 1),
}


def main() -> None:
    plan = local.plan_of_this_rank()
    assert plan is not None and plan.rehearsal is not None
    assert not plan.rehearsal.shrunk, "compare at the planned size"
    cpu.install()
    import torch.distributed as dist

    from hydra_overlap.megatron import build, data, step

    dist.init_process_group("gloo")
    cpu.finish()
    build.initialize_parallel_state(plan)
    built = build.build(plan)
    samples = data.dataset(plan, 2 * plan.request.training.global_batch_size)
    batches = [data.microbatches(plan, samples, 0) for _ in built.model]
    step.run_step(plan, built, batches, 1)
    with seen() as calls:
        step.run_step(plan, built, batches, 2)
    found = {"held": held(built), "calls": [[*key, times] for key, times in calls.items()]}
    Path(plan.output_dir, f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    build.release()
    dist.destroy_process_group()


def seen():
    """A mode that counts (operation, group, ranks, bytes)."""
    import torch.distributed as dist
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __enter__(self):
            super().__enter__()
            self.calls = Counter()
            return self.calls

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator.namespace == "c10d" and "barrier" not in operator._opname:
                operation, whole, group = OPERATORS[operator._opname]
                group = dist.ProcessGroup.unbox(args[group])
                tensors = args[whole] if isinstance(args[whole], (list, tuple)) else [args[whole]]
                for one in tensors:
                    parts = one if isinstance(one, (list, tuple)) else [one]
                    size = sum(part.numel() * part.element_size() for part in parts)
                    self.calls[operation, group.group_desc, group.size(), size] += 1
            return operator(*args, **(kwargs or {}))

    return Seen()


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
    main()
