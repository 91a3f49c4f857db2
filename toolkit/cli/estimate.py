"""toolkit estimate"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from targets.errors import UsageError
from toolkit.cli.app import app
from toolkit.cli.options import (
    ConfigOpt,
    FixOpt,
    InputOpt,
    JsonOpt,
    ModelArg,
    ModelOpt,
    ModeOpt,
    QuietOpt,
    StackOpt,
    SustainedOpt,
    TargetOpt,
    ThreadsOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    place,
    project,
)
from toolkit.cli.output import EXTRAPOLATED, progress, say, show_json, show_refusals, table

if TYPE_CHECKING:
    from targets.energy import Duty
    from toolkit.planning import Plan

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
    mode: ModeOpt = "",
    threads: ThreadsOpt = None,
    sustained: SustainedOpt = False,
    per_second: Annotated[
        float | None,
        typer.Option("--per-second", metavar="RATE", help="Inferences a second: average power, and whether they fit."),
    ] = None,
    battery: Annotated[
        str | None,
        typer.Option("--battery", metavar="ENERGY", help="Hours of a battery, as 37Wh; back to back or --per-second."),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Operators to list, slowest first.")] = 12,
    config: ConfigOpt = None,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Seconds, bytes and joules of one inference.

    Per operator, with an interval and the provenance of every number; at a power mode, a number of threads or under
    lasting load where the profile knows it; with the power and battery life of a device that infers now and then.
    """
    file = project(config)
    device, stack_name = place(target, stack, file)
    battery_j = battery_energy(battery)
    from toolkit.planning import plan_model

    with progress(quiet or json) as report:
        plan = plan_model(
            one_model(model, model_option) or file.model,
            target=device,
            stack=stack_name,
            inputs=inputs or file.input,
            fixed=fix or file.fix,
            data=file.data,
            as_is=as_is,
            mode=mode,
            threads=threads,
            sustained=sustained,
            per_second=per_second,
            battery_j=battery_j,
            trust=trust,
            progress=report,
        )
    show_json(plan.to_json()) if json else _show(plan, rows)
    return 0


def battery_energy(text: str | None) -> float | None:
    """Joules of a battery written as `37Wh`.

    Raises:
        UsageError: it is not an energy; a charge such as 10000mAh says nothing without a voltage.
    """
    from toolkit import units

    if text is not None and text.strip().lower().endswith("ah"):
        raise UsageError(
            f"--battery {text!r} is a charge, not an energy",
            hint="multiply by the voltage: 10000mAh at 3.7 V are 37Wh",
        )
    return None if text is None else units.parse_quantity("battery_j", text, what="--battery")


def _show(plan: Plan, rows: int) -> None:
    from toolkit import units
    from toolkit.planning import WORK_PROVENANCE

    estimate = plan.estimate
    assumed = f", priced in {estimate.assumed_dtype} as this stack runs it" if estimate.assumed_dtype else ""
    say(f"{estimate.model} on {estimate.stack} ({estimate.runtime}){assumed}")
    for note in plan.notes:
        say(note)
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
    if estimate.instructions is not None and estimate.instructions_interval is not None:
        low, high = (units.count(value, "") for value in estimate.instructions_interval)
        counted = units.count(estimate.instructions, "")
        say(f"{'executes':8} {counted:>9}  [{low}, {high}] instructions  {estimate.instructions_provenance}")
    if estimate.extrapolated:
        say(EXTRAPOLATED)
    shares = plan.work.shares
    say(
        f"{'by work':8} {shares['arithmetic']:.0%} arithmetic, {shares['on_chip']:.1%} on the chip, "
        f"{shares['dram']:.0%} memory: what the energy goes into, {WORK_PROVENANCE}"
    )
    if plan.duty:
        _show_duty(plan.duty)
    say()
    slowest = sorted(estimate.operators, key=lambda op: -op.latency_s)
    table(
        ["operator", "class", "place", "MACs", "latency", "energy", "bound by", "where"],
        [
            [
                " + ".join((op.op_type, *op.fused)),
                op.op_class + (" (extrapolated)" if op.extrapolated else ""),
                op.place,
                units.count(op.macs, "") if op.macs else "-",
                units.seconds(op.latency_s),
                units.joules(op.energy_j),
                op.bound,
                op.where,
            ]
            for op in slowest[:rows]
        ],
        right=(3, 4, 5),
    )
    rest = slowest[rows:]
    if rest:
        say(
            f"and {len(rest)} more, {units.seconds(sum(op.latency_s for op in rest))} together; "
            f"{units.seconds(estimate.fixed_s)} do not depend on the network"
        )
    show_refusals(estimate.to_json()["operators"])


def _show_duty(duty: Duty) -> None:
    from toolkit import units

    least, most = duty.most_per_second_interval
    low, high = duty.utilisation_interval
    verdict = {
        "fits": f"busy {_percent(duty.utilisation)} of the time [{_percent(low)}, {_percent(high)}]",
        "uncertain": f"uncertain: busy {_percent(duty.utilisation)} of the time [{_percent(low)}, {_percent(high)}]",
        "does not fit": "more than the device can do; the figures below are of one that never waits",
    }[duty.outcome]
    say()
    say(f"{'rate':8} {duty.per_second:.4g} a second of at most {duty.most_per_second:.4g} "
        f"[{least:.4g}, {most:.4g}]: {verdict}")  # fmt: skip
    low, high = duty.average_interval_w
    say(f"{'power':8} {units.watts(duty.average_w):>9}  [{units.watts(low)}, {units.watts(high)}]  "
        f"on average; {units.watts(duty.idle_w)} while it waits")  # fmt: skip
    if duty.battery_j is not None and duty.hours is not None and duty.hours_interval is not None:
        low, high = duty.hours_interval
        say(f"{'battery':8} {units.hours(duty.hours):>9}  [{units.hours(low)}, {units.hours(high)}]  "
            f"of {duty.battery_j / 3600:.4g} Wh, all of which reaches the device")  # fmt: skip


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
