"""The verbs under `import`: files and programs that people have, as input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from sim.cli import import_chakra, import_files, import_traces, output

app = Typer(
    name="import",
    help="Make input of what you have.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("slurm")(import_files.slurm)
app.command("graphml")(import_files.graphml)
app.command("infragraph")(import_files.infragraph)
app.command("nccl-topo")(import_files.nccl_topo)
app.command("nvidia-smi-topo")(import_files.nvidia_smi_topo)
app.command("kineto")(import_traces.kineto)
app.command("chakra")(import_chakra.chakra)


@app.callback()
def group() -> None:
    """Make input of what you have."""


@app.command("torch")
def torch(
    target: Annotated[
        str,
        Argument(metavar="MODULE:FUNCTION", help="A module or file.py, and a function that returns a net and inputs."),
    ],
    file: Annotated[Path, Option("--output", "-o", metavar="FILE", help="Write the workload there, as JSON.")],
    name: Annotated[str, Option("--name", help="Name of the workload; that of the function if absent.")] = "",
    force: Annotated[bool, Option("--force", help="Replace the file if it exists.")] = False,
) -> int:
    """Trace any PyTorch module, forward and backward, without weights or a GPU.

    FUNCTION is given a number of samples, and returns the module and a tuple of its inputs for so many; it is called
    under torch.device("meta"). Then: workload: {kind: graph, file: FILE}.
    """
    from json import dumps

    from sim.imports.torch_module import trace_module
    from sim.inputs.fragment import check_target
    from sim.report.files import write_text

    check_target(file, force)
    traced = trace_module(target, name)
    write_text(file, f"{dumps(traced.fields, indent=1)}\n", "--output")
    for remark in (traced.summary, *traced.remarks):
        output.say(remark)
    output.say(f"wrote {file}")
    return output.FINE
