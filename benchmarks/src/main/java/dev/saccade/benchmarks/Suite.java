package dev.saccade.benchmarks;

import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.Gpu;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.format.OutputFormatFactory;
import org.openjdk.jmh.runner.options.OptionsBuilder;
import org.openjdk.jmh.runner.options.TimeValue;
import org.openjdk.jmh.runner.options.VerboseMode;
import org.openjdk.jmh.util.Statistics;

/**
 * Measures {@link Cases} on a device, each by JMH in a JVM of its own, and the same work on other
 * engines: on the CPU those of the class path, and everywhere those of {@link PythonPeers}.
 */
public final class Suite {
  /** How close the clock of JMH and the events of the GPU are to be, and two callers' times. */
  static final double EVENTS_AGREE = 0.02;

  static final double CALLERS_AGREE = 0.03;

  /** What Saccade may be measured beside. */
  public static final List<String> PEERS =
      Stream.concat(Engine.PEERS.stream(), PythonPeers.NAMES.stream()).toList();

  /** Those that are measured unless others are asked for. */
  public static List<String> peers(boolean isScaling) {
    return PEERS.stream().filter(peer -> !isScaling || !peer.equals(PythonPeers.CTYPES)).toList();
  }

  private static final int MOST_FAILURE_LINES = 12;

  /**
   * @param operations in snake case; none for all
   * @param isQuick a part of the shapes of each operation, and shorter iterations
   * @param isScaling how operations grow instead
   * @param peers the other engines that are measured too, of {@link #PEERS}
   * @param csv where results go beside those that are there of other work on the same hardware;
   *     null for nowhere
   */
  public record Options(
      List<String> operations,
      Device device,
      int threads,
      boolean isQuick,
      boolean isScaling,
      List<String> peers,
      Path csv) {}

  private final Options options;
  private final PrintWriter out;
  private final PrintWriter err;
  private final Result.Machine machine;
  private final List<Result> results = new ArrayList<>();
  private final List<PythonPeers.Item> measured = new ArrayList<>();
  private Ceilings ceilings = Ceilings.BOUNDS;
  private boolean failed;

  private Suite(Options options, PrintWriter out, PrintWriter err) throws IOException {
    this.options = options;
    this.out = out;
    this.err = err;
    machine = machine(options.device, options.threads);
  }

  /** The names that {@link Options#operations} may have on a device. */
  public static List<String> operations(Device device, boolean isScaling) {
    List<Case> cases = isScaling ? Cases.scaling(device.kind()) : Cases.all(device.kind());
    List<Case> ceilings = isScaling ? List.of() : Cases.ceilings(device.kind());
    return Stream.concat(cases.stream(), ceilings.stream())
        .map(Case::operation)
        .distinct()
        .sorted()
        .toList();
  }

  /**
   * Measures, and prints a table. A file that cannot keep the results is known before.
   *
   * @param out the table
   * @param err progress, and what failed
   * @return whether all of Saccade's own ran
   * @throws IOException if the file cannot be written, is not one of results, or has some of other
   *     hardware
   */
  public static boolean run(Options options, PrintWriter out, PrintWriter err) throws IOException {
    return new Suite(options, out, err).run();
  }

  private boolean run() throws IOException {
    write();
    List<Case> cases = selected(options);
    int done = 0;
    for (Case ceiling : Cases.ceilings(options.device.kind())) {
      measure(ceiling, "ceiling");
    }
    ceilings = Ceilings.of(results);
    results.replaceAll(result -> result.withPercentOf(ceilings));
    for (Case one : cases) {
      measure(one, "%d/%d".formatted(++done, cases.size()));
    }
    new PythonPeers(options.device, machine.threads(), options.peers, err).run(measured, this::add);
    ceilings = Ceilings.of(results); // a peer may have reached more
    results.replaceAll(result -> result.withPercentOf(ceilings));
    out.print(ResultTable.text(results));
    out.flush();
    write();
    return !failed;
  }

  /** What is measured beside the ceilings. */
  static List<Case> selected(Options options) {
    Device.Kind kind = options.device.kind();
    List<Case> asked =
        (options.isScaling ? Cases.scaling(kind) : Cases.all(kind))
            .stream()
                .filter(
                    one ->
                        options.operations.isEmpty()
                            || options.operations.contains(one.operation()))
                .toList();
    if (options.isScaling || !options.isQuick) {
      return asked;
    }
    List<Case> quick = new ArrayList<>(asked.stream().filter(Case::isQuick).toList());
    for (String operation : options.operations) {
      if (quick.stream().noneMatch(one -> one.operation().equals(operation))) {
        asked.stream()
            .filter(one -> one.operation().equals(operation))
            .findFirst()
            .ifPresent(quick::add);
      }
    }
    return quick;
  }

  /** On Saccade and on the engines of the class path that have it. */
  private void measure(Case one, String progress) throws IOException {
    boolean alone =
        one.isSaccades() || options.isScaling || options.device.kind() != Device.Kind.CPU;
    List<String> engines = new ArrayList<>(List.of(Engine.SACCADE));
    if (!alone) {
      Engine.PEERS.stream().filter(options.peers::contains).forEach(engines::add);
    }
    for (String engine : engines) {
      OperationBenchmark instance = one.instance();
      if (!Engine.names().contains(engine)) {
        add(
            Result.notRun(
                line(one, instance, 0), engine, machine, "not on the class path (bench.sh)"));
        continue;
      }
      try {
        RunResult run = runJmh(one, engine);
        Result result = result(one, instance, engine, run);
        if (engine.equals(Engine.SACCADE) && instance.isRecorded()) {
          measured.add(
              new PythonPeers.Item(
                  one,
                  instance,
                  result.line(),
                  machine,
                  ceilings.launches(instance.workload(one.method()))));
        }
        add(result);
        err.printf(
            Locale.ROOT,
            "%s %s, %s, %s: %s %.4g ms%n",
            progress,
            result.line().operation(),
            result.line().data(),
            result.line().dtype(),
            engine,
            result.milliseconds());
      } catch (RunnerException e) {
        failed = true;
        add(Result.notRun(line(one, instance, 0), engine, machine, "failed"));
        Result.Line line = line(one, instance, 0);
        err.printf(
            "%s %s, %s, %s: %s failed: %s%n",
            progress, line.operation(), line.data(), line.dtype(), engine, e.getMessage());
      }
      err.flush();
    }
  }

  private void add(Result result) {
    results.add(result.withPercentOf(ceilings));
    try {
      write();
    } catch (IOException e) {
      err.println(e.getMessage()); // again at the end, where it counts
    }
  }

  private void write() throws IOException {
    if (options.csv != null) {
      try {
        Result.write(options.csv, Result.merge(kept(), results));
      } catch (IOException e) {
        throw new IOException("--csv: " + e.getMessage(), e);
      }
    }
  }

  /** What the file has; nothing for none or an empty one. */
  private List<Result> kept() throws IOException {
    Path csv = options.csv;
    if (!Files.exists(csv)) {
      return List.of();
    }
    if (!Files.isRegularFile(csv)) {
      throw new IOException(csv + ": not a file");
    }
    List<Result> kept = Files.size(csv) == 0 ? List.of() : Result.read(csv);
    for (Result result : kept) {
      Result.Machine other = result.machine();
      if (other.device().equals(machine.device()) && !other.hardware().equals(machine.hardware())) {
        throw new IOException(
            "%s: expected results of %s, got those of %s: name another file"
                .formatted(csv, machine.hardware(), other.hardware()));
      }
    }
    return kept;
  }

  private RunResult runJmh(Case one, String engine) throws RunnerException {
    boolean gpu = options.device.kind() == Device.Kind.CUDA;
    var builder =
        new OptionsBuilder()
            .include("^" + Pattern.quote(one.name()) + "$")
            .shouldFailOnError(true)
            .addProfiler(Probe.class)
            .param("engine", engine)
            .param("device", options.device.toString())
            .param("threads", Integer.toString(machine.threads()))
            .operationsPerInvocation(gpu ? ceilings.launches(one.workload()) : 1);
    one.params().forEach((name, value) -> builder.param(name, value));
    if (gpu || options.isQuick) {
      // What draws much power is measured at the clocks that the cap leaves it, as the peers are.
      builder
          .warmupIterations(1)
          .warmupTime(milliseconds(options.isQuick ? 200 : options.isScaling ? 300 : 1000))
          .measurementIterations(options.isQuick ? 5 : 7)
          .measurementTime(milliseconds(options.isQuick ? 200 : 300));
    }
    ByteArrayOutputStream log = new ByteArrayOutputStream();
    var format =
        OutputFormatFactory.createFormatInstance(
            new PrintStream(log, true, StandardCharsets.UTF_8), VerboseMode.NORMAL);
    try {
      return new Runner(builder.build(), format).runSingle();
    } catch (RunnerException e) {
      throw new RunnerException(failure(log.toString(StandardCharsets.UTF_8)), e);
    }
  }

  private static TimeValue milliseconds(int count) {
    return new TimeValue(count, TimeUnit.MILLISECONDS);
  }

  /** What JMH reported of a failure. */
  private static String failure(String log) {
    int begin = log.indexOf("<failure>");
    return Arrays.stream(log.substring(Math.max(0, begin)).split("\\R"))
        .filter(line -> !line.isBlank())
        .limit(MOST_FAILURE_LINES)
        .reduce((a, b) -> a + System.lineSeparator() + b)
        .orElse("");
  }

  private Result result(Case one, OperationBenchmark instance, String engine, RunResult run) {
    int asked = instance.extentValue();
    int extent = (int) secondary(run, Probe.EXTENT);
    if (extent != asked) {
      instance.with(instance.extent(), Integer.toString(extent));
    }
    Statistics statistics = run.getPrimaryResult().getStatistics();
    Result.Time time =
        new Result.Time(
            statistics.getPercentile(50),
            statistics.getMean(),
            run.getPrimaryResult().getScoreError(),
            median(run, Probe.EVENTS));
    return new Result(
        line(one, instance, asked),
        engine,
        time,
        Double.NaN,
        secondary(run, Probe.EXTRA),
        new Result.Conditions(
            secondary(run, Probe.CLOCK),
            secondary(run, Probe.POWER_CAP),
            NvidiaSmi.reasons(secondary(run, Probe.THROTTLE))),
        machine,
        "");
  }

  /**
   * @param asked the extent that was asked for; 0 for that of the instance
   */
  static Result.Line line(Case one, OperationBenchmark instance, int asked) {
    Workload workload = instance.workload(one.method());
    boolean shrunk = asked != 0 && asked != instance.extentValue();
    return new Result.Line(
        workload.name(),
        one.model(),
        workload.shape()
            + (shrunk ? " (%s %d did not fit)".formatted(instance.extent(), asked) : ""),
        instance.dtype().toString(),
        one.axis().isEmpty() ? "" : one.axis() + "=" + instance.get(one.axis()),
        workload.bytesRead(),
        workload.bytesWritten(),
        workload.flops());
  }

  private static double secondary(RunResult run, String name) {
    var result = run.getSecondaryResults().get(name);
    return result == null ? Double.NaN : result.getScore();
  }

  private static double median(RunResult run, String name) {
    var result = run.getSecondaryResults().get(name);
    return result == null ? Double.NaN : result.getStatistics().getPercentile(50);
  }

  static Result.Machine machine(Device device, int threads) throws IOException {
    boolean cpu = device.kind() == Device.Kind.CPU;
    String hardware = cpu ? processor() : Gpu.all().get(device.index()).name();
    String cuda =
        cpu ? "" : Context.nativeBuild().replaceAll(".*\\bcuda ", "").replaceAll("[ ,].*", "");
    return new Result.Machine(
        device.kind().name().toLowerCase(Locale.ROOT),
        threads == 0 ? Runtime.getRuntime().availableProcessors() : threads,
        hardware,
        cpu ? "" : NvidiaSmi.query(device.index(), "driver_version"),
        cuda,
        System.getProperty("java.vm.name") + " " + System.getProperty("java.vm.version"),
        System.getProperty("saccade.commit", "unknown"),
        LocalDate.now().toString());
  }

  /** The processor's name where Linux tells it, and the best instruction set of Saccade on it. */
  private static String processor() throws IOException {
    String name = System.getProperty("os.arch");
    Path info = Path.of("/proc/cpuinfo");
    if (Files.exists(info)) {
      for (String line : Files.readAllLines(info)) {
        if (line.startsWith("model name")) {
          name = line.substring(line.indexOf(':') + 1).strip().replace(',', ';');
        }
      }
    }
    try (Context context = Context.cpu()) {
      return name + " (" + context.instructionSet() + ")";
    }
  }
}
