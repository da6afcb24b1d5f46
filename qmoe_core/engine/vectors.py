"""Vectors of AVX2 and AVX-512 inside numba: numba compiles the loops, an `Emitter` writes their bodies.

Numba finds neither `vpmaddubsw` nor `vpshufb` by itself. So a straight piece of vector code is a Python
function that is given an `Emitter` and LLVM values, and writes LLVM IR; `operation` makes it something that
compiled functions can call. All vectors are bytes to LLVM, 32 or 64; what their lanes mean is in the name of
what is done to them (8, 16, 32, 64 for integers of that many bits, `f32`). Memory is addressed by plain
integers.

LLVM does not survive being asked for these instructions where AVX2 and FMA are missing, so only `avx2.py`
makes operations, and it is only imported on a processor that has both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, register_model

BYTES = 32
"""Size of an AVX2 vector; one of AVX-512 has twice as many."""

Value = Any
"""An LLVM value; llvmlite has no useful types."""

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()
BYTE, INT = _I8, _I32


def features() -> frozenset[str]:
    """What the processor can do, as numba is told to see it; LLVM's names."""
    context: Any = cpu_target.target_context
    _, _, listed = context.codegen().magic_tuple()
    return frozenset(name[1:] for name in listed.split(",") if name.startswith("+"))


def has_vectors() -> bool:
    """Whether there are AVX2 and FMA, which everything here needs."""
    return {"avx2", "fma"} <= features()


def has_vnni() -> bool:
    """Whether the products of bytes can be summed in one instruction, `Emitter.dot8_vnni`."""
    return "avxvnni" in features() or {"avx512vnni", "avx512vl"} <= features()


def has_avx512_vnni() -> bool:
    """Whether they can in vectors of 64 bytes, too."""
    return {"avx512f", "avx512bw", "avx512vnni"} <= features()


# --- What compiled functions see ------------------------------------------------------------------

address = types.int64
nothing = types.void
i32 = types.int32
i64 = types.int64
f32 = types.float32


class Vectors(types.Type):
    """Numba's type of `count` vectors of `size` bytes in registers."""

    def __init__(self, count: int, size: int = BYTES) -> None:
        self.count, self.size = count, size
        super().__init__(f"Vectors({count}, {size})")


@register_model(Vectors)
class _VectorsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: Vectors) -> None:
        super().__init__(
            manager, frontend_type, ir.ArrayType(ir.VectorType(_I8, frontend_type.size), frontend_type.count)
        )


def operation(result: types.Type, *arguments: types.Type, size: int = BYTES) -> Callable[[Callable], Any]:
    """Make a function that emits code callable from numba-compiled functions.

    The function takes an `Emitter` for vectors of `size` bytes and an LLVM value for each argument, and
    returns the result's; `Vectors` are lists of vectors on either side.
    """

    def decorate(emit: Callable) -> Any:
        def generate(context: Any, builder: Any, _: Any, values: Sequence[Value]) -> Value:
            unpacked = [
                cgutils.unpack_tuple(builder, value) if isinstance(kind, Vectors) else value
                for kind, value in zip(arguments, values, strict=True)
            ]
            value = emit(Emitter(builder, size), *unpacked)
            if isinstance(result, Vectors):
                return cgutils.pack_array(builder, value)
            return context.get_dummy_value() if value is None else value

        def typing(context: Any, *_: Any) -> tuple[Any, Callable]:
            return result(*arguments), generate

        # Numba wants an intrinsic to have a named parameter for each argument.
        names = ("context", *(f"argument{i}" for i in range(len(arguments))))
        typing.__signature__ = Signature([Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in names])
        return intrinsic(typing)

    return decorate


def named(name: str, function: Callable) -> Callable:
    """The function under a name of its own.

    Functions made by one factory share a qualified name. Numba tells them apart by a number that it counts
    anew in every process, so that machine code cached by two processes can hold two functions under one
    symbol, of which the linker takes one.
    """
    function.__qualname__ = f"{function.__name__}_{name}"
    return function


# --- What operations are written with -------------------------------------------------------------


class Emitter:
    """Writes vector instructions into a function that is being compiled; every method emits one or two.

    Those that are x86 instructions exist for vectors of 32 bytes only, but for `dot8_vnni`. What is under
    "Any processor" is plain LLVM: vectors of any size, compiled to what the processor has.
    """

    def __init__(self, builder: Any, size: int) -> None:
        self.builder, self.size = builder, size
        self._v8, self._v16, self._v32, self._v64, self._vf32 = (
            ir.VectorType(lane, size // width)
            for lane, width in ((_I8, 1), (_I16, 2), (_I32, 4), (_I64, 8), (_F32, 4))
        )

    def _as(self, lanes: ir.Type, value: Value) -> Value:
        return self.builder.bitcast(value, lanes)

    def _call(self, name: str, result: ir.Type, *values: Value) -> Value:
        """An LLVM intrinsic by name."""
        function = ir.FunctionType(result, [value.type for value in values])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function, name), values)

    def _lanes(self, emit: str, lanes: ir.Type, *values: Value) -> Value:
        """A builder's operation on the given lanes."""
        return self._as(self._v8, getattr(self.builder, emit)(*(self._as(lanes, value) for value in values)))

    def _x86(self, name: str, lanes: ir.Type, result: ir.Type, *values: Value) -> Value:
        """An x86 instruction by LLVM's name."""
        return self._as(
            self._v8, self._call(f"llvm.x86.{name}", result, *(self._as(lanes, v) for v in values))
        )

    def _shuffle(self, lanes: ir.VectorType, order: Sequence[int], x: Value, y: Value | None = None) -> Value:
        """Lanes of x, or of x and y counted on, in a fixed order."""
        mask = ir.Constant(ir.VectorType(_I32, len(order)), list(order))
        y = ir.Constant(lanes, ir.Undefined) if y is None else self._as(lanes, y)
        return self._as(self._v8, self.builder.shuffle_vector(self._as(lanes, x), y, mask))

    # Memory

    def _pointer(self, at: Value, offset: int, to: ir.Type) -> Value:
        return self.builder.inttoptr(self.builder.add(at, ir.Constant(_I64, offset)), to.as_pointer())

    def load(self, at: Value, offset: int = 0) -> Value:
        """A vector, aligned or not."""
        return self.builder.load(self._pointer(at, offset, self._v8), align=1)

    def load_half_twice(self, at: Value, offset: int = 0) -> Value:
        """16 bytes, into both halves."""
        half = ir.VectorType(_I8, BYTES // 2)
        value = self.builder.load(self._pointer(at, offset, half), align=1)
        return self._shuffle(half, [*range(16), *range(16)], value)

    def load_i32(self, at: Value, offset: int = 0) -> Value:
        return self.builder.load(self._pointer(at, offset, _I32), align=1)

    def load_i64(self, at: Value, offset: int = 0) -> Value:
        return self.builder.load(self._pointer(at, offset, _I64), align=1)

    def load_f32(self, at: Value, offset: int = 0) -> Value:
        return self.builder.load(self._pointer(at, offset, _F32), align=1)

    def store(self, at: Value, value: Value, offset: int = 0) -> None:
        """A vector or a number."""
        self.builder.store(value, self._pointer(at, offset, value.type), align=1)

    def prefetch(self, at: Value, offset: int = 0) -> None:
        """Ask for the cache line at an address, which need not exist."""
        options = (ir.Constant(_I32, number) for number in (0, 3, 1))  # To read, keep everywhere, data.
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        self.builder.call(function, [self._pointer(at, offset, _I8), *options])

    # Constants and copies

    def constant8(self, values: Sequence[int]) -> Value:
        return ir.Constant(self._v8, [value & 0xFF for value in values])

    def fill8(self, value: int) -> Value:
        return self.constant8([value] * self.size)

    def fill16(self, value: int) -> Value:
        return self.constant8([value, value >> 8] * (self.size // 2))

    def fill32(self, value: int) -> Value:
        return self.constant8([value, value >> 8, value >> 16, value >> 24] * (self.size // 4))

    def zero(self) -> Value:
        return self.fill8(0)

    def splat(self, number: Value) -> Value:
        """A number in every lane of its size."""
        lanes = ir.VectorType(
            number.type, self.size * 8 // (32 if number.type == _F32 else number.type.width)
        )
        one = self.builder.insert_element(ir.Constant(lanes, ir.Undefined), number, ir.Constant(_I32, 0))
        return self._shuffle(lanes, [0] * lanes.count, one)

    # Integers

    def and_(self, x: Value, y: Value) -> Value:
        return self._lanes("and_", self._v64, x, y)

    def xor(self, x: Value, y: Value) -> Value:
        return self._lanes("xor", self._v64, x, y)

    def add8(self, x: Value, y: Value) -> Value:
        return self._lanes("add", self._v8, x, y)

    def add16(self, x: Value, y: Value) -> Value:
        return self._lanes("add", self._v16, x, y)

    def add32(self, x: Value, y: Value) -> Value:
        return self._lanes("add", self._v32, x, y)

    def sub16(self, x: Value, y: Value) -> Value:
        return self._lanes("sub", self._v16, x, y)

    def sub32(self, x: Value, y: Value) -> Value:
        return self._lanes("sub", self._v32, x, y)

    def shift_left16(self, x: Value, count: int) -> Value:
        return self._lanes("shl", self._v16, x, self.fill16(count))

    def shift_right16(self, x: Value, count: int) -> Value:
        return self._lanes("lshr", self._v16, x, self.fill16(count))

    def shift_right32(self, x: Value, count: int) -> Value:
        """With the sign."""
        return self._lanes("ashr", self._v32, x, self.fill32(count))

    def max32(self, x: Value, y: Value) -> Value:
        name = f"llvm.smax.v{self._v32.count}i32"
        return self._as(self._v8, self._call(name, self._v32, self._as(self._v32, x), self._as(self._v32, y)))

    def abs8(self, x: Value) -> Value:
        """|x|; |−128| is 128 if what follows takes the bytes as unsigned."""
        return self._call("llvm.abs.v32i8", self._v8, x, ir.Constant(_I1, 0))

    def count_bits8(self, x: Value) -> Value:
        return self._call("llvm.ctpop.v32i8", self._v8, x)

    def multiply_add8(self, unsigned: Value, signed: Value) -> Value:
        """Products of bytes, neighbours summed into 16 bits; it saturates, so keep |sums| below 32768."""
        return self._x86("avx2.pmadd.ub.sw", self._v8, self._v16, unsigned, signed)

    def multiply_add16(self, x: Value, y: Value) -> Value:
        """Signed products of 16 bits, neighbours summed into 32."""
        return self._x86("avx2.pmadd.wd", self._v16, self._v32, x, y)

    def dot8(self, total: Value, unsigned: Value, signed: Value) -> Value:
        """total + products of bytes, fours summed into 32 bits; keep |sums| of neighbours below 32768."""
        return self.add32(total, self.multiply_add16(self.multiply_add8(unsigned, signed), self.fill16(1)))

    def dot8_vnni(self, total: Value, unsigned: Value, signed: Value) -> Value:
        """The same in one instruction."""
        return self._x86(f"avx512.vpdpbusd.{8 * self.size}", self._v32, self._v32, total, unsigned, signed)

    def apply_sign8(self, x: Value, y: Value) -> Value:
        """x · sign(y); −128 stays −128."""
        return self._x86("avx2.psign.b", self._v8, self._v8, x, y)

    def lookup8(self, tables: Value, indices: Value) -> Value:
        """Each half of `tables` is a table of 16 bytes for the indices, 0 … 15, in the same half."""
        return self._x86("avx2.pshuf.b", self._v8, self._v8, tables, indices)

    def sum_bytes(self, x: Value) -> Value:
        """Unsigned bytes, each eight summed into 64 bits."""
        return self._x86("avx2.psad.bw", self._v8, self._v64, x, self.zero())

    def add_pairs64(self, total: Value, x: Value) -> Value:
        """To lanes of 64 bits, the two signed halves of each lane of x."""
        odd = self._lanes("ashr", self._v64, x, self.splat(ir.Constant(_I64, 32)))
        even = self._lanes("shl", self._v64, x, self.splat(ir.Constant(_I64, 32)))
        even = self._lanes("ashr", self._v64, even, self.splat(ir.Constant(_I64, 32)))
        return self._lanes("add", self._v64, total, self._lanes("add", self._v64, odd, even))

    def narrow32(self, x: Value, y: Value) -> Value:
        """32 bits to 16, saturating; in each half, first x's, then y's."""
        return self._x86("avx2.packssdw", self._v32, self._v16, x, y)

    def narrow16(self, x: Value, y: Value) -> Value:
        """16 bits to 8, saturating; in each half, first x's, then y's."""
        return self._x86("avx2.packsswb", self._v16, self._v8, x, y)

    def narrow16_unsigned(self, x: Value, y: Value) -> Value:
        return self._x86("avx2.packuswb", self._v16, self._v8, x, y)

    def interleave16(self, x: Value, y: Value) -> tuple[Value, Value]:
        """In each half, lanes of both by turns: of the lower four, and of the upper four."""
        low = [i + 8 * half + which for half in (0, 1) for i in range(4) for which in (0, 16)]
        return self._shuffle(self._v16, low, x, y), self._shuffle(self._v16, [i + 4 for i in low], x, y)

    def swap_middle64(self, x: Value) -> Value:
        """Quarters 0, 2, 1, 3: what one narrowing of two vectors needs to be in order."""
        return self._shuffle(self._v64, [0, 2, 1, 3], x)

    def order_after_two_narrowings(self, x: Value) -> Value:
        """What two narrowings of four vectors need to be in order."""
        return self._shuffle(self._v32, [0, 4, 1, 5, 2, 6, 3, 7], x)

    def top_bits8(self, x: Value) -> Value:
        """The highest bit of each byte, as a number of 32 bits."""
        return self._call("llvm.x86.avx2.pmovmskb", _I32, x)

    def _sums_of_eight(self, vectors: Sequence[Value], neighbours: Callable, add: Callable) -> Value:
        first, second = (
            neighbours(neighbours(v[0], v[1]), neighbours(v[2], v[3])) for v in (vectors[:4], vectors[4:])
        )
        low = self._shuffle(self._v64, [0, 1, 4, 5], first, second)
        return add(low, self._shuffle(self._v64, [2, 3, 6, 7], first, second))

    def sums_of_eight32(self, vectors: Sequence[Value]) -> Value:
        """Eight vectors to one that holds the sum of each."""

        def neighbours(x: Value, y: Value) -> Value:
            return self._x86("avx2.phadd.d", self._v32, self._v32, x, y)

        return self._sums_of_eight(vectors, neighbours, self.add32)

    def _reduce(self, name: str, lanes: ir.VectorType, x: Value) -> Value:
        full = f"llvm.vector.reduce.{name}.v{lanes.count}i{lanes.element.width}"
        return self._call(full, lanes.element, self._as(lanes, x))

    def sum32(self, x: Value) -> Value:
        return self._reduce("add", self._v32, x)

    def max_of32(self, x: Value) -> Value:
        return self._reduce("smax", self._v32, x)

    def sum64_as_f32(self, x: Value) -> Value:
        """The sum of four lanes of 64 bits, rounded once."""
        return self.builder.sitofp(self._reduce("add", self._v64, x), _F32)

    # 32-bit floats

    def add_f32(self, x: Value, y: Value) -> Value:
        return self._lanes("fadd", self._vf32, x, y)

    def sub_f32(self, x: Value, y: Value) -> Value:
        return self._lanes("fsub", self._vf32, x, y)

    def multiply_f32(self, x: Value, y: Value) -> Value:
        return self._lanes("fmul", self._vf32, x, y)

    def multiply_add_f32(self, x: Value, y: Value, z: Value) -> Value:
        """x · y + z, rounded once."""
        lanes = (self._as(self._vf32, value) for value in (x, y, z))
        return self._as(self._v8, self._call("llvm.fma.v8f32", self._vf32, *lanes))

    def max_f32(self, x: Value, y: Value) -> Value:
        """The larger; y where one is not a number."""
        return self._x86("avx.max.ps.256", self._vf32, self._vf32, x, y)

    def greater_f32(self, x: Value, y: Value) -> Value:
        """All ones where x > y."""
        larger = self.builder.fcmp_ordered(">", self._as(self._vf32, x), self._as(self._vf32, y))
        return self._as(self._v8, self.builder.sext(larger, self._v32))

    def round_to_i32(self, x: Value) -> Value:
        """To the nearest integer, halves to even."""
        return self._x86("avx.cvt.ps2dq.256", self._vf32, self._v32, x)

    def i32_to_f32(self, x: Value) -> Value:
        return self._as(self._v8, self.builder.sitofp(self._as(self._v32, x), self._vf32))

    def sums_of_eight_f32(self, vectors: Sequence[Value]) -> Value:
        """Eight vectors to one that holds the sum of each."""

        def neighbours(x: Value, y: Value) -> Value:
            return self._x86("avx.hadd.ps.256", self._vf32, self._vf32, x, y)

        return self._sums_of_eight(vectors, neighbours, self.add_f32)

    def sum_f32(self, x: Value) -> Value:
        for step in (4, 2, 1):
            x = self.add_f32(x, self._shuffle(self._v32, [(i + step) % 8 for i in range(8)], x))
        return self.builder.extract_element(self._as(self._vf32, x), ir.Constant(_I32, 0))

    def bits_to_f32(self, number: Value) -> Value:
        return self.builder.bitcast(number, _F32)

    # Any processor

    def loop(
        self, count: Value, state: Sequence[Value], body: Callable[[Value, list[Value]], Sequence[Value]]
    ) -> list[Value]:
        """Emit `body`, (index, state) → state, once, to run for the indices 0 … count − 1; the last state."""
        builder, zero = self.builder, ir.Constant(_I64, 0)
        before, head, end = builder.block, *(builder.append_basic_block(name) for name in ("loop", "end"))
        builder.cbranch(builder.icmp_signed(">", count, zero), head, end)
        builder.position_at_end(head)
        index, *current = [builder.phi(kind) for kind in (_I64, *(value.type for value in state))]
        after = list(body(index, current))
        after.insert(0, builder.add(index, ir.Constant(_I64, 1)))
        latch = builder.block
        for phi, first, later in zip([index, *current], [zero, *state], after, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, latch)
        builder.cbranch(builder.icmp_signed("<", after[0], count), head, end)
        builder.position_at_end(end)
        results = [builder.phi(value.type) for value in state]
        for phi, first, later in zip(results, state, after[1:], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, latch)
        return results

    def step(self, at: Value, stride: Value | int, index: Value | int) -> Value:
        """The address `index` strides after `at`; two addresses or numbers of 64 bits."""
        wide = (ir.Constant(_I64, v) if isinstance(v, int) else v for v in (stride, index))
        return self.builder.add(at, self.builder.mul(*wide))

    def load_bytes(self, at: Value) -> Value:
        """As many bytes as a vector has lanes of 32 bits."""
        return self.builder.load(self._pointer(at, 0, ir.VectorType(_I8, self.size // 4)), align=1)

    def widen8(self, narrow: Value) -> Value:
        """Unsigned bytes of `load_bytes` to 32 bits each."""
        return self._as(self._v8, self.builder.zext(narrow, self._v32))

    def lowest8(self, x: Value) -> Value:
        """The lowest byte of each lane of 32 bits, to be stored."""
        return self.builder.trunc(self._as(self._v32, x), ir.VectorType(_I8, self.size // 4))

    def zip8(self, rows: Sequence[Value]) -> Value:
        """Four times `load_bytes` to a vector: the first byte of each, the second of each, and so on."""
        quarter = self.size // 4
        first, second = (
            self.builder.shuffle_vector(
                rows[i], rows[i + 1], ir.Constant(ir.VectorType(_I32, 2 * quarter), list(range(2 * quarter)))
            )
            for i in (0, 2)
        )
        order = [i % 4 * quarter + i // 4 for i in range(self.size)]
        return self.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, self.size), order))

    def halves(self, x: Value, signed: bool) -> tuple[Value, Value]:
        """Even and odd bytes, each widened to 16 bits."""
        shift = "ashr" if signed else "lshr"
        even = self._lanes("shl", self._v16, x, self.fill16(8))
        return tuple(self._lanes(shift, self._v16, part, self.fill16(8)) for part in (even, x))  # type: ignore

    def add_products16(self, total: Value, x: Value, y: Value) -> Value:
        """total + signed products of 16 bits, neighbours summed into 32, as plain LLVM."""
        for shift in (self.fill32(16), self.fill32(0)):
            x_part, y_part = (
                self._lanes("ashr", self._v32, self._lanes("shl", self._v32, v, shift), self.fill32(16))
                for v in (x, y)
            )
            total = self.add32(total, self._lanes("mul", self._v32, x_part, y_part))
        return total

    def multiply32(self, x: Value, y: Value) -> Value:
        return self._lanes("mul", self._v32, x, y)

    def fused_f32(self, x: Value, y: Value, z: Value) -> Value:
        """x · y + z, rounded once or twice."""
        x, y, z = (self._as(self._vf32, value) for value in (x, y, z))
        product = self.builder.fmul(x, y, flags=("contract",))
        return self._as(self._v8, self.builder.fadd(product, z, flags=("contract",)))

    def larger_f32(self, x: Value, y: Value) -> Value:
        """The larger; y where one is not a number."""
        x, y = (self._as(self._vf32, value) for value in (x, y))
        return self._as(self._v8, self.builder.select(self.builder.fcmp_ordered(">", x, y), x, y))

    def smaller_f32(self, x: Value, y: Value) -> Value:
        x, y = (self._as(self._vf32, value) for value in (x, y))
        return self._as(self._v8, self.builder.select(self.builder.fcmp_ordered("<", x, y), x, y))

    def larger_u8(self, x: Value, y: Value) -> Value:
        """The larger unsigned bytes of two `load_bytes`."""
        return self.builder.select(self.builder.icmp_unsigned(">", x, y), x, y)

    def fill_f32(self, value: float) -> Value:
        return self._as(self._v8, ir.Constant(self._vf32, [value] * (self.size // 4)))
