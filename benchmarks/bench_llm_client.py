"""What asking costs beside the server's own time, and the memory of replaying many rows.

    python benchmarks/bench_llm_client.py --rounds 5
    python benchmarks/bench_llm_client.py --rows 1000000    # the full replay, about half an hour

The server is a process of its own that answers in no time, or after a fixed time. "client" is one
`Session.complete` (digest, cache, budget, HTTP), "rewrite" a whole row (checks and file too); both
with 16 threads. Work is processor time of this process, which other load does not lengthen; it
bounds how many requests a second go out. Replays run in fresh processes over a tenth of the rows
and over all of them; the peak memory of both should be the same.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common

from reclap.llm import Message, Reply, Request
from reclap.llm.cache import Cache
from reclap.llm.rewrite import RewritePlan, rewrite
from reclap.llm.server import Server
from reclap.llm.session import Session

WORKERS = 16
LATENCY = 0.05  # s, of the server that takes its time
BOUND = 2e-3  # s, of work of the client for each request; one quick round says nothing about it
# Runs a command and tells its peak in KiB; what wait4 tells includes its parent before exec.
CHILD = """
import pathlib, re, sys
from reclap.cli import main
status = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
sys.exit(status)
"""
MANNERS = ("loudly and sharply, high and bright", "softly and slowly, low and muffled")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--requests", type=int, default=1000, help="in each round")
    p.add_argument("--rows", type=int, default=10_000, help="of the replay")
    p.add_argument("--quick", action="store_true", help="100 requests, 2,000 rows")
    p.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = p.parse_args()
    if options.quick:
        options.requests, options.rows = 100, 2000
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return
    print(", ".join(f"{k} {v}" for k, v in common.machine("openai").items()))
    with tempfile.TemporaryDirectory() as folder:
        measure_client(Path(folder), options)
        measure_replay(Path(folder), options.rows)


# ---- The server ----------------------------------------------------------------------------------


async def serve(latency: float) -> None:
    """Print the port, then answer each request after so many seconds."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(size))
                await asyncio.sleep(latency)
                data = json.dumps(
                    completion(json.loads(body["messages"][-1]["content"])["caption"])
                )
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(data), data.encode())
                )
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


def completion(caption: str) -> dict[str, object]:
    """Return a chat completion with good rewrites."""
    text = json.dumps({str(i): f"{caption} {manner}" for i, manner in enumerate(MANNERS, 1)})
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
    usage = {"prompt_tokens": 300, "completion_tokens": 40}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


@contextlib.contextmanager
def server(latency: float) -> Iterator[str]:
    """Run the server in a process of its own; give its URL."""
    command = [sys.executable, __file__, "--serve", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


# ---- Overhead ------------------------------------------------------------------------------------


def measure_client(folder: Path, options: argparse.Namespace) -> None:
    for latency in (0.0, LATENCY):
        with server(latency) as url:
            for name, run in (("client", ask), ("rewrite", rewrite_rows)):
                salt = f"{name[0]}{latency * 1e3:.0f}"
                pairs = [
                    once(Server(url, "m"), run, folder, options.requests, f"{salt}-{i}")
                    for i in range(options.rounds + 1)
                ]
                wall, busy = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
                print(
                    f"{name:8} server answers after {latency * 1e3:2.0f} ms: "
                    f"{wall * 1e3:.2f} ms a request ({latency / WORKERS * 1e3:.2f} of the server "
                    f"alone), {busy * 1e3:.2f} ms of them at work; {WORKERS} threads, "
                    f"{options.rounds} rounds of {options.requests}",
                    flush=True,
                )
                if name == "client" and busy > BOUND and not options.quick:
                    raise SystemExit(f"the client works more than {BOUND * 1e3:.0f} ms a request")


def once(
    client: Server, run: Callable[..., None], folder: Path, count: int, salt: str
) -> tuple[float, float]:
    """Return seconds on the clock and of this process's work, for each of so many requests."""
    with Session(client, Cache(folder / "c.sqlite")) as llm:
        began, worked = time.perf_counter(), time.process_time()
        run(llm, folder, count, salt)
        return (time.perf_counter() - began) / count, (time.process_time() - worked) / count


def ask(llm: Session, _folder: Path, count: int, salt: str) -> None:
    def one(i: int) -> Reply:
        material = json.dumps({"caption": f"{salt} {i}", "texts wanted": 2})
        return llm.complete(Request((Message("user", material),), {"type": "object"}))

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, range(count)))


def rewrite_rows(llm: Session, folder: Path, count: int, salt: str) -> None:
    source = folder / "rows.jsonl"
    write_rows(source, count, salt)
    plan = RewritePlan(2, workers=WORKERS)
    report = rewrite(source, folder / "out.jsonl", llm, plan, force=True)
    if report.rejected:
        raise SystemExit(f"good rewrites were rejected: {report.text()}")


def write_rows(path: Path, count: int, salt: str) -> None:
    with path.open("w") as f:
        for i in range(count):
            f.write(json.dumps({"path": f"{i}.wav", "caption": f"a dog barks, {salt}-{i}"}) + "\n")


# ---- Replay --------------------------------------------------------------------------------------


class Recorded:
    """A model in this process, to fill the cache with."""

    name, small = "m", False

    def complete(self, request: Request) -> Reply:
        caption = json.loads(request.messages[-1].content)["caption"]
        text = completion(caption)["choices"][0]["message"]["content"]
        return Reply(text, 300, 40, True, "2026-01-01T00:00:00Z")


def measure_replay(folder: Path, rows: int) -> None:
    source, cache = folder / "all.jsonl", folder / "replay.sqlite"
    write_rows(source, rows, "replayed")
    plan = RewritePlan(2, workers=1)
    with Session(Recorded(), Cache(cache)) as llm:
        report = rewrite(source, folder / "all.out.jsonl", llm, plan, force=True)
    if report.rejected:
        raise SystemExit(f"good rewrites were rejected: {report.text()}")
    part = folder / "part.jsonl"
    part.write_text(
        "".join(line for line, _ in zip(source.open(), range(rows // 10), strict=False))
    )
    for path, count in ((part, rows // 10), (source, rows)):
        seconds, peak = replay(path, folder / "again.jsonl", cache)
        print(
            f"replay   {count} rows of {2 * count} rewrites: {seconds:.1f} s,"
            f" {seconds / count * 1e3:.2f} ms a row, {peak:.0f} MB at most",
            flush=True,
        )
    if (folder / "again.jsonl").read_bytes() != (folder / "all.out.jsonl").read_bytes():
        raise SystemExit("the replayed rewrites differ from the recorded ones")


def replay(source: Path, out: Path, cache: Path) -> tuple[float, float]:
    """Replay in a fresh process; return seconds and peak resident memory in MB."""
    url = ["--base-url", "http://127.0.0.1:9/v1", "--llm", "m", "--replay", "--sense", "none"]
    files = [str(source), "--force", "-o", str(out), "--cache", str(cache)]
    settings = ["-k", "2", "--temperature", "0.7", "--concurrency", str(WORKERS)]
    command = [sys.executable, "-c", CHILD, "rewrite", *files, *url, *settings]
    began = time.perf_counter()
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout  # noqa: S603
    return time.perf_counter() - began, float(told.split()[-1]) / 1024


if __name__ == "__main__":
    main()
