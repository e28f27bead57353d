package dev.saccade.cli;

import dev.saccade.cli.TrainRequest.Algorithm;
import dev.saccade.train.task.TaskMixture;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code saccade train}: teaches a small multimodal policy to answer questions about images. */
@Command(
    name = "train",
    description = {
      "Trains a small multimodal policy to answer questions about images of handwritten digits:"
          + " a supervised warm-up, then reinforcement learning.",
      "",
      "Writes a run folder with the configuration, metrics.jsonl, checkpoints and report.html."
          + " An interrupted run goes on with --resume and gives the numbers of an uninterrupted"
          + " one."
    },
    sortOptions = false,
    optionListHeading = "%nOptions:%n",
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade train                                  a few minutes on two cores",
      "  saccade train --algo grpo --task count+read --seed 3",
      "  saccade train --preset full --out runs/full    3x3 scenes; hours",
      "  saccade train --resume runs/full"
    })
final class TrainCommand implements Callable<Integer> {
  private static final List<String> KEPT_ON_RESUME =
      List.of(
          "--algo",
          "--task",
          "--preset",
          "--sft-steps",
          "--seed",
          "--out",
          "--group-size",
          "--prompts",
          "--temperature",
          "--minibatches",
          "--learning-rate",
          "--lr-warmup",
          "--max-grad-norm",
          "--kl-coef",
          "--lambda");

  @Spec private CommandSpec spec;

  @Option(
      names = "--algo",
      paramLabel = "RULE",
      description = "sft (the warm-up alone), grpo or ral (default: ral).")
  private Algorithm algo;

  @Option(
      names = "--task",
      paramLabel = "TASK",
      converter = TaskConverter.class,
      description = "count, read, or both in turn: count+read (default: the preset's).")
  private TaskMixture task;

  @Option(
      names = "--preset",
      paramLabel = "NAME",
      description = "Scene size, policy size and steps; full is the 3x3 setting.")
  private String preset;

  @Option(
      names = "--steps",
      paramLabel = "N",
      description = "Steps of reinforcement learning; with --algo sft, of the warm-up.")
  private Integer steps;

  @Option(names = "--seed", paramLabel = "N", description = "Seed of everything random.")
  private Long seed;

  @Option(
      names = "--out",
      paramLabel = "DIR",
      description = "Run folder to make (default: a new one in runs/).")
  private Path out;

  @Option(
      names = "--resume",
      paramLabel = "RUN",
      description = "Go on with a run from its last checkpoint.")
  private Path resume;

  @Mixin private ContextOptions context;

  @Option(
      names = "--sft-steps",
      paramLabel = "N",
      description = "Steps of the supervised warm-up before reinforcement learning.")
  private Integer sftSteps;

  @Option(names = "--group-size", paramLabel = "N", description = "Responses to each question.")
  private Integer groupSize;

  @Option(names = "--prompts", paramLabel = "N", description = "Questions of a rollout batch.")
  private Integer prompts;

  @Option(names = "--temperature", paramLabel = "T", description = "Temperature of sampling.")
  private Double temperature;

  @Option(
      names = "--minibatches",
      paramLabel = "N",
      description = "Optimizer steps per rollout batch.")
  private Integer minibatches;

  @Option(names = "--learning-rate", paramLabel = "R", description = "Peak learning rate.")
  private Double learningRate;

  @Option(
      names = "--lr-warmup",
      paramLabel = "N",
      description = "Steps over which the learning rate rises from 0.")
  private Integer lrWarmup;

  @Option(
      names = "--max-grad-norm",
      paramLabel = "X",
      description = "Norm that gradients are clipped to.")
  private Double maxGradNorm;

  @Option(names = "--kl-coef", paramLabel = "X", description = "Coefficient of the KL term.")
  private Double klCoef;

  @Option(
      names = "--lambda",
      paramLabel = "X",
      description = "Weight of the attention divergence in ral.")
  private Double lambda;

  @Override
  public Integer call() throws Exception {
    TrainRequest request = request();
    return train(request, spec.commandLine().getOut());
  }

  /** The request, checked as far as it can be without a preset. */
  TrainRequest request() {
    atLeast("--steps", steps, 1);
    atLeast("--sft-steps", sftSteps, 0);
    atLeast("--group-size", groupSize, 2);
    atLeast("--prompts", prompts, 1);
    atLeast("--minibatches", minibatches, 1);
    atLeast("--lr-warmup", lrWarmup, 0);
    positive("--temperature", temperature);
    positive("--learning-rate", learningRate);
    positive("--max-grad-norm", maxGradNorm);
    atLeast("--kl-coef", klCoef, 0);
    atLeast("--lambda", lambda, 0);
    if (resume != null) {
      checkResume();
    }
    return new TrainRequest(
        algo,
        task,
        preset,
        steps,
        sftSteps,
        seed,
        out,
        resume,
        context,
        groupSize,
        prompts,
        temperature,
        minibatches,
        learningRate,
        lrWarmup,
        maxGradNorm,
        klCoef,
        lambda);
  }

  /** A resumed run keeps its configuration: another would not give the numbers of the run. */
  private void checkResume() {
    for (OptionSpec option : spec.commandLine().getParseResult().matchedOptions()) {
      if (KEPT_ON_RESUME.contains(option.longestName())) {
        throw rejected(option.longestName() + " cannot be changed on --resume");
      }
    }
    if (!Files.isDirectory(resume)) {
      throw new CliException(resume + ": no such run folder");
    }
  }

  private void atLeast(String option, Number value, int least) {
    if (value != null && !(value.doubleValue() >= least && Double.isFinite(value.doubleValue()))) {
      throw rejected(option + ": expected " + least + " or more, got " + value);
    }
  }

  private void positive(String option, Double value) {
    if (value != null && !(value > 0 && Double.isFinite(value))) {
      throw rejected(option + ": expected a number above 0, got " + value);
    }
  }

  private ParameterException rejected(String message) {
    return new ParameterException(spec.commandLine(), message);
  }

  /** Trains, or goes on training; the exit status. */
  private static int train(TrainRequest request, PrintWriter out) throws Exception {
    throw new CliException("this build has no trainer");
  }
}
