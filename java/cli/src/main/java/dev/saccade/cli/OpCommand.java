package dev.saccade.cli;

import dev.saccade.Context;
import dev.saccade.Graph;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.UnsupportedException;
import dev.saccade.cli.cases.CaseException;
import dev.saccade.cli.cases.CaseInputs;
import dev.saccade.cli.cases.OpCase;
import dev.saccade.cli.cases.OpCases;
import dev.saccade.train.MatrixProducts;
import dev.saccade.train.io.Safetensors;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.stream.Stream;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.ParentCommand;
import picocli.CommandLine.Spec;

/** {@code saccade op}: runs recorded cases of operations and compares the results. */
@Command(
    name = "op",
    description = {
      "Runs the operation that a case names on the case's inputs, and compares the results with"
          + " those that the case expects.",
      "",
      "A case is a safetensors file: tensors in.* (inputs) and out.* (expectations, optional),"
          + " metadata op, attrs (options as a JSON object), rtol, atol and row_atol. The folder"
          + " fault of a run whose gradient was not finite holds such cases."
    },
    parameterListHeading = "%nParameters:%n",
    optionListHeading = "%nOptions:%n",
    exitCodeListHeading = "%nExit status:%n",
    exitCodeList = {
      "0:all cases ran, and passed where they hold expectations",
      "1:a case failed",
      "2:none failed, but a case could not be run"
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade op case.safetensors",
      "  saccade op java/cli/src/test/resources/golden --quiet",
      "  saccade op case.safetensors --out results --device cuda:0"
    })
final class OpCommand implements Callable<Integer> {
  private static final String EXTENSION = ".safetensors";
  private static final String EXPECTED = "out.";

  @Spec private CommandSpec spec;
  @ParentCommand private Main main;
  @Mixin private ContextOptions options;

  @Parameters(
      arity = "1..*",
      paramLabel = "CASE",
      description = "Case files, or folders: all their *.safetensors.")
  private List<Path> arguments;

  @Option(
      names = "--out",
      paramLabel = "DIR",
      description = "Write the results of each case to DIR/<name of the case file>.")
  private Path outFolder;

  @Option(
      names = {"-q", "--quiet"},
      description = "Show only cases that fail, and the summary.")
  private boolean quiet;

  @Option(
      names = "--graph",
      description = "GPU: record each operation in a CUDA graph, and check what its run gives.")
  private boolean graph;

  private enum Outcome {
    PASS,
    FAIL,
    /** Computed; the case expects nothing. */
    DONE,
    NOT_RUN
  }

  @Override
  public Integer call() throws IOException {
    List<Path> cases = cases();
    if (outFolder != null) {
      prepareOutFolder(cases);
    }
    Map<Outcome, Integer> counts = new TreeMap<>();
    try (Context context = options.open()) {
      provideProducts(context);
      for (Path file : cases) {
        counts.merge(run(context, file), 1, Integer::sum);
      }
    }
    summarise(cases.size(), counts);
    if (counts.containsKey(Outcome.FAIL)) {
      return Main.FAILED;
    }
    return counts.containsKey(Outcome.NOT_RUN) ? Main.REJECTED : 0;
  }

  /** Cases without matrix products run also where there is nobody to make them. */
  private void provideProducts(Context context) {
    try {
      MatrixProducts.provideTo(context);
    } catch (UnsupportedException e) {
      spec.commandLine().getErr().println(spec.qualifiedName() + ": " + Main.describe(e));
    }
  }

  // ------------------------------------------------------------------------------------- files

  private List<Path> cases() throws IOException {
    List<Path> cases = new ArrayList<>();
    for (Path argument : arguments) {
      if (!Files.isDirectory(argument)) {
        cases.add(argument);
        continue;
      }
      try (Stream<Path> files = Files.list(argument)) {
        List<Path> found =
            files
                .filter(file -> file.getFileName().toString().endsWith(EXTENSION))
                .sorted()
                .toList();
        if (found.isEmpty()) {
          throw new CliException(argument + ": no *" + EXTENSION + " in this folder");
        }
        cases.addAll(found);
      }
    }
    return cases;
  }

  /** Makes the folder, and sees that no result overwrites a case or another result. */
  private void prepareOutFolder(List<Path> cases) throws IOException {
    Files.createDirectories(outFolder);
    Map<Path, Path> sources = new TreeMap<>();
    for (Path file : cases) {
      Path target = outFolder.resolve(file.getFileName());
      if (Files.exists(target) && Files.exists(file) && Files.isSameFile(target, file)) {
        throw new CliException("--out: the results of " + file + " would overwrite the case");
      }
      Path other = sources.put(target, file);
      if (other != null) {
        throw new CliException("--out: " + other + " and " + file + " have the same file name");
      }
    }
  }

  // ---------------------------------------------------------------------------------- one case

  private Outcome run(Context context, Path file) throws IOException {
    try (Scope scope = context.scope()) {
      Safetensors given = Safetensors.open(file);
      String operation = given.metadata().get("op");
      if (operation == null) {
        throw new CaseException("metadata op is missing");
      }
      CaseInputs inputs = new CaseInputs(given, scope);
      OpCase named = OpCases.named(operation);
      Map<String, Tensor> results = new TreeMap<>();
      if (graph) {
        inputs.loadAll();
        try (Graph recorded =
            Graph.capture(context, () -> results.putAll(named.run(context, scope, inputs)))) {
          recorded.launch();
          return finish(file, given, inputs, results);
        }
      }
      results.putAll(named.run(context, scope, inputs));
      return finish(file, given, inputs, results);
    } catch (IOException | RuntimeException e) {
      PrintWriter err = spec.commandLine().getErr();
      String message = Main.describe(e);
      String prefix = message.startsWith(file.toString()) ? "" : file + ": ";
      err.println(spec.qualifiedName() + ": " + prefix + message);
      if (main.debug()) {
        e.printStackTrace(err);
      }
      return Outcome.NOT_RUN;
    }
  }

  private Outcome finish(
      Path file, Safetensors given, CaseInputs inputs, Map<String, Tensor> results)
      throws IOException {
    inputs.requireAllUsed();
    if (outFolder != null) {
      write(results, given, outFolder.resolve(file.getFileName()));
    }
    return compare(file, given, results);
  }

  private static void write(Map<String, Tensor> results, Safetensors given, Path file)
      throws IOException {
    Safetensors.Builder builder = Safetensors.builder().metadata(given.metadata());
    results.forEach((name, tensor) -> builder.add(EXPECTED + name, tensor));
    builder.write(file);
  }

  private Outcome compare(Path file, Safetensors given, Map<String, Tensor> results) {
    List<String> expected =
        given.entries().keySet().stream()
            .filter(name -> name.startsWith(EXPECTED))
            .map(name -> name.substring(EXPECTED.length()))
            .toList();
    if (expected.isEmpty()) {
      print(Outcome.DONE, file, results.entrySet().stream().map(OpCommand::contents).toList());
      return Outcome.DONE;
    }
    Comparison.Tolerances tolerances = Comparison.Tolerances.of(given);
    boolean passes = true;
    List<String> lines = new ArrayList<>();
    for (String name : expected) {
      Safetensors.Entry want = given.entry(EXPECTED + name);
      Tensor got = results.get(name);
      String what;
      if (got == null) {
        passes = false;
        what = "the operation has no result of this name";
      } else if (!sameShape(got.shape(), want.shape())) {
        passes = false;
        what = "expected shape %s, got %s".formatted(text(want.shape()), text(got.shape()));
      } else {
        Comparison comparison =
            Comparison.of(name, doubles(got), want.toDoubles(), want.shape(), tolerances);
        passes &= comparison.passes();
        what = comparison.toString();
      }
      String type = got == null ? "" : got.dtype() + text(got.shape());
      lines.add(String.format("        %-12s %-18s %s", name, type, what));
    }
    Outcome outcome = passes ? Outcome.PASS : Outcome.FAIL;
    print(outcome, file, lines);
    return outcome;
  }

  /** A line about a result that nothing is expected of. */
  private static String contents(Map.Entry<String, Tensor> result) {
    Tensor got = result.getValue();
    double[] values = doubles(got);
    long broken = Arrays.stream(values).filter(value -> !Double.isFinite(value)).count();
    return String.format(
        "        %-12s %-18s %s",
        result.getKey(),
        got.dtype() + text(got.shape()),
        broken == 0 ? "finite" : broken + " of " + values.length + " not finite");
  }

  private void print(Outcome outcome, Path file, List<String> lines) {
    if (quiet && outcome != Outcome.FAIL) {
      return;
    }
    PrintWriter out = spec.commandLine().getOut();
    out.printf("%-6s  %s%n", outcome, file);
    lines.forEach(out::println);
  }

  /** A scalar is a tensor of one element. */
  private static boolean sameShape(long[] got, long[] want) {
    return Arrays.equals(got, want.length == 0 ? new long[] {1} : want);
  }

  private static double[] doubles(Tensor tensor) {
    return switch (tensor.dtype()) {
      case I32 -> Arrays.stream(tensor.toInts()).asDoubleStream().toArray();
      case I64 -> Arrays.stream(tensor.toLongs()).asDoubleStream().toArray();
      case U8 -> {
        byte[] bytes = tensor.toBytes();
        double[] values = new double[bytes.length];
        for (int i = 0; i < values.length; i++) {
          values[i] = Byte.toUnsignedInt(bytes[i]);
        }
        yield values;
      }
      default -> tensor.toDoubles();
    };
  }

  private static String text(long[] shape) {
    return Arrays.toString(shape);
  }

  private void summarise(int cases, Map<Outcome, Integer> counts) {
    StringBuilder line = new StringBuilder();
    line.append(cases).append(cases == 1 ? " case: " : " cases: ");
    line.append(counts.getOrDefault(Outcome.PASS, 0)).append(" passed, ");
    line.append(counts.getOrDefault(Outcome.FAIL, 0)).append(" failed, ");
    if (counts.containsKey(Outcome.DONE)) {
      line.append(counts.get(Outcome.DONE)).append(" without expectations, ");
    }
    line.append(counts.getOrDefault(Outcome.NOT_RUN, 0)).append(" not run");
    spec.commandLine().getOut().println(line);
  }
}
