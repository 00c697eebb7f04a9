"""Names that are valid C identifiers, unique and stable."""

from __future__ import annotations

import re
from collections.abc import Container

_WORDS = """
    alignas alignof auto bool break case char const constexpr continue default do double else
    enum extern false float for goto if inline int long nullptr register restrict return short
    signed sizeof static static_assert struct switch thread_local true typedef typeof
    typeof_unqual union unsigned void volatile while asm main and and_eq bitand bitor catch
    class compl const_cast delete dynamic_cast explicit export friend mutable namespace new not
    not_eq operator or or_eq private protected public reinterpret_cast static_cast template this
    throw try typeid typename using virtual wchar_t xor xor_eq NULL arena context
"""
_RESERVED = frozenset(_WORDS.split())
_FILES = """
    assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign
    stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar
    unistd wchar wctype all clean edit_cache help install list_install_components package
    package_source rebuild_cache test vectors
"""
_HIDDEN = frozenset(_FILES.split())
_LONGEST = 48


def identifier(text: str) -> str:
    """Return a C identifier made from ``text``: the same text gives the same name.

    Characters outside ``[A-Za-z0-9_]`` become one underscore; a long name keeps its end, which in
    exporters' names is the telling part.
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text)
    name = re.sub(r"__+", "_", name).strip("_")
    if len(name) > _LONGEST:
        name = name[-_LONGEST:].lstrip("_")
    if not name or name[0].isdigit() or name in _RESERVED:
        name = f"v_{name}" if name else "v"
    return name


def prefix_of(text: str) -> str:
    """Return a prefix made from ``text`` for a model's symbols, files and build targets."""
    name = identifier(text).lower()
    return f"{name}_model" if hides(name) else name


def hides(prefix: str) -> bool:
    """Whether a header or a target of this name would hide one of the system's or of CMake's."""
    return prefix in _HIDDEN


def unique(text: str, taken: Container[str]) -> str:
    """Return an identifier made from ``text`` that is not in ``taken``.

    A numeral is appended if need be.
    """
    name = identifier(text)
    if name not in taken:
        return name
    count = 2
    while f"{name}_{count}" in taken:
        count += 1
    return f"{name}_{count}"
