#!/usr/bin/env python3
"""How long other libraries take for the same step, beside this one, in one process and on the same tensors.

    usage: bench/peers.py [--library libadamant.so] [--device cpu|cuda[:N]] [--methods NAMES] [--sizes NUMBERS]
                          [--shapes TENSORSxPARAMETERS,...] [--threads N] [--seconds N] [--peers FILE.py]...
                          [--json-file FILE] [--quick]

Each peer first takes three steps from the same parameters with the same gradients; whose result is not the library's
is named and not timed. Then all run in turn, many times over, on sets of tensors that together are larger than the
cache, and the ratio of each to the library is the median of the ratios of neighbouring runs, with half the distance
between the quartiles. Peers that are not installed, fail or disagree are listed at the end.

The library is taken from --library, ADAMANT_LIBRARY, or build/shared/libadamant.so of this repository, which
    cmake -B build/shared -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DADAMANT_TESTS=OFF && cmake --build build/shared
makes. `adamant bench --from BENCH.json --from PEERS.json --html PAGE.html` draws the JSON.

Exit code 0; 2 for bad usage, or a JSON that cannot be written; 77, with the reason in the last line, where there is no PyTorch, whose tensors all peers
take; 130 after Ctrl-C, when the JSON has what was measured until then.
"""
import argparse
import ctypes.util
import datetime
import importlib
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "python"))
import adamant  # noqa: E402  (the C interface by ctypes, from the folder just added)

# What is measured: the options of the library's method. Peers are given the same numbers under their own names.
METHODS = {
    "gradient_descent": {"learning_rate": 1e-2},
    "momentum": {"learning_rate": 1e-2, "momentum": 0.9},
    "rmsprop": {"learning_rate": 1e-2, "decay": 0.9, "epsilon": 1e-6, "epsilon_placement": "outside_root"},
    "adam": {"learning_rate": 1e-3},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 1e-2},
}


# --- The peers. An entry: name, module, and a function of the module that returns {method: function of a list of
# torch.nn.Parameter that returns an object with step()}. What a module or a version does not have may raise: it is
# reported. A file given with --peers adds entries in the same way: it finds PEERS among its global names.

def pytorch(**way):
    def calls(torch):
        optim = torch.optim
        return {
            "gradient_descent": lambda p: optim.SGD(p, lr=1e-2, **way),
            "momentum": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, **way),
            "rmsprop": lambda p: optim.RMSprop(p, lr=1e-2, alpha=0.9, eps=1e-6, **way),
            "adam": lambda p: optim.Adam(p, lr=1e-3, **way),
            "adamw": lambda p: optim.AdamW(p, lr=1e-3, weight_decay=1e-2, **way),
        }
    return calls


def fused(module):
    """Apex and TransformerEngine have the same two classes."""
    return {
        "gradient_descent": lambda p: module.FusedSGD(p, lr=1e-2),
        "momentum": lambda p: module.FusedSGD(p, lr=1e-2, momentum=0.9),
        "adam": lambda p: module.FusedAdam(p, lr=1e-3, adam_w_mode=False),
        "adamw": lambda p: module.FusedAdam(p, lr=1e-3, weight_decay=1e-2, adam_w_mode=True),
    }


def bitsandbytes(module):
    """With states of 32 bits: those of 8 are another method."""
    return {
        "momentum": lambda p: module.optim.SGD(p, lr=1e-2, momentum=0.9, optim_bits=32),
        "rmsprop": lambda p: module.optim.RMSprop(p, lr=1e-2, alpha=0.9, eps=1e-6, optim_bits=32),
        "adam": lambda p: module.optim.Adam(p, lr=1e-3, optim_bits=32),
        "adamw": lambda p: module.optim.AdamW(p, lr=1e-3, weight_decay=1e-2, optim_bits=32),
    }


def deepspeed_cpu(module):
    return {
        "adam": lambda p: module.DeepSpeedCPUAdam(p, lr=1e-3, weight_decay=0.0, adamw_mode=False),
        "adamw": lambda p: module.DeepSpeedCPUAdam(p, lr=1e-3, weight_decay=1e-2),
    }


def deepspeed_fused(module):
    return {
        "adam": lambda p: module.FusedAdam(p, lr=1e-3, weight_decay=0.0, adam_w_mode=False),
        "adamw": lambda p: module.FusedAdam(p, lr=1e-3, weight_decay=1e-2),
    }


# name, module, where, calls
PEERS = [
    ("pytorch loop", "torch", ("cpu", "cuda"), pytorch(foreach=False)),
    ("pytorch foreach", "torch", ("cpu", "cuda"), pytorch(foreach=True)),
    ("pytorch fused", "torch", ("cpu", "cuda"), pytorch(fused=True)),
    ("apex", "apex.optimizers", ("cuda",), fused),
    ("transformer_engine", "transformer_engine.pytorch.optimizers", ("cuda",), fused),
    ("bitsandbytes 32 bit", "bitsandbytes", ("cuda",), bitsandbytes),
    ("deepspeed cpu", "deepspeed.ops.adam", ("cpu",), deepspeed_cpu),
    ("deepspeed fused", "deepspeed.ops.adam", ("cuda",), deepspeed_fused),
]


# --- Whole steps, of adamw: clipping by the global norm, and a loss scale. What the peers clip and unscale they change
# in place: after the first step their gradients, which all share, are short enough, and a scale of 1 leaves them alone.

class Clipped:
    def __init__(self, parameters, torch, way):
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2, **way)
        self.parameters, self.clip = parameters, torch.nn.utils.clip_grad_norm_

    def step(self):
        self.clip(self.parameters, 1.0)
        self.optimizer.step()


NEVER = 2**31 - 1  # steps until the scale grows


class Scaled:
    def __init__(self, parameters, torch, clips):
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2, fused=True)
        self.scaler = torch.amp.GradScaler("cuda", init_scale=1.0, growth_interval=NEVER)
        self.scaler.scale(torch.ones((), device="cuda"))  # makes the scale
        self.parameters, self.clip = parameters, torch.nn.utils.clip_grad_norm_ if clips else None

    def step(self):
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            self.clip(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()


LOSS_SCALE = {"loss_scale_is_kept": 1, "loss_scale_initial": 1.0, "loss_scale_growth_interval": NEVER}


def whole_steps(torch):
    """What the step is made of, how the library is told, and the peers by the devices that they are for."""
    clipped = "pytorch clip_grad_norm_ + "
    return [
        ("clip", {"clip_norm": 1.0}, [
            (clipped + "foreach", ("cpu", "cuda"), lambda p: Clipped(p, torch, {"foreach": True})),
            (clipped + "fused", ("cpu", "cuda"), lambda p: Clipped(p, torch, {"fused": True}))]),
        ("scale", LOSS_SCALE, [("pytorch GradScaler + fused", ("cuda",), lambda p: Scaled(p, torch, False))]),
        ("scale and clip", {"clip_norm": 1.0, **LOSS_SCALE}, [
            ("pytorch GradScaler + clip_grad_norm_ + fused", ("cuda",), lambda p: Scaled(p, torch, True))]),
    ]


# --- Measuring

SHORTEST_SAMPLE = 4e-3  # seconds: long against the resolution of events and clocks
MOST_REPETITIONS = 25
FEWEST_REPETITIONS = 3
MOST_THREADS = 4096  # that the library takes
CACHES = 3  # times all caches: what all sets of tensors together exceed


def cpu_cache_bytes(folder="/sys/devices/system/cpu"):
    """Of the caches from the second level on, all together, each once: every CPU lists those that it shares."""
    sizes = {}
    for cache in Path(folder).glob("cpu[0-9]*/cache/index[0-9]*"):
        kind, level, shared, size = ((cache / name).read_text().strip() for name in
                                     ("type", "level", "shared_cpu_list", "size"))
        if kind != "Instruction" and level != "1":
            sizes[level, shared] = int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]] if size[-1] in "KMG" else int(size)
    return sum(sizes.values()) or 64 << 20


def cache_bytes(torch, device):
    if device.type == "cuda":
        return getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
    return cpu_cache_bytes()


def free_bytes(torch, device):
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return sys.maxsize


class Ours:
    """The library as a torch optimizer looks: made of parameters, with step()."""

    def __init__(self, method, parameters, threads, control):
        self.device = parameters[0].device
        name = "cpu" if self.device.type == "cpu" else f"cuda:{self.device.index or 0}"
        self.optimizer = adamant.Optimizer(method, METHODS[method], device=name,
                                           threads=threads if name == "cpu" else 0)
        for index, parameter in enumerate(parameters):
            arrays = [adamant.Array(tensor.data_ptr(), tensor.numel(), "float32", owner=tensor)
                      for tensor in (parameter, parameter.grad)]
            self.optimizer.add(str(index), *arrays)
        if control:
            self.optimizer.set_control(**control)
        self.stream = None
        if self.device.type == "cuda":
            import torch
            self.stream = torch.cuda.current_stream(self.device).cuda_stream
        self.optimizer.prepare(self.stream)

    def step(self):
        self.optimizer.step(self.stream)


class Machine:
    """Where it runs: tensors and the clock."""

    def __init__(self, torch, device, threads):
        self.torch, self.device = torch, torch.device(device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", self.device.index or 0)
            torch.cuda.set_device(self.device)  # which refuses "cuda" without a number
        else:
            torch.set_num_threads(threads)
        self.threads = threads

    def tensors(self, sizes, seed=0):
        generator = self.torch.Generator(self.device).manual_seed(seed)
        parameters = []
        for size in sizes:
            parameter = self.torch.nn.Parameter(self.torch.randn(size, device=self.device, generator=generator))
            parameter.grad = 1e-2 * self.torch.randn(size, device=self.device, generator=generator)
            parameters.append(parameter)
        return parameters

    def seconds(self, run, runs):
        """Of one of so many runs: on a GPU by its own clock."""
        if self.device.type == "cpu":
            start = time.perf_counter()
            for _ in range(runs):
                run()
            return (time.perf_counter() - start) / runs
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(runs):
            run()
        stop.record()
        stop.synchronize()
        return 1e-3 * start.elapsed_time(stop) / runs

    def give_back(self):
        if self.device.type == "cuda":
            self.torch.cuda.empty_cache()


class Contender:
    """One way of stepping, over all sets of tensors in turn. The turn, a number in a list, is that of all contenders, so
    that none finds what another has just touched."""

    def __init__(self, name, make, sets, turn):
        self.name, self.seconds, self.turn = name, [], turn
        self.steps = [make(parameters).step for parameters in sets]

    def run(self):
        self.turn[0] = (self.turn[0] + 1) % len(self.steps)
        self.steps[self.turn[0]]()


def after_three_steps(machine, make, sizes):
    """The parameters, from a start and with gradients that are always the same and change from step to step."""
    parameters = machine.tensors(sizes, seed=1)
    optimizer = make(parameters)
    for step, factor in enumerate((100.0, -50.0, 300.0)):
        for parameter, other in zip(parameters, machine.tensors(sizes, seed=2 + step)):
            parameter.grad.copy_(factor * other.grad)
        optimizer.step()
    return machine.torch.cat([parameter.detach().double().flatten() for parameter in parameters])


def disagreement(ours, theirs, learning_rate):
    """What differs after three steps; None if nothing does."""
    # A few roundings of the parameter and a ten-thousandth of a step: other orders of the same operations.
    error = (ours - theirs).abs() - 1e-6 * ours.abs() - 1e-4 * learning_rate
    worst = int(error.argmax())
    if error[worst] <= 0:  # false for a NaN
        return None
    return (f"parameter {worst} is {theirs[worst].item():.9g} after three steps, {ours[worst].item():.9g} with the "
            "library")


def median_and_spread(values):
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return quartiles[1], (quartiles[2] - quartiles[0]) / 2 / quartiles[1]


class Run:
    def __init__(self, machine, seconds, quick):
        self.machine, self.quick = machine, quick
        self.deadline = time.monotonic() + seconds
        self.results, self.missing = [], []

    def miss(self, what, why):
        text = why if isinstance(why, str) else f"{type(why).__name__}: {str(why).strip().splitlines()[0][:200]}" \
            if str(why).strip() else type(why).__name__
        line = f"{what}: {text}"
        if line not in self.missing:
            self.missing.append(line)

    def case(self, method, sizes, peers, pipeline="update", control=None, seconds=5.0):
        """Measures the peers, (name, make), against the library on tensors of these sizes."""
        machine = self.machine
        total, same = sum(sizes), len(set(sizes)) == 1
        shape = str(total) if len(sizes) == 1 else f"{len(sizes)}x{sizes[0]}" if same else f"{len(sizes)}:{total}"
        label = f"{method} {pipeline} of {shape}"
        if not peers:
            self.miss(label, "there is no peer for it")
            return
        if time.monotonic() > self.deadline:
            self.miss(label, "no time was left (--seconds)")
            return
        bytes_of_set = 4 * total * (2 + 2 * (len(peers) + 1))
        sets = 1 if self.quick else max(1, min(64, math.ceil(CACHES * cache_bytes(machine.torch, machine.device) /
                                                             (8 * total))))
        needed = sets * bytes_of_set + 4 * 4 * total  # and what a step with temporaries has in between
        free = free_bytes(machine.torch, machine.device)
        if needed > free:
            self.miss(label, f"needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free")
            return

        def ours(parameters):
            return Ours(method, parameters, machine.threads, control)

        agreed = []
        some = [min(size, 1000) for size in sizes[:50]]
        expected = after_three_steps(machine, ours, some)
        for name, make in peers:
            try:
                differs = disagreement(expected, after_three_steps(machine, make, some),
                                       METHODS[method]["learning_rate"])
                if differs:
                    self.miss(f"{name}, {method} {pipeline}", f"not timed, its result differs: {differs}")
                else:
                    agreed.append((name, make))
            except Exception as error:  # whatever a peer may raise: not there, no such option, no such kernel
                self.miss(f"{name}, {method} {pipeline}", error)
        contenders = []
        turn = [0]
        parameter_sets = [machine.tensors(sizes, seed) for seed in range(sets)]
        for name, make in [("adamant", ours), *agreed]:
            try:
                contender = Contender(name, make, parameter_sets, turn)
                machine.seconds(contender.run, sets)  # makes the states of every set
                once = max(machine.seconds(contender.run, 1), 1e-7)
            except Exception as error:
                if name == "adamant":
                    raise
                self.miss(f"{name}, {label}", error)
                continue
            contender.runs = max(1, min(10000, round(SHORTEST_SAMPLE / once)))
            contender.repetitions = max(FEWEST_REPETITIONS,
                                        min(MOST_REPETITIONS, int(seconds / len(peers) / (once * contender.runs))))
            if self.quick:
                contender.repetitions = FEWEST_REPETITIONS
            contenders.append(contender)
        if len(contenders) < 2:
            return
        for repetition in range(max(contender.repetitions for contender in contenders[1:])):
            for contender in contenders:
                if contender is contenders[0] or repetition < contender.repetitions:
                    contender.seconds.append(machine.seconds(contender.run, contender.runs))
        for contender in contenders[1:]:
            self.add(method, pipeline, sizes, shape, contenders[0], contender, sets)

    def add(self, method, pipeline, sizes, shape, ours, theirs, sets):
        ratio, spread = median_and_spread([their / our for their, our in zip(theirs.seconds, ours.seconds)])
        self.results.append({
            "peer": theirs.name, "method": method, "storage": "float32/float32/float32", "pipeline": pipeline,
            "tensors": len(sizes), "count": sum(sizes), "device": self.machine.device.type,
            "threads": self.machine.threads if self.machine.device.type == "cpu" else None, "buffer_sets": sets,
            "repetitions": len(theirs.seconds), "seconds": theirs.seconds,
            "median_seconds": statistics.median(theirs.seconds), "adamant_seconds": ours.seconds,
            "adamant_median_seconds": statistics.median(ours.seconds), "times_update": ratio, "spread": spread})
        print(f"{method:<17} {pipeline:<14} {shape:>14}  {theirs.name:<46} {1e3 * statistics.median(theirs.seconds):>11.4f} "
              f"{1e3 * statistics.median(ours.seconds):>11.4f} {ratio:>8.2f}x {100 * spread:>5.1f}%", flush=True)


def shape_of(text):
    tensors, cross, count = text.partition("x")
    if not cross or not tensors.isdigit() or not count.isdigit() or int(tensors) < 1 or int(count) < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not TENSORSxPARAMETERS')
    return [int(count)] * int(tensors)


def size_of(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of parameters from 1')
    return [int(text)]


def listed(of):
    return lambda text: [of(part) for part in text.split(",")]


def method_of(text):
    if text not in METHODS:
        raise argparse.ArgumentTypeError(f'"{text}" is not a method; allowed: {", ".join(METHODS)}')
    return text


def arguments():
    words = argparse.ArgumentParser(prog="peers.py", description=__doc__.split("\n")[0])
    words.add_argument("--library", help="the shared library (default: ADAMANT_LIBRARY, or build/shared/libadamant.so)")
    words.add_argument("--device", default=None, help="cpu, cuda or cuda:N (default: cuda where there is one)")
    words.add_argument("--methods", type=listed(method_of), default=list(METHODS), help="separated by commas")
    words.add_argument("--sizes", type=listed(size_of), help="parameters of one tensor, separated by commas")
    words.add_argument("--shapes", type=listed(shape_of), help="TENSORSxPARAMETERS, separated by commas")
    words.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU, for all alike")
    words.add_argument("--seconds", type=float, default=90, help="about as long it goes on (default: 90)")
    words.add_argument("--peers", action="append", default=[], metavar="FILE.py", help="adds to PEERS")
    words.add_argument("--json-file")
    words.add_argument("--quick", action="store_true", help="small sizes, few repetitions: to see that it works")
    parsed = words.parse_args()
    if not 1 <= parsed.threads <= MOST_THREADS:
        words.error(f"--threads is {parsed.threads}; at least 1, at most {MOST_THREADS}")
    if not 0 < parsed.seconds < math.inf:  # nor a NaN
        words.error(f"--seconds is {parsed.seconds}; more than 0, and finite")
    return parsed


def load_library(path):
    built = ROOT / "build" / "shared" / "libadamant.so"
    path = path or os.environ.get("ADAMANT_LIBRARY") or (str(built) if built.exists() else None) \
        or ctypes.util.find_library("adamant")
    if not path:
        print("peers.py: there is no shared library of adamant in build/shared; make it with\n"
              "  cmake -B build/shared -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DADAMANT_TESTS=OFF\n"
              "  cmake --build build/shared --target adamant\nor name one with --library", file=sys.stderr)
        sys.exit(2)
    try:
        adamant.load(path)
    except OSError as error:
        print(f"peers.py: the library cannot be loaded: {error}", file=sys.stderr)
        sys.exit(2)
    return path


def imported(run, device):
    """The peers whose modules are here, as (name, {method: make})."""
    found = []
    for name, module, where, calls in PEERS:
        if device not in where:
            continue
        try:
            package = importlib.import_module(module)
            version = getattr(sys.modules[module.split(".")[0]], "__version__", "")
            first, *rest = name.split(" ")
            found.append((" ".join(filter(None, [first, version.split("+")[0], *rest])), calls(package)))
        except Exception as error:  # an import may raise anything
            run.miss(name, error)
    return found


def environment(torch, machine, library):
    device = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else platform.processor()
    if machine.device.type == "cpu":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                device = line.split(":", 1)[1].strip()
                break
    return {"adamant": adamant.version(), "library": Path(library).name, "pytorch": torch.__version__, "python": platform.python_version(),
            "device": device, "threads": machine.threads, "system": platform.platform(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")}


def can_be_written(path):
    path = Path(path).resolve()
    return not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)


def main():
    words = arguments()
    if words.json_file and not can_be_written(words.json_file):
        print(f"peers.py: --json-file {words.json_file} cannot be written", file=sys.stderr)
        sys.exit(2)
    try:
        import torch
    except (ImportError, OSError) as error:  # not installed, or a library of its own is missing
        print(f"peers.py: no PyTorch for {sys.executable} ({error}), and all peers take its tensors")
        sys.exit(77)
    library = load_library(words.library)
    device = words.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        machine = Machine(torch, device, words.threads)
        if machine.device.type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither cpu nor cuda")
    except (RuntimeError, AssertionError) as error:
        print(f"peers.py: --device {device}: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)
    kind = machine.device.type
    for file in words.peers:
        try:
            exec(compile(Path(file).read_text(encoding="utf-8"), file, "exec"), {"PEERS": PEERS, "torch": torch})
        except Exception as error:
            print(f"peers.py: --peers {file}: {type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(2)

    shapes = (words.sizes or []) + (words.shapes or [])
    if not shapes and words.quick:
        shapes = [[4096], [64] * 3]
    elif not shapes and kind == "cpu":
        shapes = [[2**24], [2**26], [2**14] * 200]
    elif not shapes:
        largest = min(10**9, int(0.9 * free_bytes(torch, machine.device) / 64))
        shapes = [[2**24], [largest], [2**20] * 200, [64] * 10000]  # what takes longest comes last
    run = Run(machine, words.seconds, words.quick)
    report = {"environment": environment(torch, machine, library), "peers": run.results, "missing": run.missing,
              "complete": False}
    print(f"One step of float32 on {report['environment']['device']}, PyTorch {torch.__version__}, adamant "
          f"{adamant.version()}{f', {words.threads} threads' if kind == 'cpu' else ''}.\n")
    print(f"{'method':<17} {'step':<14} {'parameters':>14}  {'peer':<46} {'ms':>11} {'adamant ms':>11} {'takes':>9} "
          f"{'spread':>6}")
    # timeout, and batch systems, end programs by a signal of which Python knows nothing.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        peers = imported(run, kind)
        seconds = words.seconds / max(1, len(shapes) * len(words.methods) + 1)
        if "adamw" in words.methods:
            whole = [4096] if words.quick else [min(2**28, max(map(sum, shapes)))]
            for pipeline, control, all_of_it in whole_steps(torch):
                of_kind = [(name, make) for name, where, make in all_of_it if kind in where]
                if of_kind:
                    run.case("adamw", whole, of_kind, pipeline, control, seconds)
                    machine.give_back()
        for sizes in shapes:
            for method in words.methods:
                run.case(method, sizes, [(name, calls[method]) for name, calls in peers if method in calls],
                         seconds=seconds)
                machine.give_back()
        report["complete"] = True
    except KeyboardInterrupt:
        print("\nInterrupted; what was measured so far is kept.")
    finally:
        if run.missing:
            print("\nNot measured:\n  " + "\n  ".join(run.missing))
        if words.json_file:
            try:
                Path(words.json_file).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            except OSError as error:
                print(f"peers.py: --json-file {words.json_file} cannot be written: {error.strerror}", file=sys.stderr)
                sys.exit(2)
    sys.exit(0 if report["complete"] else 130)


if __name__ == "__main__":
    main()
