"""A world of ranks that do not exist: process groups that note every call, and tensors that have shapes and no values.

`RecordingGroup` answers at once for all other ranks, as torch's own fake group does, and tells a `Listener` what was asked
of it: the last line of Python before a backend. `valueless` is entered around a step on the meta device; where Python asks
for a value it gets zero, and where a value would decide a shape (which token goes to which expert) tokens are balanced.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FakeWork
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from .collectives import Call

BACKEND = "overlap_recording"
LARGE = 2**16  # elements of a floating-point tensor that never needs values
Listener = Callable[[Call], None]

_listener: Listener | None = None
_rank_groups: dict[str, list[list[int]]] = {}


def listen(listener: Listener | None) -> None:
    """Tell `listener` about every call from here on; None: nobody."""
    global _listener
    _listener = listener


class RecordingGroup(dist.ProcessGroup):  # type: ignore[misc]
    """One group of this rank. Ranks that do not exist send what this one does, where it has values at all.

    Methods have the names of torch's ProcessGroup, older and newer ones; their options carry asyncOp.
    """

    def __init__(self, rank: int, size: int, members: Sequence[int]) -> None:
        super().__init__(rank, size)
        self._members = list(members)
        self._names = {"name": "", "desc": ""}

    # What torch asks of a group made in Python.
    def getBackendName(self) -> str:
        """Torch's name for what stands behind a group."""
        return BACKEND

    def _set_group_name(self, name: str) -> None:
        self._names["name"] = name

    def _set_group_desc(self, desc: str) -> None:
        self._names["desc"] = desc

    @property
    def group_name(self) -> str:  # type: ignore[override]
        """Torch's own, unique."""
        return self._names["name"]

    @property
    def group_desc(self) -> str:  # type: ignore[override]
        """megatron-core's, for people."""
        return self._names["desc"]

    def _note(self, operation: str, tensors: Sequence[Any], options: Any = None, peer: int | None = None) -> Any:
        if _listener is not None and self.size() > 1:  # a group of one moves nothing
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            group = self.group_desc.replace("_GROUP", "").replace("_", " ").lower().replace("with cp", "with CP")
            waits = not getattr(options, "asyncOp", False)
            _listener(Call(operation, group, self.size(), size, not waits, peer))
        return FakeWork()

    def _peer(self, rank: int) -> int:
        return self._members[rank] if self._members else rank

    def allreduce(self, tensors: Any, options: Any = None) -> Any:
        """Every tensor by itself in one call."""
        for tensor in tensors:
            if not tensor.is_meta and tensor.is_floating_point() and options.reduceOp == dist.ReduceOp.SUM:
                tensor.add_(1)  # some value of the others: no sum is zero
        return self._note("all-reduce", tensors, options)

    def allreduce_coalesced(self, tensors: Any, options: Any = None) -> Any:
        """Several in one launch; each is noted."""
        for tensor in tensors:
            self._note("all-reduce", [tensor], options)
        return FakeWork()

    def allgather(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        """Lists of tensors, one for each rank."""
        for gathered, mine in zip(outputs, inputs, strict=True):
            for tensor in gathered:
                if not tensor.is_meta:
                    tensor.copy_(mine)
        return self._note("all-gather", [tensor for gathered in outputs for tensor in gathered], options)

    def all_gather_single(self, output: Any, input: Any, options: Any = None) -> Any:
        """One tensor of all ranks' parts."""
        if not output.is_meta:
            output.view(self.size(), -1).copy_(input.reshape(1, -1))
        return self._note("all-gather", [output], options)

    def all_gather_single_coalesced(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        """Several in one launch; each is noted."""
        for output, mine in zip(outputs, inputs, strict=True):
            self.all_gather_single(output, mine, options)
        return FakeWork()

    def reduce_scatter_single(self, output: Any, input: Any, options: Any = None) -> Any:
        """One tensor of all ranks' parts."""
        return self._note("reduce-scatter", [input], options)

    def reduce_scatter_single_coalesced(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        """Several in one launch; each is noted."""
        for mine in inputs:
            self._note("reduce-scatter", [mine], options)
        return FakeWork()

    def reduce_scatter(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        """Lists of tensors, one for each rank."""
        return self._note("reduce-scatter", [tensor for scattered in inputs for tensor in scattered], options)

    def all_to_all_single(self, output: Any, input: Any, *splits_and_options: Any) -> Any:
        """One tensor, in parts of equal or of given sizes."""
        return self._note("all-to-all", [input], splits_and_options[-1] if splits_and_options else None)

    def alltoall(self, outputs: Any, inputs: Any, options: Any = None) -> Any:
        """A tensor for each rank."""
        return self._note("all-to-all", inputs, options)

    def broadcast(self, tensors: Any, options: Any = None) -> Any:
        """The root's size is everyone's."""
        return self._note("broadcast", tensors, options)

    def send(self, tensors: Any, rank: int, tag: int = 0) -> Any:
        """To a rank of the group."""
        return self._note("send", tensors, peer=self._peer(rank))

    def recv(self, tensors: Any, rank: int, tag: int = 0) -> Any:
        """From a rank of the group."""
        return self._note("receive", tensors, peer=self._peer(rank))

    def barrier(self, *_: Any) -> Any:
        """Moves nothing: not noted."""
        return FakeWork()

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single


def register() -> None:
    """Make BACKEND known to torch.distributed; again does nothing."""

    def create(options: Any, _: Any) -> RecordingGroup:
        return RecordingGroup(options.group_rank, options.group_size, options.global_ranks_in_group)

    if BACKEND.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(BACKEND, create, extended_api=True, devices=["cpu", "cuda"])


@contextlib.contextmanager
def objects_of_everyone() -> Iterator[None]:
    """Gathered objects are this rank's, as gathered tensors are; torch would pickle them and read them once for each rank."""
    original = dist.all_gather_object

    def all_gather_object(objects: list[Any], mine: Any, *_: Any, **__: Any) -> None:
        objects[:] = [mine] * len(objects)

    dist.all_gather_object = all_gather_object
    try:
        yield
    finally:
        dist.all_gather_object = original


@contextlib.contextmanager
def own_groups_only(rank: int) -> Iterator[None]:
    """Groups without this rank are not created, and who is in which group is computed once for all ranks that are built.

    megatron-core creates every group of the world on every rank, because all ranks of a real world have to take part. Here
    that would be most of the time from some thousands of ranks on.
    """
    from megatron.core import parallel_state

    create = parallel_state.create_group

    def create_group(ranks: Any = None, *args: Any, **kwargs: Any) -> Any:
        return create(ranks, *args, **kwargs) if ranks is None or rank in ranks else dist.GroupMember.NON_GROUP_MEMBER

    groups = parallel_state.generate_masked_orthogonal_rank_groups

    def rank_groups(*layout: Any) -> list[list[int]]:
        key = str(layout)  # sizes of the world and of each dimension, and which of them count
        if key not in _rank_groups:
            _rank_groups[key] = groups(*layout)
        return [list(one) for one in _rank_groups[key]]

    parallel_state.create_group, parallel_state.generate_masked_orthogonal_rank_groups = create_group, rank_groups
    try:
        yield
    finally:
        parallel_state.create_group, parallel_state.generate_masked_orthogonal_rank_groups = create, groups


class Valueless(TorchFunctionMode):  # type: ignore[misc]
    """Lets code run on meta tensors where Python wants a value, or mixes them with tensors that have values.

    A scalar reads as zero. A CPU tensor beside a meta one goes to the meta device as well: it was made without a device,
    and would lie on the GPU. What a mask selects is counted in the mask, which therefore must have values: buffers of
    integers are made on the CPU, so that counts of tokens arrive when they are gathered; large ones of reals never are.
    """

    _FACTORIES = frozenset({"empty", "zeros", "ones", "full"})
    _READS = frozenset({"item", "__bool__", "__float__", "__int__", "__index__"})

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "__get__":  # shape, dtype and the like
            return function(*args, **kwargs)
        if name in self._READS and args[0].is_meta:
            return {"__bool__": False, "__float__": 0.0, "__int__": 0, "__index__": 0}.get(name, 0.0)
        if name == "tolist" and args[0].is_meta:
            return torch.zeros(args[0].shape, dtype=args[0].dtype, device="cpu").tolist()
        if name in self._FACTORIES:
            return function(*args, **{**kwargs, "device": _place(args, kwargs)})
        if name == "tensor":  # torch.tensor([a, b]) of meta scalars
            args, kwargs = tree_map(lambda one: 0.0 if _is_meta(one) else one, (args, kwargs))
        elif _mixed(args, kwargs):
            if name == "masked_select" and _has_values(args[1]):
                return _Selected.apply(args[0], int(args[1].sum()))
            args, kwargs = tree_map(lambda one: one.to("meta") if _has_values(one) else one, (args, kwargs))
        return function(*args, **kwargs)


@contextlib.contextmanager
def valueless() -> Iterator[None]:
    """Run without values, in backward too: torch leaves a mode when it calls autograd, which may compute forwards again."""
    autograd: Any = torch.autograd
    original = autograd._engine_run_backward

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        with Valueless():
            return original(*args, **kwargs)

    autograd._engine_run_backward = run_backward
    try:
        with Valueless():
            yield
    finally:
        autograd._engine_run_backward = original


def _place(args: Any, kwargs: Any) -> Any:
    """The device for torch.empty(*args, **kwargs) and its like."""
    dtype = kwargs.get("dtype")
    if dtype is not None and not dtype.is_floating_point:
        return "cpu"
    size = kwargs.get("size", args)
    size = size[0] if size and isinstance(size[0], (tuple, list)) else size
    return "meta" if math.prod(one for one in size if isinstance(one, int)) > LARGE else kwargs.get("device")


def _mixed(args: Any, kwargs: Any) -> bool:
    """Whether there are tensors with and without values among the arguments, or in lists of them. Called for every one."""
    meta = values = False
    stack = [*args, *kwargs.values()] if kwargs else list(args)
    for one in stack:
        if isinstance(one, torch.Tensor):
            if one.is_meta:
                meta = True
            elif one.dim() > 0:
                values = True
        elif type(one) in (list, tuple):
            stack.extend(one)
    return meta and values


def _is_meta(one: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.is_meta


def _has_values(one: Any) -> bool:
    return isinstance(one, torch.Tensor) and not one.is_meta and one.dim() > 0


class _Selected(torch.autograd.Function):  # type: ignore[misc]
    """`count` elements of a tensor, as a mask would select them."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, count: int) -> torch.Tensor:
        ctx.shape = tensor.shape
        return tensor.new_empty(count)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient.new_empty(ctx.shape), None


def balance(router: Any) -> Any:
    """Make an expert router (a TopKRouter) send equally many tokens to every expert; -> the hook's handle.

    Its map [tokens, experts] of booleans then lies on the CPU: what follows from it, splits of all-to-alls and tokens per
    expert, is computed by megatron-core from values.
    """

    def balanced(module: Any, _: Any, output: Any) -> Any:
        probabilities, routed = output
        tokens, experts = routed.shape
        return probabilities, even_map(tokens, experts, module.topk)

    return router.register_forward_hook(balanced)


@functools.lru_cache(maxsize=2)
def even_map(tokens: int, experts: int, topk: int) -> torch.Tensor:
    """[tokens, experts] booleans, topk to a row; columns differ by one at most: token t takes experts t x topk onwards."""
    first = torch.arange(tokens, device="cpu").unsqueeze(1) * topk
    chosen = (first + torch.arange(topk, device="cpu").unsqueeze(0)) % experts
    return torch.zeros(tokens, experts, dtype=torch.bool, device="cpu").scatter_(1, chosen, True)


def batches(shape: tuple[int, int]) -> Any:
    """Endless microbatches without values: tokens, labels, loss_mask, position_ids, each [b, s]."""
    kinds = {"tokens": torch.int64, "labels": torch.int64, "loss_mask": torch.float32, "position_ids": torch.int64}
    while True:
        yield {name: torch.empty(shape, dtype=dtype, device="meta") for name, dtype in kinds.items()}
