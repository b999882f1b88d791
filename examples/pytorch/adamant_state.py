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
        for key, value in optimizer.state.get(parameter, {}).items():  # none where the optimizer does not have it
            if value is not None:  # SGD before its first step
                arrays[f"{name}.{key}"] = torch.as_tensor(value, dtype=torch.float32 if key == "step" else None)
    save_file({name: array.detach().cpu().contiguous() for name, array in arrays.items()}, path)


def load_state(path, model, optimizer):
    """The other way round, with the learning rates. The optimizer is made as usual before, of the same method.

    Nothing is changed when the file lacks something (KeyError, or SafetensorError of an array) or has a group's parameters
    in several groups (ValueError).
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        names = {parameter: name for name, parameter in model.named_parameters()}
        states = metadata["adamant.states"].split(", ") if metadata["adamant.states"] else []
        values, state_of, rates = {}, {}, []
        group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
        for parameter, name in names.items():
            step = int(metadata[f"adamant.step.{name}"])
            if metadata["adamant.parameters"] == "true":
                values[parameter] = file.get_tensor(name).view_as(parameter)
            if step > 0 and parameter in group_of:  # PyTorch makes the states with the first step
                state_of[parameter] = {
                    key: file.get_tensor(f"{name}.{key}").view_as(parameter).to(parameter.device, parameter.dtype)
                    for key in states
                }
                if not isinstance(optimizer, torch.optim.SGD):  # it keeps no count
                    is_on_device = group_of[parameter].get("fused") or group_of[parameter].get("capturable")
                    state_of[parameter]["step"] = torch.tensor(float(step), device=parameter.device if is_on_device else "cpu")
        for group in optimizer.param_groups:
            indices = {metadata[f"adamant.group_of.{names[parameter]}"] for parameter in group["params"]}
            if len(indices) > 1:
                members = ", ".join(names[parameter] for parameter in group["params"])
                raise ValueError(f"{path}: {members} are one group here and groups {sorted(indices)} in the file")
            rates.append(float.fromhex(metadata[f"adamant.group.{indices.pop()}.learning_rate"]) if indices else group["lr"])

    for parameter, value in values.items():
        parameter.data.copy_(value)
    for parameter in names:
        optimizer.state.pop(parameter, None)
    for parameter, state in state_of.items():
        optimizer.state[parameter].update(state)
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate
