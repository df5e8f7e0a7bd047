"""The verb `init`: a first experiment from five questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, BadParameter, Option

from sim.cli import complete, output

if TYPE_CHECKING:
    from sim.inputs.records import ClusterSpec
    from sim.models.family import Workload

ABOUT = """\
# Made by clustersim init. `clustersim run {file}` simulates it, `clustersim check {file}` finds mistakes,
# `clustersim explain KEY` tells what a key means. Every value can be tried on the command line:
#   clustersim run {file} --set nodes={twice}
"""
TEXT = """\
{about}description: {workload} on {nodes} x {cluster}

cluster: {cluster}                # a name from `clustersim list cluster`, a file, or `{{extends: ..., ...}}`
nodes: {nodes}
workload: {workload}              # a name from `clustersim list workload`, a file, or the config.json of a model
software: {software}              # who issues the work: `clustersim list software`

training:
  global_batch: {batch}           # samples of a step, over all replicas
{length}  precision: bf16
  {target}: {amount}              # {target} to train on; leave it out for one step only

parallelism:                      # `clustersim plan {file} -o best.yaml` searches the best one
  tensor: {tensor}                # ranks that share each matrix, within a server
  pipeline: 1                     # stages; replicas fill what is left
  zero_stage: {zero}              # 1: optimizer state is sharded, 3: weights too (FSDP)
"""


def init(
    file: Annotated[Path, Argument(metavar="[FILE]", help="Where to write.")] = Path("mine.yaml"),
    workload: Annotated[
        str | None, Option("--workload", metavar="NAME", help="Instead of asking.", autocompletion=complete.workloads)
    ] = None,
    cluster: Annotated[
        str | None, Option("--cluster", metavar="NAME", help="Instead of asking.", autocompletion=complete.clusters)
    ] = None,
    nodes: Annotated[int | None, Option("--nodes", min=1, help="Instead of asking.")] = None,
    batch: Annotated[int | None, Option("--batch", min=1, help="Samples of a step, instead of asking.")] = None,
    amount: Annotated[
        str | None, Option("--amount", metavar="COUNT", help="Tokens or samples to train on, instead of asking.")
    ] = None,
) -> int:
    """Write a first experiment, with comments, from five questions.

    Answers may be names of the catalogue or paths; a file that is there already is not touched. What was written is
    checked, and its mistakes are told.
    """
    from sim.ask.run.check import check_definition
    from sim.inputs.load import load_definition
    from sim.inputs.records import ClusterSpec
    from sim.models.family import Workload
    from sim.report.files import write_text

    if file.exists():
        raise BadParameter(f"{file} is there already", param_hint="FILE")
    workload = workload or _asked("Which model? (a name from `clustersim list workload`, or a file)", "llama3-8b")
    model = load_definition("workload", workload)
    assert isinstance(model, Workload)
    cluster = cluster or _asked(
        "Which machine? (a name from `clustersim list cluster`, or a file)", "dgx-h100-superpod"
    )
    machine = load_definition("cluster", cluster)
    assert isinstance(machine, ClusterSpec)
    nodes = nodes or int(_asked("How many servers?", "8"))
    batch = batch or int(_asked("How many samples in a step?", "256"))
    target = "tokens" if model.tokens else "samples"
    amount = amount or _asked(f"How many {target} to train on? (such as 300B)", "300B" if model.tokens else "10M")
    answers = {"workload": workload, "cluster": cluster, "nodes": nodes, "batch": batch, "amount": amount}
    write_text(file, _text(file, model, machine, answers), "FILE")
    output.say(f"wrote {file}")
    check_definition("experiment", str(file))
    output.say(f"next: clustersim run {file}")
    return output.FINE


def _asked(question: str, default: str) -> str:
    return str(typer.prompt(question, default=default, err=True))


def _text(file: Path, model: Workload, machine: ClusterSpec, answers: dict[str, object]) -> str:
    from sim.ask.run.first import first_plan
    from sim.inputs.records import Node

    node = machine.groups[0].node
    assert isinstance(node, Node)
    first = first_plan(model, node.accelerators)
    target = "tokens" if model.tokens else "samples"
    length = "  sequence_length: 4096          # tokens of a sample\n" if model.tokens else ""
    about = ABOUT.format(file=file, twice=2 * int(str(answers["nodes"])))
    plan = {"software": first.software, "tensor": first.tensor, "zero": first.zero_stage}
    return TEXT.format(about=about, file=file, length=length, target=target, **plan, **answers)
