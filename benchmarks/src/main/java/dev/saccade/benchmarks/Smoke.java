package dev.saccade.benchmarks;

import dev.saccade.Device;
import java.util.Collection;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.options.OptionsBuilder;
import org.openjdk.jmh.runner.options.VerboseMode;

/** Every benchmark that an engine has once, in this JVM, on small data: for tests. */
public final class Smoke {
  private Smoke() {}

  /**
   * @throws RunnerException if a benchmark fails, such as by results unlike Saccade's
   */
  public static Collection<RunResult> run(String engine) throws RunnerException {
    System.setProperty("jmh.ignoreLock", "true"); // nothing is timed
    var builder = new OptionsBuilder();
    Stream.concat(Cases.all(Device.Kind.CPU).stream(), Cases.ceilings(Device.Kind.CPU).stream())
        .filter(one -> !one.isSaccades())
        .map(Case::name)
        .distinct()
        .forEach(name -> builder.include("^" + Pattern.quote(name) + "$"));
    if (engine.equals(Engine.SACCADE)) {
      builder.include(".*");
    }
    return new Runner(
            builder
                .forks(0)
                .mode(Mode.SingleShotTime)
                .warmupIterations(0)
                .measurementIterations(1)
                .shouldFailOnError(true)
                .verbosity(VerboseMode.SILENT)
                .param("engine", engine)
                .param("groups", "5")
                .param("members", "4")
                .param("rows", "8")
                .param("columns", "48")
                .param("vocabulary", "100")
                .param("hiddenSize", "24")
                .param("sequences", "4")
                .param("length", "8")
                .param("heads", "4")
                .param("kvHeads", "2")
                .param("keys", "24")
                .param("dim", "16")
                .param("tensors", "3")
                .param("elements", "1000")
                .param("size", "33")
                .param("tableRows", "10")
                .param("count", "20")
                .build())
        .run();
  }
}
