"""What holds for the repository as a whole: sizes, lists that must be complete, words."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from binpoint.cli import cli
from binpoint.options import CompileOptions
from binpoint.target import list_targets

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "compiler" / "binpoint"
MODULES = sorted(PACKAGE.rglob("*.py"))
TEMPLATES = sorted(p for p in (ROOT / "templates").rglob("*.j2"))


def tracked() -> list[Path]:
    """Return the text files of the repository."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    binary = {".onnx", ".npz", ".png"}
    return [p for p in paths if p.is_file() and p.suffix not in binary]


PAGES = [path for path in tracked() if path.suffix == ".md"]


def reference(name: str) -> str:
    return (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 600
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, kinds)]
    long = {f.name: _length(f) for f in functions if _length(f) >= 80}
    assert long == {}


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_templates_stay_small() -> None:
    sizes = {p.name: len(p.read_text(encoding="utf-8").splitlines()) for p in TEMPLATES}
    assert {name: n for name, n in sizes.items() if n >= 200} == {}


def test_every_package_is_in_the_package_list() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = settings["tool"]["setuptools"]["packages"]
    folders = [p.parent.relative_to(PACKAGE) for p in MODULES if p.name == "__init__.py"]
    found = [".".join(("binpoint", *folder.parts)) for folder in folders]
    mapped = list(settings["tool"]["setuptools"]["package-dir"])
    assert sorted({*found, *mapped}) == sorted(listed)


def test_every_folder_of_the_package_is_a_package() -> None:
    folders = {p.parent for p in MODULES}
    assert [f for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def test_every_target_has_its_row_in_the_docs() -> None:
    text = reference("targets.md")
    assert [name for name in list_targets() if f"| `{name}` |" not in text] == []


def test_every_option_has_its_row_in_the_docs() -> None:
    text = reference("cli.md")
    fields = CompileOptions.__struct_fields__
    assert [name for name in fields if f"\n| `{name}` |" not in text] == []


def test_every_command_and_switch_is_in_the_docs() -> None:
    text = reference("cli.md")
    for name, command in cli.commands.items():
        assert f"`binpoint {name}" in text
        switches = [s for p in command.params for s in p.opts if s.startswith("--")]
        assert [s for s in switches if s not in text] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_nothing_unfinished_and_nothing_of_one_machine_is_left_in_a_file() -> None:
    # Written so that this line does not find itself.
    words = re.compile("[T]ODO|[F]IXME|/[r]oot/|/[h]ome/|/[w]ork/|[i]ndex-url")
    found: list[str] = []
    for path in tracked():
        lines = path.read_text(encoding="utf-8").splitlines()
        name = path.relative_to(ROOT)
        found += [f"{name}:{n}" for n, line in enumerate(lines, 1) if words.search(line)]
    assert found == []


def test_python_files_carry_no_module_level_mutable_state() -> None:
    kinds = (ast.List, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp)
    found: list[str] = []
    for path in MODULES:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assigned = [n.value for n in body if isinstance(n, ast.Assign | ast.AnnAssign)]
        found += [f"{path.name}:{v.lineno}" for v in assigned if isinstance(v, kinds)]
    assert found == []
