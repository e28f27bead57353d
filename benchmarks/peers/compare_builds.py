"""Times builds of Saccade's library in turns, on the same tensors, and compares the bits of their results: for work on a kernel,
whose gains are smaller than what differs from one run to the next.

    python3 benchmarks/peers/compare_builds.py --builds old/libsaccade.so new/libsaccade.so --kernels \\
        'group_advantage forward f32 groups=16384 members=64 estimator=GRPO' \\
        'attention_divergence gradient bf16 batch=1 heads=28 kvHeads=4 rows=512 keys=4096 dim=128 lseGiven=true'

A workload is an operation, method, type and the parameters of its benchmark (benchmarks/src).  A build for one GPU takes a
minute: cmake -S native -B build -DCMAKE_BUILD_TYPE=Release -DSACCADE_CUDA_CODE=arch=compute_90a,code=sm_90a
-DSACCADE_INSTRUCTION_SETS=baseline, then cmake --build build --target saccade.  Exit status 1 if bits differ."""

import argparse
import math
import statistics
import sys

import torch

import operations
from torch_peers import LEAST, SHORT, Bench, number

BEYOND_CACHES, MOST_COPIES = 256 << 20, 32


def copies_of(workload, device):
    """So many copies of the data that no cache holds all."""
    name, method, dtype, *parameters = workload.split()
    parameters = {key: number(value) for key, value in (parameter.split("=") for parameter in parameters)}
    kind = operations.operation(name, method)
    first = kind(parameters, dtype, device, method)
    size = sum(x.nbytes for x in first.inputs if torch.is_tensor(x))
    count = min(MOST_COPIES, math.ceil(BEYOND_CACHES / max(size, 1))) if device.type == "cuda" else 1
    return [first] + [kind(parameters, dtype, device, method) for _ in range(count - 1)]


def kernels(run, synchronize):
    """The median time of every kernel of run(), in us."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        synchronize()
    times = {}
    for event in recorded.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times.setdefault(event.name.split("<")[0].split("(")[0].split("::")[-1], []).append(event.device_time)
    return "  ".join(f"{name} {statistics.median(values):.1f}" for name, values in times.items())


def compare(workload, args, device):
    """Prints a line a build; whether all give the same bits."""
    copies = copies_of(workload, device)
    benches, runs, results, same = [], [], [], True
    for library in args.builds:
        bench = Bench(device, args.threads, library, ["ctypes"])
        works, capture, _, _, _, result = bench.ctypes(copies)
        benches.append(bench)
        results.append(result)

        def some(count, works=works):
            for i in range(count):
                works[i % len(works)]()

        few = min(len(works), 8)
        each = min(bench.timer.seconds(lambda: some(few)) / few for _ in range(3))
        if len(runs) == 0:
            count = math.ceil(max(1, LEAST[device.type] / each) / len(works)) * len(works)
        run = lambda some=some: some(count)
        runs.append(capture(run) if bench.timer.on_gpu and each < SHORT else run)
    times = [[] for _ in runs]
    for repetition in range(args.repetitions + 1):
        for bench, run, own in zip(benches, runs, times):
            seconds = bench.timer.seconds(run)
            if repetition > 0:
                own.append(1e3 * seconds / count)
    print(workload)
    for library, bench, run, own, result in zip(args.builds, benches, runs, times, results):
        differ = [i for i, (x, y) in enumerate(zip(results[0], result)) if not torch.equal(bits(x), bits(y))]
        same = same and not differ
        median = statistics.median(own)
        print(f"  {median:10.5f} ms {100 * median / statistics.median(times[0]):6.1f} %  {library}"
              + (f", other bits in results {differ}" if differ else ""), flush=True)
        if args.kernels and bench.timer.on_gpu:
            print("      " + kernels(run, bench.timer.synchronize), flush=True)
    for bench in benches:
        bench.close()
    return same


def bits(x):
    return x.contiguous().view(torch.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="+", help="operation, method, type and parameters of each, in one argument")
    parser.add_argument("--builds", nargs="+", required=True, metavar="LIBRARY", help="files; times are relative to the first")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--kernels", action="store_true", help="the times of kernels too, in us, by PyTorch's profiler")
    args = parser.parse_args()
    device = torch.device(args.device)
    same = [compare(workload, args, device) for workload in args.workloads]
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
