package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.lang.reflect.Field;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;
import org.openjdk.jmh.infra.BenchmarkParams;

/**
 * What the benchmarks of all operations share: the engine, its threads, and the comparison of its
 * results with Saccade's on the very data that is measured, which fails the benchmark where they
 * differ.
 *
 * <p>A subclass gives a {@link Workload} for each of its methods; the methods only {@link #run}.
 * Data is random and normal, never zeros, and larger than a cache wherever the operation is used on
 * such sizes.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Warmup(iterations = 2, time = 1)
@Measurement(iterations = 5, time = 1)
@Fork(
    value = 1,
    jvmArgsAppend = {
      "--enable-native-access=ALL-UNNAMED",
      // JavaCPP counts the whole process against the heap otherwise.
      "-Dorg.bytedeco.javacpp.maxPhysicalBytes=0",
      "-Dorg.bytedeco.javacpp.maxBytes=0"
    })
public abstract class OperationBenchmark {
  /** One of {@link Engine#names()}. */
  @Param(Engine.SACCADE)
  private String engine;

  /** 0 for all processors. */
  @Param("0")
  private int threads;

  private Engine opened;
  private Work work;

  /** The workload of a benchmark method. Called often: inputs are made by {@link Workload#work}. */
  protected abstract Workload workload(String method);

  /** Type of the tensors that may be of 16 bits. Those of the other engines are f32. */
  protected DType dtype() {
    return DType.F32;
  }

  /** The form in which results of this operation are compared. */
  protected List<float[]> comparable(List<float[]> results) {
    return results;
  }

  /** Sets a parameter, or another field, as JMH does; returns this. */
  final OperationBenchmark with(String name, String value) {
    for (Class<?> type = getClass(); type != Object.class; type = type.getSuperclass()) {
      for (Field field : type.getDeclaredFields()) {
        if (field.getName().equals(name)) {
          set(field, value);
        }
      }
    }
    return this;
  }

  /** Sets every parameter to the first of its values. */
  final void setDefaults() {
    for (Class<?> type = getClass(); type != Object.class; type = type.getSuperclass()) {
      for (Field field : type.getDeclaredFields()) {
        if (field.isAnnotationPresent(Param.class)) {
          set(field, field.getAnnotation(Param.class).value()[0]);
        }
      }
    }
  }

  private void set(Field field, String value) {
    try {
      field.setAccessible(true);
      if (field.getType() == int.class) {
        field.setInt(this, Integer.parseInt(value));
      } else if (field.getType() == DType.class) {
        field.set(this, DType.valueOf(value));
      } else {
        field.set(this, value);
      }
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Threads in use. */
  final int threads() {
    return threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
  }

  /** Prepares the engine and compares its results with Saccade's. */
  @Setup
  public final void setUp(BenchmarkParams benchmark) {
    String name = benchmark.getBenchmark();
    Workload workload = workload(name.substring(name.lastIndexOf('.') + 1));
    opened = Engine.open(engine, threads(), dtype());
    work = workload.work().apply(opened);
    List<float[]> actual = comparable(work.results());
    // Second: it may load a BLAS whose symbols the engine would take for its own.
    List<float[]> expected;
    try (Engine reference = Engine.open(Engine.SACCADE, threads(), DType.F32)) {
      expected = comparable(workload.work().apply(reference).results());
    }
    // Inputs are what a 16-bit type holds; its results are rounded.
    double tolerance = Math.max(workload.tolerance(), dtype() == DType.F32 ? 0 : 0x1p-8);
    Comparison.requireNear(expected, actual, tolerance);
    opened.restoreThreads();
    if (opened.threads() != threads()) {
      throw new IllegalStateException(engine + " runs " + opened.threads() + " threads");
    }
  }

  /** Frees everything. */
  @TearDown
  public final void tearDown() {
    opened.close();
  }

  /** What every benchmark method does. */
  protected final Object run() {
    return work.run();
  }
}
