"""Takes a zoo of networks through torchlift and through a plain ``torch.onnx.export``, and says of each how it went.

    python benchmarks/zoo.py --tool plain --out zoo.jsonl --jobs 2
    python benchmarks/zoo.py --tool torchlift --out zoo.jsonl --jobs 2 --resume
    python benchmarks/zoo.py --out zoo.jsonl --table

Some are transformers' architectures with small random weights, some are written by hand. Each declares inputs and axes
as its user would. What a tool ships is run at fresh inputs and sizes: the least, the greatest, and some within. It is
right if shapes, dtypes and values (to 0.1% of an output's scale) are those of PyTorch.

Each case is a line of the results, written as it comes. ``--tool eager`` only checks that the cases themselves are
sound: they run at all their sizes, twice alike, and their answers depend on the inputs.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from zoo_table import table
from zoo_worker import Result, run, serve

TOOLS = ("torchlift", "plain", "eager")


def main() -> None:
    """Run what is asked for."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes of a run end with it
    if arguments.worker is not None:
        serve(arguments.worker)
    elif arguments.table:
        print(table(read(arguments.out)))
    else:
        _run(arguments)


def read(file: Path) -> list[Result]:
    """The results in a file; of a case that was run again by the same tool, the last."""
    lines = file.read_text().splitlines() if file.exists() else []
    results = [Result(**json.loads(line)) for line in lines]
    return list({(r.case, r.tool): r for r in results}.values())


def _run(arguments: argparse.Namespace) -> None:
    from networks import load

    zoo = load()
    done = {(r.case, r.tool) for r in read(arguments.out)} if arguments.resume else set()
    patterns = arguments.only or ["*"]
    asked = [
        (case.name, tool)
        for tool in arguments.tool or ["torchlift", "plain"]
        for case in zoo.cases.values()
        if any(fnmatch.fnmatch(n, p) for p in patterns for n in (case.name, f"{case.group}/{case.name}"))
        and (case.name, tool) not in done
    ]
    if not asked:
        sys.exit("no case is left to run: see --only and --resume")
    with arguments.out.open("a" if arguments.resume else "w") as out:
        for name, answer in run(asked, arguments.jobs, arguments.deadline):
            case = zoo.cases[name]
            result = Result(case=name, group=case.group, refused=case.refused, **answer)
            out.write(f"{json.dumps(asdict(result))}\n")
            out.flush()
            print(f"{result.tool} {name}: {result.status} ({result.seconds} s) {result.reason}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("zoo.jsonl"), help="the results, a line a case")
    parser.add_argument("--only", action="append", metavar="GLOB", help="names, or group/name; may be repeated")
    parser.add_argument(
        "--tool", action="append", choices=TOOLS, help="may be repeated; torchlift and plain if left out"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--deadline", type=float, default=240, help="seconds for one case")
    parser.add_argument("--resume", action="store_true", help="keep the results that are there, and run the rest")
    parser.add_argument("--table", action="store_true", help="print the results as a table, and run nothing")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
