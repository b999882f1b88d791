"""As much of PyTorch as bench/peers.py needs, over NumPy, so that it is tested where there is none: SGD and Adam that
are right, an AdamW that decays half as much as it should, an RMSprop that fails."""
import os
import types

import numpy

__version__ = "0-stand-in"


class Tensor:
    device = types.SimpleNamespace(type="cpu", index=None)

    def __init__(self, values):
        self.values = values

    def data_ptr(self):
        return self.values.ctypes.data

    def numel(self):
        return self.values.size

    def item(self):
        return float(self.values)

    def detach(self):
        return self

    def flatten(self):
        return self

    def double(self):
        return Tensor(self.values.astype(numpy.float64))

    def abs(self):
        return Tensor(numpy.abs(self.values))

    def argmax(self):
        return int(numpy.argmax(self.values))

    def copy_(self, other):
        self.values[...] = other.values

    def __getitem__(self, index):
        return Tensor(self.values[index])

    def __rmul__(self, factor):
        return Tensor(numpy.asarray(factor * self.values, self.values.dtype))

    def __sub__(self, other):
        return Tensor(self.values - getattr(other, "values", other))

    def __le__(self, other):
        return bool(self.values <= other)


class Generator:
    def __init__(self, device):
        self.random = None

    def manual_seed(self, seed):
        self.random = numpy.random.default_rng(seed)
        return self


def randn(count, device, generator):
    return Tensor(generator.random.standard_normal(count, numpy.float32))


def cat(tensors):
    return Tensor(numpy.concatenate([tensor.values for tensor in tensors]))


def device(kind, index=None):
    if kind == "cpu":
        return Tensor.device
    kind, _, number = kind.partition(":")
    return types.SimpleNamespace(type=kind, index=int(number) if number else index)


def set_device(where):
    if where.index is None:  # as PyTorch does
        raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{where.type}")
    raise RuntimeError(f"this stand-in has no {where.type}:{where.index}\nand more")


def set_num_threads(count):
    pass


class SGD:
    def __init__(self, parameters, lr, momentum=0.0, foreach=False, fused=False):
        self.parameters, self.lr, self.momentum = parameters, lr, momentum
        self.buffers = [numpy.zeros_like(parameter.values) for parameter in parameters]

    def step(self):
        for parameter, buffer in zip(self.parameters, self.buffers):
            buffer[...] = numpy.float32(self.momentum) * buffer + parameter.grad.values
            parameter.values -= numpy.float32(self.lr) * buffer


class Adam:
    decayed = 1.0

    def __init__(self, parameters, lr, weight_decay=0.0, foreach=False, fused=False):
        self.parameters, self.lr, self.steps = parameters, lr, 0
        self.decay = self.decayed * weight_decay
        self.states = [(numpy.zeros_like(p.values), numpy.zeros_like(p.values)) for p in parameters]

    def step(self):
        self.steps += 1
        for parameter, (m, s) in zip(self.parameters, self.states):
            gradient = parameter.grad.values
            m += numpy.float32(0.1) * (gradient - m)
            s += numpy.float32(0.001) * (gradient * gradient - s)
            root = numpy.sqrt(s / numpy.float32(1 - 0.999**self.steps)) + numpy.float32(1e-8)
            parameter.values *= numpy.float32(1 - self.lr * self.decay)
            parameter.values -= numpy.float32(self.lr / (1 - 0.9**self.steps)) * m / root


class AdamW(Adam):
    def __init__(self, parameters, lr, weight_decay, foreach=False, fused=False):
        self.decayed = float(os.environ.get("STAND_IN_DECAY", 0.5))
        super().__init__(parameters, lr, weight_decay)


class RMSprop:
    def __init__(self, parameters, lr, alpha, eps, foreach=False, fused=False):
        if os.environ.get("STAND_IN_INTERRUPTS"):
            raise KeyboardInterrupt
        raise RuntimeError("not in this stand-in\nand more")


def clip_grad_norm_(parameters, norm):
    total = sum(float(numpy.sum(numpy.square(p.grad.values, dtype=numpy.float64))) for p in parameters) ** 0.5
    for parameter in parameters:
        parameter.grad.values *= numpy.float32(min(1.0, norm / (total + 1e-6)))


optim = types.SimpleNamespace(SGD=SGD, Adam=Adam, AdamW=AdamW, RMSprop=RMSprop)
nn = types.SimpleNamespace(Parameter=lambda tensor: tensor, utils=types.SimpleNamespace(clip_grad_norm_=clip_grad_norm_))
cuda = types.SimpleNamespace(is_available=lambda: False, set_device=set_device)
