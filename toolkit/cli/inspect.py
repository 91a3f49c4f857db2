"""toolkit inspect"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from toolkit.cli.app import app
from toolkit.cli.options import (
    FixOpt,
    InputOpt,
    JsonOpt,
    ModelArg,
    ModelOpt,
    QuietOpt,
    TrustOpt,
    VerboseOpt,
    one_model,
    project,
)
from toolkit.cli.output import progress, say, show_json, table

__all__: list[str] = []


@app.command("inspect")
def inspect_(
    model: ModelArg = None,
    model_option: ModelOpt = None,
    inputs: InputOpt = None,
    fix: FixOpt = None,
    trust: TrustOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """What is in a model, and what an accelerator or a device's parser would refuse."""
    from toolkit.inspection import inspect_model

    file = project(None)
    with progress(quiet or json) as report:
        found = inspect_model(
            one_model(model, model_option) or file.model,
            inputs=inputs or file.input,
            fixed=fix or file.fix,
            data=file.data,
            trust=trust,
            progress=report,
        )
    if json:
        show_json(found)
        return 0
    from toolkit import units

    say(
        f"{found['name']}: ONNX opset {found['opset']}, {units.count(found['parameters'], 'parameters')}, "
        f"{units.count(found['macs'], 'MAC')} an inference, weights {units.bytes_(found['weight_bytes'])}"
    )
    for kind in ("inputs", "outputs"):
        for spec in found["signature"][kind]:
            shape = ", ".join(map(str, spec["shape"]))
            say(f"  {kind[:-1]:6} {spec['name']}: {spec['dtype']}[{shape}]")
    for note in found["notes"]:
        say(f"  {note}")
    say()
    table(
        ["operator", "nodes", "MACs", "share"],
        [
            [o["op_type"], str(o["nodes"]), units.count(o["macs"], "") if o["macs"] else "-", f"{o['share']:.0%}"]
            for o in found["operators"]
        ],
        right=(1, 2, 3),
    )
    say()
    for name, refused in found["refusals"].items():
        if not refused:
            say(f"{name}: takes every operator once the model is in its integer format")
        if unverified := found["unverified"][name]:
            say(f"{name}: {', '.join(unverified)} should map, but no published list says so")
        lines = Counter(map(_refusal, refused))
        for line, count in lines.items():
            say(f"{name}: refuses {line}" + (f" ({count} times)" if count > 1 else ""))
    for name, nodes in found["unread"].items():
        if not nodes:
            say(f"{name}: reads every operator")
        for (kind, reason), count in Counter((node["op_type"], node["reason"]) for node in nodes).items():
            say(f"{name}: does not read {kind}" + (f" ({count} times)" if count > 1 else "") + f": {reason}")
    return 0


def _refusal(row: Mapping[str, str]) -> str:
    remedy = f"; instead: {row['rewrite']}" if row["rewrite"] else ""
    return f"{row['op_type']} {row['source'] or row['name']}: {row['reason']}{remedy}"
