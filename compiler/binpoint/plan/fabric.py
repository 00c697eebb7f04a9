"""What primitive datapaths take of an FPGA's fabric: look-up tables, flip-flops, slices, memories.

The forms follow from how logic is mapped to six-input look-up tables and carry chains; the few
numbers that do not are coefficients, fitted to yosys 0.23 ``synth_xilinx -family xc7 -flatten`` on
the datapaths of ``benchmarks/fpga/primitives.v``; see ``docs/reference/fpga-estimates.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALL = 64
SHIFT_WORDS = 128
_FEW = 10
_WIDE, _NARROW = 25, 18
_PRODUCT_IN_SLICE = 9
_SHORT_WAIT = 3
# Look-up tables of a product by a weight of so many bits, for each bit of the operand (`PRODUCTS`).
_PRODUCT = {2: 2.0, 3: 3.0, 4: 6.0}
# A product of several shifted operands, and one by bits, takes more than its parts.
_TERMS, _ROWS = 1.25, 1.75
_CLAMP_BIT = 0.6
_JOIN, _OFFSET = 0.35, 0.3
_COMPARE_BIT = 0.72
_COUNTER_BIT, _COUNTER = 1.12, 1.8
_FIFO_BIT, _FIFO = 2.5, 5
# A block memory of 18 Kibit: words by bits of a word (AMD UG473, table 1-7, simple dual port).
_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))


@dataclass(frozen=True, slots=True)
class Resources:
    """Six-input look-up tables, flip-flops, multiply-add slices, block memories of 18 Kibit."""

    lut: float = 0
    ff: float = 0
    dsp: int = 0
    bram18: int = 0

    def __add__(self, other: Resources) -> Resources:
        """Both."""
        return Resources(
            self.lut + other.lut,
            self.ff + other.ff,
            self.dsp + other.dsp,
            self.bram18 + other.bram18,
        )

    def __mul__(self, times: int) -> Resources:
        """As many, side by side."""
        return Resources(self.lut * times, self.ff * times, self.dsp * times, self.bram18 * times)


HANDSHAKE = Resources(lut=6, ff=4)
"""Of a loop with its streams."""


def total(parts: list[Resources]) -> Resources:
    """The sum of all parts."""
    return sum(parts, Resources())


def bits(count: int) -> int:
    """Bits of a number below `count`, at least one."""
    return max(1, (count - 1).bit_length())


# ---- arithmetic


def in_slices(a: int, b: int) -> int:
    """Slices for a product of signed operands of `a` and `b` bits; 0 if look-up tables make it.

    A product of fewer than nine bits, or by one bit, is cheaper in look-up tables. Operands wider
    than a slice's are cut into parts of 24 and 17 bits.
    """
    wide, narrow = max(a, b), min(a, b)
    if narrow < 2 or wide + narrow - 1 < _PRODUCT_IN_SLICE:
        return 0
    across = 1 if wide <= _WIDE else -(-(wide - 1) // (_WIDE - 1))
    down = 1 if narrow <= _NARROW else -(-(narrow - 1) // (_NARROW - 1))
    return across * down


def product(x: int, w: int, arithmetic: str, sharers: int = 1) -> Resources:
    """One product of an operand of `x` bits, without register, the same in `sharers` lanes.

    A bit that is counted comes with half of what the first sum of two bits takes more than others.
    """
    match arithmetic:
        case "signs":
            return Resources(lut=x + 1 + x / sharers)
        case "count":
            return Resources(lut=1.5)
        case "planes":
            return Resources(lut=2 * x)
        case _:
            slices = in_slices(x, w)
            if slices:
                return Resources(dsp=slices)
            wide, narrow = max(x, w), min(x, w)
            return Resources(lut=wide * _PRODUCT.get(narrow, 1.0))


def shifts(x: int, bits: tuple[int, ...]) -> Resources:
    """A sum of shifted operands of `x` bits, each added, taken off or left out.

    `bits` are those of each shift: a look-up table chooses among four places, free multiplexers
    behind it join two and four of them.
    """
    reach = max((1 << b) - 1 for b in bits)
    moved = sum((x + (1 << b) - 1) * max(1, (1 << b) // 4) for b in bits)
    lut = moved + len(bits) * (x + reach + 1)
    return Resources(lut=lut * (_TERMS if len(bits) > 1 else 1))


def rows(x: int, w: int) -> Resources:
    """A product by `w` bits, each of which adds a shifted operand."""
    return Resources(lut=_ROWS * (w - 1) * (x + 1))


def adder(width: int, free: int) -> Resources:
    """A sum of `width` bits, registered, whose `free` lowest bits are those of one operand."""
    return Resources(lut=width - free, ff=width)


def wait(width: int, cycles: int) -> Resources:
    """A number that waits so long: registers, or shift registers in look-up tables."""
    if cycles < _SHORT_WAIT:
        return Resources(ff=width * cycles)
    return Resources(lut=width)


def tree(count: int, width: int, *, in_slice: bool) -> Resources:
    """The sum of `count` registered numbers of `width` bits, every level registered.

    The first level's adders are those of the slices that made the numbers, if they were.
    """
    lut = ff = 0
    level = 0
    while count > 1:
        level += 1
        pairs, odd = divmod(count, 2)
        if not (in_slice and level == 1):
            lut += pairs * (width + level - 1)
            ff += (pairs + odd) * (width + level)
        count = pairs + odd
    return Resources(lut, ff)


def mac(lanes: int, terms: int, one: Resources, width: int, acc: int) -> Resources:
    """In each lane the sum of `terms` products like `one`, of `width` bits, in `acc` bits."""
    held = one * terms + tree(terms, width, in_slice=one.dsp > 0)
    if one.dsp == 0:
        held += Resources(ff=terms * width)
    if one.dsp == 0 or terms > 1:
        held += Resources(lut=acc, ff=acc)
    return held * lanes


def clamp(x: int, y: int) -> Resources:
    """A number of `x` bits cut to a range of `y` bits."""
    return Resources(lut=y + _CLAMP_BIT * x if x > y else 0, ff=y)


def mulshift(
    x: int, m: int, k: int, whole: int, shift: int, y: int, arithmetic: str = "multiply"
) -> Resources:
    """``clamp((x·m + k) >> shift)``: multiplier of `m` bits, offset of `k`, sum of `whole`.

    One slice adds the offset itself; the products of several are joined by adders.
    """
    end = clamp(max(whole - shift, y), y)
    if arithmetic == "rows":
        return end + rows(x, m) + Resources(lut=whole, ff=whole + k)
    slices = in_slices(x, m)
    if slices == 1:
        return end + Resources(dsp=1)
    low = _NARROW - 1
    joined = whole * (_JOIN * slices + _OFFSET)
    return end + Resources(lut=joined, ff=k + low * (slices - 1), dsp=slices)


def compare(width: int) -> Resources:
    """Which of two numbers is larger."""
    return Resources(lut=_COMPARE_BIT * width)


def thresholds(levels: int, x: int, y: int) -> Resources:
    """How many of some thresholds a number reaches."""
    counting = levels - y if levels > 1 else 0
    return compare(x) * levels + Resources(lut=counting, ff=y)


# ---- storage


def block(words: int, width: int) -> Resources:
    """A block memory: the best of its shapes."""
    return Resources(bram18=min(-(-width // w) * -(-words // d) for d, w in _SHAPES))


def rom(words: int, width: int, small: int = SMALL) -> Resources:
    """Constants with a registered output: in logic up to `small` words, else in block memory.

    Bits that are equal in all of a few words are made once: of 2^words possible columns, so many
    differ among `width` random ones. A column that is an address bit or constant takes no logic.
    """
    if words == 1:
        return Resources()
    if words > small:
        return block(words, width)
    if words > _FEW:
        return Resources(lut=-(-words // 64) * width, ff=width)
    columns = 1 << words
    distinct = columns * (1 - (1 - 1 / columns) ** width)
    plain = (2 + 2 * bits(words)) / columns
    return Resources(lut=distinct * max(0, 1 - plain), ff=distinct)


def ram(words: int, width: int) -> Resources:
    """A memory with a port to write and one to read, registered: in look-up tables if small.

    Four look-up tables hold 32 words of six bits, or 64 of three (AMD UG474, table 2-3).
    """
    if words > SMALL:
        return block(words, width)
    each = 6 if words <= 32 else 3
    return Resources(lut=-(-width // each) * 4, ff=width)


def counter(count: int) -> Resources:
    """A counter below `count` that tells when it comes round."""
    if count == 1:
        return Resources()
    width = bits(count)
    return Resources(lut=_COUNTER_BIT * width + _COUNTER, ff=width)


def fifo(depth: int, width: int) -> Resources:
    """A stream: shift registers of 32 places in a look-up table, or block memory."""
    index = bits(depth)
    if depth <= SHIFT_WORDS:
        return Resources(lut=-(-depth // 32) * width + _FIFO_BIT * index + _FIFO, ff=index + 1)
    return block(depth, width) + Resources(lut=6 * index, ff=3 * index + 1)
