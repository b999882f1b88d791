"""The module examples/python/adamant.py: its structs are those of adamant.h, its calls do what they say.

usage: module_test.py SOURCE   (ADAMANT_LIBRARY is the path of the shared library)
"""
import copy
import ctypes
import gc
import os
import pickle
import re
import sys
import tempfile
import unittest

import numpy as np

SOURCE = sys.argv.pop(1)
sys.path.insert(0, os.path.join(SOURCE, "examples", "python"))
import adamant  # noqa: E402

HEADER = re.sub(r"//[^\n]*", "", open(os.path.join(SOURCE, "include", "adamant", "adamant.h")).read())
PLAIN = {"size_t": ctypes.c_size_t, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
         "double": ctypes.c_double, "float": ctypes.c_float, "const char*": ctypes.c_char_p,
         "adamant_array": adamant.adamant_array, "const int64_t*": ctypes.POINTER(ctypes.c_int64),
         "const char* const*": ctypes.POINTER(ctypes.c_char_p)}


def fields_of(body):
    """The fields of a struct in C as ctypes has them; other pointers and functions as plain pointers."""
    for declaration in body.split(";"):
        declaration = " ".join(declaration.split())
        function = re.match(r".*\(\*(\w+)\)", declaration)
        field = re.match(r"(.*?) (\w+)$", declaration)
        if function:
            yield function[1], ctypes.c_void_p
        elif field:
            yield field[2], PLAIN.get(field[1], ctypes.c_void_p if field[1].endswith("*") else None)


def enumerators(prefix):
    return {name[len(prefix):].lower(): int(value) for name, value in re.findall(r"\b(ADAMANT_\w+) = (\d+)", HEADER)
            if name.startswith(prefix)}


class Header(unittest.TestCase):
    def test_has_the_structs_of_the_module(self):
        structs = dict((name, body) for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", HEADER, re.S))
        mirrored = [name for name in structs if hasattr(adamant, name)]
        self.assertEqual(set(structs) - set(mirrored), {"adamant_device_step_report"})
        for name in mirrored:
            self.assertEqual(list(fields_of(structs[name])), getattr(adamant, name)._fields_, name)

    def test_has_the_values_of_the_module(self):
        self.assertEqual(adamant.MASTERS, enumerators("ADAMANT_MASTER_"))
        self.assertEqual(adamant.SIMD, enumerators("ADAMANT_SIMD_"))
        types = enumerators("ADAMANT_")
        self.assertEqual(adamant.TYPES, {name: types[name] for name in adamant.TYPES})
        self.assertEqual(adamant.NON_FINITE, {name: types[name] for name in adamant.NON_FINITE})
        self.assertEqual(adamant.STATUSES, sorted(adamant.STATUSES, key=lambda name: types[name]))

    def test_declares_what_the_module_calls_with_as_many_parameters(self):
        for name, parameters in adamant._PARAMETERS.items():
            declared = re.search(r"\badamant_" + name + r"\(([^;]*)\);", HEADER)[1]
            count = 0 if declared == "void" else declared.count(",") + 1
            self.assertEqual(count, len(parameters), name)


class Optimizer(unittest.TestCase):
    def setUp(self):
        self.x, self.g = np.ones(6, np.float32).reshape(2, 3), np.full((2, 3), 0.5, np.float32)
        self.optimizer = adamant.Optimizer("adam", {"learning_rate": 0.5, "amsgrad": True}, threads=1)
        self.tensor = self.optimizer.add("x", self.x, self.g)

    def test_steps_in_place_and_has_states(self):
        self.optimizer.step()
        self.assertTrue((self.x == np.float32(0.5)).all())
        self.assertEqual(self.optimizer.state_names(), ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"])
        state = self.optimizer.state(self.tensor, "exp_avg").numpy()
        self.assertTrue((state == np.float32(0.05)).all())
        self.assertEqual(self.optimizer.step_count(self.tensor), 1)
        self.assertGreaterEqual(self.optimizer.state_bytes(), 3 * 24)

    def test_keeps_alive_what_is_in_use(self):
        self.optimizer.add("y", np.ones(1000), np.ones(1000))
        self.optimizer.step()
        state = self.optimizer.state(self.tensor, "exp_avg").numpy()
        self.optimizer = None
        gc.collect()
        self.assertTrue((state == np.float32(0.05)).all())

    def test_takes_addresses_for_arrays(self):
        bits = np.full(3, 0x3F80, np.uint16)  # 1.0 in bfloat16
        gradient = np.full(3, 0x3F80, np.uint16)
        tensor = self.optimizer.add("narrow", adamant.Array(bits.ctypes.data, 3, "bfloat16"),
                                    adamant.Array(gradient.ctypes.data, 3, "bfloat16"), master="remainder")
        self.optimizer.step(stream=None)
        self.assertEqual(bits.tolist(), [0x3F00] * 3)
        self.assertEqual(self.optimizer.tensors(), [self.tensor, tensor])
        self.optimizer.remove(tensor)
        self.assertEqual(self.optimizer.tensors(), [self.tensor])

    def test_has_groups_options_and_a_control(self):
        group = self.optimizer.add_group({"amsgrad": "true", "beta1": 0.5})
        self.assertEqual(self.optimizer.options(group)["beta1"], "0.5")
        self.optimizer.set_option("beta1", 0.25, group=group)
        self.optimizer.set_option("beta2", "0.75", group=group)
        self.assertEqual(self.optimizer.options(group)["beta1"], "0.25")
        self.assertEqual(self.optimizer.options(group)["beta2"], "0.75")
        self.optimizer.set_options({"amsgrad": True}, group=group)
        self.assertEqual(self.optimizer.options(group)["beta1"], "0.9")
        self.optimizer.set_group(self.tensor, group)
        self.optimizer.set_control(clip_norm=1.0, non_finite="skip", loss_scale_is_kept=1, loss_scale_initial=8)
        self.assertEqual(ctypes.c_float.from_address(self.optimizer.loss_scale()).value, 8)
        control = self.optimizer.control()
        self.assertEqual((control.clip_norm, control.loss_scale_initial, control.seed), (1, 8, 0))
        self.assertEqual((self.optimizer.group_count(), self.optimizer.group(self.tensor)), (2, group))
        self.g[0, 0] = np.inf
        self.optimizer.prepare()
        self.optimizer.step()
        report = self.optimizer.report()
        self.assertEqual((report.skipped, report.skipped_steps, report.loss_scale), (1, 1, 4))
        self.optimizer.zero_gradients()
        self.assertTrue((self.g == 0).all())
        other = np.ones_like(self.g)
        other.flags.writeable = False
        self.optimizer.set_gradient(self.tensor, other)
        with self.assertRaisesRegex(adamant.Error, "const"):
            self.optimizer.zero_gradients()
        self.optimizer.freeze(self.tensor)
        self.assertTrue(self.optimizer.frozen(self.tensor))
        self.optimizer.step()
        self.assertEqual(self.optimizer.step_count(self.tensor), 0)
        self.optimizer.thaw(self.tensor)
        self.assertFalse(self.optimizer.frozen(self.tensor))
        self.optimizer.set_step_count(self.tensor, 41)
        self.optimizer.step()
        self.assertEqual(self.optimizer.step_count(self.optimizer.find("x")), 42)

    def test_saves_and_loads(self):
        self.optimizer.step()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "größe.safetensors")
            self.optimizer.save(path)
            double = np.zeros((2, 3))
            same = adamant.Optimizer("adam", {"amsgrad": True})
            same.add("x", double, np.zeros((2, 3)))
            with self.assertRaisesRegex(adamant.Error, "F32") as caught:
                same.load(path)
            self.assertEqual(caught.exception.status, "not_loaded")
            same.load(path, change_types=["x"])
            self.assertTrue((double == 0.5).all())
            with self.assertRaises(adamant.Error) as caught:
                same.save(os.path.join(folder, "no", "such", "folder"))
            self.assertEqual((caught.exception.status, caught.exception.number), ("not_saved", 2))

    def test_refuses_what_is_wrong(self):
        five = np.ones(5, np.float32)
        with self.assertRaisesRegex(adamant.Error, "gradient: count 5"):
            self.optimizer.add("y", np.ones(6, np.float32), adamant.Array(five.ctypes.data, 5, "float32"))
        with self.assertRaisesRegex(ValueError, r"shape \(3, 2\), and the parameter \(2, 3\)"):
            self.optimizer.add("y", np.ones((2, 3), np.float32), np.ones((3, 2), np.float32))
        with self.assertRaisesRegex(ValueError, r"shape \(6,\), and the parameter \(2, 3\)"):
            self.optimizer.set_gradient(self.tensor, np.ones(6, np.float32))
        with self.assertRaisesRegex(ValueError, "contiguous arrays only.*a copy made for this call"):
            self.optimizer.add("y", np.ones((6, 6), np.float32)[:, 0], np.ones(6, np.float32))
        with self.assertRaisesRegex(ValueError, "int64"):
            self.optimizer.add("y", np.ones(6, np.int64), np.ones(6, np.float32))
        swapped = np.ones(6, np.dtype(np.float32).newbyteorder())
        with self.assertRaisesRegex(ValueError, "byte order"):
            self.optimizer.add("y", swapped, np.ones(6, np.float32))
        with self.assertRaisesRegex(TypeError, "clipnorm"):
            self.optimizer.set_control(clipnorm=1.0)
        with self.assertRaisesRegex(adamant.Error, r"/no/such/\\xff") as caught:  # no UTF-8
            self.optimizer.save(b"/no/such/\xff")
        self.assertEqual(caught.exception.status, "not_saved")
        read_only = np.ones(6, np.float32)
        read_only.flags.writeable = False
        with self.assertRaisesRegex(ValueError, "read-only"):
            self.optimizer.add("y", read_only, np.ones(6, np.float32))
        with self.assertRaisesRegex(adamant.Error, "gradient_descent") as caught:
            adamant.Optimizer("sgd")
        self.assertEqual(caught.exception.status, "invalid_argument")
        self.assertIn("adamw", adamant.methods())
        with self.assertRaisesRegex(ValueError, "is loaded already.*/no/such.so"):
            adamant.load("/no/such.so")
        self.assertEqual(adamant.load(os.path.relpath(adamant.load()._name)), adamant.load(""))
        for device in ("tpu", "cpu:1", "cuda:", "cuda:x"):
            with self.assertRaisesRegex(ValueError, f'"{device}"; allowed: "cpu" and "cuda:N"'):
                adamant.Optimizer("adam", device=device)
        with self.assertRaisesRegex(ValueError, "simd is 'sse'; allowed: best, baseline"):
            adamant.Optimizer("adam", simd="sse")
        ones = np.ones(6, np.float32)
        with self.assertRaisesRegex(TypeError, "not a list"):
            self.optimizer.add("y", ones, [1.0] * 6)
        with self.assertRaisesRegex(ValueError, "master is 'half'; allowed: automatic, none"):
            self.optimizer.add("y", ones, ones, master="half")
        with self.assertRaisesRegex(ValueError, "state_type is 'int8'; allowed: float32"):
            self.optimizer.add("y", ones, ones, state_type="int8")
        with self.assertRaisesRegex(ValueError, "non_finite is 'ignore'; allowed: propagate, skip"):
            self.optimizer.set_control(non_finite="ignore")
        with self.assertRaisesRegex(adamant.Error, "cuda:1000000") as caught:
            adamant.Optimizer("adam", device="cuda:1000000")
        self.assertEqual(caught.exception.status, "unavailable")

    def test_cuts_nothing_off(self):
        with self.assertRaisesRegex(OverflowError, "4294967296"):
            self.optimizer.options(group=2**32)
        with self.assertRaisesRegex(OverflowError, "18446744073709551616"):
            self.optimizer.freeze(2**64)
        with self.assertRaisesRegex(OverflowError, "group is 4294967296"):
            self.optimizer.add("y", np.ones(1), np.ones(1), group=2**32)
        with self.assertRaisesRegex(OverflowError, "threads is 4294967297"):
            adamant.Optimizer("adam", threads=2**32 + 1)
        ones = np.ones(3)
        with self.assertRaisesRegex(OverflowError, "count of an Array: 18446744073709551619"):
            self.optimizer.add("y", adamant.Array(ones.ctypes.data, 2**64 + 3, "float64"), ones)
        with self.assertRaisesRegex(OverflowError, "address of an Array"):
            self.optimizer.add("y", adamant.Array(2**64 + ones.ctypes.data, 3, "float64"), ones)
        with self.assertRaisesRegex(OverflowError, "shape: 18446744073709551619"):
            self.optimizer.add("y", ones, ones, shape=(2**64 + 3,))
        for call in (lambda: self.optimizer.add("a\0b", np.ones(1), np.ones(1)), lambda: self.optimizer.find("x\0"),
                     lambda: self.optimizer.save("/tmp/a\0b"), lambda: adamant.Optimizer("adam\0")):
            with self.assertRaisesRegex(ValueError, "zero byte"):
                call()

    def test_is_not_copied(self):
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with self.assertRaisesRegex(TypeError, "cannot be copied"):
                duplicate(self.optimizer)


unittest.main()
