"""Eight floats at once, inside numba: for loops that LLVM does not vectorise by itself.

It cannot where several streams of one array are read and written, since it cannot prove them apart. Here the
vector is a type of its own (LLVM's `<8 x float>`), which every processor's compiler knows how to serve: one
register with AVX, two with SSE or NEON.

Numba's cache on disk watches the file of the function it cached, not this one: after a change here, touch
`mel_kernel.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

WIDTH = 8

_FLOATS = ir.VectorType(ir.FloatType(), WIDTH)


class Lanes(types.Type):
    """What numba calls eight floats."""

    def __init__(self) -> None:
        super().__init__("Lanes")


_lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: types.Type) -> None:
        super().__init__(manager, frontend_type, _FLOATS)


def _define(operation: Any, instruction: str) -> None:
    """Let compiled code write x + y and the like of two vectors; a product and a sum may become one (FMA)."""

    @type_callable(operation)
    def _(context: Any) -> Any:
        return lambda x, y: _lanes if x is _lanes and y is _lanes else None

    @lower_builtin(operation, _lanes, _lanes)
    def _(context: Any, builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        return getattr(builder, instruction)(*values, flags=("contract",))


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")


def _address(context: Any, builder: ir.IRBuilder, array_type: types.Array, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


def _load(typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *values), align=4)

    return _lanes(array, types.int64), generate


def _store(typing_context: Any, array: Any, index: Any, vector: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        builder.store(values[2], _address(context, builder, signature.args[0], *values[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, _lanes), generate


def _splat(typing_context: Any, number: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
        undefined = ir.Constant(_FLOATS, ir.Undefined)
        first = builder.insert_element(undefined, values[0], ir.Constant(ir.IntType(32), 0))
        nowhere_else = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        return builder.shuffle_vector(first, undefined, nowhere_else)

    return _lanes(types.float32), generate


def _interleaved(half: int) -> Callable:
    """Of the lower (0) or upper (4) halves of two vectors: one number of each in turn."""
    order = [half + n // 2 + WIDTH * (n % 2) for n in range(WIDTH)]

    def interleave(typing_context: Any, x: Any, y: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
            return builder.shuffle_vector(
                values[0], values[1], ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), order)
            )

        return _lanes(_lanes, _lanes), generate

    return interleave


load: Any = intrinsic(_load)
"""load(array, index): eight floats of a contiguous float32 array from an index on; bounds are not checked."""
store: Any = intrinsic(_store)
"""store(array, index, vector): write them there."""
splat: Any = intrinsic(_splat)
"""splat(number): the same float eight times."""
low: Any = intrinsic(_interleaved(0))
"""low(x, y): x[0], y[0], x[1], y[1], … y[3]."""
high: Any = intrinsic(_interleaved(WIDTH // 2))
"""high(x, y): x[4], y[4], x[5], y[5], … y[7]."""
