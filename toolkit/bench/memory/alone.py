"""Run as a script, in a process of its own: the allocator and resident memory belong to the process.

Arguments: the file; `pattern` for onnxruntime's memory pattern, else empty; `exact` for the arena's peak, else empty.
Nothing else of ours is imported, since it would be counted.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort


def main(path: str, pattern: bool, exact: bool) -> None:
    session = ort.InferenceSession(path, _options(path, pattern, exact), providers=["CPUExecutionProvider"])
    feeds = {i.name: np.ones(i.shape, np.float32) for i in session.get_inputs()}
    for _ in range(2):
        session.run(None, feeds)
    found = {"process_bytes": _most_resident_bytes()}
    if exact:
        found["arena_bytes"] = _arena_bytes(Path(session.end_profiling()))
    print(json.dumps(found))


def _options(path: str, pattern: bool, exact: bool) -> Any:
    """One thread; with `exact`, an arena that hands out chunks of the size asked for, and a profile that counts it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_mem_pattern = pattern
    options.enable_profiling = exact
    options.profile_file_prefix = path + "-profile"
    if exact:
        info = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        chunks = {"arena_extend_strategy": 1, "initial_chunk_size_bytes": 1024, "max_dead_bytes_per_chunk": 256}
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({"max_mem": 0, **chunks}))
        options.add_session_config_entry("session.use_env_allocators", "1")
    return options


def _most_resident_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _arena_bytes(profile: Path) -> int:
    """The arena's peak above the weights, which lie in it when the first operator starts."""
    events = [event["args"] for event in json.loads(profile.read_text("utf-8")) if event["cat"] == "Node"]
    profile.unlink()
    counted = [event for event in events if "mem_in_use_peak" in event]
    weights = int(counted[0]["mem_bytes_in_use"]) - int(counted[0]["mem_in_use_delta"])
    return max(int(event["mem_in_use_peak"]) for event in counted) - weights


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "pattern", sys.argv[3] == "exact")
