#!/usr/bin/env python3
"""What PyTorch's own optimizers take for the steps that `adamant bench --device cuda` measures, on the same machine.

    usage: bench/pytorch.py [--adamant BENCH.json]... [--json-file FILE] [--seconds SECONDS] [--small]

Prints a table and writes JSON: the median of interleaved repetitions on the device's clock, for each of the ways that
PyTorch has (a loop over tensors, `foreach`, `fused`), beside the time in the files that --adamant names. Whatever this
PyTorch does not have, or does not fit, is named at the end. Exit code 77, with the reason in the last line, where there
is no PyTorch or no GPU that it can use.
"""
import argparse
import json
import statistics
import sys
import time

SHORTEST_SAMPLE = 4e-3  # seconds: long against the resolution of events
MOST_SECONDS = 0.8      # of one way of one case
MOST_REPETITIONS = 9
WAYS = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def skip(reason):
    print(f"PyTorch: {reason}")
    sys.exit(77)


try:
    import torch
except ImportError as error:
    skip(f"not installed for {sys.executable} ({error})")
except OSError as error:  # a library of its own that is missing
    skip(f"cannot be loaded ({error})")
if not torch.cuda.is_available():
    skip(f"version {torch.__version__} finds no GPU that it can use")

# Our name, PyTorch's class, and the options with which both do the same.
METHODS = [
    ("gradient_descent", torch.optim.SGD, {"lr": 1e-2}),
    ("momentum", torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 1e-2, "alpha": 0.9, "eps": 1e-6}),
    ("adam", torch.optim.Adam, {"lr": 1e-3}),
    ("adamw", torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2}),
]


def seconds_of(run, runs):
    """Seconds of one of `runs` runs, on the device's clock."""
    start = torch.cuda.Event(enable_timing=True)
    stop = torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(runs):
        run()
    stop.record()
    stop.synchronize()
    return 1e-3 * start.elapsed_time(stop) / runs


class Contender:
    def __init__(self, name, run):
        self.name, self.run, self.times = name, run, []
        run()  # makes the states and loads the kernels
        once = max(seconds_of(run, 1), 1e-7)
        self.runs = max(1, min(10000, round(SHORTEST_SAMPLE / once)))
        self.repetitions = max(1, min(MOST_REPETITIONS, int(MOST_SECONDS / (once * self.runs))))


def measure(contenders):
    for repetition in range(MOST_REPETITIONS):
        for contender in contenders:
            if repetition < contender.repetitions:
                contender.times.append(seconds_of(contender.run, contender.runs))


class Report:
    def __init__(self, adamant, small):
        self.adamant = adamant
        self.results = []
        self.missing = []
        self.small = small

    def ours(self, method, tensors, count, pipeline):
        for result in self.adamant:
            same = (result.get("tensors", 1), result["count"]) == (tensors, tensors * count)
            kind = (result.get("storage", "float32/float32/float32"), result.get("pipeline", "update"))
            if same and result["method"] == method and kind == ("float32/float32/float32", pipeline):
                return result["median_seconds"]
        return None

    def add(self, contenders, method, tensors, count, pipeline="update", ours_of=()):
        ours = next(filter(None, (self.ours(name, tensors, count, pipeline) for name in (method, *ours_of))), None)
        for contender in contenders:
            median = statistics.median(contender.times)
            self.results.append({
                "method": method, "tensors": tensors, "count": tensors * count, "pipeline": pipeline,
                "way": contender.name, "seconds": contender.times, "median_seconds": median,
                "repetitions": len(contender.times), "adamant_median_seconds": ours,
                "times_adamant": median / ours if ours else None})
            shape = str(count) if tensors == 1 else f"{tensors}x{count}"
            print(f"{method:<17} {shape:>14} {contender.name:<44} {1e6 * median:>12.2f} "
                  f"{f'{1e6 * ours:.2f}' if ours else '-':>12} {f'{median / ours:.2f}x' if ours else '-':>9}", flush=True)

    def miss(self, what, error):
        reason = str(error).strip().split("\n")[0][:160]
        self.missing.append(f"{what}: {type(error).__name__}: {reason}")


def tensors_of(tensors, count):
    parameters = [torch.nn.Parameter(torch.randn(count, device="cuda")) for _ in range(tensors)]
    for parameter in parameters:
        parameter.grad = 1e-2 * torch.randn(count, device="cuda")
    return parameters


def optimizers(report, method, make, options, parameters, ways=WAYS):
    for way, choice in ways.items():
        what = f"{method} {way} of {len(parameters)}x{parameters[0].numel()}"
        try:
            yield way, make(parameters, **options, **choice)
        except (TypeError, ValueError, RuntimeError) as error:  # this class or this version has none
            report.miss(what, error)


def updates(report, shapes, deadline):
    for tensors, count in shapes:
        parameters = tensors_of(tensors, count)
        for method, make, options in METHODS:
            if time.monotonic() > deadline:
                report.missing.append(f"{method} of {tensors}x{count}: no time was left")
                continue
            contenders = []
            for way, optimizer in optimizers(report, method, make, options, parameters):
                try:
                    contenders.append(Contender(way, optimizer.step))
                except RuntimeError as error:  # out of memory, or no such kernel
                    report.miss(f"{method} {way} of {tensors}x{count}", error)
            try:
                measure(contenders)
                report.add(contenders, method, tensors, count)
            except RuntimeError as error:
                report.miss(f"{method} of {tensors}x{count}", error)
            del contenders
            torch.cuda.empty_cache()
        del parameters
        torch.cuda.empty_cache()


def whole_steps(report, count, deadline):
    """Clipping by the global norm, and a loss scale, around a fused AdamW."""
    if time.monotonic() > deadline:
        report.missing.append("clipping and GradScaler: no time was left")
        return
    parameters = tensors_of(1, count)
    clip = torch.nn.utils.clip_grad_norm_
    options = {"lr": 1e-3, "weight_decay": 1e-2}
    contenders = []

    def add(name, make):
        try:
            contenders.append(Contender(name, make()))
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            report.miss(f"{name} of 1x{count}", error)

    def clipped():
        optimizer = torch.optim.AdamW(parameters, **options, fused=True)

        def run():
            clip(parameters, 1.0)
            optimizer.step()
        return run

    def scaled(unscales):
        optimizer = torch.optim.AdamW(parameters, **options, fused=True)
        # A scale of 1, so that taking it off again and again leaves the gradients as they are.
        scaler = torch.amp.GradScaler("cuda", init_scale=1.0)
        scaler.scale(torch.ones((), device="cuda"))  # makes the scale

        def run():
            if unscales:
                scaler.unscale_(optimizer)
                clip(parameters, 1.0)
            scaler.step(optimizer)
            scaler.update()
        return run

    add("clip_grad_norm_ + fused", clipped)
    add("GradScaler + fused", lambda: scaled(False))
    add("GradScaler.unscale_ + clip_grad_norm_ + fused", lambda: scaled(True))
    measure(contenders)
    report.add(contenders, "adamw", 1, count, "clip", ("adam",))


def main():
    words = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    words.add_argument("--adamant", action="append", default=[], metavar="BENCH.json")
    words.add_argument("--json-file")
    words.add_argument("--seconds", type=float, default=50)
    words.add_argument("--small", action="store_true", help="sizes for a dry run")
    words = words.parse_args()
    adamant = []
    for path in words.adamant:
        with open(path, encoding="utf-8") as file:
            adamant += json.load(file).get("results", [])
    report = Report(adamant, words.small)
    deadline = time.monotonic() + words.seconds
    device = torch.cuda.get_device_name(0)
    print(f"PyTorch {torch.__version__} on {device}: one step, median; beside adamant's in the same run.\n")
    print(f"{'method':<17} {'parameters':>14} {'way':<44} {'us':>12} {'adamant us':>12} {'/ adamant':>9}")
    # Parameters, gradients, the states of three optimizers and what `foreach` keeps in between.
    largest = min(10**9, int(0.9 * torch.cuda.mem_get_info()[0] / 48))
    shapes = [(1, 4096), (3, 64)] if words.small else [(10000, 64), (200, 2**20), (1, 2**24), (1, largest)]
    whole_steps(report, 4096 if words.small else min(2**28, largest), deadline)
    torch.cuda.empty_cache()
    updates(report, shapes, deadline)
    if report.missing:
        print("\nNot measured:\n  " + "\n  ".join(report.missing))
    if words.json_file:
        with open(words.json_file, "w", encoding="utf-8") as file:
            json.dump({"pytorch": torch.__version__, "device": device, "results": report.results,
                       "missing": report.missing}, file, indent=2)


if __name__ == "__main__":
    main()
