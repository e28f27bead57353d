package dev.saccade.cli;

import dev.saccade.Context;
import dev.saccade.train.MatrixProducts;
import dev.saccade.train.RunFolder;
import dev.saccade.train.RunReport;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code saccade report}: the report of a run, or one page that compares several. */
@Command(
    name = "report",
    description = {
      "Of one run: makes its report.html anew, at its end or as far as it came.",
      "Of several: one page with their curves in the same charts, their held-out accuracies, and"
          + " the values in which their configurations differ."
    },
    sortOptions = false,
    parameterListHeading = "%nParameters:%n",
    optionListHeading = "%nOptions:%n",
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade report runs/my-run",
      "  saccade report runs/grpo runs/ral --out comparison.html",
      "  saccade report runs/experiments/kl/runs/*-s1-*"
    })
final class ReportCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(arity = "1..*", paramLabel = "RUN", description = "Run folders.")
  private List<Path> runs;

  @Option(
      names = "--out",
      paramLabel = "FILE",
      defaultValue = "comparison.html",
      description = "The page that compares several runs (default: ${DEFAULT-VALUE}).")
  private Path out;

  @Mixin private ContextOptions context;

  @Override
  public Integer call() throws Exception {
    List<RunFolder> folders = new ArrayList<>();
    for (Path run : runs) {
      folders.add(RunFolder.open(run));
    }
    Path page;
    if (folders.size() == 1) {
      try (Context device = context.open()) {
        MatrixProducts.provideTo(device);
        page = RunReport.write(device, folders.get(0));
      }
    } else {
      page = RunReport.compare(folders, out);
    }
    spec.commandLine().getOut().println(page);
    return 0;
  }
}
