"""Sixteen numbers at a time: a vector type for Numba, and memory access that converts half types on the way.

Numba's own loops are at the mercy of LLVM's vectoriser, which gives up on short heads (D = 24, 48), on sums and on
half types. Here a vector is a value: LLVM cuts it to whatever registers the processor has.

    ptr = pointer(address, tag)     tag: a scalar whose type names the storage (uint16 float16, int16 bfloat16, or it)
    x = read(ptr, i, left)          16 numbers from ptr[i:], those from ptr[i + left] on are 0; float32 at least
    write(ptr, i, x, left)          the first `left` of them
    load / store                    the same without an end: scratch is padded to whole vectors
    get / put                       one number
"""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16

_FLOATS: dict[Any, Any] = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_STORAGE: dict[Any, tuple[Any, Any]] = {  # tag type: what lies in memory, and the type of its values
    types.float32: (ir.FloatType(), types.float32),
    types.float64: (ir.DoubleType(), types.float64),
    types.uint16: (ir.HalfType(), types.float32),
    types.int16: (ir.IntType(16), types.float32),
    types.int64: (ir.IntType(64), types.int64),
    types.uint8: (ir.IntType(8), types.uint8),
}
_I32, _I64, _BIT = ir.IntType(32), ir.IntType(64), ir.IntType(1)
_FUSE = ("contract",)  # a * b + c may become one instruction


class Lanes(types.Type):
    """LANES numbers in registers."""

    def __init__(self, element: types.Type) -> None:
        self.element = element
        super().__init__(name=f"lanes({element})")


class Pointer(types.Type):
    """An address of numbers stored as `tag` says."""

    def __init__(self, tag: Any) -> None:
        self.tag = tag
        self.storage, self.value = _STORAGE[tag]
        super().__init__(name=f"pointer({tag})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(_FLOATS[lanes.element], LANES))


@register_model(Pointer)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, pointer: Pointer) -> None:
        super().__init__(manager, pointer, _I64)


def _splat(builder: Any, number: Any) -> Any:
    zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
    vector = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(vector, number, _I32(0)), vector, zeros)


def _constant(lanes: Lanes, number: float) -> Any:
    return ir.Constant(ir.VectorType(_FLOATS[lanes.element], LANES), [number] * LANES)


def _call(builder: Any, name: str, result: Any, args: list, flags: tuple = ()) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, args, fastmath=flags)


# Arithmetic: + - * / of vectors, and of a vector with a number, which is spread over the lanes.


def _define_arithmetic(op: Any, emit: str) -> None:
    def generic(self: Any, args: tuple, kws: dict) -> Any:
        lanes = next((arg for arg in args if isinstance(arg, Lanes)), None)
        if lanes is None or not all(isinstance(arg, (Lanes, types.Number)) for arg in args):
            return None
        return signature(lanes, *(arg if isinstance(arg, Lanes) else lanes.element for arg in args))

    infer_global(op)(type(f"Lanes_{op.__name__}", (AbstractTemplate,), {"key": op, "generic": generic}))

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b = (arg if isinstance(kind, Lanes) else _splat(builder, arg) for arg, kind in zip(args, sig.args))
        return getattr(builder, emit)(a, b, flags=_FUSE)

    for kinds in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(op, *kinds)(lower)


for _op, _emit in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv")):
    _define_arithmetic(_op, _emit)


@intrinsic
def fused(typing: Any, x: Any, factor: Any, y: Any) -> Any:
    """x * factor (a number) + y, as one instruction where there is one: half the delay in a running sum."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        suffix = "f32" if x.element == types.float32 else "f64"
        parts = [args[0], _splat(builder, args[1]), args[2]]
        return _call(builder, f"llvm.fmuladd.v{LANES}{suffix}", args[0].type, parts)

    return x(x, x.element, x), emit


@intrinsic
def total(typing: Any, x: Any) -> Any:
    """Sum of the lanes, as a tree."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element = _FLOATS[x.element]
        suffix = "f32" if x.element == types.float32 else "f64"
        name = f"llvm.vector.reduce.fadd.v{LANES}{suffix}"
        return _call(builder, name, element, [ir.Constant(element, -0.0), args[0]], ("reassoc",))

    return x.element(x), emit


@intrinsic
def larger(typing: Any, x: Any, y: Any) -> Any:
    """Lane by lane, the larger one."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return x(x, y), emit


@intrinsic
def at_least(typing: Any, x: Any, limit: Any, then: Any, otherwise: Any) -> Any:
    """Lane by lane, `then` where x >= limit (a number), else `otherwise` (a number)."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        enough = builder.fcmp_unordered(">=", args[0], _splat(builder, args[1]))
        return builder.select(enough, args[2], _splat(builder, args[3]))

    return x(x, x.element, x, x.element), emit


@intrinsic
def exp_negative(typing: Any, x: Any) -> Any:
    """e^x for x <= 0, 0 where it would be subnormal: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]."""
    single = x.element == types.float32
    degree, lowest = (7, -87.0) if single else (13, -708.0)
    # ln 2 in two parts, the first with trailing zeros, so that n * ln 2 is exact
    high, low = (0.693359375, -2.12194440e-4) if single else (6.93145751953125e-1, 1.42860682030941723212e-6)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, integers = args[0].type, ir.VectorType(_I32 if single else _I64, LANES)
        suffix = f"v{LANES}{'f32' if single else 'f64'}"
        scaled = builder.fmul(args[0], _constant(x, 1 / math.log(2)))
        n = _call(builder, f"llvm.rint.{suffix}", vector, [scaled])
        r = builder.fsub(args[0], builder.fmul(n, _constant(x, high), flags=_FUSE), flags=_FUSE)
        r = builder.fsub(r, builder.fmul(n, _constant(x, low), flags=_FUSE), flags=_FUSE)
        y = _constant(x, 1 / math.factorial(degree))
        for k in reversed(range(degree)):
            y = builder.fadd(builder.fmul(y, r, flags=_FUSE), _constant(x, 1 / math.factorial(k)), flags=_FUSE)
        tiny = builder.fcmp_ordered("<", args[0], _constant(x, lowest))
        # below the limit (and for NaN) n means nothing: keep the conversion to integers defined
        usable = builder.fcmp_ordered(">=", args[0], _constant(x, lowest))
        n = builder.fptosi(builder.select(usable, n, _constant(x, 0.0)), integers)
        bits = ir.Constant(integers, [23 if single else 52] * LANES)
        y = builder.bitcast(builder.add(builder.bitcast(y, integers), builder.shl(n, bits)), vector)
        return builder.select(tiny, _constant(x, 0.0), y)

    return x(x), emit


@intrinsic
def widen(typing: Any, x: Any) -> Any:
    """In float64."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if x.element == types.float64 else builder.fpext(args[0], ir.VectorType(ir.DoubleType(), LANES))

    return Lanes(types.float64)(x), emit


@intrinsic
def spread(typing: Any, number: Any, like: Any) -> Any:
    """A number in every lane, of the type of the number `like`."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return Lanes(like)(like, like), emit


# Memory.


@intrinsic
def pointer(typing: Any, address: Any, tag: Any) -> Any:
    """An address of numbers stored as the tag says."""
    return Pointer(tag)(types.int64, tag), lambda context, builder, sig, args: args[0]


@intrinsic
def zero(typing: Any, tag: Any) -> Any:
    """0 in the type of the statistics of numbers stored as the tag says."""
    value = Pointer(tag).value
    return value(tag), lambda context, builder, sig, args: ir.Constant(_FLOATS[value], 0.0)


@infer_global(operator.add)
class _Advance(AbstractTemplate):
    key = operator.add

    def generic(self, args: tuple, kws: dict) -> Any:
        if isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0], args[0], types.int64)
        return None


@lower_builtin(operator.add, Pointer, types.Integer)
def _advance(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.add(args[0], builder.mul(args[1], _I64(_bytes(sig.args[0]))))


def _bytes(ptr: Pointer) -> int:
    return max(1, ptr.tag.bitwidth // 8)


def _address(builder: Any, ptr: Pointer, base: Any, index: Any, pointee: Any) -> Any:
    return builder.inttoptr(builder.add(base, builder.mul(index, _I64(_bytes(ptr)))), pointee.as_pointer())


def _to_values(builder: Any, ptr: Pointer, raw: Any) -> Any:
    if ptr.tag == types.uint16:
        return builder.fpext(raw, ir.VectorType(ir.FloatType(), LANES))
    if ptr.tag == types.int16:  # a bfloat16 is the upper half of a float32
        integers = ir.VectorType(_I32, LANES)
        upper = builder.shl(builder.zext(raw, integers), ir.Constant(integers, [16] * LANES))
        return builder.bitcast(upper, ir.VectorType(ir.FloatType(), LANES))
    return raw


def _to_storage(builder: Any, ptr: Pointer, values: Any) -> Any:
    if ptr.tag == types.uint16:
        return builder.fptrunc(values, ir.VectorType(ir.HalfType(), LANES))
    if ptr.tag == types.int16:  # round to nearest, ties to even; NaN keeps a bit that says so
        integers = ir.VectorType(_I32, LANES)

        def number(n: int) -> Any:
            return ir.Constant(integers, [n] * LANES)

        bits = builder.bitcast(values, integers)
        odd = builder.and_(builder.lshr(bits, number(16)), number(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, number(0x7FFF))), number(16))
        rounded = builder.select(builder.fcmp_unordered("uno", values, values), number(0x7FC0), rounded)
        return builder.trunc(rounded, ir.VectorType(ir.IntType(16), LANES))
    return values


def _some_lanes(builder: Any, left: Any) -> Any:
    """The mask of the first `left` lanes."""
    lanes = ir.Constant(ir.VectorType(_I64, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, _splat(builder, left))


def _suffix(ptr: Pointer) -> str:
    return (
        f"v{LANES}{ {types.float32: 'f32', types.float64: 'f64', types.uint16: 'f16', types.int16: 'i16'}[ptr.tag] }.p0"
    )


@intrinsic
def load(typing: Any, ptr: Any, index: Any) -> Any:
    """LANES values from ptr[index:]."""
    raw = ir.VectorType(ptr.storage, LANES)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _to_values(builder, ptr, builder.load(_address(builder, ptr, args[0], args[1], raw), align=_bytes(ptr)))

    return Lanes(ptr.value)(ptr, types.int64), emit


@intrinsic
def store(typing: Any, ptr: Any, index: Any, x: Any) -> Any:
    """ptr[index:index + LANES] = x."""
    raw = ir.VectorType(ptr.storage, LANES)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, offset, values = args
        if sig.args[2].element != ptr.value:
            values = builder.fptrunc(values, ir.VectorType(_FLOATS[ptr.value], LANES))
        address = _address(builder, ptr, base, offset, raw)
        builder.store(_to_storage(builder, ptr, values), address, align=_bytes(ptr))
        return context.get_dummy_value()

    return types.void(ptr, types.int64, x), emit


@intrinsic
def read(typing: Any, ptr: Any, index: Any, left: Any) -> Any:
    """The first `left` values of ptr[index:], then zeros; nothing behind them is touched."""
    raw = ir.VectorType(ptr.storage, LANES)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, offset, left = args
        address = _address(builder, ptr, base, offset, raw)
        whole = builder.icmp_signed(">=", left, _I64(LANES))
        with builder.if_else(whole, likely=True) as (all_lanes, some_lanes):
            with all_lanes:
                complete = builder.load(address, align=_bytes(ptr))
                complete_block = builder.block
            with some_lanes:
                zeros = ir.Constant(raw, None)
                name = f"llvm.masked.load.{_suffix(ptr)}"
                parts = [address, _I32(_bytes(ptr)), _some_lanes(builder, left), zeros]
                partial = _call(builder, name, raw, parts)
                partial_block = builder.block
        merged = builder.phi(raw)
        merged.add_incoming(complete, complete_block)
        merged.add_incoming(partial, partial_block)
        return _to_values(builder, ptr, merged)

    return Lanes(ptr.value)(ptr, types.int64, types.int64), emit


@intrinsic
def write(typing: Any, ptr: Any, index: Any, x: Any, left: Any) -> Any:
    """ptr[index:index + left] = the first `left` of x, at most LANES."""
    raw = ir.VectorType(ptr.storage, LANES)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, offset, values, left = args
        values = _to_storage(builder, ptr, values)
        address = _address(builder, ptr, base, offset, raw)
        whole = builder.icmp_signed(">=", left, _I64(LANES))
        with builder.if_else(whole, likely=True) as (all_lanes, some_lanes):
            with all_lanes:
                builder.store(values, address, align=_bytes(ptr))
            with some_lanes:
                name = f"llvm.masked.store.{_suffix(ptr)}"
                parts = [values, address, _I32(_bytes(ptr)), _some_lanes(builder, left)]
                _call(builder, name, ir.VoidType(), parts)
        return context.get_dummy_value()

    return types.void(ptr, types.int64, x, types.int64), emit


@intrinsic
def get(typing: Any, ptr: Any, index: Any) -> Any:
    """ptr[index], for storage that is not a half type."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_address(builder, ptr, args[0], args[1], ptr.storage))

    return ptr.value(ptr, types.int64), emit


@intrinsic
def put(typing: Any, ptr: Any, index: Any, value: Any) -> Any:
    """ptr[index] = value, for storage that is not a half type."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, index, value = args
        builder.store(value, _address(builder, ptr, base, index, ptr.storage))
        return context.get_dummy_value()

    return types.void(ptr, types.int64, ptr.value), emit


@intrinsic
def prefetch(typing: Any, ptr: Any, index: Any) -> Any:
    """Asks for the cache line of ptr[index] ahead of its use."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = _address(builder, ptr, args[0], args[1], ir.IntType(8))
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [address, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.void(ptr, types.int64), emit


@intrinsic
def claim(typing: Any, ptr: Any) -> Any:
    """ptr[0] before it was counted up, by one thread at a time."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.atomic_rmw("add", address, _I64(1), "monotonic")

    return types.int64(ptr), emit
