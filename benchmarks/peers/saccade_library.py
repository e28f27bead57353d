"""Saccade's C library by ctypes.  Structs, functions and constants are read from saccade.h itself, which stays the only
place that declares them."""

import ctypes
import re

BASES = {
    "uint64_t": ctypes.c_uint64,
    "int64_t": ctypes.c_int64,
    "int32_t": ctypes.c_int32,
    "float": ctypes.c_float,
    "char": ctypes.c_char,
    "saccade_address": ctypes.c_uint64,
}


def parse(header):
    """The structs, as ctypes classes, and the constants of the header, by name."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    constants = {name: int(value) for name, value in re.findall(r"#define (SACCADE_\w+) (\d+)", text)}
    constants.update((name, int(value)) for name, value in re.findall(r"\b(SACCADE_\w+) = (\d+)", text))
    structs = {}
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", text, flags=re.S):
        fields = []
        for declaration in filter(None, (part.strip() for part in body.split(";"))):
            base, pointer, field, count = re.fullmatch(
                r"(?:const )?(\w+)\s*(\*?)\s*(\w+)(?:\[(\w+)\])?", declaration).groups()
            kind = ctypes.c_void_p if pointer else BASES[base]
            fields.append((field, kind * int(constants.get(count, count)) if count else kind))
        structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return structs, constants


class SaccadeError(Exception):
    pass


def address(value):
    """Of a tensor, an array or a struct of ctypes; a number is one."""
    if hasattr(value, "data_ptr"):
        return value.data_ptr()
    return value if isinstance(value, (int, float)) else ctypes.addressof(value)


class Context:
    """A context on a device of PyTorch; on a GPU with a stream of its own."""

    def __init__(self, library, header, device, threads):
        """library: path of libsaccade.so; header: text of saccade.h; device: a torch.device."""
        self.library = ctypes.CDLL(library)
        self.structs, self.constants = parse(header)
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.library.saccade_error_message.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p()
        self.graphs = []
        error = ctypes.create_string_buffer(1024)
        args = self.struct("saccade_context_args", device=int(self.on_gpu), device_index=device.index or 0,
                           threads=0 if self.on_gpu else threads, own_stream=int(self.on_gpu))
        if self.library.saccade_context_create(ctypes.byref(args), ctypes.byref(self.handle), error, ctypes.c_int64(1024)):
            raise SaccadeError(error.value.decode())

    def close(self):
        """Its graphs go first."""
        self.synchronize()
        for graph in self.graphs:
            self.check(self.library.saccade_graph_destroy(self.handle, graph))
        self.library.saccade_context_destroy(self.handle)

    def struct(self, name, **fields):
        """A struct of that name; tensors and structs among the fields become their addresses."""
        struct = self.structs[name]()
        if hasattr(struct, "struct_size"):
            struct.struct_size = ctypes.sizeof(struct)
        for field, value in fields.items():
            if not hasattr(struct, field):
                raise AttributeError(f"{name} has no {field}")
            setattr(struct, field, address(value))
        struct.kept = fields  # what the addresses are of
        return struct

    def array(self, name, entries):
        return (self.structs[name] * len(entries))(*entries)

    def check(self, status):
        if status:
            raise SaccadeError(self.library.saccade_error_message(self.handle).decode())

    def stream(self):
        stream = ctypes.c_uint64()
        self.check(self.library.saccade_context_stream(self.handle, ctypes.byref(stream)))
        return stream.value

    def synchronize(self):
        self.check(self.library.saccade_context_synchronize(self.handle))

    def call(self, operation, workspace, **fields):
        """The operation, ready to be called.  workspace: makes a buffer of so many bytes."""
        args = self.struct(f"saccade_{operation}_args", **fields)
        query = getattr(self.library, f"saccade_{operation}_workspace", None) if "workspace" in dict(args._fields_) else None
        bytes_needed = ctypes.c_int64()
        if query is not None:
            self.check(query(self.handle, ctypes.byref(args), ctypes.byref(bytes_needed)))
            args.memory = workspace(bytes_needed.value)
            args.workspace = address(args.memory)
        function, handle, pointer = getattr(self.library, f"saccade_{operation}"), self.handle, ctypes.byref(args)

        def run():
            if function(handle, pointer):
                raise SaccadeError(self.library.saccade_error_message(handle).decode())

        run.extra_bytes = bytes_needed.value
        return run

    def capture(self, work):
        """Records what work() calls; a function that runs all of it as one launch."""
        graph = ctypes.c_uint64()
        self.check(self.library.saccade_graph_begin(self.handle))
        try:
            work()
        finally:
            status = self.library.saccade_graph_end(self.handle, ctypes.byref(graph))
        self.check(status)
        self.graphs.append(graph)
        return lambda: self.check(self.library.saccade_graph_launch(self.handle, graph))

    def provide_products(self):
        """Gives the context the cuBLAS that PyTorch has loaded; there is none to give on the CPU."""
        if not self.on_gpu:
            raise SaccadeError("no provider of matrix products on the CPU")
        for soname in "libcublas.so.13", "libcublas.so.12":
            try:
                cublas = ctypes.CDLL(soname)
                break
            except OSError:
                pass
        else:
            raise SaccadeError("no cuBLAS")
        names = {"create": "cublasCreate_v2", "destroy": "cublasDestroy_v2", "set_stream": "cublasSetStream_v2",
                 "set_workspace": "cublasSetWorkspace_v2", "gemm_ex": "cublasGemmEx", "status_string": "cublasGetStatusString"}
        functions = {field: ctypes.cast(getattr(cublas, name), ctypes.c_void_p).value for field, name in names.items()}
        self.check(self.library.saccade_context_set_cublas(
            self.handle, ctypes.byref(self.struct("saccade_cublas", **functions))))


if __name__ == "__main__":
    # For tests: the size of every struct, a name and a number a line.
    import sys

    for name, struct in parse(open(sys.argv[1]).read())[0].items():
        print(name, ctypes.sizeof(struct))
