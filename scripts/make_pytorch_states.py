#!/usr/bin/python3
"""Makes the files in tests/pytorch: states that PyTorch wrote, and what it makes of the steps that follow.

  scripts/make_pytorch_states.py           writes CASE.state.safetensors and CASE.rest.safetensors for every case
  scripts/make_pytorch_states.py --read F  reads the checkpoint F, which adamant wrote for the case that its name begins
                                           with (as tests/pytorch_test.cpp does), into PyTorch, takes the steps of
                                           CASE.rest and says how far they end from what is there

CASE.state is written by examples/pytorch/adamant_state.py after STEPS steps in float32. CASE.rest has, for the steps
after those, the gradients NAME.grad [steps, ...] and where they end, NAME: computed in float64 from the same state.
Needs torch 1.13 or newer and safetensors.
"""
import copy
import pathlib
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "pytorch"))
import adamant_state  # noqa: E402

FOLDER = ROOT / "tests" / "pytorch"
STEPS, REST = 10, 5
CASES = {  # tests/pytorch_test.cpp has the same options under the library's names
    "sgd": ("SGD", {"lr": 0.05}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "centered": True, "momentum": 0.8}),
    "adam": ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    "adamw": ("AdamW", {"lr": 0.01, "betas": (0.8, 0.97)}),
}


def make_model(dtype=torch.float32):
    torch.manual_seed(20261124)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2, bias=False))
    return model.to(dtype)


def make_optimizer(case, model):
    name, arguments = CASES[case]
    return getattr(torch.optim, name)(model.parameters(), **arguments)


def gradients(model, step):
    """Of a regression whose data changes from step to step."""
    generator = torch.Generator().manual_seed(step)
    inputs, wanted = torch.randn(8, 5, generator=generator), torch.randn(8, 2, generator=generator)
    loss = torch.nn.functional.mse_loss(model(inputs), wanted)
    return torch.autograd.grad(loss, list(model.parameters()))


def step_with(model, optimizer, gradient_list):
    for parameter, gradient in zip(model.parameters(), gradient_list):
        parameter.grad = gradient.to(parameter.dtype)
    optimizer.step()


def in_double(case, model, optimizer):
    """The same run, going on in float64."""
    wide = make_model(torch.float64)
    wide.load_state_dict(model.state_dict())
    wide_optimizer = make_optimizer(case, wide)
    state = copy.deepcopy(optimizer.state_dict())
    wide_optimizer.load_state_dict(state)
    return wide, wide_optimizer


def make(case):
    model = make_model()
    optimizer = make_optimizer(case, model)
    for step in range(STEPS):
        step_with(model, optimizer, gradients(model, step))
    adamant_state.save_state(str(FOLDER / f"{case}.state.safetensors"), model, optimizer)
    wide, wide_optimizer = in_double(case, model, optimizer)
    names = [name for name, _ in model.named_parameters()]
    taken = {name: [] for name in names}
    for step in range(STEPS, STEPS + REST):
        step_gradients = gradients(model, step)
        step_with(wide, wide_optimizer, step_gradients)
        step_with(model, optimizer, step_gradients)
        for name, gradient in zip(names, step_gradients):
            taken[name].append(gradient)
    rest = {f"{name}.grad": torch.stack(list_) for name, list_ in taken.items()}
    rest.update({name: parameter.detach() for name, parameter in wide.named_parameters()})
    save_file(rest, str(FOLDER / f"{case}.rest.safetensors"), {"torch": torch.__version__})


def read(path):
    case = pathlib.Path(path).name.split(".")[0]
    model = make_model()
    optimizer = make_optimizer(case, model)
    adamant_state.load_state(path, model, optimizer)
    rest = load_file(str(FOLDER / f"{case}.rest.safetensors"))
    names = [name for name, _ in model.named_parameters()]
    for step in range(REST):
        step_with(model, optimizer, [rest[f"{name}.grad"][step] for name in names])
    worst = 0.0
    for name, parameter in model.named_parameters():
        wanted = rest[name]
        unit = torch.finfo(torch.float32).eps * wanted.abs().max()
        worst = max(worst, float((parameter.detach().double() - wanted).abs().max() / unit))
    print(f"{case}: {REST} steps of PyTorch after adamant's checkpoint end {worst:.2f} units from PyTorch's own")
    if not worst < 8:
        sys.exit(1)
    # A model of which the optimizer has a part, and one in 16 bits, can go on too.
    for dtype, part in ((torch.float32, slice(1)), (torch.bfloat16, slice(None))):
        model = make_model(dtype)
        name, arguments = CASES[case]
        optimizer = getattr(torch.optim, name)(list(model.parameters())[part], **arguments)
        adamant_state.load_state(path, model, optimizer)
        step_with(model, optimizer, [rest[f"{name}.grad"][0] for name in names])
        with tempfile.TemporaryDirectory() as folder:
            adamant_state.save_state(f"{folder}/again.safetensors", model, optimizer)
        optimizer.state_dict()  # refuses to name states of parameters that are not the optimizer's


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"] and len(sys.argv) == 3:
        read(sys.argv[2])
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        FOLDER.mkdir(exist_ok=True)
        for case in CASES:
            make(case)
            print(case)
