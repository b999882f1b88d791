"""Fits y = a x + b to points, saves the run in the middle, and goes on from the file: python3 line.py [LIBRARY]"""
import os
import sys
import tempfile

import numpy as np

import adamant

adamant.load(sys.argv[1] if len(sys.argv) > 1 else None)

x = np.linspace(-1, 1, 101, dtype=np.float32)
y = 3 * x - 2  # what the fit has to find out


def start():
    """Parameters, their gradients, and an optimizer of both."""
    slope, offset = np.zeros(1, np.float32), np.zeros(1, np.float32)
    slope_gradient, offset_gradient = np.zeros_like(slope), np.zeros_like(offset)
    optimizer = adamant.Optimizer("adam", {"learning_rate": 0.05})
    optimizer.add("slope", slope, slope_gradient)
    optimizer.add("offset", offset, offset_gradient)
    return optimizer, slope, offset, slope_gradient, offset_gradient


def train(optimizer, slope, offset, slope_gradient, offset_gradient, steps):
    for _ in range(steps):
        error = slope * x + offset - y
        slope_gradient[:] = 2 * np.mean(error * x)
        offset_gradient[:] = 2 * np.mean(error)
        optimizer.step()


run = start()
train(*run, steps=250)
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "line.safetensors")
    run[0].save(path)
    train(*run, steps=250)

    resumed = start()
    resumed[0].load(path)
    train(*resumed, steps=250)

optimizer, slope, offset = run[:3]
print(f"y = {slope[0]:.4f} x {offset[0]:+.4f} after {optimizer.step_count(optimizer.find('slope'))} steps")
print("resumed: the same bits" if (slope, offset) == resumed[1:3] else "resumed: other bits")
try:
    optimizer.set_option("learning_rate", -1.0)
except adamant.Error as error:
    print(f"{error.status}: {error}")
