"""Figures of speed, each as a ratio to a bare socket that does the same work in turns in the same processes.

Where a process lies in memory moves such a ratio by tens of per cent, so each figure is a median over fresh pairs of
processes.
"""

import socket
import tempfile
from pathlib import Path
from statistics import median

from figures import Figure
from processes import Process, run_caller, serve_workload
from workload import cores

SEQUENCE_BUDGET = 0.60
BULK_BUDGET = 0.60
BESIDE_LIMIT = 5.0
MIB = 1024 * 1024
PAIRS = 10


def _pairs(count: int, measure: str, *numbers: int, large: bool = False, apart: bool = False) -> list[dict[str, float]]:
    """What fresh pairs of processes measured: all on one core, or client and servers each on their own."""
    first, second = cores()
    at_server = [] if first is None else ["--cpu", second if apart else first]
    at_client = [] if first is None else ["--cpu", first]
    results = []
    for _ in range(count):
        with (
            serve_workload(*at_server, *(["--large"] if large else [])) as server,
            Process("bare.py", *at_server) as bare,
        ):
            results.append(run_caller(*at_client, measure, server.first_line, bare.first_line, *numbers))
    return results


def _count_of(results: list[dict[str, float]]) -> str:
    return f"{len(results)} pair{'s' if len(results) > 1 else ''}"


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def sequence(quick: bool) -> list[Figure]:
    """``add`` one call after another; from threads; mapped."""
    calls, slices, inputs = (200, 2, 500) if quick else (2000, 7, 20_000)
    results = _pairs(1 if quick else PAIRS, "sequence", calls, slices, inputs)
    of = {key: [result[key] for result in results] for key in results[0]}
    bare = median(of["bare"])
    cpu = f"CPU us a call: client {median(of['client_cpu']):.1f}, server {median(of['server_cpu']):.1f}"
    pairs = _count_of(results)
    return [
        Figure(
            promise="add(int, int) one after another, one core: ratio to a bare socket echo",
            measured=median(of["ratio"]),
            unit="x",
            limit=SEQUENCE_BUDGET,
            at_least=True,
            budget=True,
            note=f"{pairs}, {_spread(of['ratio'])}; {median(of['typed']):,.0f}/s, bare {bare:,.0f}/s; {cpu}",
        ),
        Figure(
            promise="the same from 8 threads over one connection: ratio to the same echo",
            measured=median(of["threads_ratio"]),
            unit="x",
            note=f"{pairs}, {_spread(of['threads_ratio'])}; {median(of['threads']):,.0f}/s",
        ),
        Figure(
            promise=f"map over {inputs:,} inputs, one core",
            measured=median(of["map"]) / 1000,
            unit="k/s",
            note=f"{pairs}, {min(of['map']) / 1000:.1f} to {max(of['map']) / 1000:.1f} k/s",
        ),
    ]


def crossing(quick: bool) -> list[Figure]:
    """Large messages that meet on one connection both arrive."""
    size = (8 if quick else 64) * MIB
    results = _pairs(1 if quick else 3, "crossing", size, 1 if quick else 3, large=True, apart=True)
    ratios = [result["ratio"] for result in results]
    typed, bare, slowest = (median(result[key] for result in results) for key in ("typed", "bare", "slowest"))
    return [
        Figure(
            promise=f"{size // MIB} MiB each way at the same time, over one connection: complete in",
            measured=typed,
            unit="s",
            note=f"{_count_of(results)}, the slowest {slowest:.2f} s; bare sockets {bare:.2f} s",
        ),
        Figure(
            promise="the same: ratio to bare sockets that do so",
            measured=median(ratios),
            unit="x",
            note=_spread(ratios),
        ),
    ]


def beside(quick: bool) -> list[Figure]:
    """A small call passes a large message on the same connection."""
    size, calls = (8 * MIB, 20) if quick else (256 * MIB, 200)
    first, second = cores()
    at_client = [] if first is None else ["--cpu", first]
    at_server = ["--large"] if second is None else ["--large", "--cpu", second]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        urls = {"tcp": "tcp://127.0.0.1:0"}
        if hasattr(socket, "AF_UNIX"):
            urls["unix"] = f"unix://{Path(folder) / 'socket'}"
        for kind, url in urls.items():
            with serve_workload(*at_server, "--url", url) as server:
                result = run_caller(*at_client, "beside", server.first_line, size, calls)
            for name, words in (("upload", "an upload"), ("download", "a download")):
                times = f"{1e6 * result[name]:.0f} us, alone {1e6 * result['alone']:.0f} us"
                figures.append(
                    Figure(
                        promise=f"a call of 1 KiB beside {words} of {size // MIB} MiB, {kind}: ratio to alone",
                        measured=result[name] / result["alone"],
                        unit="x",
                        limit=BESIDE_LIMIT,
                        note=f"median of {calls}: {times}; the slowest {1000 * result[f'{name}_slowest']:.1f} ms",
                    )
                )
    return figures


def bulk(quick: bool) -> list[Figure]:
    """A large message there and back."""
    size = (8 if quick else 64) * MIB
    results = _pairs(1 if quick else 3, "there_and_back", size, 1 if quick else 5, large=True, apart=True)
    ratios = [result["ratio"] for result in results]
    typed, bare = (median(result[key] for result in results) for key in ("typed", "bare"))
    return [
        Figure(
            promise=f"{size // MIB} MiB of bytes there and back, a core each: ratio to a bare socket",
            measured=median(ratios),
            unit="x",
            limit=BULK_BUDGET,
            at_least=True,
            budget=True,
            note=f"{_count_of(results)}, {_spread(ratios)}; {1000 * typed:.0f} ms, bare {1000 * bare:.0f} ms",
        )
    ]
