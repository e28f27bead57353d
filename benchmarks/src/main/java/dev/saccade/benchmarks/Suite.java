package dev.saccade.benchmarks;

import dev.saccade.Context;
import dev.saccade.DType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.Set;
import java.util.regex.Pattern;
import org.openjdk.jmh.infra.BenchmarkParams;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.BenchmarkList;
import org.openjdk.jmh.runner.BenchmarkListEntry;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.format.OutputFormat;
import org.openjdk.jmh.runner.format.OutputFormatFactory;
import org.openjdk.jmh.runner.options.CommandLineOptionException;
import org.openjdk.jmh.runner.options.CommandLineOptions;
import org.openjdk.jmh.runner.options.Options;
import org.openjdk.jmh.runner.options.OptionsBuilder;
import org.openjdk.jmh.runner.options.VerboseMode;

/**
 * Runs every benchmark on every engine of the class path, and Saccade's also with bf16 where logits
 * are read, and writes a {@link Result} for each.
 */
public final class Suite {
  private Suite() {}

  /**
   * @param args the file to write, then any options of JMH
   */
  public static void main(String[] args)
      throws CommandLineOptionException,
          RunnerException,
          IOException,
          ReflectiveOperationException {
    Path csv = Path.of(args[0]);
    Options options = new CommandLineOptions(Arrays.copyOfRange(args, 1, args.length));
    List<String> engines = Engine.names();
    List<String> all = selected(options);
    List<String> others = all.stream().filter(name -> !readsLogits(name)).toList();

    List<RunResult> runs = new ArrayList<>();
    runs.addAll(run(options, List.of(), DType.F32, engines));
    if (others.size() < all.size()) {
      runs.addAll(run(options, others, DType.BF16, List.of(Engine.SACCADE)));
    }
    List<Result> results = new ArrayList<>();
    for (RunResult run : runs) {
      results.add(result(run));
    }
    Ceilings ceilings = Ceilings.of(results);
    results.replaceAll(result -> result.withPercentOfCeiling(ceilings.percent(result)));
    results.sort(Comparator.comparingInt(Suite::section).thenComparing(Result::operation));
    Result.write(csv, results);
    if (runs.size() < all.size() * (engines.size() + 1) - others.size()) {
      System.err.println("some benchmarks failed: see above");
      System.exit(1);
    }
  }

  private static List<String> selected(Options options) {
    OutputFormat silent = OutputFormatFactory.createFormatInstance(System.out, VerboseMode.SILENT);
    Set<BenchmarkListEntry> entries =
        BenchmarkList.defaultList().find(silent, options.getIncludes(), options.getExcludes());
    return entries.stream().map(BenchmarkListEntry::getUsername).sorted().toList();
  }

  private static Class<?> type(String benchmark) {
    try {
      return Class.forName(benchmark.substring(0, benchmark.lastIndexOf('.')));
    } catch (ClassNotFoundException e) {
      throw new IllegalStateException(e);
    }
  }

  private static boolean readsLogits(String benchmark) {
    return LogitsBenchmark.class.isAssignableFrom(type(benchmark));
  }

  private static Collection<RunResult> run(
      Options options, List<String> excluded, DType dtype, List<String> engines)
      throws RunnerException {
    var builder = new OptionsBuilder().parent(options);
    excluded.forEach(name -> builder.exclude("^" + Pattern.quote(name) + "$"));
    builder.param("dtype", dtype.name());
    builder.param("engine", engines.toArray(String[]::new));
    return new Runner(builder.build()).run();
  }

  private static Result result(RunResult run) throws ReflectiveOperationException, IOException {
    BenchmarkParams params = run.getParams();
    String name = params.getBenchmark();
    var benchmark = (OperationBenchmark) type(name).getDeclaredConstructor().newInstance();
    for (String param : params.getParamsKeys()) {
      benchmark.with(param, params.getParam(param));
    }
    Workload workload = benchmark.workload(name.substring(name.lastIndexOf('.') + 1));
    double milliseconds = run.getPrimaryResult().getScore();
    double nanoseconds = 1e6 * milliseconds;
    return new Result(
        workload.name(),
        workload.shape(),
        benchmark.dtype().toString(),
        params.getParam("engine"),
        milliseconds,
        run.getPrimaryResult().getScoreError(),
        workload.bytesRead(),
        workload.bytesWritten(),
        workload.flops(),
        (workload.bytesRead() + workload.bytesWritten()) / nanoseconds,
        workload.flops() / nanoseconds,
        Double.NaN,
        benchmark.threads(),
        processor(),
        params.getVmName() + " " + params.getVmVersion(),
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

  /** Operations without a section of the specification come last. */
  private static int section(Result result) {
    String name = result.operation();
    return name.startsWith("§")
        ? Integer.parseInt(name.substring(1, name.indexOf(' ')))
        : Integer.MAX_VALUE;
  }
}
