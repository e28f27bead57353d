"""Times PyTorch, Triton and Saccade's own library, called by ctypes, on work that `saccade bench` measured before.

    saccade bench --device cuda        runs it

Reads a JSON object a line: {"id", "operation", "method", "dtype", "parameters", "copies", "launches"}.  Writes one a line for
each peer that has the operation: {"id", "engine", "times_ms", "event_ms", "lasted_s", "extra_bytes"}, or {"id", "engine", "note"}
that says why it has no time; of several the first counts.  Before them {"software"}, or {"problem"} if there can be no more.

A time is that of launches back to back that end in one synchronisation, on copies of the data that take turns; on a GPU short
ones come from a CUDA graph, as on the other side, and those of PyTorch where they can be captured, so that none waits for its
host.  Before a peer is timed, its results are compared with those of Saccade's library on the same tensors.  "lasted_s": the
seconds of the measurement, which ended with the answer."""

import argparse
import functools
import gc
import json
import math
import mmap
import os
import sys
import time
import traceback
import warnings

REPETITIONS = 9
WARM_UP = 1.0  # seconds on a GPU: what draws much power is measured at the clocks that the cap leaves it, as on the other side
SHORT = 100e-6  # seconds of a launch that comes from a CUDA graph
MAY_WAIT = 5e-3  # and of one of PyTorch's, which is many kernels
LEAST = {"cuda": 10e-3, "cpu": 50e-3}  # seconds of a measurement
COMPARED = 1 << 22  # elements of a tensor at most, at equal distances
WORST = 8  # times farther off than most may an element of a product of 16-bit numbers be
TOLERANCES = {"f32": 1e-3, "bf16": 2.0**-5, "f16": 2.0**-8}


def answer(**fields):
    print(json.dumps(fields), flush=True)


try:
    import torch

    import operations
    from saccade_library import Context
except ImportError as e:
    answer(problem=str(e))
    sys.exit(0)


def one_line(error):
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Timer:
    def __init__(self, device):
        self.device, self.on_gpu = device, device.type == "cuda"

    def synchronize(self):
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, run):
        self.synchronize()
        start = time.perf_counter()
        run()
        self.synchronize()
        return time.perf_counter() - start

    def measure(self, works, launches, capture, short, stream):
        """Milliseconds of a launch, in several measurements, by the clock and the median by events of the GPU."""
        turn = 0
        # Results of a copy live until its next turn: else all would be written where a cache holds them.
        results = [None] * len(works)

        def some(count):
            nonlocal turn
            for _ in range(count):
                own = works[turn % len(works)]()
                if len(works) > 1:
                    results[turn % len(works)] = own
                own = None
                turn += 1

        some(len(works))  # compiles, and tunes
        few = min(len(works), 8)
        each = min(self.seconds(lambda: some(few)) / few for _ in range(3))
        # On a GPU as many as on the other side, but of slow ones fewer.
        count = max(1, math.ceil(LEAST[self.device.type] / each))
        count = min(launches, 3 * count) if self.on_gpu else count
        run = lambda: some(count)
        if self.on_gpu and each < short:
            run = capture(run)
        begin = time.perf_counter()
        while self.on_gpu and time.perf_counter() - begin < WARM_UP:
            self.seconds(run)
        times, events = [], []
        measured = time.perf_counter()
        for _ in range(REPETITIONS):
            if self.on_gpu:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.synchronize()
                begin = time.perf_counter()
                start.record(stream)
                run()
                end.record(stream)
                self.synchronize()
                times.append(1e3 * (time.perf_counter() - begin) / count)
                events.append(start.elapsed_time(end) / count)
            else:
                times.append(1e3 * self.seconds(run) / count)
        result = {"times_ms": times, "lasted_s": time.perf_counter() - measured}
        if events:
            result["event_ms"] = sorted(events)[len(events) // 2]
        return result


class CaptureFailed(Exception):
    """After which PyTorch's streams and memory are not what they were."""


def torch_capture(work):
    """A function that runs work() from a CUDA graph; the stream is not the legacy default one."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            work()
    except Exception as e:
        raise CaptureFailed from e
    return graph.replay


def require_near(expected, actual, tolerance):
    for i, (x, y) in enumerate(zip(expected, actual, strict=True)):
        x, y = (t.detach().reshape(-1)[:: t.numel() // COMPARED + 1].double() for t in (x, y))
        if x.shape != y.shape:
            raise ValueError(f"result {i}: {tuple(x.shape)} elements, not {tuple(y.shape)}")
        scale = x.square().mean().sqrt().clamp(min=1e-30)
        off = ((x - y).square().mean().sqrt() / scale).item()
        worst = ((x - y).abs() / (x.abs() + scale)).max().item()
        if not (off <= tolerance and worst <= WORST * tolerance):
            raise ValueError(
                f"result {i} differs from Saccade's by {off:.1e}, an element by {worst:.1e}; more than {tolerance:.1e}"
            )


class Bench:
    def __init__(self, device, threads, library, engines):
        self.device, self.threads, self.library, self.engines = device, threads, library, engines
        folder = os.path.dirname(os.path.abspath(__file__))
        beside, ours = (os.path.join(folder, path) for path in ("saccade.h", "../../native/include/saccade.h"))
        self.header = open(beside if os.path.exists(beside) else ours).read()
        self.timer = Timer(device)

        self.context = None

    def close(self):
        if self.context is not None:
            self.context.close()
            self.context = None

    def workspace(self, size):
        return torch.empty(max(size, 64), dtype=torch.uint8, device=self.device)

    def results(self, operation, work):
        """What work() gives, copied, on the data as it was made."""
        if not hasattr(operation, "made"):
            operation.made = [x.clone() for x in operation.state]
        with torch.no_grad():
            for x, y in zip(operation.state, operation.made):
                x.copy_(y)
        self.timer.synchronize()
        results = [x.clone() for x in work()]
        self.timer.synchronize()
        return results

    def peak(self, work):
        """Bytes that PyTorch takes in work(), beyond its results."""
        if self.device.type != "cuda":
            return None
        self.timer.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)

        def requested(when):
            return torch.cuda.memory_stats(self.device)["requested_bytes.all." + when]

        before = requested("current")
        results = work()
        own = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in results}
        grown = requested("current") - before
        return max(0, requested("peak") - before - min(grown, sum(own.values())))

    def run(self, request, graphs=True):
        """Answers for all engines; graphs: PyTorch's work may be captured, which CaptureFailed ends."""
        self.graphs = graphs
        if not self.timer.on_gpu:
            return self.run_here(request)
        torch.cuda.set_device(self.device)
        with torch.cuda.stream(torch.cuda.Stream()):  # the default one cannot be captured
            self.run_here(request)

    def run_here(self, request):
        kind = operations.operation(request["operation"], request["method"])
        parameters = {k: number(v) for k, v in request["parameters"].items()}
        try:
            copies = [kind(parameters, request["dtype"], self.device, request["method"]) for _ in range(request["copies"])]
        except Exception as e:
            for engine in self.engines:
                answer(id=request["id"], engine=engine, note=one_line(e))
            return
        expected = None
        for engine, there in (("ctypes", kind.call), ("eager", True), ("compiled", kind.compiles), ("triton", copies[0].triton)):
            wanted = engine in self.engines
            if not there or not (wanted or engine == "ctypes"):
                continue
            try:
                works, capture, short, stream, extra, results = getattr(self, engine)(copies)
                if engine == "ctypes":
                    expected = results
                elif expected is None:
                    raise ValueError("no results of Saccade's to compare with")
                else:
                    count = kind.compared if kind.compared is not None else len(expected)
                    tolerance = TOLERANCES[request["dtype"]]
                    if parameters.get("precision") == "BF16":
                        tolerance = TOLERANCES["bf16"]
                    require_near(expected[:count], results[:count], tolerance)
                if wanted:
                    fields = self.timer.measure(works, request["launches"], capture, short, stream)
                    answer(id=request["id"], engine=engine, **fields, **({} if extra is None else {"extra_bytes": extra}))
            except CaptureFailed:
                raise
            except Exception as e:
                if wanted:
                    answer(id=request["id"], engine=engine, note=one_line(e))
            works = results = capture = None
            if engine == "ctypes":
                self.close()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def ctypes(self, copies):
        context = self.context = Context(self.library, self.header, self.device, self.threads)
        self.timer.synchronize()
        workspace = functools.cache(self.workspace)  # one for all copies, as a context has
        prepared = [copy.call(context, workspace, *copy.inputs) for copy in copies]
        self.timer.synchronize()

        def first():
            prepared[0][0]()
            context.synchronize()
            return prepared[0][1]

        results = self.results(copies[0], first)
        stream = torch.cuda.ExternalStream(context.stream()) if context.on_gpu else None
        calls = [call for call, _ in prepared]
        return calls, context.capture, SHORT, stream, prepared[0][0].extra_bytes, results

    def of_torch(self, copies, work):
        works = [lambda copy=copy: work(copy) for copy in copies]
        results = self.results(copies[0], works[0])
        return works, torch_capture, MAY_WAIT if self.graphs else 0, None, self.peak(works[0]), results

    def eager(self, copies):
        return self.of_torch(copies, lambda copy: copy.run(copy.forward))

    def compiled(self, copies):
        torch._dynamo.reset()
        forward = torch.compile(copies[0].forward, dynamic=False)
        return self.of_torch(copies, lambda copy: copy.run(forward))

    def triton(self, copies):
        import triton_kernels

        kernel = getattr(triton_kernels, copies[0].triton)
        return self.of_torch(copies, lambda copy: kernel(*copy.inputs))


def number(text):
    try:
        value = float(text)
        return int(value) if value == int(value) else value
    except ValueError:
        return text


def software():
    parts = [f"PyTorch {torch.__version__}"]
    try:
        import triton

        parts.append(f"Triton {triton.__version__}")
    except ImportError:
        pass
    return " ".join(parts + ([f"CUDA {torch.version.cuda}"] if torch.version.cuda else []))


def in_own_process(work):
    """Whether work() is true, in a process forked from this one, which has not begun to use a GPU: tensors lie where those of
    a new process do, as on the other side, which is worth some percent of a short kernel, and not in what other work has
    left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: they have nothing to do yet
        child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def run_in_turn(bench, requests):
    """All of them in one process, as long as that goes well: what it ended at runs in the next one, without graphs."""
    done = mmap.mmap(-1, 8)  # shared: how many

    def rest(graphs):
        for i in range(int.from_bytes(done[:], "little"), len(requests)):
            try:
                bench.run(requests[i], graphs)
            except CaptureFailed:
                return False
            done[:] = (i + 1).to_bytes(8, "little")
            graphs = True
        return True

    failed = -1
    while not in_own_process(lambda: rest(graphs=failed != int.from_bytes(done[:], "little"))):
        at = int.from_bytes(done[:], "little")
        if at == failed:
            for engine in bench.engines:
                answer(id=requests[at]["id"], engine=engine, note="its process failed")
            done[:] = (at + 1).to_bytes(8, "little")
        failed = at


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--library", required=True)
    parser.add_argument("--engines", type=lambda names: names.split(","), default=["eager", "compiled", "triton", "ctypes"])
    args = parser.parse_args()
    device = torch.device(args.device)
    requests = [json.loads(line) for line in sys.stdin if line.strip()]
    if device.type == "cuda":
        if not in_own_process(torch.cuda.is_available):
            answer(problem="PyTorch sees no GPU")
            return
    elif args.threads:
        torch.set_num_threads(args.threads)
    answer(software=software())
    engines = args.engines
    if device.type == "cuda" and "ctypes" in engines:
        bench = Bench(device, args.threads, args.library, ["ctypes"])
        for request in requests:
            if not in_own_process(lambda: bench.run(request) or True):
                answer(id=request["id"], engine="ctypes", note="its process failed")
        engines = [engine for engine in engines if engine != "ctypes"]
    if not engines:
        return
    bench = Bench(device, args.threads, args.library, engines)
    if device.type == "cuda":
        run_in_turn(bench, requests)
    else:
        for request in requests:
            bench.run(request)


if __name__ == "__main__":
    main()
