"""Filters of a grid: arithmetic and comparisons over the options of a cell, and nothing else.

`prompt_tokens * batch <= 65536`. A filter is parsed and walked, never evaluated as Python: a grid may come from
elsewhere.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from perstep.errors import InputError

Value = Any
"""An option's value, or what is computed from it; operators say what they take."""
_BINARY: dict[type, Callable[[Value, Value], Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, many: one in many,
    ast.NotIn: lambda one, many: one not in many,
}
_RIGHT = "write a comparison of options, such as prompt_tokens * batch <= 65536"
_LONGEST = 1000


def holds(filter_: str, options: Mapping[str, Value]) -> bool:
    """Whether a cell passes a filter.

    Args:
        filter_: the text.
        options: of the cell, by the names of the plan's fields.

    Raises:
        InputError: it is no such text, names no option, or compares what cannot be compared.
    """
    try:
        if len(filter_) > _LONGEST:
            raise SyntaxError("it is too long")
        value = _value(ast.parse(filter_.strip(), mode="eval").body, options)
    except (SyntaxError, RecursionError, ValueError) as error:
        raise InputError(f"the filter {filter_[:80]!r} cannot be read ({_first(error)}); {_RIGHT}") from error
    except (TypeError, ArithmeticError, MemoryError) as error:
        raise InputError(f"the filter {filter_!r} cannot be computed ({_first(error)}); {_RIGHT}") from error
    if not isinstance(value, bool):
        raise InputError(f"the filter {filter_!r} is {value!r}, neither true nor false; {_RIGHT}")
    return value


def _first(error: BaseException) -> str:
    return str(error).split("\n")[0].partition(" (<unknown>")[0]


def _value(node: ast.expr, options: Mapping[str, Value]) -> Value:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.Name():
            if node.id not in options:
                raise InputError(f"no option {node.id!r} to filter by; there are {', '.join(sorted(options))}")
            return options[node.id]
        case ast.List() | ast.Tuple():
            return [_value(each, options) for each in node.elts]
        case ast.BoolOp():
            decide = all if isinstance(node.op, ast.And) else any
            return decide(_value(each, options) for each in node.values)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, options)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, options)
        case ast.BinOp() if type(node.op) in _BINARY:
            return _computed(node, _value(node.left, options), _value(node.right, options))
        case ast.Compare():
            return _compared(node, options)
        case _:
            raise SyntaxError(f"{ast.unparse(node)[:40]} is no option, number, text or comparison")


def _computed(node: ast.BinOp, left: Value, right: Value) -> Value:
    if not (isinstance(left, int | float) and isinstance(right, int | float)):
        raise TypeError("arithmetic is of numbers alone")  # 'a' * 10**10 would fill the memory
    return _BINARY[type(node.op)](left, right)


def _compared(node: ast.Compare, options: Mapping[str, Value]) -> bool:
    """`a < b <= c`, as Python reads it."""
    values = [_value(each, options) for each in (node.left, *node.comparators)]
    for op, left, right in zip(node.ops, values, values[1:], strict=False):
        if type(op) not in _BINARY:
            raise SyntaxError(f"{ast.unparse(node)[:40]} is no comparison of values")
        if not _BINARY[type(op)](left, right):
            return False
    return True
