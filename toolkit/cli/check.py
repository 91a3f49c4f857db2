"""toolkit check"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import (
    ConfigOpt,
    DataOpt,
    FixOpt,
    InputOpt,
    JsonOpt,
    ModelArg,
    ModelOpt,
    PreprocessOpt,
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
    from targets.verdict import Support
    from toolkit.alternatives import Way
    from toolkit.checking import Answer

__all__: list[str] = []

MaxLatencyOpt = Annotated[str | None, typer.Option(help="Limit of one inference: 20ms. [the target's]")]
MaxMemoryOpt = Annotated[str | None, typer.Option(help="Limit of peak memory: 100MB, 64MiB. [the target's]")]
MaxEnergyOpt = Annotated[str | None, typer.Option(help="Limit of one inference: 5mJ. [none]")]
MaxSizeOpt = Annotated[str | None, typer.Option(help="Limit of the model file: 4MB. [none]")]


@app.command("check")
def check_(
    model: ModelArg = None,
    model_option: ModelOpt = None,
    target: TargetOpt = None,
    stack: StackOpt = None,
    max_latency: MaxLatencyOpt = None,
    max_memory: MaxMemoryOpt = None,
    max_energy: MaxEnergyOpt = None,
    max_size: MaxSizeOpt = None,
    strict: Annotated[bool, typer.Option("--strict", help="Count uncertain as a failure.")] = False,
    inputs: InputOpt = None,
    fix: FixOpt = None,
    data: DataOpt = None,
    preprocess: PreprocessOpt = None,
    config: ConfigOpt = None,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Does it fit? And the cheapest change that makes it fit.

    Latency, memory, energy, file size and operator support, each against its limit. Where the model does not fit for
    certain, other ways are priced: the target's other stacks, smaller images, other devices.

    Exits with 0 when it fits, and with 1 when it does not. When a limit lies within the interval the answer is
    uncertain: only a measurement on the device can tell, and the exit code is 0, or 1 with --strict.
    """
    from toolkit.units import parse_quantity

    said = {
        "latency_s": ("--max-latency", max_latency),
        "memory_bytes": ("--max-memory", max_memory),
        "energy_j": ("--max-energy", max_energy),
        "size_bytes": ("--max-size", max_size),
    }
    limits = {name: parse_quantity(name, text, what=flag) for name, (flag, text) in said.items() if text is not None}
    limits = {name: int(value) if name.endswith("_bytes") else value for name, value in limits.items()}
    file = project(config)
    device, stack_name = place(target, stack, file)
    from toolkit.checking import check_model

    with progress(quiet or json) as report:
        answer = check_model(
            one_model(model, model_option) or file.model,
            target=device,
            limits=limits,
            stack=stack_name,
            inputs=inputs or file.input,
            fixed=fix or file.fix,
            data=data or file.data,
            preprocess=file.preprocess if preprocess is None else preprocess,
            trust=trust,
            progress=report,
        )
    show_json(answer.to_json()) if json else _show(answer)
    return int(answer.outcome == "does not fit" or (strict and answer.outcome != "fits"))


def _show(answer: Answer) -> None:
    way = answer.way
    say(f"{answer.model} on {answer.stack.id} ({answer.stack.describe()}), {way.description}: {answer.outcome}")
    say()
    _show_checks(answer, way)
    _show_support(way.support)
    say(f"latency: {way.estimate.provenance}")
    if way.stack.batch > 1:
        say(f"the latency is that of one inference among {way.stack.batch} made at once")
    if way.estimate.extrapolated:
        say("partly extrapolated: this network lies outside what was measured, the interval is widened")
    say()
    _show_change(answer)


def _show_checks(answer: Answer, way: Way) -> None:
    from toolkit import units

    found = way.estimate
    outcomes = {c.quantity: str(c.outcome) for c in way.verdict.checks}
    rows = []
    for label, name, value, spread in (
        ("latency", "latency_s", found.latency_s, found.latency_interval_s),
        ("memory", "memory_bytes", found.peak_memory_bytes, found.memory_interval_bytes),
        ("energy", "energy_j", found.energy_j, found.energy_interval_j),
        ("size", "size_bytes", *way.size),
    ):
        limit = getattr(answer.limits, name)
        interval = "exact" if spread[0] == spread[1] else units.interval(name, spread)
        shown = "-" if limit is None else units.quantity(name, limit)
        rows.append([label, units.quantity(name, value), interval, shown, outcomes.get(name, "no limit")])
    rows.append(["operators", str(way.support.operators), "", "", str(way.support.outcome)])
    table(["", "value", "interval", "limit", ""], rows, right=(1, 3))


def _show_support(support: Support) -> None:
    if support.leaving:
        say()
        show_refusals(support.to_json()["leaving"])
    if support.unverified:
        say(f"no published list says that the accelerator takes {', '.join(support.unverified)}")
    if support.unknown:
        say(f"no cost is known for {', '.join(support.unknown)}: see on the device whether the runtime has it")
    say()


def _show_change(answer: Answer) -> None:
    from toolkit import units

    if len(answer.tried) > 2 or answer.change is None:
        say("tried, the cheapest change first:")
        table(
            ["", "latency", "interval", "memory", "energy", "size", ""],
            [
                [
                    f"  {way.description}",
                    units.seconds(way.estimate.latency_s),
                    units.interval("latency_s", way.estimate.latency_interval_s),
                    units.bytes_(way.estimate.peak_memory_bytes),
                    units.joules(way.estimate.energy_j),
                    units.bytes_(way.size[0]),
                    _outcome(way),
                ]
                for way in answer.tried
            ],
            right=(1, 3, 4, 5),
        )
        say()
    change = answer.change
    if change is None:
        say("nothing that was tried fits for certain: a smaller network, or a looser limit")
        return
    found = change.estimate
    figures = f"{units.seconds(found.latency_s)} {units.interval('latency_s', found.latency_interval_s)}"
    if change.change == "none":
        say(f"nothing needs to change ({change.description}): {figures}")
    else:
        say(f"the cheapest change that fits: {change.description}, {figures}")
    if change.change == "resolution":
        say("a smaller image changes the answers: validate the accuracy again")
    say(f"  {change.command}")


def _outcome(way: Way) -> str:
    """The outcome, and which limits stand in the way."""
    missed = [c.quantity.rpartition("_")[0] for c in way.verdict.checks if c.outcome != "fits"]
    missed += ["operators"] if way.support.outcome != "fits" else []
    return f"{way.outcome} ({', '.join(missed)})" if missed else str(way.outcome)
