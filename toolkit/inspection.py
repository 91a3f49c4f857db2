"""What is in a model, as plain data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from targets.graph import read_workload
from targets.parser import load_parser, parser_names, unread
from targets.rewrites import rewrite_for
from targets.support import load_rules, refusals, rule_names
from toolkit.driver import export_program
from toolkit.varying_sizes import size_notes

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["inspect_model"]


def inspect_model(model: Any = None, **options: Any) -> dict[str, Any]:
    """Signature, operators, parameters and refusals of `model`; `options` are those of `toolkit.driver.Options`."""
    program = export_program(model, opset=None, **options)
    work = read_workload(program.static_model)
    nodes = Counter(node.op_type for node in program.graph.all_nodes() if node.op_type != "Constant")
    macs: Counter[str] = Counter()
    for op in work.operators:
        macs[op.op_type] += round(op.macs * op.repeats)
    total = sum(macs.values()) or 1
    return {
        "schema": "toolkit.inspect/1",
        "name": program.name,
        "opset": program.opset,
        "notes": list(size_notes(program)),
        "signature": program.signature.to_json(),
        "parameters": _parameters(program.model),
        "macs": work.macs,
        "weight_bytes": work.weight_bytes,
        "operators": [
            {"op_type": name, "nodes": count, "macs": macs[name], "share": macs[name] / total}
            for name, count in sorted(nodes.items(), key=lambda item: (-macs[item[0]], -item[1], item[0]))
        ],
        "refusals": {name: _refused(work, name) for name in rule_names()},
        "unread": {name: [vars(node) for node in unread(program.model, load_parser(name))] for name in parser_names()},
        "unverified": {name: sorted(load_rules(name).unverified & set(nodes)) for name in rule_names()},
    }


def _parameters(model: ir.Model) -> int:
    """Elements of every constant, those in the bodies of control flow among them."""
    stored = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    spelled = [node.attributes["value"].as_tensor() for graph in model.graphs() for node in graph
               if node.op_type == "Constant" and "value" in node.attributes]  # fmt: skip
    return sum(int(tensor.size) for tensor in (*stored, *spelled) if tensor is not None)


def _refused(work: Any, name: str) -> list[dict[str, str]]:
    """Operators that an accelerator would not take even in its own integer format."""
    rules = load_rules(name)
    found = []
    for op in work.at_precision(rules.needs_dtype or "float32").operators:
        if reason := refusals(op, rules):
            remedy = rewrite_for(op.op_type, reason)
            found.append(
                {
                    "op_type": op.op_type,
                    "name": op.name,
                    "module": op.module,
                    "source": op.source,
                    "reason": reason,
                    "rewrite": remedy,
                }
            )
    return found
