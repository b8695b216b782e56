"""Distributed checkpoints: whole or not there, verified before use, resumed exactly, resharded to another layout.

Written with megatron.core.dist_checkpointing (torch_dist) into `iter_0000010.TOKEN.partial` and renamed once every rank is
done: a folder `iter_*` without that ending is complete, whatever was killed when. It holds model, optimizer,
learning-rate schedule, random states and the step; which samples come next follows from the step alone (data.py). Its
manifest, written last, says what each file held (launch/checkpoint_manifest.py): a damaged one is refused and named.

With checkpoint.async_save each rank forks a process that writes the state as it was at the fork while training goes on
(megatron-core's AsyncCallsQueue). TOKEN keeps such a process, should it outlive a killed rank, out of what the next run
writes after the same step.
"""

import dataclasses
import json
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial as bound
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from .. import dotted
from .._version import __version__
from ..errors import HydraOverlapError
from ..launch import checkpoint_manifest as manifests
from ..launch.checkpoint_names import DAMAGED, MANIFEST, OLDER, PARTIAL, STATE, complete, named
from ..launch.plan import Plan, known
from ..machine.local import installed_software
from .build import Built, parameters_gathered

T = TypeVar("T")

# Canonical parameters and optimizer states, one tensor each over all ranks: any layout can read them.
_METADATA = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}


class CheckpointError(HydraOverlapError):
    """A checkpoint cannot be written or does not fit the plan."""


@dataclass(frozen=True)
class Loaded:
    """What was resumed. step: the last one taken. resharded: whether another layout wrote it (random states start anew).

    verified: its manifest; None if it was written without one. verified_s, read_s: seconds of this rank.
    passed_over: what was said of newer ones that are damaged.
    """

    folder: Path
    step: int
    resharded: bool
    verified: manifests.Manifest | None
    verified_s: float = 0.0
    read_s: float = 0.0
    passed_over: tuple[str, ...] = ()


def due(plan: Plan, step: int, *, stopping: bool) -> bool:
    """Whether a checkpoint is written after `step`: at every interval, at the end, and when the run is asked to stop."""
    wanted = plan.request.checkpoint
    interval = wanted.save_interval
    last = step == plan.request.training.train_iters
    return wanted.save is not None and (stopping or last or bool(interval and step % interval == 0))


class Writer:
    """Writes the checkpoints of a run; a context manager. Every rank has one and calls it after every step."""

    def __init__(self, plan: Plan, built: Built) -> None:
        from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue

        self._plan, self._built = plan, built
        self._beside: Any = AsyncCallsQueue() if plan.request.checkpoint.async_save else None
        self.waited_s = 0.0
        """Seconds that training stood still for checkpoints."""

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._beside is not None:
            self._beside.close(abort=kind is not None)

    def after(self, step: int, *, stopping: bool) -> None:
        """Write a checkpoint if one is due, and complete one that was written meanwhile. The last one is complete on return.

        Raises CheckpointError if the directory cannot be written; nothing half-written keeps a checkpoint's name.
        """
        began = time.perf_counter()
        wanted = due(self._plan, step, stopping=stopping)
        last = stopping or step == self._plan.request.training.train_iters
        with _as_ours():
            if self._beside is None:
                if wanted:
                    save(self._plan, self._built, step)
            else:
                self._complete(blocking=wanted)  # one at a time: the next begins once this one is whole
                if wanted:
                    request = save(self._plan, self._built, step, beside=True)
                    self._beside.schedule_async_request(request)
                if last:
                    self._complete(blocking=True)
        self.waited_s += time.perf_counter() - began

    def _complete(self, *, blocking: bool) -> None:
        if self._beside.get_num_unfinalized_calls():
            self._beside.maybe_finalize_async_calls(blocking=blocking)


def save(plan: Plan, built: Built, step: int, *, beside: bool = False) -> Any:
    """Write a checkpoint after `step` and drop those beyond checkpoint.keep. Every rank calls it.

    beside: -> megatron-core's AsyncRequest, which writes and completes it when it is run.
    """
    from megatron.core import dist_checkpointing

    final = Path(known(plan.request.checkpoint.save)) / f"iter_{step:07d}"
    token = [secrets.token_hex(4)]
    dist.broadcast_object_list(token, src=0)
    partial = final.with_name(f"{final.name}.{token[0]}{PARTIAL}")
    _on_rank_0(lambda: _empty(partial), f"{final.parent} cannot be written")
    with parameters_gathered(built):
        state = {**_sharded(built, loading=False), "scheduler": built.scheduler.state_dict(), "step": step}
        state["random"] = _random_object(_random_states())
        # From 0.17 on nvidia-resiliency-ext would write unless told otherwise.
        own = {"async_strategy": "mcore"} if "async_strategy" in signature(dist_checkpointing.save).parameters else {}
        request = dist_checkpointing.save(
            state, str(partial), validate_access_integrity=True, async_sharded_save=beside, **own
        )

    def complete_it() -> None:
        _on_rank_0(lambda: _publish(plan, partial, final, step), f"{final} cannot be completed")

    if request is None:
        manifests.sum_own(partial, dist.get_rank())
        with suppress(
            RuntimeError
        ):  # of a rank that died by now: everything is written, and rank 0 sums what it has not
            dist.barrier()
        complete_it()
        return None
    if request.async_fn is not None:
        request = request._replace(async_fn=bound(_written_and_summed, request.async_fn, partial, dist.get_rank()))
    request.add_finalize_fn(complete_it)
    return request


def _written_and_summed(write: Any, folder: Path, rank: int, *args: Any, **kwargs: Any) -> None:
    """In the process beside a rank: the checksums cost training no time either."""
    write(*args, **kwargs)
    manifests.sum_own(folder, rank)


@contextmanager
def _as_ours() -> Iterator[None]:
    """A write that failed, on whichever rank, as CheckpointError: torch's CheckpointException is no Exception."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0] if error.failures else error
        raise CheckpointError(f"A checkpoint cannot be written: {type(first).__name__}: {first}") from error


def resume(plan: Plan, built: Built) -> Loaded | None:
    """Resume from the newest checkpoint of checkpoint.load once it is verified; None if there is none. Every rank calls it.

    Raises CheckpointError if it is damaged, unless checkpoint.on_damage=older and an older one is whole; and if it holds
    another model.
    """
    began = time.perf_counter()
    if plan.request.checkpoint.load is None:
        return None
    chosen = _chosen(plan)
    if chosen is None:
        return None
    folder, manifest, passed_over = chosen
    verified = time.perf_counter()
    try:
        loaded = _read(plan, built, folder)
    except (CheckpointError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # damaged files raise anything; torch's CheckpointException is no Exception
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(
            f"{folder} cannot be read ({what}). Remove that folder to resume the one before it."
        ) from error
    return dataclasses.replace(
        loaded,
        verified=manifest,
        passed_over=passed_over,
        verified_s=verified - began,
        read_s=time.perf_counter() - verified,
    )


def _chosen(plan: Plan) -> tuple[Path, manifests.Manifest | None, tuple[str, ...]] | None:
    """(the checkpoint to resume, its manifest, what is wrong with newer ones); None if there is none."""
    wanted = plan.request.checkpoint
    folders = _from_rank_0(lambda: named(known(wanted.load)))
    passed_over: list[str] = []
    for number, folder in reversed(list(enumerate(folders))):
        manifest, wrong = _verified(folder)
        if not wrong:
            if passed_over and _same_place(wanted.load, wanted.save):
                _on_rank_0(bound(_set_aside, folders[number + 1 :]), "A damaged checkpoint cannot be set aside")
            return folder, manifest, tuple(passed_over)
        passed_over.append(manifests.told(folder, wrong))
        if wanted.on_damage != OLDER:
            raise CheckpointError(
                f"{passed_over[0]}\nNothing was resumed from it. checkpoint.on_damage={OLDER} resumes from the newest "
                f"checkpoint that is whole; or restore what is damaged, or remove that folder."
            )
    if passed_over:
        raise CheckpointError(
            "\n".join(["No checkpoint is whole, so nothing was resumed:", *passed_over])
            + "\ncheckpoint.load=null starts anew; give it another checkpoint.save."
        )
    return None


def _same_place(load: str | None, save: str | None) -> bool:
    return load is not None and save is not None and Path(load).resolve() == Path(save).resolve()


def _set_aside(folders: list[Path]) -> None:
    """Rename checkpoints that were passed over: new ones of those steps will be written where they lie."""
    for folder in folders:
        folder.rename(folder.with_name(f"{folder.name}.{secrets.token_hex(4)}{DAMAGED}"))


def _verified(folder: Path) -> tuple[manifests.Manifest | None, list[str]]:
    """(the manifest, what is wrong with the checkpoint). Ranks share the reading, and all get one answer."""
    manifest, wrong = _from_rank_0(lambda: manifests.glance(folder))
    if wrong or manifest is None:
        return manifest, wrong
    ranks = dist.get_world_size()
    found: list[list[str]] = [[] for _ in range(ranks)]
    mine = manifests.share(manifest, dist.get_rank(), ranks)
    dist.all_gather_object(found, manifests.verify(folder, manifest, mine))
    return manifest, [line for lines in found for line in lines]


def _from_rank_0(look: Callable[[], T]) -> T:
    """What rank 0 finds, on every rank."""
    box = [look()] if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def _read(plan: Plan, built: Built, folder: Path) -> Loaded:
    from megatron.core import dist_checkpointing

    saved = json.loads((folder / STATE).read_text())
    _require_same(plan, saved["identity"], folder)
    resharded = saved["layout"] != _layout(plan)
    _allocate_adam_states(built.optimizer)
    wanted: dict[str, Any] = _sharded(built, loading=True)
    if not resharded:
        wanted["random"] = _random_object(None)
    state = dist_checkpointing.load(wanted, str(folder))
    if state["step"] != saved["step"]:  # of files that no manifest lists
        raise CheckpointError(
            f"{folder} mixes two checkpoints: {STATE} says step {saved['step']}, common.pt {state['step']}."
        )
    for index, chunk in enumerate(built.model):
        chunk.module.load_state_dict(state[_chunk_key(built, index)])
    with _adam_step_kept(built.optimizer), _asked_rates_kept(built.optimizer):
        built.optimizer.load_state_dict(state["optimizer"])
    built.scheduler.load_state_dict(state["scheduler"])
    if not resharded:
        _set_random_states(state["random"])
    return Loaded(folder=folder, step=int(state["step"]), resharded=resharded, verified=None)


_ASKED = ("max_lr", "min_lr", "betas", "eps")  # of a parameter group; weight decay is the scheduler's


@contextmanager
def _asked_rates_kept(optimizer: Any) -> Iterator[None]:
    """The optimizer's settings are the plan's, whatever the checkpoint was written with; its moments are the checkpoint's."""
    asked = [{name: group[name] for name in _ASKED if name in group} for group in optimizer.param_groups]
    yield
    for group, values in zip(optimizer.param_groups, asked, strict=True):
        group.update(values)


def _sharded(built: Built, *, loading: bool) -> dict[str, Any]:
    models = {
        _chunk_key(built, index): chunk.module.sharded_state_dict(metadata=_METADATA)
        for index, chunk in enumerate(built.model)
    }
    optimizer = built.optimizer.sharded_state_dict(
        models if len(models) > 1 else models["model"], is_loading=loading, metadata=_METADATA
    )
    return {**models, "optimizer": optimizer}


def _parts_with_torch_adam(optimizer: Any) -> list[Any]:
    """The optimizers of a chain that wrap torch's Adam: Transformer Engine's and Apex's keep their step elsewhere."""
    parts = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in parts if isinstance(part.optimizer, (torch.optim.Adam, torch.optim.AdamW))]


@contextmanager
def _adam_step_kept(optimizer: Any) -> Iterator[None]:
    """Let a DistributedOptimizer load the states of torch's Adam.

    megatron-core 0.16.1 leaves `step` out of what it loads, having set it before, and then copies every state of the
    optimizer, `step` included (distrib_optimizer.py:2104-2106, 938-940): here it is handed the step it has set. And it
    sets one tensor for all parameters (821-825), which each of them would count up: afterwards each gets its own.
    """
    parts = [
        part for part in _parts_with_torch_adam(optimizer) if hasattr(part, "_set_main_param_and_optimizer_states")
    ]
    for part in parts:
        original = part._set_main_param_and_optimizer_states

        def with_step(parameter: Any, tensors: dict[str, Any], part: Any = part, original: Any = original) -> None:
            group, order = part.model_param_group_index_map[parameter]
            main = part.optimizer.param_groups[group]["params"][order]
            original(parameter, {**tensors, "step": part.optimizer.state[main]["step"]})

        part._set_main_param_and_optimizer_states = with_step
    try:
        yield
    finally:
        for part in parts:
            del part._set_main_param_and_optimizer_states
            for state in part.optimizer.state.values():
                state["step"] = state["step"].clone()


def _allocate_adam_states(optimizer: Any) -> None:
    """Moments of zero and step 0, as after no step: torch's Adam makes them at its first step.

    megatron-core's DistributedOptimizer.state_dict asserts one common step among them (distrib_optimizer.py:640-643).
    """
    for part in _parts_with_torch_adam(optimizer):
        inner = part.optimizer
        for parameter in (p for group in inner.param_groups for p in group["params"]):
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            inner.state[parameter] = {"step": torch.tensor(0.0), **moments}


def _chunk_key(built: Built, index: int) -> str:
    return "model" if len(built.model) == 1 else f"model{index}"


def _layout(plan: Plan) -> dict[str, Any]:
    return dataclasses.asdict(plan.request.parallelism)


_SAME = (
    "num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups", "kv_channels",
    "seq_length", "vocab_size", "position_embedding_type", "rotary_base", "share_embeddings_and_output_weights",
    "normalization", "layernorm_epsilon", "activation_func", "gated_linear_unit", "add_bias_linear", "add_qkv_bias",
    "qk_layernorm", "num_moe_experts", "moe_ffn_hidden_size", "moe_router_topk", "moe_shared_expert_intermediate_size",
    "mtp_num_layers",
)  # fmt: skip


def _identity(plan: Plan) -> dict[str, Any]:
    """What a checkpoint must have in common with the plan that resumes it: the function, and the order of the samples."""
    request = plan.resolution.request
    same = {f"model.{name}": request["model"][name] for name in _SAME}
    for key in (
        "ddp.use_distributed_optimizer",
        "training.seed",
        "training.global_batch_size",
        "training.rampup_batch_size",
    ):
        same[key] = dotted.get(request, key)
    return {**same, "data": plan.data_prefix and Path(plan.data_prefix).parent.name}  # named for its content


def _require_same(plan: Plan, saved: dict[str, Any], folder: Path) -> None:
    lines = [f"{k}={v}, but {saved.get(k)} in the checkpoint" for k, v in _identity(plan).items() if saved.get(k) != v]
    if lines:
        raise CheckpointError(f"{folder} does not fit this plan:\n  " + "\n  ".join(lines))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _publish(plan: Plan, partial: Path, final: Path, step: int) -> None:
    """The moment a checkpoint becomes one; older ones beyond `keep`, and leftovers of killed runs, go."""
    facts = {"step": step, "layout": _layout(plan), "identity": _identity(plan)}
    # What earlier releases read; that it names the manifest tells a lost one from one that was never written.
    (partial / STATE).write_text(json.dumps({**facts, "manifest": MANIFEST}, indent=1))
    manifests.seal(partial, {**facts, "versions": {"hydra_overlap": __version__, **installed_software()}})
    partial.rename(final)  # fails if `final` is there: launch/checkpoint_folders.py has seen to it that it is not
    for old in complete(final.parent)[: -plan.request.checkpoint.keep]:
        old.rename(old.with_name(f"{old.name}.{secrets.token_hex(4)}{PARTIAL}"))  # half removed, it is none
    for leftover in final.parent.glob(f"iter_*{PARTIAL}"):
        shutil.rmtree(leftover, ignore_errors=True)


def _on_rank_0(action: Any, what: str) -> None:
    """Run on rank 0 and tell all: a rank that fails alone would leave the others waiting."""
    box: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            box = [f"{what}: {error.strerror or error}"]
    dist.broadcast_object_list(box, src=0)
    if box[0] is not None:
        raise CheckpointError(box[0])


def _random_states() -> dict[str, Any]:
    import numpy
    from megatron.core import tensor_parallel

    return {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(),
        "tracker": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }


def _set_random_states(states: dict[str, Any]) -> None:
    import numpy
    from megatron.core import tensor_parallel

    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state(states["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["tracker"])


def _random_object(states: Any) -> Any:
    """This rank's random states as an object of its own: they differ between ranks and are not resharded."""
    from megatron.core.dist_checkpointing.mapping import ShardedObject

    ranks = dist.get_world_size()
    return ShardedObject("random", states, (ranks,), (dist.get_rank(),), replica_id=0)


def describe(plan: Plan, resumed: Loaded | None, console: Any) -> None:
    """What was resumed, and whether its files were what had been written."""
    if resumed is not None:
        for line in resumed.passed_over:
            console.print(f"passed over: {line}", soft_wrap=True, markup=False)
        other = "; written in another layout, so random states start anew" if resumed.resharded else ""
        console.print(f"resumed after step {resumed.step} from {resumed.folder}{other}", soft_wrap=True, markup=False)
        console.print(_verification(resumed), soft_wrap=True, markup=False)
    elif plan.request.checkpoint.load is not None:
        console.print(
            f"no complete checkpoint in {plan.request.checkpoint.load}; starting anew", soft_wrap=True, markup=False
        )


def _verification(resumed: Loaded) -> str:
    if resumed.verified is None:
        return f"its files could not be verified: it has no {MANIFEST}, as an older release wrote it"
    number, size = len(resumed.verified.files), resumed.verified.size / 2**20
    return (
        f"its {number} files, {size:,.1f} MiB, verified in {resumed.verified_s:.2f} s, read in {resumed.read_s:.2f} s"
    )
