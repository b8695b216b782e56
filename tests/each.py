"""One test over many cases of one kind: it goes through all of them, and its failure names every case that failed."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

Test = Callable[..., None]


def each(names: str, cases: Iterable[Any], *, ids: Callable[[Any], str] = str) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize(names, cases)`, in one test; for cheap cases that share their fixtures.

    ids: what a failure calls a case, from its values. A single name takes a case as it is, several take its parts.
    """
    arguments = [name.strip() for name in names.split(",")]

    def decorate(test: Test) -> Test:
        @functools.wraps(test)
        def through_all(**fixtures: Any) -> None:
            failed, tried = [], 0
            for case in cases:
                values = [case] if len(arguments) == 1 else case
                tried += 1
                try:
                    test(**dict(zip(arguments, values, strict=True)), **fixtures)
                except (Exception, pytest.fail.Exception) as error:  # all of them, so that all are told
                    failed.append(f"{ids(case)}\n    {type(error).__name__}: {error}")
            assert tried, "there is no case"
            if failed:
                pytest.fail(f"{len(failed)} of {tried} cases:\n" + "\n".join(failed), pytrace=False)

        signature = inspect.signature(test)
        left = [parameter for name, parameter in signature.parameters.items() if name not in arguments]
        through_all.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return through_all

    return decorate
