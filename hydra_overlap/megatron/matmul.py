"""Products of bf16 and fp16 matrices on a CPU: multiplied and summed in fp32, rounded once.

A CPU without instructions for these formats multiplies such matrices up to a hundred times slower than fp32 ones. A
rehearsal therefore widens the factors, lets torch multiply in fp32 and rounds the result. It does so on every CPU, so
that all of them compute alike: docs/decisions/0005-16-bit-products-in-fp32.md.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

# The operators of torch's ATen in which matmul, linear layers, einsum and all their gradients end.
OPERATORS = ("mm", "addmm", "bmm", "baddbmm")

_library: Any = None  # torch drops the kernels with it


def install() -> None:
    """Replace torch's CPU kernels of these operators, in this process; other number formats keep theirs.

    Calls that write into a tensor they are given (`out=`, `addmm_`) are covered where torch hands out the kernel that
    is replaced, which its older releases do not (torch.library.get_kernel).
    """
    global _library
    import torch

    if _library is not None:
        return
    _library = torch.library.Library("aten", "IMPL")
    get_kernel = getattr(torch.library, "get_kernel", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")  # it is meant
        for name in OPERATORS:
            operator = getattr(torch.ops.aten, name)
            if get_kernel is None:
                _library.impl(name, _older(operator.out), "CPU")
                continue
            forms = {name: _returning, f"{name}.out": _writing, f"{name}_": _in_place}
            forms = {form: kernel for form, kernel in forms.items() if hasattr(torch.ops.aten, form.partition(".")[0])}
            originals = {form: get_kernel(f"aten::{form}", "CPU").call_boxed for form in forms}
            for form, kernel in forms.items():  # there is no mm_
                product = originals[f"{name}.out"]
                _library.impl(form, kernel(product, originals[form]), "CPU", with_keyset=True)


def _returning(product: Any, original: Any) -> Callable[..., Any]:
    """The kernel of a call that returns a new tensor. product: torch's kernel that writes into `out`."""

    def kernel(keys: Any, *tensors: Any, **scalars: Any) -> Any:
        if _same_half(tensors):
            return _rounded(partial(product, keys), tensors, scalars)
        return original(keys, *tensors, **scalars)

    return kernel


def _older(product: Any) -> Callable[..., Any]:
    """The same where torch does not hand out its kernels. product: the operator that writes into `out`, not covered then."""
    import torch

    def kernel(*tensors: Any, **scalars: Any) -> Any:
        if _same_half(tensors):
            return _rounded(product, tensors, scalars)
        return product(*tensors, **scalars, out=torch.empty(0, dtype=tensors[0].dtype))

    return kernel


def _writing(product: Any, original: Any) -> Callable[..., Any]:
    """The kernel of a call with `out=`."""

    def kernel(keys: Any, *tensors: Any, out: Any, **scalars: Any) -> Any:
        if not _same_half((*tensors, out)):
            return original(keys, *tensors, out=out, **scalars)
        result = _rounded(partial(product, keys), tensors, scalars)
        if out.shape != result.shape and out.numel():
            return original(keys, *tensors, out=out, **scalars)  # torch warns, and gives it another shape
        return out.resize_(result.shape).copy_(result)

    return kernel


def _in_place(product: Any, original: Any) -> Callable[..., Any]:
    """The kernel of a call that changes its first tensor."""

    def kernel(keys: Any, target: Any, *factors: Any, **scalars: Any) -> Any:
        if _same_half((target, *factors)):
            result = _rounded(partial(product, keys), (target, *factors), scalars)
            if result.shape == target.shape:
                return target.copy_(result)
        return original(keys, target, *factors, **scalars)

    return kernel


def _same_half(tensors: tuple[Any, ...]) -> bool:
    """Whether all are bf16, or all are fp16; torch refuses mixtures."""
    import torch

    dtype = tensors[0].dtype
    return dtype in (torch.bfloat16, torch.float16) and all(tensor.dtype == dtype for tensor in tensors[1:])


def _rounded(product: Any, tensors: tuple[Any, ...], scalars: dict[str, Any]) -> Any:
    """The product of the widened tensors, rounded to their format."""
    import torch

    wide = [tensor.float() for tensor in tensors[-2:]]
    if len(tensors) == 3:  # the summand; of one that counts for nothing only the shape is read
        unread = scalars.get("beta", 1) == 0
        wide.insert(0, torch.empty(tensors[0].shape) if unread else tensors[0].float())
    return product(*wide, **scalars, out=torch.empty(0)).to(tensors[0].dtype)
