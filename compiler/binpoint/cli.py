"""The command line: parse, call the driver, print; results to stdout, errors to stderr.

Every command imports what it needs when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from binpoint.driver import Result
    from binpoint.errors import BinpointError
    from binpoint.options import CompileOptions
    from binpoint.report.schema import Report


@dataclass(frozen=True, slots=True)
class _Request:
    """What the command line says of one compilation."""

    model: Path
    target: str
    samples: str | None = None
    calibrate_with: int | None = None
    config: Path | None = None
    words: tuple[str, ...] = ()
    name: str | None = None
    optimize: str | None = None
    fps: float | None = None
    latency: float | None = None
    folding: Path | None = None
    check: bool = False
    pipeline: str | None = None
    dump_ir: Path | None = None
    verify: str = "all"
    samples_verify: int = 100

    def options(self) -> CompileOptions:
        """Return the options of file and words; a switch of its own is one more word."""
        from binpoint.options import read_options

        switches = {
            "name": self.name,
            "optimize": self.optimize,
            "fps": self.fps,
            "latency_us": self.latency,
        }
        words = [f"{key}={value}" for key, value in switches.items() if value is not None]
        checks = ["check=true"] * self.check
        return read_options(self.config, [*self.words, *words, *checks], self.folding)

    def run(self, *, curve: bool = False) -> Result:
        """Compile; with `curve` report what patches could save."""
        from binpoint import driver
        from binpoint.target import load_target

        return driver.compile_model(
            self.model,
            load_target(self.target),
            self.options(),
            samples=_samples(self.samples),
            calibrate_with=self.calibrate_with,
            verify=self.verify,
            verify_samples=self.samples_verify,
            pipeline=self.pipeline,
            dump_ir=self.dump_ir,
            curve=curve,
        )


F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def _compilation(function: F) -> F:
    """Add the argument and options that say what is compiled, and how."""
    for add in reversed(
        (
            click.argument("model", type=_FILE),
            click.option("--target", required=True, help="Name of a target, or a .toml file."),
            click.option("--samples", help="FILE.npz, FILE.npy, a folder, or `random`."),
            click.option(
                "--calibrate-with",
                type=click.IntRange(min=1),
                metavar="N",
                help="Find ranges on the first N samples, score on the others.",
            ),
            click.option("--config", type=_FILE, help="TOML file of compile options."),
            click.option("--set", "words", multiple=True, metavar="KEY=VALUE", help="One option."),
            click.option("--name", help="Prefix of the C symbols; same as --set name=NAME."),
            click.option("--optimize", help="speed, size or ram; same as --set optimize=…"),
            click.option("--fps", type=float, help="Inferences a second that an FPGA is to reach."),
            click.option(
                "--latency",
                type=float,
                metavar="US",
                help="Microseconds from first word in to last word out, in place of --fps.",
            ),
            click.option(
                "--folding",
                type=_FILE,
                metavar="FILE.toml",
                help="PE and SIMD of FPGA layers: `layer = { pe = 4, simd = 8 }`.",
            ),
            click.option("--check", is_flag=True, help="Evaluate the graph around each pass."),
            click.option("--pipeline", metavar="SPEC", help="A pipeline's name, or its passes."),
            click.option("--dump-ir", type=_FILE, metavar="DIR", help="Write the graph as text."),
        )
    ):
        function = add(function)
    return function


def _verification(default: str) -> Callable[[F], F]:
    """Add the options that say which witnesses run, on how many samples."""

    def add(function: F) -> F:
        witnesses = click.Choice(["none", "ort", "host", "ap", "all"])
        function = click.option(
            "--samples-verify",
            type=click.IntRange(min=1),
            default=100,
            metavar="N",
            show_default=True,
            help="Samples that the witnesses compare.",
        )(function)
        return click.option(
            "--verify",
            type=witnesses,
            default=default,
            show_default=True,
            help="Witnesses to run; `all` takes every one whose tools are found.",
        )(function)

    return add


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="binpoint")
def cli() -> None:
    """Compile ONNX models into integer-only C or HLS C++, equal to onnxruntime's run bit for bit.

    C is for microcontrollers, HLS C++ for FPGAs.
    """


@cli.command("compile")
@_compilation
@_verification("all")
@click.option("-o", "output", type=_FILE, required=True, metavar="DIR", help="New folder to write.")
@_JSON
def compile_command(output: Path, as_json: bool, **given: Any) -> None:
    """Compile MODEL into a folder of C or HLS C++ files, and verify it."""
    from binpoint.errors import OutputError

    if output.exists():
        raise OutputError("the output folder exists already", at=str(output), want="a new name")
    result = _Request(**given).run()
    result.project.write(output)
    _print_report(result.report, as_json)


@cli.command()
@_compilation
@_verification("none")
@_JSON
def analyze(as_json: bool, **given: Any) -> None:
    """Print the report on MODEL, and write no firmware."""
    _print_report(_Request(**given).run(curve=True).report, as_json)


@cli.command()
@click.argument("folder", type=_FILE)
@click.option(
    "--with", "witnesses", default="all", show_default=True, help="ort, host, ap, emulator."
)
@click.option("--deep", is_flag=True, help="Compare every value, not outputs alone.")
@_JSON
def verify(folder: Path, witnesses: str, deep: bool, as_json: bool) -> None:
    """Verify again what `compile` wrote into FOLDER."""
    from binpoint import driver

    result = driver.verify_folder(folder, witnesses=witnesses, deep=deep)
    _print_report(result.report, as_json)


@cli.command()
@click.argument("model", type=_FILE)
@click.option("--target", default="host", show_default=True, help="A target, or a .toml file.")
@click.option("--samples", help="Needed beyond import for a float model.")
@click.option("--after", metavar="PASS", help="Stop after this pass; `load` is the import.")
def show(model: Path, target: str, samples: str | None, after: str | None) -> None:
    """Print the graph of MODEL as text, at the end or after a pass."""
    from binpoint import driver
    from binpoint.options import CompileOptions
    from binpoint.target import load_target

    text = driver.show(
        model, load_target(target), CompileOptions(), samples=_samples(samples), after=after
    )
    click.echo(text)


@cli.command("list")
@click.argument("what", type=click.Choice(["targets", "ops", "passes", "pipelines"]))
@_JSON
def list_command(what: Literal["targets", "ops", "passes", "pipelines"], as_json: bool) -> None:
    """List what there is, with one line on each."""
    from binpoint import catalogue

    _print_rows(catalogue.rows(what), as_json)


@cli.command()
@click.argument("code")
def explain(code: str) -> None:
    """Print what an error CODE means, and the way out."""
    from binpoint import catalogue

    click.echo(catalogue.explanation(code))


@cli.command()
@_JSON
def doctor(as_json: bool) -> None:
    """Say which tools are found, what is missing, and how to get it."""
    from binpoint import catalogue

    _print_rows(catalogue.tools(), as_json)


@cli.command()
@_JSON
def demo(as_json: bool) -> None:
    """Compile a classifier of digits for Cortex-M4, and run it."""
    from importlib import resources

    folder = resources.files("binpoint.demo")
    with (
        resources.as_file(folder / "digits.onnx") as model,
        resources.as_file(folder / "digits.npz") as samples,
    ):
        request = _Request(model, "cortex-m4", samples=str(samples), calibrate_with=200)
        result = request.run()
    _print_report(result.report, as_json)


def _samples(given: str | None) -> Path | str | None:
    """Return the samples as the driver takes them: the word ``random``, or a path."""
    return given if given is None or given == "random" else Path(given)


def _print_report(report: Report, as_json: bool) -> None:
    """Print the report to stdout, as tables or as JSON."""
    from rich.console import Console

    from binpoint.report import render

    if as_json:
        click.echo(render.json(report), nl=False)
    else:
        render.console(report, Console())


def _print_rows(rows: Sequence[dict[str, str]], as_json: bool) -> None:
    """Print rows of equal keys as a table, or as JSON."""
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status; a traceback only under BINPOINT_DEBUG=1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        cli.main(words or ["--help"], prog_name="binpoint", standalone_mode=False)
    except click.Abort:
        sys.exit(130)
    except Exception as problem:
        if os.environ.get("BINPOINT_DEBUG") == "1":
            raise
        error = _as_error(problem)
        click.echo(str(error), err=True)
        sys.exit(int(error.exit))
    sys.exit(0)


def _as_error(problem: Exception) -> BinpointError:
    """Return any exception as one of ours: the user's, or a defect."""
    from binpoint.errors import BinpointError, InternalError, UsageError

    match problem:
        case BinpointError():
            return problem
        case click.ClickException():
            context = getattr(problem, "ctx", None)
            path = context.command_path if context is not None else "binpoint"
            return UsageError(problem.format_message(), hint=f"`{path} --help` lists what it takes")
        case _:
            return InternalError(
                "binpoint itself failed; this is a defect, please report it",
                have=f"{type(problem).__name__}: {problem}",
                hint="BINPOINT_DEBUG=1 shows where",
            )
