"""Carries the state of an optimizer between PyTorch and adamant, through a safetensors file (docs/pytorch.md).

save_state() writes what adamant::Optimizer::load() reads, load_state() reads what adamant::Optimizer::save() wrote.
Needs torch 1.13 or newer and safetensors. Tensors go by the names of model.named_parameters().
"""
import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_state(path, model, optimizer):
    """Parameters as NAME, states as NAME.exp_avg and so on, step counts as NAME.step."""
    arrays = {}
    for name, parameter in model.named_parameters():
        arrays[name] = parameter
        for key, value in optimizer.state[parameter].items():
            if value is not None:  # SGD before its first step
                arrays[f"{name}.{key}"] = torch.as_tensor(value, dtype=torch.float32 if key == "step" else None)
    save_file({name: array.detach().cpu().contiguous() for name, array in arrays.items()}, path)


def load_state(path, model, optimizer):
    """The other way round, with the learning rates. The optimizer is made as usual before, of the same method."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        states = metadata["adamant.states"].split(", ") if metadata["adamant.states"] else []
        for name, parameter in model.named_parameters():
            if metadata["adamant.parameters"] == "true":
                parameter.data.copy_(file.get_tensor(name).view_as(parameter))
            step = int(metadata[f"adamant.step.{name}"])
            if step == 0:
                continue  # PyTorch makes the states with the first step
            state = optimizer.state[parameter]
            state["step"] = torch.tensor(float(step))
            for key in states:
                state[key] = file.get_tensor(f"{name}.{key}").view_as(parameter).to(parameter.device)
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = float.fromhex(metadata[f"adamant.group.{index}.learning_rate"])
