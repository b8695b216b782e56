"""The shape of an operation's result, worked out once for equal inputs: layers and microbatches repeat each other's.

On the meta device torch works out in Python what an operation would return, through checks and reference code that take
hundreds of microseconds. A step asks the same few hundred questions some ten thousand times.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Answer = Callable[[Sequence[Any]], Any]
"""From the arguments of an operation to its result."""
Answers = dict[Any, Answer | None]
"""By what was asked; None: has to be asked again."""


class ShapesOnce(TorchDispatchMode):  # type: ignore[misc]
    """Answers an operation on meta tensors as it answered an equal one before. One is entered around each step.

    Remembered are torch's own operations that make new tensors, and those that only write into their first argument. A
    view is not: it must share memory with what it is a view of. Whatever is not remembered runs as ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[Any, Answers | None] = {}  # by operation; None: none is remembered

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled under a dispatch mode; torch's guard against it would take longer than an answer."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():  # what happens below an operation needs no Valueless
            return self._result(function, args, kwargs or {})

    def _result(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if function not in self._answers:
            self._answers[function] = {} if _makes_new(function) or _writes_into_first(function) else None
        answers = self._answers[function]
        question = None if answers is None else _asked(args, kwargs)
        if answers is None or question is None:
            return function(*args, **kwargs)
        if question not in answers:
            result = function(*args, **kwargs)
            answers[question] = _answer(function, result)
            return result
        answer = answers[question]
        return function(*args, **kwargs) if answer is None else answer(args)


def _makes_new(function: Any) -> bool:
    schema = function._schema
    shares = any(one.alias_info is not None for one in (*schema.arguments, *schema.returns))
    return function.namespace == "aten" and not shares and {str(one.type) for one in schema.returns} == {"Tensor"}


def _writes_into_first(function: Any) -> bool:
    schema, tags = function._schema, function.tags
    if function.namespace != "aten" or torch.Tag.inplace not in tags or torch.Tag.inplace_view in tags:
        return False
    written = [one.alias_info is not None and one.alias_info.is_write for one in schema.arguments]
    return written[0] and not any(written[1:]) and [str(one.type) for one in schema.returns] == ["Tensor"]


class _HasValues(Exception):
    """A tensor with values is among the arguments."""


def _asked(args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """All that the result's shape follows from; None if a tensor has values."""
    try:
        return _all(args), tuple(kwargs), _all(kwargs.values())
    except _HasValues:
        return None


def _all(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(
        [
            _of_tensor(one) if isinstance(one, torch.Tensor)
            else _all(one) if isinstance(one, (list, tuple))
            else (type(one), one)
            for one in values
        ]
    )  # fmt: skip


def _of_tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    if not tensor.is_meta:
        raise _HasValues
    return tensor.dtype, tensor.shape, tensor.stride()


def _answer(function: Any, result: Any) -> Answer | None:
    """To equal questions, after this one had this result."""
    if function._schema.is_mutable:
        return operator.itemgetter(0)
    tensors = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(one, torch.Tensor) and one.is_meta for one in tensors):
        return None
    makers = [partial(torch.empty_strided, one.shape, one.stride(), dtype=one.dtype, device="meta") for one in tensors]
    if isinstance(result, tuple):
        return lambda _: tuple(make() for make in makers)
    return lambda _: makers[0]()


SHAPES = ShapesOnce()
"""Of this process: ranks that are built one after another ask the same."""
