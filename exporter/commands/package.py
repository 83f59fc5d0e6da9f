"""``seqexport package``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from seqexport.exporter.commands.options import bundle_argument, plugins_option
from seqexport.runtimes.tables import open_console


@click.command("package", short_help="Write what another server takes: a Triton model repository.")
@bundle_argument
@click.option("--format", "form", type=click.Choice(["triton"]), required=True, help="What to write.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The repository's folder.")
@click.option("--name", help="Of the model, as clients call it [default: the bundle's].")
@click.option(
    "--backend",
    type=click.Choice(["ort", "trt"]),
    default="ort",
    show_default=True,
    help="ONNX Runtime, or TensorRT with an engine that the bundle has.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where Triton runs it [default: cpu; of trt, cuda].")
@click.option("--engine", help="Of trt: the engine, by its plan's name without .plan [default: the only one].")
@click.option(
    "--max-batch", type=click.IntRange(1), help="Sequences that run together [default: 8; of trt, the engine's]."
)
@click.option(
    "--max-tokens", type=click.IntRange(2), help="Of a prompt and its answer; caches are sized for it [default: 4096]."
)
@click.option(
    "--mounted-at",
    default="/models",
    show_default=True,
    help="The path at which Triton sees the repository.",
)
@plugins_option
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is a repository that seqexport wrote.")
def command(bundle: Path, form: str, output: Path, **options: Any) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server, and print the line that serves it.

    \b
    Examples:
      seqexport package my-model --format triton -o repository
      seqexport package my-model --format triton -o repository --backend trt --max-tokens 2048
    """
    from seqexport.runtimes.bundle import open_bundle
    from seqexport.runtimes.triton.package import package

    written = package(open_bundle(bundle), output, **options)
    console = open_console(soft_wrap=True)
    console.print(f"[green]✓[/] {escape(str(output))}: models {escape(written.name)} and {escape(written.engine)}")
    console.print("[dim]next[/]", end=" ")
    click.echo(written.command)
