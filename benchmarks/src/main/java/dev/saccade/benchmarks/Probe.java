package dev.saccade.benchmarks;

import dev.saccade.Device;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.openjdk.jmh.infra.BenchmarkParams;
import org.openjdk.jmh.infra.IterationParams;
import org.openjdk.jmh.profile.InternalProfiler;
import org.openjdk.jmh.results.AggregationPolicy;
import org.openjdk.jmh.results.IterationResult;
import org.openjdk.jmh.results.Result;
import org.openjdk.jmh.results.ScalarResult;

/**
 * What JMH reports beside its own time: that of the GPU's events, memory, and the GPU's clock,
 * power cap and reasons to throttle while it was measured. An iteration's time by events is the
 * mean of its launches, as JMH's is.
 */
public final class Probe implements InternalProfiler {
  static final String EVENTS = "event time";
  static final String EXTRA = "extra memory";
  static final String EXTENT = "extent";
  static final String CLOCK = "SM clock";
  static final String POWER_CAP = "power cap";
  static final String THROTTLE = "throttle reasons";

  private static NvidiaSmi smi;
  private static double extent;
  private static double extraBytes;

  /** Of the iteration. */
  private static double seconds;

  private static long launches;
  private static long begun; // by System.nanoTime()

  /** Read by JMH. */
  public Probe() {}

  /** A benchmark begins in this process. */
  static void begin(Device device, int extentMeasured, double extraMeasured) {
    extent = extentMeasured;
    extraBytes = extraMeasured;
    smi = device.kind() == Device.Kind.CUDA ? NvidiaSmi.start(device.index()) : null;
  }

  static void launched(int count, double inSeconds) {
    launches += count;
    seconds += inSeconds;
  }

  static void end() {
    if (smi != null) {
      smi.close();
    }
  }

  @Override
  public String getDescription() {
    return "events, memory, clock and power of a GPU";
  }

  @Override
  public void beforeIteration(BenchmarkParams benchmark, IterationParams iteration) {
    seconds = 0;
    launches = 0;
    begun = System.nanoTime();
  }

  @Override
  public Collection<? extends Result> afterIteration(
      BenchmarkParams benchmark, IterationParams iteration, IterationResult result) {
    List<ScalarResult> results = new ArrayList<>();
    add(results, EVENTS, 1e3 * seconds / launches, "ms", AggregationPolicy.AVG);
    add(results, EXTRA, extraBytes, "bytes", AggregationPolicy.MAX);
    add(results, EXTENT, extent, "#", AggregationPolicy.MAX);
    if (smi != null) {
      NvidiaSmi.Sample sample = smi.last(System.nanoTime() - begun);
      add(results, CLOCK, sample.megahertz(), "MHz", AggregationPolicy.AVG);
      add(results, POWER_CAP, sample.watts(), "W", AggregationPolicy.MAX);
      add(results, THROTTLE, sample.reasons(), "bits", AggregationPolicy.MAX);
    }
    return results;
  }

  /** Unless the value is not known. */
  private static void add(
      List<ScalarResult> results, String name, double value, String unit, AggregationPolicy of) {
    if (!Double.isNaN(value)) {
      results.add(new ScalarResult(name, value, unit, of));
    }
  }
}
