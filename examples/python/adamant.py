"""adamant from Python, by ctypes and nothing else: most of what include/adamant/adamant.h declares, as a class.

    import adamant
    adamant.load("/where/libadamant.so")   # or the environment variable ADAMANT_LIBRARY says where
    optimizer = adamant.Optimizer("adamw", {"learning_rate": 1e-3})
    optimizer.add("weights", weights, gradient)    # NumPy arrays, updated in place
    optimizer.step()

Arrays on a GPU go by their address, as adamant.Array(tensor.data_ptr(), tensor.numel(), "float32"), to an Optimizer that
is on that GPU (device="cuda:0"; one on the CPU cannot tell and would crash), and a stream by its handle
(torch.cuda.current_stream().cuda_stream). What fails raises adamant.Error with the library's text.
"""
import ctypes
import os
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint64, c_void_p

TYPES = {"float32": 1, "float64": 2, "bfloat16": 3, "float16": 4}
TYPE_NAMES = {value: name for name, value in TYPES.items()}
MASTERS = {"automatic": 0, "none": 1, "float32": 2, "remainder": 3, "stochastic": 4}
SIMD = {"best": 0, "baseline": 1, "avx2": 2, "avx512": 3}
NON_FINITE = {"propagate": 0, "skip": 1}
STATUSES = ["success", "invalid_argument", "out_of_memory", "out_of_device_memory", "unavailable", "not_saved",
            "durability_unsure", "not_loaded", "cuda_error", "cuda_error_sticky", "internal_error"]


# --- The structs of adamant.h, field by field

class adamant_option(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("number", c_double), ("text", c_char_p)]


class adamant_array(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("count", c_int64), ("type", c_int32), ("reserved", c_int32)]


class Sized(ctypes.Structure):
    """A struct that begins with its size. What is not given is zero, which is the default."""

    def __init__(self, **fields):
        unknown = set(fields) - {name for name, _ in self._fields_}
        if unknown:  # which ctypes would take for attributes of the Python object
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        super().__init__(struct_size=ctypes.sizeof(self), **fields)
        for name, value in fields.items():  # ctypes cuts off what is too large
            if isinstance(value, int) and value != (getattr(self, name) or 0):
                raise OverflowError(f"{type(self).__name__}: {name} is {value}, which does not fit its type")


class adamant_settings(Sized):
    _fields_ = [("struct_size", c_size_t), ("device", c_int32), ("device_index", c_int32), ("threads", c_int32),
                ("simd", c_int32), ("tile", c_int64), ("allocate", c_void_p), ("release", c_void_p), ("user", c_void_p)]


class adamant_tensor(Sized):
    _fields_ = [("struct_size", c_size_t), ("name", c_char_p), ("parameter", adamant_array),
                ("gradient", adamant_array), ("copy", adamant_array), ("shape", POINTER(c_int64)),
                ("dimensions", c_size_t), ("group", c_int32), ("state_type", c_int32), ("master", c_int32),
                ("zero_gradient", c_int32), ("gradient_is_const", c_int32), ("reserved", c_int32)]


class adamant_step_control(Sized):
    _fields_ = [("struct_size", c_size_t), ("gradient_scale", c_double), ("gradient_scale_pointer", c_void_p),
                ("found_non_finite", c_void_p), ("clip_norm", c_double), ("clip_value", c_double),
                ("loss_scale_initial", c_double), ("loss_scale_growth", c_double), ("loss_scale_backoff", c_double),
                ("loss_scale_is_kept", c_int32), ("loss_scale_growth_interval", c_int32), ("non_finite", c_int32),
                ("measure_norm", c_int32), ("seed", c_uint64)]


class adamant_step_report(Sized):
    _fields_ = [("struct_size", c_size_t), ("gradient_norm", c_double), ("skipped_steps", c_int64),
                ("loss_scale", c_float), ("good_steps", c_int32), ("skipped", c_int32), ("reserved", c_int32)]


class adamant_save_options(Sized):
    _fields_ = [("struct_size", c_size_t), ("without_parameters", c_int32), ("reserved", c_int32)]


class adamant_load_options(Sized):
    _fields_ = [("struct_size", c_size_t), ("allow_missing", c_int32), ("allow_extra", c_int32),
                ("change_types", POINTER(c_char_p)), ("change_types_count", c_size_t)]


# --- The library

# Parameters of the functions that are called below: all but the first five begin with the optimizer.
_TEXT = POINTER(c_char_p)
_OPTIONS = [POINTER(adamant_option), c_size_t]
_PARAMETERS = {
    "version": [], "last_error": [], "last_error_number": [], "method_count": [], "method_name": [c_int64, _TEXT],
    "create": [c_char_p, *_OPTIONS, POINTER(adamant_settings), POINTER(c_void_p)],
    "destroy": [c_void_p],
    "add_group": [c_void_p, *_OPTIONS, POINTER(c_int32)],
    "group_count": [c_void_p, POINTER(c_int32)],
    "add": [c_void_p, POINTER(adamant_tensor), POINTER(c_int64)],
    "remove": [c_void_p, c_int64],
    "find": [c_void_p, c_char_p, POINTER(c_int64)],
    "tensors": [c_void_p, POINTER(c_int64), c_size_t, POINTER(c_size_t)],
    "get_tensor": [c_void_p, c_int64, POINTER(adamant_tensor)],
    "freeze": [c_void_p, c_int64, c_void_p],
    "thaw": [c_void_p, c_int64, c_void_p],
    "frozen": [c_void_p, c_int64, POINTER(c_int32)],
    "set_group": [c_void_p, c_int64, c_int32, c_void_p],
    "set_gradient": [c_void_p, c_int64, POINTER(adamant_array), c_int32, c_void_p],
    "option_count": [c_void_p, POINTER(c_int64)],
    "option_at": [c_void_p, c_int32, c_int64, _TEXT, _TEXT, _TEXT],
    "set_options": [c_void_p, c_int32, *_OPTIONS, c_void_p],
    "set_option": [c_void_p, c_int32, c_char_p, c_char_p, c_void_p],
    "set_option_number": [c_void_p, c_int32, c_char_p, c_double, c_void_p],
    "set_control": [c_void_p, POINTER(adamant_step_control), c_void_p],
    "get_control": [c_void_p, POINTER(adamant_step_control)],
    "report": [c_void_p, c_void_p, POINTER(adamant_step_report)],
    "loss_scale": [c_void_p, POINTER(c_void_p)],
    "prepare": [c_void_p, c_void_p],
    "step": [c_void_p, c_void_p],
    "zero_gradients": [c_void_p, c_void_p],
    "step_count": [c_void_p, c_int64, c_void_p, POINTER(c_int64)],
    "set_step_count": [c_void_p, c_int64, c_int64, c_void_p],
    "state_count": [c_void_p, POINTER(c_int64)],
    "state_name": [c_void_p, c_int64, _TEXT],
    "state": [c_void_p, c_int64, c_char_p, POINTER(adamant_array)],
    "state_bytes": [c_void_p, POINTER(c_int64)],
    "save": [c_void_p, c_char_p, POINTER(adamant_save_options), c_void_p],
    "load": [c_void_p, c_char_p, POINTER(adamant_load_options), c_void_p],
}
_RESULTS = {"version": c_char_p, "last_error": c_char_p, "last_error_number": c_int32, "method_count": c_int64,
            "destroy": None}  # the others: a status
_library = None


class Error(RuntimeError):
    """What the library says of a call that failed; `status` is one of STATUSES, `number` an errno or cudaError_t."""

    def __init__(self, status, text, number):
        super().__init__(text)
        self.status = status
        self.number = number


def _is_same_file(one, other):
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def load(path=None):
    """Loads the shared library, once: from `path`, from where ADAMANT_LIBRARY says, or from where the system looks."""
    global _library
    path = os.fspath(path) if path else None
    if _library is not None and path is not None and not _is_same_file(path, _library._name):
        raise ValueError(f"{_library._name} is loaded already, and a process has one: {path} would have to come first")
    if _library is None:
        library = ctypes.CDLL(path or os.environ.get("ADAMANT_LIBRARY", "libadamant.so"))
        for name, parameters in _PARAMETERS.items():
            function = getattr(library, "adamant_" + name)
            function.argtypes = parameters
            function.restype = _RESULTS.get(name, c_int32)
        _library = library
    return _library


def _fitting(kind, value, what):
    """A number as it is, which ctypes would cut off where it is too large."""
    if kind(value).value != value:
        raise OverflowError(f"{what}: {value} does not fit its type")
    return value


def call(name, *arguments):
    """Calls a function that returns a status, and raises what it says of a failure."""
    library = load()
    function = getattr(library, "adamant_" + name)
    for kind, value in zip(function.argtypes, arguments):
        if kind in (c_int32, c_int64):
            _fitting(kind, value, f"adamant_{name}")
    status = function(*arguments)
    if status != 0:
        known = STATUSES[status] if 0 < status < len(STATUSES) else str(status)
        text = library.adamant_last_error().decode(errors="backslashreplace")  # a path may be of any bytes
        raise Error(known, text, library.adamant_last_error_number())


def version():
    return load().adamant_version().decode()


def methods():
    """The names that Optimizer() takes."""
    names = []
    for index in range(load().adamant_method_count()):
        name = c_char_p()
        call("method_name", index, byref(name))
        names.append(name.value.decode())
    return names


# --- Arrays

class Array:
    """Contiguous elements by their address: what a device has, or NumPy no type for (bfloat16)."""

    def __init__(self, address, count, type, writable=True, owner=None):
        self.address, self.count, self.type, self.writable, self.owner = address, count, type, writable, owner

    def numpy(self):
        """The elements as a NumPy array that shares their memory; on the CPU only. A bfloat16 is there as uint16."""
        import numpy
        dtype = numpy.dtype("uint16" if self.type == "bfloat16" else self.type)
        if self.count == 0:
            return numpy.empty(0, dtype)
        memory = (ctypes.c_char * (self.count * dtype.itemsize)).from_address(self.address)
        memory.owner = self.owner  # lives as long as the NumPy array
        return numpy.frombuffer(memory, dtype)


def as_array(given):
    """An Array as it is, and that of a NumPy array."""
    if isinstance(given, Array):
        return given
    if not hasattr(given, "flags"):
        raise TypeError("adamant takes NumPy arrays, and adamant.Array(address, count, type) for what else there is, not a "
                        f"{type(given).__name__}")
    if not given.flags.c_contiguous:
        raise ValueError("adamant takes contiguous arrays only, which it reads and writes where they are: keep the values in "
                         "one, because a copy made for this call would be all that is stepped")
    if given.dtype.name not in TYPES or not given.dtype.isnative:
        raise ValueError(f"adamant has no type {given.dtype.str} ({given.dtype.name}): it has {', '.join(TYPES)}, in the "
                         "byte order of the machine")
    return Array(given.ctypes.data, given.size, given.dtype.name, given.flags.writeable, given)


def _text(text):
    """A text for C, which ends at a zero byte."""
    encoded = text if isinstance(text, bytes) else text.encode()
    if b"\0" in encoded:
        raise ValueError(f"{text!r} has a zero byte in it")
    return encoded


def _check_shape(parameter, gradient):
    """Refuses a gradient of another shape, where both have one: elements would be stepped by those of others."""
    shapes = [getattr(getattr(array, "owner", array), "shape", None) for array in (parameter, gradient)]
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(f"the gradient has the shape {shapes[1]}, and the parameter {shapes[0]}")


def _choice(table, name, what):
    """The number of a choice by its name."""
    if name not in table:
        raise ValueError(f"{what} is {name!r}; allowed: {', '.join(table)}")
    return table[name]


def _c_array(array):
    return adamant_array(_fitting(c_uint64, array.address or 0, "the address of an Array"),
                         _fitting(c_int64, array.count, "the count of an Array"),
                         _choice(TYPES, array.type, "the type of an Array"))


def _c_options(options):
    """The options of a method, {"learning_rate": 1e-3, "amsgrad": True, "epsilon_placement": "outside_root"}."""
    values = (adamant_option * max(1, len(options)))()
    for value, (name, given) in zip(values, options.items()):
        value.name = _text(name)
        if isinstance(given, str):
            value.text = _text(given)
        else:
            value.number = given
    return values, len(options)


# --- The optimizer

class Optimizer:
    """A method with its options on "cpu" or "cuda:N". Use it from one thread at a time.

    After a step of several threads, processes that are forked (as multiprocessing may do) must not step unless with
    threads=1: multiprocessing.get_context("spawn") makes others.
    """

    def __init__(self, method, options=None, device="cpu", threads=0, simd="best", tile=0):
        kind, _, index = device.partition(":")
        if device not in ("cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
            raise ValueError(f'device is "{device}"; allowed: "cpu" and "cuda:N"')
        settings = adamant_settings(device=int(kind == "cuda"), device_index=int(index or 0), threads=threads,
                                    simd=_choice(SIMD, simd, "simd"), tile=tile)
        self._handle = c_void_p()
        self._destroy = load().adamant_destroy
        self._arrays = {}  # of each tensor, which must live as long as it
        call("create", _text(method), *_c_options(options or {}), byref(settings), byref(self._handle))

    def __del__(self):
        if getattr(self, "_handle", None):
            self._destroy(self._handle)

    def __reduce_ex__(self, protocol):
        raise TypeError("an adamant.Optimizer cannot be copied or pickled: save() and load() carry its state")

    # Groups and tensors

    def add_group(self, options):
        """A group with options of its own; one that is not named has the method's default, not the first group's value."""
        group = c_int32()
        call("add_group", self._handle, *_c_options(options), byref(group))
        return group.value

    def group_count(self):
        """Groups are 0 to one less; a load() may bring some."""
        count = c_int32()
        call("group_count", self._handle, byref(count))
        return count.value

    def add(self, name, parameter, gradient, copy=None, shape=None, group=0, state_type=None, master="automatic",
            zero_gradient=False):
        """Adds a tensor: NumPy arrays or Arrays. Returns what names it in other calls."""
        shape = getattr(parameter, "shape", ()) if shape is None else shape
        _check_shape(parameter, gradient)
        arrays = as_array(parameter), as_array(gradient), None if copy is None else as_array(copy)
        if not arrays[0].writable or (copy is not None and not arrays[2].writable):
            raise ValueError(f'tensor "{name}": the parameter or the copy is read-only')
        tensor = adamant_tensor(
            name=_text(name), parameter=_c_array(arrays[0]), gradient=_c_array(arrays[1]),
            copy=adamant_array() if copy is None else _c_array(arrays[2]),
            shape=(c_int64 * len(shape))(*(_fitting(c_int64, size, "shape") for size in shape)), dimensions=len(shape), group=group,
            state_type=_choice(TYPES, state_type, "state_type") if state_type else 0,
            master=_choice(MASTERS, master, "master"),
            zero_gradient=int(zero_gradient), gradient_is_const=int(not arrays[1].writable))
        identifier = c_int64()
        call("add", self._handle, byref(tensor), byref(identifier))
        self._arrays[identifier.value] = list(arrays)
        return identifier.value

    def remove(self, tensor):
        call("remove", self._handle, tensor)
        del self._arrays[tensor]

    def find(self, name):
        tensor = c_int64()
        call("find", self._handle, _text(name), byref(tensor))
        return tensor.value

    def tensors(self):
        count = c_size_t()
        call("tensors", self._handle, None, 0, byref(count))
        identifiers = (c_int64 * count.value)()
        call("tensors", self._handle, identifiers, count.value, byref(count))
        return list(identifiers)

    def freeze(self, tensor, stream=None):
        call("freeze", self._handle, tensor, stream)

    def thaw(self, tensor, stream=None):
        call("thaw", self._handle, tensor, stream)

    def frozen(self, tensor):
        frozen = c_int32()
        call("frozen", self._handle, tensor, byref(frozen))
        return frozen.value != 0

    def group(self, tensor):
        given = adamant_tensor()
        call("get_tensor", self._handle, tensor, byref(given))
        return given.group

    def set_group(self, tensor, group, stream=None):
        call("set_group", self._handle, tensor, group, stream)

    def set_gradient(self, tensor, gradient, stream=None):
        """Another gradient from the next step on. The former one may go when the steps that read it are done."""
        array = as_array(gradient)
        _check_shape(self._arrays.get(tensor, [None])[0], gradient)
        call("set_gradient", self._handle, tensor, byref(_c_array(array)), int(not array.writable), stream)
        self._arrays[tensor][1] = array

    # Options

    def options(self, group=0):
        """The options of a group, name to value, as text."""
        count = c_int64()
        call("option_count", self._handle, byref(count))
        values = {}
        for index in range(count.value):
            name, value = c_char_p(), c_char_p()
            call("option_at", self._handle, group, index, byref(name), byref(value), None)
            values[name.value.decode()] = value.value.decode()
        return values

    def set_options(self, options, group=0, stream=None):
        """All options of a group: one that is not named gets the method's default. set_option() changes one alone."""
        call("set_options", self._handle, group, *_c_options(options), stream)

    def set_option(self, option, value, group=0, stream=None):
        if isinstance(value, str):
            call("set_option", self._handle, group, _text(option), _text(value), stream)
        else:
            call("set_option_number", self._handle, group, _text(option), value, stream)

    # What a step does to gradients, and what became of it

    def set_control(self, stream=None, **fields):
        """The fields of adamant_step_control: set_control(clip_norm=1.0, non_finite="skip"). Those that are not named get
        their defaults, the seed too: a run that was loaded keeps its random bits with seed=optimizer.control().seed."""
        fields["non_finite"] = _choice(NON_FINITE, fields.get("non_finite", "propagate"), "non_finite")
        call("set_control", self._handle, byref(adamant_step_control(**fields)), stream)

    def control(self):
        """What set_control() was given last, with the seed of the last load(); the fields of adamant_step_control."""
        control = adamant_step_control()
        call("get_control", self._handle, byref(control))
        return control

    def report(self, stream=None):
        """What became of the steps so far, with the fields of adamant_step_report."""
        report = adamant_step_report()
        call("report", self._handle, stream, byref(report))
        return report

    def loss_scale(self):
        """The address, in device memory, of the float32 that the loss is to be multiplied by."""
        address = c_void_p()
        call("loss_scale", self._handle, byref(address))
        return address.value

    # Steps

    def prepare(self, stream=None):
        call("prepare", self._handle, stream)

    def step(self, stream=None):
        call("step", self._handle, stream)

    def zero_gradients(self, stream=None):
        call("zero_gradients", self._handle, stream)

    def step_count(self, tensor, stream=None):
        count = c_int64()
        call("step_count", self._handle, tensor, stream, byref(count))
        return count.value

    def set_step_count(self, tensor, count, stream=None):
        call("set_step_count", self._handle, tensor, count, stream)

    # States

    def state_names(self):
        count = c_int64()
        call("state_count", self._handle, byref(count))
        names = []
        for index in range(count.value):
            name = c_char_p()
            call("state_name", self._handle, index, byref(name))
            names.append(name.value.decode())
        return names

    def state(self, tensor, name):
        """A state in the memory of the optimizer; it, and what is made of it, end with remove() of the tensor."""
        array = adamant_array()
        call("state", self._handle, tensor, _text(name), byref(array))
        return Array(array.data, array.count, TYPE_NAMES[array.type], owner=self)

    def state_bytes(self):
        count = c_int64()
        call("state_bytes", self._handle, byref(count))
        return count.value

    # Checkpoints

    def save(self, path, parameters=True, stream=None):
        options = adamant_save_options(without_parameters=int(not parameters))
        call("save", self._handle, _text(os.fsencode(path)), byref(options), stream)

    def load(self, path, allow_missing=False, allow_extra=False, change_types=(), stream=None):
        names = (c_char_p * len(change_types))(*(_text(name) for name in change_types))
        options = adamant_load_options(allow_missing=int(allow_missing), allow_extra=int(allow_extra),
                                       change_types=names, change_types_count=len(change_types))
        call("load", self._handle, _text(os.fsencode(path)), byref(options), stream)
