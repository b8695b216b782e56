"""Conditions and integers of a shell, decided as far as their words are known: true, false, or None."""

import ast
import fnmatch
import operator
import re
from collections.abc import Callable, Sequence

from .shell_holes import has

LENGTH = 400  # characters of an expression
DIGITS = 18  # of a number that is worked with; bash has 64 bits
NAME = re.compile(r"[A-Za-z_]\w*")
SET = re.compile(r"\s*([A-Za-z_]\w*)\s*(\+|-|\*|/|%|)=(?!=)(.*)", re.DOTALL)
STEP = re.compile(r"\s*(?:([A-Za-z_]\w*)\s*(\+\+|--)|(\+\+|--)\s*([A-Za-z_]\w*))\s*")
NUMBERS: dict[str, Callable[[int, int], bool]] = {
    "-eq": operator.eq, "-ne": operator.ne, "-gt": operator.gt, "-ge": operator.ge, "-lt": operator.lt, "-le": operator.le,
}  # fmt: skip
TEXTS: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne, "<": operator.lt, "\\<": operator.lt, ">": operator.gt, "\\>": operator.gt,
}  # fmt: skip
OPERATIONS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}  # fmt: skip
COMPARES: dict[type, Callable[[int, int], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le,
}  # fmt: skip


def negated(value: bool | None) -> bool | None:
    """The opposite; None stays."""
    return None if value is None else not value


def both(left: bool | None, right: bool | None) -> bool | None:
    """Whether both are true."""
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def either(left: bool | None, right: bool | None) -> bool | None:
    """Whether one is true."""
    return negated(both(negated(left), negated(right)))


def holds(words: Sequence[str]) -> bool | None:
    """Whether `[ WORDS ]` holds, as test(1) takes its arguments; None where that cannot be said."""
    for mark, join in (("-o", either), ("-a", both)):
        at = next((i for i, word in enumerate(words) if word == mark and 0 < i < len(words) - 1), None)
        if at is not None and len(words) > 3:
            return join(holds(words[:at]), holds(words[at + 1 :]))
    if words and words[0] == "!" and len(words) > 1:
        return negated(holds(words[1:]))
    if len(words) == 3:
        return compared(words[0], words[1], words[2])
    if len(words) == 2:
        return single(words[0], words[1])
    return not empty if len(words) == 1 and (empty := is_empty(words[0])) is not None else None if words else False


def is_empty(word: str) -> bool | None:
    """Whether a word is empty; None if it is nothing but what is not known."""
    if not has(word):
        return not word
    return False if any(not has(one) for one in word) else None


def single(mark: str, word: str) -> bool | None:
    """`-z WORD` and its like; files are not looked for."""
    if mark in ("-z", "-n"):
        empty = is_empty(word)
        return empty if mark == "-z" else negated(empty)
    return None


def compared(left: str, mark: str, right: str, *, pattern: bool = False) -> bool | None:
    """`LEFT -gt RIGHT` and its like. pattern: whether the right side of == is one (`[[ $A == a* ]]`)."""
    if has(left) or has(right):
        return None
    if mark in NUMBERS:
        first, second = number(left), number(right)
        return None if first is None or second is None else NUMBERS[mark](first, second)
    if pattern and mark in ("=", "==", "!="):
        return fnmatch.fnmatchcase(left, right) == (mark != "!=")
    return TEXTS[mark](left, right) if mark in TEXTS else None


def number(text: str) -> int | None:
    """A decimal number of a shell."""
    text = text.strip()
    return int(text) if re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,17})", text) else None


def integer(text: str, get: Callable[[str], str | None], put: Callable[[str, str], None]) -> int | None:
    """The value of `$((TEXT))`, in which variables with a `$` are replaced already; None if it is not known.

    get: the value of a variable, put: sets one (`i+=1`, `i++`).
    """
    if has(text) or len(text) > LENGTH:
        return None
    if step := STEP.fullmatch(text):
        name, sign = step[1] or step[4], step[2] or step[3]
        before = integer(name, get, put)
        if before is None:
            return None
        after = before + (1 if sign == "++" else -1)
        put(name, str(after))
        return before if step[1] else after
    if set_ := SET.fullmatch(text):
        value = integer(f"{set_[1]} {set_[2]} ({set_[3]})" if set_[2] else set_[3], get, put)
        if value is not None:
            put(set_[1], str(value))
        return value
    condition, mark, rest = _split(text, "?")
    if mark:
        holds, (first, colon, second) = integer(condition, get, put), _split(rest, ":")
        return None if holds is None or not colon else integer(first if holds else second, get, put)
    try:
        return _computed(_parsed(text), get, 0)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _split(text: str, mark: str) -> tuple[str, str, str]:
    depth = 0
    for index, one in enumerate(text):
        depth += (one == "(") - (one == ")")
        if one == mark and not depth:
            return text[:index], mark, text[index + 1 :]
    return text, "", ""


def _parsed(text: str) -> ast.expr:
    text = re.sub(r"!(?!=)", " not ", text.replace("&&", " and ").replace("||", " or "))
    return ast.parse(text.replace("\n", " ").strip() or "0", mode="eval").body


def _computed(node: ast.expr, get: Callable[[str], str | None], depth: int) -> int:
    """Raises ValueError on what is not known or no integer."""
    if depth > 40:
        raise ValueError
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return _small(node.value)
    if isinstance(node, ast.Name):
        return _variable(node.id, get, depth)
    if isinstance(node, ast.UnaryOp):
        value = _computed(node.operand, get, depth + 1)
        return {ast.USub: -value, ast.UAdd: value, ast.Invert: ~value, ast.Not: int(not value)}[type(node.op)]
    if isinstance(node, ast.BinOp):
        return _small(_operation(node.op, _computed(node.left, get, depth + 1), _computed(node.right, get, depth + 1)))
    if isinstance(node, ast.BoolOp):
        values = [bool(_computed(value, get, depth + 1)) for value in node.values]
        return int(all(values) if isinstance(node.op, ast.And) else any(values))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = _computed(node.left, get, depth + 1), _computed(node.comparators[0], get, depth + 1)
        if type(node.ops[0]) in COMPARES:
            return int(COMPARES[type(node.ops[0])](left, right))
    raise ValueError


def _variable(name: str, get: Callable[[str], str | None], depth: int) -> int:
    value = get(name)
    if value is None or has(value) or len(value) > LENGTH:
        raise ValueError
    return _computed(_parsed(value), get, depth + 1)


def _operation(kind: ast.operator, left: int, right: int) -> int:
    if type(kind) in OPERATIONS:
        return OPERATIONS[type(kind)](left, right)
    if isinstance(kind, ast.Div):  # cut off, towards zero
        return abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    if isinstance(kind, ast.Mod):
        return left - right * _operation(ast.Div(), left, right)
    if isinstance(kind, ast.Pow) and 0 <= right < 64:
        return int(left**right) if abs(left) < 2**16 else _small(10**DIGITS)
    if isinstance(kind, ast.LShift | ast.RShift) and 0 <= right < 64:
        return left << right if isinstance(kind, ast.LShift) else left >> right
    raise ValueError


def _small(value: int) -> int:
    if abs(value) >= 10**DIGITS:
        raise ValueError
    return value
