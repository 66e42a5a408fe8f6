r"""How much a server manages, measured here; and how many pods a load wants.

    tfbrats capacity --model models/cun --input BraTS2020 --output cun.json
    tfbrats capacity --output cun.json --cases-per-hour 200 --within 120
    tfbrats capacity --model models/cun --input BraTS2020 --output cun.json \
        --check

Measures on this machine: the embedded server on so many of its cores, asked by
one, two and four callers at once, each of whom sends the next case when the
last is answered. Each figure goes to --output when it is there; the same
command goes on where it was stopped. The machine should have nothing else to
do: what other programs took stands in the table.

Then, with --cases-per-hour, how many pods like this server bear that load, how
long callers wait, and with one pod away. Cases do not come evenly: the wait is
that of random arrivals. Give the cases of the busiest hour.

--check predicts from the figures how long cases that come at random times
wait, then sends such cases, and prints both.

--server measures a server that runs, TensorFlow Serving for one. Not for
clinical use.
"""

import os
from collections.abc import Sequence

from serving import addresses, model_config
from tfbrats.errors import InputError
from tfbrats.machine import files, memory, paths
from tfbrats.terminal import command, style

_ENDPOINT = "TFBRATS_SERVING_ENDPOINT"


def parser() -> command.Parser:
    """The options."""
    options = command.parser("serving.capacity", __doc__)
    which = options.add_mutually_exclusive_group()
    which.add_argument(
        "--model", type=paths.argument, metavar="DIR", help="folder of versions, e.g. models/cun"
    )
    which.add_argument(
        "--server",
        metavar="HOST:PORT/MODEL",
        help=f"in its place: a server that runs, of which --cores says how many it has (where {_ENDPOINT} is "
        "set, HOST:PORT of it is, and MODEL is enough)",
    )
    options.add_argument("--input", type=paths.argument, metavar="DIR", help="a data set: its first four cases")
    options.add_argument(
        "--output", type=paths.argument, required=True, metavar="FILE", help="the figures, .json; added to"
    )

    def number(name: str, text: str, default: float | None, metavar: str = "N", **more) -> None:
        shown = "" if default is None else " (default: %(default)s)"
        options.add_argument(name, default=default, metavar=metavar, help=text + shown, **more)

    options.add_argument(
        "--cores", type=int, nargs="+", metavar="N", help="of the server (default: all that are here)"
    )
    options.add_argument(
        "--calls", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="at once (default: 1 2 4)"
    )
    number("--seconds", "of each figure, at least", 30.0, "SECONDS", type=float)
    number("--pid", "of --server, if it runs on this machine: its memory is watched", None, "PID", type=int)
    options.add_argument(
        "--check",
        type=float,
        nargs="?",
        const=0.6,
        metavar="SHARE",
        help="predict and try: cases at random times, at this share of what the server can do (0.6)",
    )
    number("--check-seconds", "of the trial", 120.0, "SECONDS", type=float)
    number("--cases-per-hour", "the load, of the busiest hour", None, type=float)
    number("--within", "95 of 100 cases are to be answered in that time", None, "SECONDS", type=float)
    number("--busy", "the most of its pace that a pod is to have", 0.7, "SHARE", type=float)
    number("--spare", "pods that may be away, e.g. at a roll-out", 1, type=int)
    return options


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    server = _server(options.server)
    _check(options, server)
    from serving.capacity import measuring, told
    from serving.capacity.measured import Measured

    if options.model or server:
        target = measuring.Target(options.model, server, options.pid, options.input)
        for cores in options.cores or [memory.cores()]:
            measuring.measure(target, options.output, cores, options.calls, options.seconds)
            if options.check is not None:
                measuring.check(target, options.output, cores, options.check, options.check_seconds)
    measured = Measured(options.output)
    print(told.about(measured))
    print("\n".join(told.table(measured)))
    for doubt in told.doubts(measured):
        print(style.note(doubt))
    for check in measured.checks:
        print("\n".join(["", *told.tried(check)]))
    if options.cases_per_hour:
        _plan(options, measured)


def _server(given: str | None) -> str | None:
    """host:port/MODEL of a server that runs."""
    endpoint = os.environ.get(_ENDPOINT)
    if given and endpoint and "/" not in given and ":" not in given:
        return f"{endpoint}/{given}"
    return given


def _check(options, server: str | None) -> None:
    """Raises InputError for what can be told before anything is loaded or started."""
    if server:
        addresses.checked(addresses.parted(server)[0])
    if server and len(options.cores or ()) != 1:
        raise InputError("--server: say with --cores N how many cores it has.")
    if (options.model or server) and not options.input:
        raise InputError("--input: which cases are to be sent?")
    if not (options.model or server):
        if options.check is not None:
            raise InputError("--check: give --model and --input, or --server, to try the prediction on.")
        if not files.exists(options.output):
            raise InputError(
                f"{options.output}: nothing was measured yet. Give --model and --input, or --server."
            )
    if options.model:
        name = files.name(options.model)
        model_config.check_folder(model_config.ModelConfig(name, options.model))
    if options.pid is not None and not server:
        raise InputError("--pid: is of --server; the embedded server's is known.")
    if not options.output.endswith(".json"):
        raise InputError(f"--output {options.output}: give a file's name that ends in .json.")
    whole = {"--calls": min(options.calls), "--cores": min(options.cores or [1])}
    for name, number in whole.items():
        if number < 1:
            raise InputError(f"{name} {number}: 1 or more.")
    if 1 not in options.calls:
        raise InputError("--calls: 1 must be among them. It tells what a case takes by itself.")
    if options.spare < 0:
        raise InputError(f"--spare {options.spare}: 0 or more.")
    for name in ("seconds", "check_seconds", "cases_per_hour", "within"):
        number = getattr(options, name)
        if number is not None and not 0 < number < 1e6:
            raise InputError(f"--{name.replace('_', '-')} {number:g}: a number above 0, and below a million.")
    for name in ("busy", "check"):
        share = getattr(options, name)
        if share is not None and not 0 < share < 1:
            raise InputError(f"--{name} {share:g}: a share, above 0 and below 1.")


def _plan(options, measured) -> None:
    from serving.capacity import queueing, told

    for cores in measured.cores:
        pods = queueing.plan(
            measured.pod(cores), options.cases_per_hour / 3600, options.busy, options.within, options.spare
        )
        print("\n".join(["", *told.planned(measured, cores, options.cases_per_hour, pods)]))


if __name__ == "__main__":
    command.run(main)
