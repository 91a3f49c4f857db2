"""toolkit estimate"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import (
    ConfigOpt,
    FixOpt,
    InputOpt,
    JsonOpt,
    ModelArg,
    ModelOpt,
    QuietOpt,
    StackOpt,
    TargetOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    place,
    project,
)
from toolkit.cli.output import progress, say, show_json, show_refusals, table

if TYPE_CHECKING:
    from targets.estimate import Estimate

__all__: list[str] = []


@app.command("estimate")
def estimate_(
    model: ModelArg = None,
    model_option: ModelOpt = None,
    target: TargetOpt = None,
    stack: StackOpt = None,
    inputs: InputOpt = None,
    fix: FixOpt = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Price a float32 model in float32 on every stack.")] = False,
    rows: Annotated[int, typer.Option(min=0, help="Operators to list, slowest first.")] = 12,
    config: ConfigOpt = None,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Seconds, bytes and joules of one inference.

    Per operator, with an interval and the provenance of every number.
    """
    file = project(config)
    device, stack_name = place(target, stack, file)
    from toolkit.driver import estimate_model

    with progress(quiet or json) as report:
        result = estimate_model(
            one_model(model, model_option) or file.model,
            target=device,
            stack=stack_name,
            inputs=inputs or file.input,
            fixed=fix or file.fix,
            data=file.data,
            as_is=as_is,
            trust=trust,
            progress=report,
        )
    show_json(result.to_json()) if json else _show(result, rows)
    return 0


def _show(estimate: Estimate, rows: int) -> None:
    from toolkit import units

    assumed = f", priced in {estimate.assumed_dtype} as this stack runs it" if estimate.assumed_dtype else ""
    say(f"{estimate.model} on {estimate.stack} ({estimate.runtime}){assumed}")
    say()
    for label, key, value, spread, why in (
        ("latency", "latency_s", estimate.latency_s, estimate.latency_interval_s, estimate.provenance),
        (
            "memory",
            "memory_bytes",
            estimate.peak_memory_bytes,
            estimate.memory_interval_bytes,
            estimate.memory_provenance,
        ),
        ("energy", "energy_j", estimate.energy_j, estimate.energy_interval_j, estimate.energy_provenance),
    ):
        say(f"{label:8} {units.quantity(key, value):>9}  {units.interval(key, spread)}  {why}")
    if estimate.extrapolated:
        say("partly extrapolated: this network lies outside what was measured, the interval is widened")
    say()
    slowest = sorted(estimate.operators, key=lambda op: -op.latency_s)
    table(
        ["operator", "class", "place", "MACs", "latency", "bound by", "source"],
        [
            [
                " + ".join((op.op_type, *op.fused)),
                op.op_class + (" (extrapolated)" if op.extrapolated else ""),
                op.place,
                units.count(op.macs, "") if op.macs else "-",
                units.seconds(op.latency_s),
                op.bound,
                op.source or op.name,
            ]
            for op in slowest[:rows]
        ],
        right=(3, 4),
    )
    rest = slowest[rows:]
    if rest:
        say(
            f"and {len(rest)} more, {units.seconds(sum(op.latency_s for op in rest))} together; "
            f"{units.seconds(estimate.fixed_s)} do not depend on the network"
        )
    show_refusals(estimate.to_json()["operators"])
