package dev.saccade.benchmarks;

import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.OutOfMemoryException;
import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
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
 * <p>On a GPU an invocation is as many launches as JMH has operations an invocation, back to back,
 * and one synchronisation; {@link Probe} reports what else happened meanwhile. Data that the memory
 * does not hold is halved until it does.
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
  /** Bytes of what is compared before a GPU is measured. */
  private static final long SMALL = 64L << 20;

  /** One of {@link Engine#names()}. */
  @Param(Engine.SACCADE)
  private String engine;

  /** What {@link Device#parse} reads; the engines other than Saccade run on the CPU. */
  @Param("cpu")
  private String device;

  /** 0 for all processors. */
  @Param("0")
  private int threads;

  private Engine opened;
  private Launches launches;

  /** The workload of a benchmark method. Called often: inputs are made by {@link Workload#work}. */
  protected abstract Workload workload(String method);

  /** The parameter that is halved where the memory does not hold the rest; null for none. */
  protected abstract String extent();

  /** Type of the tensors that may be of 16 bits. Those of the other engines are f32. */
  protected DType dtype() {
    return DType.F32;
  }

  /** The form in which results of this operation are compared. */
  protected List<float[]> comparable(List<float[]> results) {
    return results;
  }

  /** Whether short launches may come from a graph, which leaves the time of calls out. */
  protected boolean isRecorded() {
    return true;
  }

  /** Takes less data, which a CPU too computes in no time. */
  void makeSmall(String method) {
    while (workload(method).bytes() > SMALL && shrink()) {
      // halved
    }
  }

  /** The benchmark that JMH names so, with its parameters. */
  static OperationBenchmark of(BenchmarkParams params) {
    OperationBenchmark benchmark = of(params.getBenchmark());
    for (String param : params.getParamsKeys()) {
      benchmark.with(param, params.getParam(param));
    }
    return benchmark;
  }

  /** The benchmark that JMH names so, with the first value of every parameter. */
  static OperationBenchmark of(String name) {
    try {
      Class<?> type = Class.forName(name.substring(0, name.lastIndexOf('.')));
      var benchmark = (OperationBenchmark) type.getDeclaredConstructor().newInstance();
      benchmark.setDefaults();
      return benchmark;
    } catch (ReflectiveOperationException e) {
      throw new IllegalArgumentException("no benchmark " + name, e);
    }
  }

  static String method(String benchmark) {
    return benchmark.substring(benchmark.lastIndexOf('.') + 1);
  }

  /** How much of {@link #extent} is measured; 0 without one. */
  final int extentValue() {
    return extent() == null ? 0 : Integer.parseInt(get(extent()));
  }

  /** Halves the extent, upwards; whether that was possible. */
  final boolean shrink() {
    int value = extentValue();
    if (value < 2) {
      return false;
    }
    with(extent(), Integer.toString((value + 1) / 2));
    return true;
  }

  /** Sets a parameter as JMH does; returns this. */
  final OperationBenchmark with(String name, String value) {
    Field field = parameter(name);
    if (field != null) {
      set(field, value);
    }
    return this;
  }

  /** The value of a parameter. */
  final String get(String name) {
    try {
      Object value = parameter(name).get(this);
      return value instanceof Enum<?> constant ? constant.name() : String.valueOf(value);
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  /** The parameters of this benchmark alone, by name: what its data depends on. */
  final Map<String, String> parameters() {
    Map<String, String> values = new TreeMap<>();
    for (Field field : fields()) {
      if (field.getDeclaringClass() != OperationBenchmark.class) {
        values.put(field.getName(), get(field.getName()));
      }
    }
    return values;
  }

  private void setDefaults() {
    fields().forEach(field -> set(field, field.getAnnotation(Param.class).value()[0]));
  }

  private Field parameter(String name) {
    return fields().stream().filter(f -> f.getName().equals(name)).findFirst().orElse(null);
  }

  private List<Field> fields() {
    List<Field> fields = new ArrayList<>();
    for (Class<?> type = getClass(); type != Object.class; type = type.getSuperclass()) {
      for (Field field : type.getDeclaredFields()) {
        if (field.isAnnotationPresent(Param.class)) {
          field.setAccessible(true);
          fields.add(field);
        }
      }
    }
    return fields;
  }

  @SuppressWarnings({"unchecked", "rawtypes"})
  private void set(Field field, String value) {
    Class<?> type = field.getType();
    try {
      if (type == int.class) {
        field.setInt(this, Integer.parseInt(value));
      } else if (type == float.class) {
        field.setFloat(this, Float.parseFloat(value));
      } else if (type == boolean.class) {
        field.setBoolean(this, Boolean.parseBoolean(value));
      } else if (type.isEnum()) {
        field.set(this, Enum.valueOf((Class<Enum>) type, value));
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

  private boolean isOnGpu() {
    return Device.parse(device).kind() == Device.Kind.CUDA;
  }

  /** Prepares the engine and compares its results with Saccade's. */
  @Setup
  public final void setUp(BenchmarkParams benchmark) {
    String method = method(benchmark.getBenchmark());
    if (isOnGpu()) {
      // What the whole data would take the CPU is minutes.
      OperationBenchmark small = of(benchmark);
      small.makeSmall(method);
      Work ofSmall = small.open(method);
      small.compare(method, ofSmall);
      small.opened.close();
    }
    Work work = openWhatFits(method);
    if (!isOnGpu()) {
      compare(method, work);
      opened.restoreThreads();
      if (opened.threads() != threads()) {
        throw new IllegalStateException(engine + " runs " + opened.threads() + " threads");
      }
    }
    launches =
        Launches.of(opened, works(method, work), benchmark.getOpsPerInvocation(), isRecorded());
    Probe.begin(Device.parse(device), extentValue(), launches.extraBytes());
  }

  private Work open(String method) {
    opened = Engine.open(engine, Device.parse(device), threads(), dtype());
    return workload(method).work().apply(opened);
  }

  /** Opens the engine on as much of the data as the memory holds, and what runs need beside it. */
  private Work openWhatFits(String method) {
    while (true) {
      try {
        Work work = open(method);
        if (isOnGpu()) {
          work.run();
        }
        return work;
      } catch (OutOfMemoryException e) {
        opened.close();
        if (!shrink()) {
          throw e;
        }
      }
    }
  }

  private void compare(String method, Work work) {
    Workload workload = workload(method);
    List<float[]> actual = comparable(work.results());
    // Second: it may load a BLAS whose symbols the engine would take for its own.
    List<float[]> expected;
    try (Engine reference = Engine.open(Engine.SACCADE, Device.CPU, threads(), DType.F32)) {
      expected = comparable(workload.work().apply(reference).results());
    }
    // Inputs are what a 16-bit type holds; its results are rounded.
    double tolerance = Math.max(workload.tolerance(), dtype() == DType.F32 ? 0 : 0x1p-8);
    Comparison.requireNear(expected, actual, tolerance);
  }

  /** On a GPU, what is smaller than a cache takes turns with copies of itself. */
  private List<Work> works(String method, Work first) {
    List<Work> works = new ArrayList<>(List.of(first));
    if (isOnGpu()) {
      Workload workload = workload(method);
      for (int copies = workload.copies(); works.size() < copies; ) {
        works.add(workload.work().apply(opened));
      }
    }
    return works;
  }

  /** Frees everything. */
  @TearDown
  public final void tearDown() {
    Probe.end();
    launches.close();
    opened.close();
  }

  /** What every benchmark method does: so many operations, and a wait until they are done. */
  protected final Object run() {
    return launches.run();
  }
}
