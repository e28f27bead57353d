package dev.saccade.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.Precision;
import dev.saccade.train.Algorithm;
import dev.saccade.train.ConfigTree;
import dev.saccade.train.Evaluator;
import dev.saccade.train.KlCoefficient.Schedule;
import dev.saccade.train.RunFolder;
import dev.saccade.train.RunReport;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.Trainer;
import dev.saccade.train.report.NoFontsException;
import dev.saccade.train.task.TaskMixture;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
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
      "Trains a small multimodal policy to answer questions about images: a supervised warm-up,"
          + " then reinforcement learning.",
      "",
      "A configuration begins with a preset (sizes) and a rule, over which come --config, the"
          + " options below, and --set, in this order. The run folder keeps the whole as"
          + " config.json, which --config takes too.",
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
      "  saccade train --task compare+sum --kl-schedule grpo_d",
      "  saccade train --algo dapo --set rl.rounds=8 --set rl.loss.clipHigh=0.3",
      "  saccade train --config my-run.yaml --seed 7",
      "  saccade train --algo gkd --set rl.distillation.teacher=runs/large",
      "  saccade train --preset full --out runs/full    3x3 scenes; hours",
      "  saccade train --device cuda --precision tf32   on a GPU",
      "  saccade train --resume runs/full"
    })
final class TrainCommand implements Callable<Integer> {
  private static final List<String> OPTIONS_OF_RESUME =
      List.of("--resume", "--device", "--threads", "--instruction-set", "--debug");

  private static final List<String> OPTIONS_OF_REINFORCEMENT =
      List.of(
          "--group-size",
          "--prompts",
          "--temperature",
          "--minibatches",
          "--epochs",
          "--kl-schedule",
          "--kl-coef",
          "--kl-min",
          "--kl-max",
          "--kl-target",
          "--kl-horizon",
          "--lambda",
          "--reference-interval");

  private static final Map<String, List<Schedule>> SCHEDULES_OF_OPTIONS =
      Map.of(
          "--kl-coef", List.of(Schedule.CONSTANT, Schedule.ADAPTIVE),
          "--kl-min", List.of(Schedule.GRPO_D, Schedule.RISING),
          "--kl-max", List.of(Schedule.GRPO_D, Schedule.RISING),
          "--kl-target", List.of(Schedule.ADAPTIVE),
          "--kl-horizon", List.of(Schedule.ADAPTIVE));

  /** A target that no running accuracy reaches: the warm-up takes all its steps. */
  private static final double NEVER = 2;

  @Spec private CommandSpec spec;

  @Option(
      names = "--algo",
      paramLabel = "RULE",
      description =
          "The learning rule: sft (supervised alone), grpo, dr_grpo, rloo, dapo, gspo, cispo, sapo,"
              + " grpo_d, ral, or gkd (distillation, which needs a teacher); default: ral.")
  private Algorithm algo;

  @Option(
      names = "--task",
      paramLabel = "TASK",
      converter = TaskConverter.class,
      description =
          "About digits: count, read, compare, sum; about drawings: length, angle, intersections,"
              + " or geometry for the three. Several in turn: count+read (default: the preset's).")
  private TaskMixture task;

  @Option(
      names = "--preset",
      paramLabel = "NAME",
      description =
          "Scene size, policy size and steps: demo, minutes (default); full, 3x3 scenes, hours;"
              + " tiny, seconds.")
  private String preset;

  @Option(
      names = "--config",
      paramLabel = "FILE",
      description = "Values in YAML, such as 'algorithm: gspo' and 'rl: {steps: 100}'.")
  private Path file;

  @Option(
      names = "--set",
      paramLabel = "NAME=VALUE",
      description =
          "Any value of the configuration by its name, such as rl.attention.layers=[0,1]; the run"
              + " folder's config.json has all names.")
  private Map<String, String> more = new LinkedHashMap<>();

  @Option(
      names = "--thinking",
      description =
          "Responses say what they read in the image, in a think block, before they answer.")
  private boolean thinking;

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
      names = "--precision",
      paramLabel = "TYPE",
      description =
          "Of the products of matrices: f32 (default), tf32 or bf16; the last two on a GPU only.")
  private Precision precision;

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

  @Option(names = "--epochs", paramLabel = "N", description = "Passes over a rollout batch.")
  private Integer epochs;

  @Option(
      names = "--reference-interval",
      paramLabel = "N",
      description =
          "Rollout batches between refreshes of the old policy that attention is compared with.")
  private Integer referenceInterval;

  @Option(
      names = "--learning-rate",
      paramLabel = "R",
      description = "Peak learning rate of the rule; the warm-up keeps its own.")
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

  @Option(
      names = "--kl-schedule",
      paramLabel = "NAME",
      description =
          "Coefficient of the KL term over the run: constant (default); grpo_d, falling to its"
              + " minimum, then rising to its maximum; rising, from one to the other; adaptive,"
              + " holding a KL.")
  private Schedule klSchedule;

  @Option(
      names = "--kl-coef",
      paramLabel = "X",
      description = "Coefficient of the KL term; with adaptive, the first.")
  private Double klCoef;

  @Option(
      names = "--kl-min",
      paramLabel = "X",
      description = "Least coefficient of grpo_d and rising.")
  private Double klMin;

  @Option(
      names = "--kl-max",
      paramLabel = "X",
      description = "Last coefficient of grpo_d and rising.")
  private Double klMax;

  @Option(
      names = "--kl-target",
      paramLabel = "X",
      description = "KL that adaptive holds, in nats per token.")
  private Double klTarget;

  @Option(
      names = "--kl-horizon",
      paramLabel = "N",
      description = "Responses over which adaptive changes the coefficient by a fifth at most.")
  private Double klHorizon;

  @Option(
      names = "--lambda",
      paramLabel = "X",
      description = "Weight of the attention divergence: 10 in ral, 0 in the other rules.")
  private Double lambda;

  @Override
  public Integer call() throws Exception {
    if (resume != null) {
      rejectOptionsOfNewRuns();
      return train(resume, null);
    }
    TrainConfig config = config();
    return train(out == null ? newFolder(config) : out, config);
  }

  /** A resumed run keeps its configuration: another would not give the numbers of the run. */
  private void rejectOptionsOfNewRuns() {
    for (OptionSpec option : spec.commandLine().getParseResult().matchedOptions()) {
      if (!OPTIONS_OF_RESUME.contains(option.longestName())) {
        throw rejected(option.longestName() + " cannot be changed on --resume");
      }
    }
  }

  private static Path newFolder(TrainConfig config) {
    String time = LocalDateTime.now().format(DateTimeFormatter.ofPattern("yyyyMMdd-HHmmss"));
    return Path.of("runs", time + "-" + config.algorithm().id() + "-" + config.task());
  }

  /** The preset with the options that were given. */
  TrainConfig config() throws IOException {
    if (steps != null && steps < 1) {
      throw rejected("--steps: expected 1 or more, got " + steps);
    }
    positive("--temperature", temperature);
    positive("--learning-rate", learningRate);
    positive("--max-grad-norm", maxGradNorm);
    notNegative("--kl-coef", klCoef);
    notNegative("--kl-min", klMin);
    notNegative("--kl-max", klMax);
    positive("--kl-target", klTarget);
    positive("--kl-horizon", klHorizon);
    notNegative("--lambda", lambda);
    if (precision != null
        && precision != Precision.F32
        && context.device.kind() == Device.Kind.CPU) {
      throw rejected("--precision " + precision + ": needs a GPU (--device cuda)");
    }
    List<ObjectNode> layers = new ArrayList<>();
    if (file != null) {
      try {
        layers.add(ConfigTree.read(file));
      } catch (IOException e) {
        throw new IOException("--config " + e.getMessage(), e);
      }
    }
    Map<String, Object> named = new LinkedHashMap<>();
    named.put("preset", preset);
    named.put("algorithm", algo);
    named.values().removeIf(Objects::isNull);
    layers.add(ConfigTree.of(named));
    layers.add(ConfigTree.of(set()));
    boolean warmUpOnly = resolve(layers).algorithm() == Algorithm.SFT;
    String optimizer = warmUpOnly ? "sft.optimizer." : "rl.optimizer.";
    Integer warmUpSteps = warmUpOnly && steps != null ? steps : sftSteps;
    Map<String, Object> given = new LinkedHashMap<>();
    given.put("task", task == null ? null : task.toString());
    given.put("thinking", thinking ? true : null);
    given.put("seed", seed);
    given.put("precision", precision);
    given.put("sft.steps", warmUpSteps);
    given.put("sft.targetAccuracy", warmUpSteps == null ? null : NEVER);
    given.put("rl.steps", warmUpOnly ? null : steps);
    given.put("rl.group", groupSize);
    given.put("rl.prompts", prompts);
    given.put("rl.minibatches", minibatches);
    given.put("rl.epochs", epochs);
    given.put("rl.temperature", temperature);
    given.put("rl.kl.schedule", klSchedule);
    given.put("rl.kl.coef", klCoef);
    given.put("rl.kl.min", klMin);
    given.put("rl.kl.max", klMax);
    given.put("rl.kl.target", klTarget);
    given.put("rl.kl.horizon", klHorizon);
    given.put("rl.attention.lambda", lambda);
    given.put("rl.attention.referenceInterval", referenceInterval);
    given.put(optimizer + "learningRate", learningRate);
    given.put(optimizer + "warmup", lrWarmup);
    given.put(optimizer + "maxGradNorm", maxGradNorm);
    given.values().removeIf(Objects::isNull);
    layers.add(layers.size() - 1, ConfigTree.of(given));
    TrainConfig config = resolve(layers);
    rejectOptionsWithoutEffect(config);
    return config;
  }

  private Map<String, Object> set() {
    Map<String, Object> values = new LinkedHashMap<>();
    more.forEach(
        (name, value) -> {
          try {
            values.put(name, ConfigTree.value(value));
          } catch (IllegalArgumentException e) {
            throw rejected("--set " + name + ": " + e.getMessage());
          }
        });
    return values;
  }

  private TrainConfig resolve(List<ObjectNode> layers) {
    try {
      return TrainConfig.resolve(layers);
    } catch (IllegalArgumentException e) {
      throw rejected(e.getMessage());
    }
  }

  private void rejectOptionsWithoutEffect(TrainConfig config) {
    Schedule schedule = config.rl().kl().schedule();
    TrainConfig.AttentionTerm attention = config.rl().attention();
    for (OptionSpec option : spec.commandLine().getParseResult().matchedOptions()) {
      String name = option.longestName();
      if (config.algorithm() == Algorithm.SFT && OPTIONS_OF_REINFORCEMENT.contains(name)) {
        throw rejected(name + ": has no effect with --algo sft");
      }
      if (name.equals("--reference-interval")
          && attention.lambda() == 0
          && attention.entropy() == 0) {
        throw rejected(name + ": has no effect where rl.attention.lambda is 0");
      }
      if (!SCHEDULES_OF_OPTIONS.getOrDefault(name, List.of(schedule)).contains(schedule)) {
        throw rejected(
            name
                + ": has no effect with --kl-schedule "
                + schedule.name().toLowerCase(Locale.ROOT));
      }
    }
  }

  private void positive(String option, Double value) {
    if (value != null && !(value > 0 && Double.isFinite(value))) {
      throw rejected(option + ": expected a number above 0, got " + value);
    }
  }

  private void notNegative(String option, Double value) {
    if (value != null && !(value >= 0 && Double.isFinite(value))) {
      throw rejected(option + ": expected 0 or more, got " + value);
    }
  }

  private ParameterException rejected(String message) {
    return new ParameterException(spec.commandLine(), message);
  }

  /** Trains to the end, or until the process is asked to stop. A null configuration resumes. */
  private int train(Path folder, TrainConfig config) throws IOException {
    PrintWriter console = spec.commandLine().getOut();
    try (Stopping stopping = new Stopping();
        Context device = context.open()) {
      // Where the device cannot be had, no folder is made.
      RunFolder run = config == null ? RunFolder.open(folder) : RunFolder.create(folder, config);
      boolean finished;
      try (Trainer trainer =
              config == null ? Trainer.resume(device, run) : Trainer.start(device, run, config);
          Display display = new Display(trainer.config(), console)) {
        finished = trainer.train(display, stopping::asked);
      }
      if (!finished) {
        console.printf("stopped; go on with: saccade train --resume %s%n", run.root());
        console.flush();
        return 0;
      }
      try {
        console.printf("%-9s %s%n", "report", RunReport.write(device, run));
      } catch (NoFontsException e) {
        spec.commandLine()
            .getErr()
            .println(spec.qualifiedName() + ": the report was not drawn: " + Main.describe(e));
      }
      console.flush();
      return 0;
    }
  }

  /** Shows a run on the console: a progress bar for each stage, a line for what it reached. */
  private static final class Display implements Trainer.Listener, AutoCloseable {
    private final TrainConfig config;
    private final PrintWriter console;
    private Trainer.Stage stage;
    private Progress bar;
    private Evaluator.Result reached;

    Display(TrainConfig config, PrintWriter console) {
      this.config = config;
      this.console = console;
    }

    private String name(Trainer.Stage of) {
      return of == Trainer.Stage.SFT ? "warm-up" : config.algorithm().id();
    }

    @Override
    public void onStep(Trainer.Stage of, int step, int steps, Map<String, Object> metrics) {
      if (bar == null || of != stage) {
        close();
        stage = of;
        bar = Progress.start(name(of), step - 1, steps);
      }
      bar.show(
          new Progress.Sample(
              step,
              number(metrics, "reward"),
              number(metrics, "accuracy"),
              number(metrics, "kl"),
              number(metrics, "attention_divergence"),
              number(metrics, "tokens_per_second")));
    }

    private static double number(Map<String, Object> metrics, String name) {
      return metrics.get(name) instanceof Number value ? value.doubleValue() : Double.NaN;
    }

    @Override
    public void onEvaluation(
        Trainer.Stage of, int step, boolean endOfStage, Evaluator.Result result) {
      if (!endOfStage) {
        return;
      }
      close();
      console.printf(
          "%-9s held-out accuracy %s after %d steps%n", name(of), result.accuracy(), step);
      if (reached != null) {
        console.printf(
            Locale.ROOT,
            "%-9s %+.3f%n",
            "change",
            result.accuracy().rate() - reached.accuracy().rate());
      }
      console.flush();
      reached = result;
    }

    @Override
    public void close() {
      if (bar != null) {
        bar.close();
        bar = null;
      }
    }
  }
}
