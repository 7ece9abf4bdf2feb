"""What a benchmark ran on, for the first line of its figures."""

import os
import platform
import sys


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    processor = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            processor = next(names, processor)
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cores": usable,
        "processor": processor or "unknown processor",
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def machine_line(where: dict[str, object]) -> str:
    """The same as one line."""
    return "{python}, {cores} cores, {processor}, {system}, load {load}".format(**where)
