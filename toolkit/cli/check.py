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
    MaxEnergyOpt,
    MaxLatencyOpt,
    MaxMemoryOpt,
    MaxSizeOpt,
    ModelArg,
    ModelOpt,
    PreprocessOpt,
    QuietOpt,
    StackOpt,
    StrictOpt,
    TargetOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    place,
    project,
    samples_of,
    stated_limits,
)
from toolkit.cli.output import EXTRAPOLATED, progress, say, show_json, show_refusals, table

if TYPE_CHECKING:
    from toolkit.checking import Answer
    from toolkit.remedies import Rewritten
    from toolkit.ways import Way

__all__: list[str] = []


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
    save: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Write every changed network there, as ONNX in float32.")
    ] = None,
    strict: StrictOpt = False,
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

    Latency, memory, energy, file size and operator support, each against its limit. What leaves an accelerator is
    priced, and written otherwise where that keeps it on. Where the model does not fit for certain, other ways are
    priced: the target's other stacks, smaller images, simpler activations, fewer channels, other devices. Every
    changed network is really made, run and priced again before it is shown.

    Exits with 0 when it fits, and with 1 when it does not. When a limit lies within the interval the answer is
    uncertain: only a measurement on the device can tell, and the exit code is 0, or 1 with --strict.
    """
    limits = stated_limits(max_latency, max_memory, max_energy, max_size)
    file = project(config)
    device, stack_name = place(target, stack, file)
    from toolkit.checking import check_model

    with progress(quiet or json) as report:
        answer = check_model(
            one_model(model, model_option) or file.model,
            target=device,
            limits=limits,
            stack=stack_name,
            trust=trust,
            save=save,
            progress=report,
            **samples_of(file, data=data, preprocess=preprocess, inputs=inputs, fix=fix),
        )
    show_json(answer.to_json()) if json else _show(answer, save is not None)
    return int(answer.outcome == "does not fit" or (strict and answer.outcome != "fits"))


def _show(answer: Answer, save: bool) -> None:
    way = answer.way
    say(f"{answer.model} on {answer.stack.id} ({answer.stack.describe()}), {way.description}: {answer.outcome}")
    say()
    _show_checks(answer, way)
    _show_support(answer)
    say(f"latency: {way.estimate.provenance}")
    if way.stack.batch > 1:
        say(f"the latency is that of one inference among {way.stack.batch} made at once")
    if way.estimate.extrapolated:
        say(EXTRAPOLATED)
    say()
    _show_change(answer, save)


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


def _show_support(answer: Answer) -> None:
    support = answer.way.support
    if support.leaving:
        say()
        if answer.fallbacks:
            _show_fallbacks(answer)
        else:
            show_refusals(support.to_json()["leaving"])
    for node in support.unread:
        say(f"{node.op_type} {node.name} is not read on the device: {node.reason}")
    if support.unverified:
        say(f"no published list says that the accelerator takes {', '.join(support.unverified)}")
    if support.unknown:
        say(f"no cost is known for {', '.join(support.unknown)}: see on the device whether the runtime has it")
    say()


def _show_fallbacks(answer: Answer) -> None:
    """What leaves the accelerator and what that costs; what keeps it on, with the time of the whole network then."""
    from targets.rewrites import rewrite_for
    from toolkit import units

    for fallback in answer.fallbacks:
        where = (fallback.module or fallback.name) + (f" ({fallback.source})" if fallback.source else "")
        price = {name: units.seconds(value) for name, value in fallback.price.items()}
        say(f"leaves the accelerator: {fallback.op_type} {where}: {fallback.reason}")
        after = f", {price['dragged_s']} of {fallback.followers} operators after it" if fallback.followers else ""
        say(f"  costs {price['total_s']}: {price['own_s']} on the host, {price['copies_s']} of copies{after}")
        if fallback.failed:
            say(f"  a remedy is known, but could not be tried: {fallback.failed}")
            continue
        if fallback.remedy is None:
            advice = rewrite_for(fallback.op_type, fallback.reason)
            say(f"  instead, not tried here: {advice}" if advice else "  no remedy is known")
            continue
        exchange = fallback.remedy.exchanges[-1]
        every = f" in all {exchange.count}" if exchange.count > 1 else ""
        times = f"{units.seconds(fallback.before_s)} -> {units.seconds(fallback.after_s)}"
        if not _pays(answer):
            say(f"  tried: {exchange.says}{every}, which does not pay: {times}")
            continue
        span = units.interval("latency_s", fallback.after_interval_s)
        effect = f"saves {units.seconds(fallback.gain_s)}" if fallback.gain_s > 0 else "which pays only with the next"
        say(f"  instead: {exchange.says}{every} ({_nearness(fallback.remedy)}): {times} {span}, {effect}")
        if exchange.caution:
            say(f"  {exchange.caution}")


def _pays(answer: Answer) -> bool:
    """Whether all the remedies together make the network faster."""
    mended = [fallback for fallback in answer.fallbacks if fallback.remedy]
    return bool(mended) and mended[-1].after_s < mended[0].before_s


def _nearness(remedy: Rewritten) -> str:
    """How near the rewritten network comes, and on which samples that was found."""
    from toolkit import units

    near = units.decibels(remedy.sqnr_db) + (" SQNR" if remedy.sqnr_db < float("inf") else " answers")
    return f"{remedy.kind}: {near} on {remedy.samples} {remedy.data} samples"


_ADVICE = {
    "validate": "its answers are not quite the same: validate the accuracy again",
    "fine-tune": "its weights have to be fine-tuned before the accuracy can be judged, which no command does yet",
    "train": "it is another network, to be trained, which no command does yet",
}


def _show_change(answer: Answer, save: bool) -> None:
    from toolkit import units

    if len(answer.tried) > 2 or answer.change is None:
        _show_tried(answer)
    for note in answer.notes:
        say(note)
    if answer.notes:
        say()
    change = answer.change
    if change is None:
        say("nothing that was tried fits for certain: a smaller network, or a looser limit")
    else:
        found = change.estimate
        figures = f"{units.seconds(found.latency_s)} {units.interval('latency_s', found.latency_interval_s)}"
        if change.change == "none":
            say(f"nothing needs to change ({change.description}): {figures}")
        else:
            say(f"the cheapest change that fits: {change.description}, {figures}")
        _show_how(change)
    faster = _faster(answer)
    if faster is not None:
        say(f"faster: {faster.description}, {units.seconds(faster.estimate.latency_s)}")
        _show_how(faster)
    for path in answer.saved:
        say(f"written: {path}")
    if save and not answer.saved:
        say("nothing was written: no changed network was made")


def _show_tried(answer: Answer) -> None:
    """Every way, the largest gain first; the gain is in the quantity that is furthest over its limit."""
    from toolkit import units

    name = answer.critical
    say(f"tried, the largest gain in {name.rpartition('_')[0]} first:")
    table(
        ["", "gain", "latency", "interval", "memory", "energy", "size", "", "weights"],
        [
            [
                f"  {way.description}",
                _signed(answer.gain(way), name),
                units.seconds(way.estimate.latency_s),
                units.interval("latency_s", way.estimate.latency_interval_s),
                units.bytes_(way.estimate.peak_memory_bytes),
                units.joules(way.estimate.energy_j),
                units.bytes_(way.size[0]),
                _outcome(way),
                str(way.training) if way.training.costs else "",
            ]
            for way in answer.ranked
        ],
        right=(1, 2, 4, 5, 6),
    )
    say()


def _signed(gain: float, name: str) -> str:
    from toolkit import units

    return "-" if gain == 0 else f"{'-' if gain < 0 else ''}{units.quantity(name, abs(gain))}"


def _faster(answer: Answer) -> Way | None:
    """The rewrite that pays where nothing needs to change."""
    if answer.change is None or answer.change.change not in ("none", "precision"):
        return None
    return next((way for way in answer.tried if way.change == "rewrite"), None)


def _show_how(way: Way) -> None:
    """What has to be done about the weights, and the commands; where there is none, that is said."""
    if way.rewritten is not None and way.share is None:
        say(f"  {_nearness(way.rewritten)}")
    if way.training.costs:
        say(f"  {_ADVICE[str(way.training)]}")
    for line in way.command.splitlines():
        say(f"  {line}")
    if not way.command:
        say("  change the network where it is defined; --save FOLDER writes the graph that was priced here")


def _outcome(way: Way) -> str:
    """The outcome, and which limits stand in the way."""
    missed = [c.quantity.rpartition("_")[0] for c in way.verdict.checks if c.outcome != "fits"]
    missed += ["operators"] if way.support.outcome != "fits" else []
    return f"{way.outcome} ({', '.join(missed)})" if missed else str(way.outcome)
