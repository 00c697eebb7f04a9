"""The C project: what compilers say of it, and what it does when it is called."""

from __future__ import annotations

import itertools
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
from syrupy.assertion import SnapshotAssertion

from binpoint.emit.project import Project
from binpoint.errors import BadOption
from binpoint.options import CompileOptions
from binpoint.plan.program import Program
from tests.build import info, model, node, tiny
from tests.emit.projects import build, check_syntax, command, compiled

VARIANTS = list(itertools.product(("static", "caller"), ("caller", "arena"), ("speed", "size")))
COMPILERS = pytest.mark.needs("gcc", "g++", "clang", "clang++")


def options(
    arena: str = "static", io: str = "caller", optimize: str = "speed", name: str | None = None
) -> CompileOptions:
    return CompileOptions(arena=arena, io=io, optimize=optimize, name=name)  # pyright: ignore[reportArgumentType]


def small() -> onnx.ModelProto:
    """A matrix product and a function: short C."""
    rng = np.random.default_rng(1)
    arrays = {"w": rng.normal(size=(3, 2)).astype(np.float32)}
    nodes = [node("MatMul", "x w", "h", "product"), node("Sigmoid", "h", "y", "squash")]
    return model(nodes, [info("x", [1, 3])], [info("y", [1, 2])], arrays)


# ---- text


@pytest.mark.parametrize(
    "file", ["net.c", "net.h", "net_constants.c", "net_kernels.h", "net_convert.h"]
)
def test_the_c_of_a_small_net(file: str, golden_c: SnapshotAssertion, tmp_path: Path) -> None:
    program, project = compiled(small(), tmp_path, options())
    text = project.files[file].decode()
    plain = text.replace(program.graph.digest, "DIGEST").replace(
        metadata.version("binpoint"), "VERSION"
    )
    assert plain != text
    assert plain == golden_c


@COMPILERS
@pytest.mark.parametrize(("arena", "io", "optimize"), VARIANTS)
def test_compilers_find_nothing_to_say(arena: str, io: str, optimize: str, tmp_path: Path) -> None:
    _, project = compiled(tiny(), tmp_path, options(arena, io, optimize))
    project.write(tmp_path / "out")
    check_syntax(tmp_path / "out", "net")


# ---- names

HOSTILE = (
    "*/ int x; /*", "*\\", "\\*", "a??/", "a???/", 'say "hi"', "a\nb", "a\r\n#error x",
    "ünï/çødé", "日本", "é", "%s%n", "int", "int32_t", "uint8_t", "size_t", "exp", "log", "y0",
    "abs", "index", "memcpy", "printf", "main", "run", "hook", "arena", "context", "constant",
    "constants", "quantize", "dequantize", "status", "net_run", "net_arena", "net_context",
    "bp_clamp", "node_000_y", "NULL", "INT32_MAX", "NODE_DONE", "i", "vector", "vectors",
    "vector_x", "wrong", "X", "x ", "x.", "inputs", "outputs", "OK", "this", "class", "",
    "arena_holds_all_values", "quantize_x", "true", "bool", "errno", "stdin", "unix", "linux",
    "data", "x_data",
)  # fmt: skip


def hostile() -> onnx.ModelProto:
    """Every name as name of an output, of the node that computes it, and of a constant."""
    rng = np.random.default_rng(2)
    nodes: list[onnx.NodeProto] = []
    arrays: dict[str, np.ndarray] = {}
    for index, name in enumerate(n for n in HOSTILE if n):
        made = node("MatMul", "x w", "y", "n")
        made.name = name
        made.input[1] = f"{name}\0"
        made.output[0] = name
        arrays[f"{name}\0"] = rng.normal(size=(3, 2 + index)).astype(np.float32)
        nodes.append(made)
    outputs = [info(n.output[0], [1, 2 + i]) for i, n in enumerate(nodes)]
    return model(nodes, [info("x", [1, 3])], outputs, arrays)


@COMPILERS
@pytest.mark.parametrize(("arena", "io"), [("static", "caller"), ("caller", "arena")])
def test_names_can_break_nothing(arena: str, io: str, tmp_path: Path) -> None:
    program, project = compiled(hostile(), tmp_path, options(arena, io))
    assert [p.source for p in program.outputs] == [n for n in HOSTILE if n]
    project.write(tmp_path / "out")
    check_syntax(tmp_path / "out", "net")
    folder = tmp_path / "out"
    sources = [*folder.glob("*.c"), *folder.glob("test/*.c")]
    command([build(folder, tmp_path / "selftest", sources)])
    text = project.files["net.h"].decode()
    for index, port in enumerate(program.outputs):
        assert f"/* output {index}, " in text
        assert f"NET_{port.name.upper()}_NAME" in text


@pytest.mark.needs("gcc")
def test_the_header_holds_the_models_own_names(tmp_path: Path) -> None:
    program, project = compiled(hostile(), tmp_path, options())
    project.write(tmp_path / "out")
    lines = [f"    puts(NET_{p.name.upper()}_NAME); putchar(0);" for p in program.outputs]
    source = tmp_path / "names.c"
    source.write_text(
        '#include <stdio.h>\n#include "net.h"\nint main(void) {\n' + "\n".join(lines) + "\n}\n"
    )
    text = command([build(tmp_path / "out", tmp_path / "names", [source])])
    assert text.split("\n\0")[:-1] == [p.source for p in program.outputs]


def test_an_input_that_is_an_output_has_two_names(tmp_path: Path) -> None:
    made = model(
        [node("Relu", "x", "y")], [info("x", [1, 3])], [info("x", [1, 3]), info("y", [1, 3])]
    )
    program, _ = compiled(made, tmp_path, options())
    names = [p.name for p in (*program.inputs, *program.outputs)]
    assert len({n.upper() for n in names}) == 3


@pytest.mark.parametrize(
    "file", ["test.onnx", "string.onnx", "Math.onnx", "int.onnx", "stdint.onnx", "é.onnx"]
)
def test_a_file_may_be_called_anything(file: str, tmp_path: Path) -> None:
    program, project = compiled(small(), tmp_path, options(), file=file)
    assert re.fullmatch("[a-z][a-z0-9_]*", program.name)
    headers = {p for p in project.files if p.endswith(".h")}
    assert not headers & {"string.h", "math.h", "stdint.h", "assert.h"}
    assert program.name != "test"


@pytest.mark.parametrize("name", ["string", "stdint", "test", "math"])
def test_a_prefix_that_hides_a_header_or_a_target_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadOption):
        compiled(small(), tmp_path, options(name=name))


# ---- symbols


def objects(project: Project, folder: Path, *flags: str) -> list[Path]:
    project.write(folder)
    found: list[Path] = []
    for source in sorted(folder.glob("*.c")):
        target = source.with_suffix(".o")
        command(["gcc", "-std=c99", "-O2", *flags, "-c", "-I", folder, source, "-o", target])
        found.append(target)
    return found


def symbols(files: list[Path], kinds: str) -> set[str]:
    lines = command(["nm", *files]).splitlines()
    words = [line.split() for line in lines]
    return {w[-1] for w in words if len(w) >= 2 and w[-2] in kinds and not w[-1].endswith(":")}


@pytest.mark.needs("gcc", "nm")
@pytest.mark.parametrize(("arena", "io"), [("static", "caller"), ("caller", "arena")])
def test_every_external_symbol_has_the_prefix_and_nothing_is_called(
    arena: str, io: str, tmp_path: Path
) -> None:
    _, project = compiled(tiny(), tmp_path, options(arena, io, name="alpha"))
    files = objects(project, tmp_path / "out")
    defined = symbols(files, "TDBRCVW")
    assert "alpha_run" in defined
    assert {s for s in defined if not s.startswith("alpha_")} == set()
    # A freestanding compiler may still call these four.
    assert symbols(files, "U") - defined <= {"memcpy", "memset", "memmove", "memcmp"}


@pytest.mark.needs("gcc", "objdump")
def test_all_constants_are_in_the_named_section(tmp_path: Path) -> None:
    program, project = compiled(tiny(), tmp_path, options())
    files = objects(project, tmp_path / "out")
    sizes = {
        words[1]: int(words[2], 16)
        for line in command(["objdump", "-h", *files]).splitlines()
        if len(words := line.split()) > 2 and words[1].startswith(".rodata")
    }
    # Alignment may add some bytes between arrays.
    held = sizes.pop(".rodata.net")
    assert program.constant_bytes <= held <= program.constant_bytes + 32 * len(program.constants)
    assert {name: size for name, size in sizes.items() if size} == {}
    moved = objects(project, tmp_path / "moved", "-DNET_CONSTANT_SECTION=")
    assert ".rodata.net" not in command(["objdump", "-h", *moved])


def test_the_model_includes_nothing_but_integers(tmp_path: Path) -> None:
    _, project = compiled(tiny(), tmp_path, options())
    for path in ("net.c", "net.h", "net_constants.c", "net_kernels.h", "net_runtime.h"):
        text = project.files[path].decode()
        assert set(re.findall(r"#include <(\S+)>", text)) <= {"stddef.h", "stdint.h"}
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
        assert not re.search(r"\b(float|double|malloc|free|printf)\b", code)


# ---- calls


MAIN = """
#include <stdio.h>
#include <stdint.h>
#include <string.h>
"""


def run_main(folder: Path, body: str, *flags: str, includes: tuple[Path, ...] = ()) -> str:
    source = folder / "user_main.c"
    source.write_text(MAIN + body)
    paths = [word for path in includes for word in ("-I", str(path))]
    sources = [source, *sorted(folder.glob("net*.c"))]
    sources += [p for i in includes for p in sorted(i.glob("*.c")) if p != source]
    return command([build(folder, folder / "user_main", sources, *flags, *paths)])


@pytest.mark.needs("gcc")
def test_bad_arguments_give_a_status(tmp_path: Path) -> None:
    _, project = compiled(small(), tmp_path, options("caller"))
    project.write(tmp_path / "out")
    body = """
#include "net.h"
int main(void)
{
    static int64_t memory[NET_ARENA_BYTES / 8 + 2];
    int8_t x[NET_X_SIZE] = { 0 }, y[NET_Y_SIZE];
    net_context good = { memory, sizeof memory }, none = { NULL, sizeof memory };
    net_context odd = { (uint8_t *)memory + 1, sizeof memory - 1 };
    net_context small = { memory, NET_ARENA_BYTES - 1 };
    printf("%d ", net_run(&good, x, y));
    printf("%d %d ", net_run(&good, NULL, y), net_run(&good, x, NULL));
    printf("%d %d ", net_run(NULL, x, y), net_run(&none, x, y));
    printf("%d %d\\n", net_run(&odd, x, y), net_run(&small, x, y));
    return 0;
}
"""
    assert NET_ARENA.search(project.files["net.h"].decode())
    assert run_main(tmp_path / "out", body) == "0 1 1 1 1 1 1\n"


NET_ARENA = re.compile(r"NET_ARENA_BYTES [1-9]")


@pytest.mark.needs("gcc")
def test_a_context_without_memory_has_no_inputs(tmp_path: Path) -> None:
    _, project = compiled(small(), tmp_path, options("caller", "arena"))
    project.write(tmp_path / "out")
    body = """
#include "net.h"
int main(void)
{
    net_context none = { NULL, 0 };
    printf("%d %d %d\\n", net_x(NULL) == NULL, net_y(&none) == NULL, net_run(&none));
    return 0;
}
"""
    assert run_main(tmp_path / "out", body) == "1 1 1\n"


@pytest.mark.needs("gcc")
def test_contexts_of_the_caller_do_not_disturb_each_other(tmp_path: Path) -> None:
    _, project = compiled(tiny(), tmp_path, options("caller"))
    project.write(tmp_path / "out")
    # The hook runs a second inference in another context after every node of the first.
    body = """
#include "net.h"
static int64_t first[NET_ARENA_BYTES / 8 + 1], second[NET_ARENA_BYTES / 8 + 1];
static int8_t a[NET_X_SIZE], b[NET_X_SIZE], c[NET_Y_SIZE], d[NET_Y_SIZE];
static int depth, nodes;
void net_hook(int node, const void *result, size_t bytes)
{
    net_context other = { second, sizeof second };
    (void)node, (void)result, (void)bytes;
    if (depth == 0) {
        depth = 1;
        ++nodes;
        net_run(&other, b, d);
        depth = 0;
    }
}
int main(void)
{
    net_context context = { first, sizeof first };
    int8_t alone[NET_Y_SIZE], other[NET_Y_SIZE];
    for (int i = 0; i < NET_X_SIZE; ++i) {
        a[i] = (int8_t)(i * 37 % 256 - 128);
        b[i] = (int8_t)(i * 91 % 256 - 128);
    }
    depth = 1;
    net_run(&context, a, alone);
    net_run(&context, b, other);
    depth = 0;
    net_run(&context, a, c);
    printf("%d %d %d %d\\n", memcmp(c, alone, sizeof c), memcmp(d, other, sizeof d),
           memcmp(c, d, sizeof c) != 0, nodes > 2);
    return 0;
}
"""
    assert run_main(tmp_path / "out", body, "-DNET_HOOK") == "0 0 1 1\n"


@pytest.mark.needs("gcc")
def test_the_hook_sees_every_node_with_its_bytes(tmp_path: Path) -> None:
    program, project = compiled(tiny(), tmp_path, options())
    project.write(tmp_path / "out")
    body = """
#include "net.h"
void net_hook(int node, const void *result, size_t bytes)
{
    printf("%d %u %d\\n", node, (unsigned)bytes, result != NULL);
}
int main(void)
{
    static int8_t x[NET_X_SIZE], y[NET_Y_SIZE];
    return net_run(x, y);
}
"""
    sizes = [program.graph.value(s.writes[0]).type.size for s in program.steps if not s.alias]
    expected = "".join(f"{i} {size} 1\n" for i, size in enumerate(sizes))
    assert len(sizes) >= 3
    assert run_main(tmp_path / "out", body, "-DNET_HOOK") == expected


@pytest.mark.needs("gcc")
def test_two_models_live_in_one_image(tmp_path: Path) -> None:
    programs: list[tuple[Program, Project]] = []
    for name, made in (("one", small()), ("two", tiny())):
        programs.append(compiled(made, tmp_path, options(name=name), file=f"{name}.onnx"))
        programs[-1][1].write(tmp_path / name)
    mains = tmp_path / "mains"
    mains.mkdir()
    for (_, project), name in zip(programs, ("one", "two"), strict=True):
        text = (
            project.files["test/selftest.c"]
            .decode()
            .replace("int main(void)", f"int {name}_test(void)")
        )
        text = text.replace('"vectors.h"', f'"../{name}/test/vectors.h"')
        (mains / f"{name}_test.c").write_text(f"int {name}_test(void);\n{text}")
        vectors = project.files["test/vectors.c"].decode()
        (mains / f"{name}_vectors.c").write_text(
            vectors.replace('"vectors.h"', f'"../{name}/test/vectors.h"')
        )
    body = """
int one_test(void);
int two_test(void);
int main(void)
{
    return one_test() + two_test() + one_test();
}
"""
    text = run_main(mains, body, includes=(tmp_path / "one", tmp_path / "two", mains))
    assert re.fullmatch(
        r"(\d) of \1 vectors equal\n(\d) of \2 vectors equal\n\1 of \1 vectors equal\n", text
    )


# ---- as a CMake project


@pytest.mark.slow
@pytest.mark.needs("cmake", "gcc", "make")
@pytest.mark.parametrize(("arena", "io", "optimize"), VARIANTS[::3])
def test_the_folder_is_a_cmake_project_with_a_test(
    arena: str, io: str, optimize: str, tmp_path: Path
) -> None:
    _, project = compiled(tiny(), tmp_path, options(arena, io, optimize), file="test.onnx")
    project.write(tmp_path / "out")
    command(["cmake", "-S", tmp_path / "out", "-B", tmp_path / "build", "-DCMAKE_C_COMPILER=gcc"])
    command(["cmake", "--build", tmp_path / "build"])
    command(["cmake", "-E", "chdir", tmp_path / "build", "ctest", "--no-tests=error"])


@pytest.mark.slow
@pytest.mark.needs("cmake", "gcc", "make")
def test_the_folder_drops_into_another_cmake_project(tmp_path: Path) -> None:
    _, project = compiled(small(), tmp_path, options())
    user = tmp_path / "user"
    user.mkdir()
    project.write(user / "model")
    (user / "main.c").write_text(
        '#include "net.h"\nint main(void) { return net_run(0, 0) - NET_BAD_ARGUMENT; }\n'
    )
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(user C)\nadd_subdirectory(model)\n"
        "add_executable(user main.c)\ntarget_link_libraries(user PRIVATE net)\n"
    )
    command(["cmake", "-S", user, "-B", tmp_path / "build", "-DCMAKE_C_COMPILER=gcc"])
    command(["cmake", "--build", tmp_path / "build"])
    command([tmp_path / "build" / "user"])
