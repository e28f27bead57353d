package dev.saccade.cli;

import dev.saccade.Context;
import dev.saccade.train.Checkpoint;
import dev.saccade.train.Evaluator;
import dev.saccade.train.MatrixProducts;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.io.Safetensors;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.task.TaskMixture;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code saccade eval}: accuracy and format rate of a policy on held-out scenes. */
@Command(
    name = "eval",
    description =
        "Asks a trained policy about held-out scenes, greedily, and shows its accuracy and format"
            + " rate with 95 %% intervals.",
    sortOptions = false,
    parameterListHeading = "%nParameters:%n",
    optionListHeading = "%nOptions:%n",
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade eval runs/my-run",
      "  saccade eval runs/my-run --task read",
      "  saccade eval policy.safetensors --task count+read --scenes 500"
    })
final class EvalCommand implements Callable<Integer> {
  @Spec private CommandSpec spec;

  @Parameters(
      paramLabel = "RUN|CHECKPOINT",
      description = "A run folder, of which the last checkpoint is taken, or a checkpoint file.")
  private Path policy;

  @Option(
      names = "--task",
      paramLabel = "TASK",
      converter = TaskConverter.class,
      description =
          "A question (saccade train --help lists them), or several in turn: count+read (default:"
              + " the task of the run).")
  private TaskMixture task;

  @Option(
      names = "--scenes",
      paramLabel = "N",
      description = "How many held-out scenes (default: as many as the run used).")
  private Integer scenes;

  @Mixin private ContextOptions context;

  @Override
  public Integer call() throws Exception {
    if (scenes != null && scenes < 1) {
      throw new ParameterException(
          spec.commandLine(), "--scenes: expected 1 or more, got " + scenes);
    }
    if (!Files.exists(policy)) {
      throw new CliException(policy + ": no such run folder or checkpoint");
    }
    Path file = Checkpoint.find(policy);
    TrainConfig config = Checkpoint.config(Safetensors.open(file), file);
    if (task != null) {
      config = asking(config);
    }
    int count = scenes == null ? config.evaluationScenes() : scenes;
    try (Context device = context.open()) {
      MatrixProducts.provideTo(device);
      try (Transformer model = Checkpoint.loadPolicy(device, file)) {
        Evaluator.Result result = new Evaluator(config, count).evaluate(model);
        PrintWriter out = spec.commandLine().getOut();
        out.printf("%-9s %s%n", "policy", file);
        out.printf("%-9s %s, %d held-out scenes%n", "task", config.task(), count);
        out.printf("%-9s %s%n", "accuracy", result.accuracy());
        out.printf("%-9s %s%n", "format", result.format());
        out.flush();
      }
    }
    return 0;
  }

  private TrainConfig asking(TrainConfig config) {
    try {
      return config.asking(task);
    } catch (IllegalArgumentException e) {
      throw new CliException(policy + ": " + e.getMessage(), e);
    }
  }
}
