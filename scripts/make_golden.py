#!/usr/bin/python3
"""Makes the PyTorch results in tests/golden: what optimizers of torch.optim make of the traces there.

  scripts/make_golden.py            writes the cases listed below for every trace
  scripts/make_golden.py --check    recomputes every case in tests/golden and compares; writes nothing

Needs PyTorch 1.13 (Debian: apt install python3-torch, run with /usr/bin/python3). tests/golden/README.md says what the
files hold. The first nine cases of each trace were there before this script; it leaves them alone and reproduces them.
"""
import json
import pathlib
import struct
import sys

import numpy
import torch

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"

# Together with the first nine, every option of every method stands in some case. They are made where they tell most: on
# the digits trace, whose gradients are a network's, or on the synthetic one, whose scales lie far apart.
CASES = {
    "synthetic": {
        "sgd_l2_maximize": ("SGD", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
        "sgd_dampening_l2": ("SGD", {"lr": 0.03, "momentum": 0.8, "dampening": 0.5, "weight_decay": 0.05}),
        "rmsprop_torch_defaults": ("RMSprop", {}),
        "rmsprop_l2_maximize": ("RMSprop", {"lr": 0.003, "eps": 1e-6, "weight_decay": 0.1, "maximize": True}),
        "adam_small_betas": ("Adam", {"lr": 0.002, "betas": [0.5, 0.9]}),
        "adamw_amsgrad_maximize": ("AdamW", {"lr": 0.001, "amsgrad": True, "maximize": True}),
    },
    "digits": {
        "sgd_nesterov_l2_maximize": (
            "SGD",
            {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
        ),
        "rmsprop_momentum_l2": ("RMSprop", {"lr": 0.001, "eps": 1e-6, "momentum": 0.9, "weight_decay": 0.1}),
        "rmsprop_centered": ("RMSprop", {"lr": 0.003, "eps": 1e-4, "centered": True}),
        "adam_amsgrad_l2_maximize": (
            "Adam",
            {"lr": 0.003, "betas": [0.8, 0.99], "weight_decay": 0.1, "amsgrad": True, "maximize": True},
        ),
        "adamw_small_betas": ("AdamW", {"lr": 0.002, "betas": [0.5, 0.9], "eps": 1e-5}),
    },
}


def read(path):
    """Header metadata and arrays of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        kind = {"F32": "<f4", "F64": "<f8"}[entry["dtype"]]
        arrays[name] = numpy.frombuffer(data[begin:end], kind).reshape(entry["shape"])
    return metadata, arrays


def write(path, metadata, arrays):
    """The header is padded with spaces to a multiple of 8 bytes, so that float64 data is aligned."""
    header, offset = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        kind = {"float32": "F32", "float64": "F64"}[array.dtype.name]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values()))


def run(optimizer, arguments, trace, dtype):
    """The last parameter, the states there are, and the largest |parameter| of each element on the way."""
    parameter = torch.nn.Parameter(torch.tensor(trace["param"], dtype=dtype))
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    method = getattr(torch.optim, optimizer)([parameter], **arguments)
    path_max = parameter.detach().abs().clone()
    for gradient in trace["grad"]:
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        method.step()
        path_max = torch.maximum(path_max, parameter.detach().abs())
    states = {
        name: value.numpy()
        for name, value in method.state[parameter].items()
        if name != "step" and value is not None
    }
    return parameter.detach().numpy(), states, path_max.numpy()


def make(optimizer, arguments, trace_name):
    _, trace = read(FOLDER / trace_name)
    parameter, states, path_max = run(optimizer, arguments, trace, torch.float64)
    single, _, _ = run(optimizer, arguments, trace, torch.float32)
    metadata = {
        "optimizer": optimizer,
        "arguments": json.dumps(arguments),
        "steps": str(len(trace["grad"])),
        "trace": trace_name,
    }
    return metadata, {"param": parameter, **states, "param_path_max": path_max, "param_f32": single}


def check():
    """Compares every case with what this PyTorch makes of it; says by how much they differ, relative to the value."""
    worst = 0.0
    for path in sorted(FOLDER.glob("*.safetensors")):
        metadata, there = read(path)
        if "optimizer" not in metadata:
            continue
        again_metadata, again = make(metadata["optimizer"], json.loads(metadata["arguments"]), metadata["trace"])
        if again_metadata != metadata or list(again) != list(there):
            sys.exit(f"{path.name}: has {metadata}, {list(there)}; made {again_metadata}, {list(again)}")
        for name, array in there.items():
            error = numpy.abs(array.astype("f8") - again[name].astype("f8"))
            relative = float(numpy.max(error / numpy.maximum(numpy.abs(array), 1e-300), initial=0.0))
            unit = float(numpy.finfo(array.dtype).eps)
            worst = max(worst, relative / unit)
            if error.any():
                print(f"{path.name}: {name}: {numpy.count_nonzero(error)} differ, by up to {relative:.2g}")
    print(f"largest difference: {worst:.2g} units of the last place")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        check()
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        for trace, cases in CASES.items():
            for case, (optimizer, arguments) in cases.items():
                path = FOLDER / f"{trace}.{case}.safetensors"
                write(path, *make(optimizer, arguments, f"{trace}.trace.safetensors"))
                print(path.name)
