"""toolkit passes"""

from __future__ import annotations

from typing import Any

from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import say, show_json, table

__all__: list[str] = []


@app.command("passes")
def passes_(json: JsonOpt = False, verbose: VerboseOpt = 0, quiet: QuietOpt = False) -> int:
    """Every pass: its kind, what it needs and what it gives."""
    from dataclasses import fields

    from passes.recipe import PASSES, RECIPES

    documents: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": str(cls.kind),
            "level": str(cls.level),
            "needs": sorted(cls.needs),
            "gives": sorted(cls.gives),
            "breaks": sorted(cls.breaks),
            "settings": [f.name for f in fields(cls)],  # type: ignore[arg-type]
            "summary": (cls.__doc__ or "").strip().splitlines()[0],
        }
        for name, cls in PASSES.items()
    ]
    if json:
        show_json({"schema": "toolkit.passes/1", "passes": documents, "recipes": list(RECIPES)})
        return 0
    rows = [
        [d["name"], d["kind"], d["level"], ", ".join(d["needs"]) or "-", ", ".join(d["gives"]) or "-"]
        for d in documents
    ]
    table(["pass", "kind", "level", "needs", "gives"], rows)
    say(f"\nrecipes: {', '.join(RECIPES)}; a stack chooses by its capabilities, --recipe overrules it")
    return 0
