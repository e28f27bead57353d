package dev.saccade.cli;

import dev.saccade.benchmarks.LoopFigures;
import dev.saccade.benchmarks.Regressions;
import dev.saccade.benchmarks.Suite;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code saccade bench}: how fast the operations are here, and beside other libraries. */
@Command(
    name = "bench",
    description = {
      "Measures operations at shapes of post-training: time, rate, share of what this machine copies or"
          + " multiplies at best in the same run, memory, clock and power of a GPU; and the same work"
          + " by PyTorch, torch.compile, Triton and, on the CPU, ND4J and DJL, where they are there."
    },
    optionListHeading = "%nOptions:%n",
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade bench --quick sampled_kl",
      "  saccade bench --device cuda --csv results.csv",
      "  saccade bench --device cuda --scaling attention_divergence",
      "  saccade bench --device cuda training_loop",
      "  saccade bench --compare old.csv new.csv"
    })
final class BenchCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      arity = "0..*",
      paramLabel = "OP",
      description =
          "Operations, such as token_log_probs; all, unless given. Alone: training_loop, whole rollout"
              + " batches and the share of their stages.")
  private List<String> operations = List.of();

  @Mixin private DeviceOptions where;

  @Option(
      names = "--quick",
      description = "A shape or two of each operation, and shorter iterations.")
  private boolean quick;

  @Option(
      names = "--scaling",
      description =
          "How time and memory grow with rows, vocabulary, keys, heads and groups instead.")
  private boolean scaling;

  @Option(
      names = "--peers",
      split = ",",
      paramLabel = "NAME",
      description =
          "Whom to measure too: djl, nd4j, eager, compiled, triton, ctypes (Saccade called from Python),"
              + " or none; all, unless given, but of --scaling without ctypes.")
  private List<String> peers;

  @Option(
      names = "--csv",
      paramLabel = "FILE",
      description =
          "Keep the results in FILE, beside what it has of other work on the same hardware.")
  private Path csv;

  @ArgGroup(exclusive = false)
  private Compared compared;

  /** Two files of results. */
  private static final class Compared {
    @Option(
        names = "--compare",
        arity = "2",
        required = true,
        paramLabel = "OLD NEW",
        hideParamSyntax = true,
        description =
            "Measure nothing: what got slower, by more than the noise of both and 2 %%, or is not run any"
                + " more. Exit status 1 then.")
    private List<Path> files;
  }

  @Override
  public Integer call() throws IOException {
    var command = spec.commandLine();
    if (compared != null) {
      boolean fine =
          Regressions.compare(compared.files.get(0), compared.files.get(1), command.getOut());
      return fine ? 0 : Main.FAILED;
    }
    List<String> others =
        peers == null ? Suite.peers(scaling) : peers.equals(List.of("none")) ? List.of() : peers;
    for (String peer : others) {
      if (!Suite.PEERS.contains(peer)) {
        throw new ParameterException(
            command,
            "no peer '" + peer + "'; there are " + String.join(", ", Suite.PEERS) + ", or none");
      }
    }
    if (operations.contains(LoopFigures.NAME)) {
      String other =
          operations.size() > 1
              ? "other operations"
              : scaling ? "--scaling" : csv != null ? "--csv" : "";
      if (!other.isEmpty()) {
        throw new ParameterException(command, LoopFigures.NAME + " does not go with " + other);
      }
      LoopFigures.run(where.device, where.threads, quick, others, command.getOut());
      return 0;
    }
    List<String> known = Suite.operations(where.device, scaling);
    for (String operation : operations) {
      if (!known.contains(operation)) {
        throw new ParameterException(
            command,
            "no operation '%s'%s; there are %s"
                .formatted(operation, scaling ? " with --scaling" : "", String.join(", ", known)));
      }
    }
    var options =
        new Suite.Options(operations, where.device, where.threads, quick, scaling, others, csv);
    return Suite.run(options, command.getOut(), command.getErr()) ? 0 : Main.FAILED;
  }
}
