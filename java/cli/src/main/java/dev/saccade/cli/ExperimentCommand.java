package dev.saccade.cli;

import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.train.ConfigTree;
import dev.saccade.train.experiment.Experiment;
import dev.saccade.train.experiment.ExperimentRunner;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import java.util.stream.Stream;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code saccade experiment}: runs × seeds, and what comes out of them. */
@Command(
    name = "experiment",
    description = {
      "Trains every variant of an experiment with every seed, and writes a table and a figure:"
          + " means over the seeds with 95 %% intervals, and differences paired by seed.",
      "",
      "An experiment is a file experiments/NAME.yaml. Runs of a seed begin with the same warm-up."
          + " Finished runs are kept in results.jsonl; the same command goes on where it was"
          + " stopped, by --budget, Ctrl-C or a crash."
    },
    sortOptions = false,
    parameterListHeading = "%nParameters:%n",
    optionListHeading = "%nOptions:%n",
    exitCodeListHeading = "%nExit status:%n",
    exitCodeList = {
      "0:done, or stopped before the end",
      "1:a run failed; the others were run",
      "2:a bad option or file"
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade experiment same-task --device cuda --jobs 4 --budget 25",
      "  saccade experiment kl --seeds 11,12,13",
      "  saccade experiment my-experiment.yaml --set rl.steps=50 --out results/mine"
    })
final class ExperimentCommand implements Callable<Integer> {
  private static final String EXTENSION = ".yaml";

  @Spec private CommandSpec spec;

  @Parameters(
      paramLabel = "NAME|FILE",
      description = "An experiment of experiments/, or a file of one.")
  private String name;

  @Option(
      names = "--budget",
      paramLabel = "MINUTES",
      description = "Stop after this time; the same command goes on (default: run to the end).")
  private Double budget;

  @Option(
      names = "--jobs",
      paramLabel = "N",
      defaultValue = "1",
      description = "Runs at the same time, which share the device (default: ${DEFAULT-VALUE}).")
  private int jobs;

  @Option(
      names = "--seeds",
      paramLabel = "N,N,...",
      split = ",",
      description = "Other seeds than those of the file.")
  private List<Long> seeds;

  @Option(
      names = "--set",
      paramLabel = "NAME=VALUE",
      description =
          "A value of every run whose variant does not choose it, such as rl.steps=50; see saccade"
              + " train --help.")
  private Map<String, String> more = new LinkedHashMap<>();

  @Option(
      names = "--out",
      paramLabel = "DIR",
      description = "Folder of runs and results (default: runs/experiments/NAME).")
  private Path out;

  @Mixin private ContextOptions context;

  @Override
  public Integer call() throws Exception {
    if (jobs < 1) {
      throw rejected("--jobs: expected 1 or more, got " + jobs);
    }
    if (budget != null && !(budget > 0 && Double.isFinite(budget))) {
      throw rejected("--budget: expected a number above 0, got " + budget);
    }
    Path file = file();
    Experiment experiment = read(file);
    String plain = file.getFileName().toString().replace(EXTENSION, "");
    Path folder = out == null ? Path.of("runs", "experiments", plain) : out;
    if (context.threads == 0 && context.device.kind() == Device.Kind.CPU) {
      context.threads = Math.max(1, Runtime.getRuntime().availableProcessors() / jobs);
    }
    long start = System.nanoTime();
    try (Stopping stopping = new Stopping()) {
      BooleanSupplier stop =
          () ->
              stopping.asked()
                  || budget != null
                      && System.nanoTime() - start > budget * TimeUnit.MINUTES.toNanos(1);
      ExperimentRunner runner =
          new ExperimentRunner(experiment, folder, this::open, stop, new Log());
      boolean done = runner.run(jobs);
      PrintWriter console = spec.commandLine().getOut();
      console.print(Files.readString(folder.resolve("table.md")));
      console.printf("%ntables and figure: %s%n", folder);
      if (!runner.failures().isEmpty()) {
        return Main.FAILED;
      }
      if (!done) {
        console.println("stopped; the same command goes on");
      }
      console.flush();
      return 0;
    }
  }

  private Context open() {
    return context.open();
  }

  private Experiment read(Path file) throws IOException {
    try {
      Map<String, Object> values = new LinkedHashMap<>();
      more.forEach((name, value) -> values.put(name, ConfigTree.value(value)));
      return Experiment.read(file, seeds, ConfigTree.of(values));
    } catch (IllegalArgumentException e) {
      throw new CliException(file + ": " + e.getMessage(), e);
    }
  }

  /** A file of this name, here, in experiments/, or in that of the installation. */
  private Path file() throws IOException {
    List<Path> folders = new ArrayList<>(List.of(Path.of("experiments")));
    String home = System.getProperty("saccade.home");
    if (home != null) {
      folders.add(Path.of(home, "experiments"));
    }
    if (name.endsWith(EXTENSION) || name.contains("/")) {
      return Path.of(name);
    }
    List<String> known = new ArrayList<>();
    for (Path folder : folders) {
      Path file = folder.resolve(name + EXTENSION);
      if (Files.exists(file)) {
        return file;
      }
      if (Files.isDirectory(folder)) {
        try (Stream<Path> files = Files.list(folder)) {
          files
              .map(path -> path.getFileName().toString())
              .filter(path -> path.endsWith(EXTENSION))
              .map(path -> path.replace(EXTENSION, ""))
              .forEach(known::add);
        }
      }
    }
    throw new CliException(
        "no experiment \""
            + name
            + "\"; known here: "
            + (known.isEmpty()
                ? "none"
                : String.join(", ", known.stream().distinct().sorted().toList())));
  }

  private ParameterException rejected(String message) {
    return new ParameterException(spec.commandLine(), message);
  }

  private final class Log implements ExperimentRunner.Listener {
    @Override
    public void begins(String run) {
      line("begins    " + run);
    }

    @Override
    public void ended(String run, int finished, int plans) {
      line("done      %s (%d of %d runs)".formatted(run, finished, plans));
    }

    @Override
    public void failed(String run, Exception reason) {
      line("failed    " + run + ": " + Main.describe(reason));
    }

    private void line(String text) {
      spec.commandLine().getErr().println(text);
      spec.commandLine().getErr().flush();
    }
  }
}
