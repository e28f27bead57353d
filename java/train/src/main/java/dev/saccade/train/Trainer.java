package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.train.io.Safetensors;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.model.TransformerConfig;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Examples;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;

/**
 * A training run: a supervised warm-up, then reinforcement learning, with metrics, evaluations and
 * checkpoints in a run folder.
 *
 * <p>Everything random is a function of the seed and a counter (scenes of their index, samples of
 * the rollout's number), and the kernels are deterministic: a run that was stopped anywhere and
 * resumed gives the numbers of one that was not.
 */
public final class Trainer implements AutoCloseable {
  private static final double ACCURACY_RATE = 0.04;
  private static final double ACCURACY_START = 0.05;
  private static final int LEAST_WARM_UP = 100;
  private static final List<String> COUNTERS =
      List.of(
          "stage",
          "step",
          Checkpoint.CURSOR,
          "optimizer_steps",
          "optimizer_skipped",
          "running_accuracy",
          "metrics_lines",
          "instruction_set");

  private static final System.Logger LOG = System.getLogger("dev.saccade");

  private final Context context;
  private final RunFolder run;
  private final FileChannel lock;
  private final TrainConfig config;
  private final Examples scenes;
  private final Examples warmUpScenes;
  private final Evaluator evaluator;
  private final Transformer policy;
  private final SupervisedStep supervised;

  /** Of the distillation; null where there is none. */
  private Transformer teacher;

  private Transformer old;
  private Transformer reference;
  private Optimizer optimizer;

  /** Null before reinforcement learning. */
  private PolicyGradientStep rule;

  private Stage stage = Stage.SFT;
  private int step;
  private long cursor;
  private double runningAccuracy = ACCURACY_START;
  private KlCoefficient kl;

  /** The step that left a gradient that is not finite, while it is sought; else -1. */
  private int faulty = -1;

  /** Where a run is. */
  public enum Stage {
    /** The supervised warm-up. */
    SFT,
    /** Reinforcement learning. */
    RL,
    DONE
  }

  /** Follows a run. */
  public interface Listener {
    /**
     * After every step.
     *
     * @param step counted from 1
     * @param steps most steps of the stage
     * @param metrics as written to metrics.jsonl
     */
    void onStep(Stage stage, int step, int steps, Map<String, Object> metrics);

    /**
     * After every evaluation.
     *
     * @param endOfStage whether the stage ended here
     */
    void onEvaluation(Stage stage, int step, boolean endOfStage, Evaluator.Result result);
  }

  private Trainer(Context context, RunFolder run, TrainConfig config) throws IOException {
    this.context = context;
    this.run = run;
    this.lock = run.lock();
    this.config = config;
    MatrixProducts.provideTo(context);
    scenes = config.scenes();
    warmUpScenes = config.warmUpScenes();
    evaluator = new Evaluator(config);
    policy = Transformer.create(context, config.transformer(), config.seed(), config.precision());
    optimizer = new Optimizer(policy, config.sft().optimizer());
    supervised = new SupervisedStep(policy, config);
    kl = config.rl().kl();
  }

  private void findTeacher() throws IOException {
    TrainConfig.Distillation distillation = config.rl().distillation();
    if (config.algorithm() == Algorithm.SFT || !distillation.isOn()) {
      return;
    }
    Source source = Source.of("rl.distillation.teacher", distillation.teacher());
    String name = "rl.distillation.teacher: " + distillation.teacher() + ": ";
    TransformerConfig own = policy.config();
    TransformerConfig theirs = source.size;
    requireSame(name + "tokens", own.vocabulary(), theirs.vocabulary());
    requireSame(name + "values of a patch", own.patchSize(), theirs.patchSize());
    if (theirs.positions() < own.positions()) {
      throw new IOException(
          name + "expected " + own.positions() + " positions or more, got " + theirs.positions());
    }
    try {
      TrainConfig.requireLayers("rl.distillation.layers", distillation.layers(), theirs.layers());
    } catch (IllegalArgumentException e) {
      throw new IOException(e.getMessage() + "; layers of the teacher: " + theirs.layers(), e);
    }
    teacher = Checkpoint.loadPolicy(context, source.file, config.precision());
  }

  /** A policy that a value of the configuration names. */
  private record Source(Path file, Safetensors content, TransformerConfig size) {
    static Source of(String name, String place) throws IOException {
      try {
        Path file = Checkpoint.find(Path.of(place));
        Safetensors content = Safetensors.open(file);
        return new Source(file, content, Checkpoint.config(content, file).transformer());
      } catch (IOException e) {
        throw new IOException(name + ": " + e.getMessage(), e);
      }
    }
  }

  private static void requireSame(String name, int expected, int actual) throws IOException {
    if (actual != expected) {
      throw new IOException(name + ": expected " + expected + ", as the policy has, got " + actual);
    }
  }

  /**
   * A new run. Where it cannot begin, what {@link RunFolder#create} made is deleted.
   *
   * @throws IOException if another process trains in the folder, or if the policy to begin with or
   *     the teacher cannot be read or does not fit
   */
  public static Trainer start(Context context, RunFolder run, TrainConfig config)
      throws IOException {
    Trainer trainer = new Trainer(context, run, config);
    try {
      trainer.findTeacher();
      trainer.begin();
      return trainer;
    } catch (IOException | RuntimeException e) {
      trainer.close();
      run.forget();
      throw e;
    }
  }

  /** The first checkpoint: fresh weights, or those of another policy. */
  private void begin() throws IOException {
    if (config.sft().from() != null) {
      Source from = Source.of("sft.from", config.sft().from());
      if (!from.size.equals(policy.config())) {
        throw new IOException(
            "sft.from: " + from.file + ": expected " + policy.config() + ", got " + from.size);
      }
      Checkpoint.load(from.content, "policy.", policy);
      // Examples go on where those of that policy ended.
      cursor = Long.parseLong(from.content.metadata().getOrDefault(Checkpoint.CURSOR, "0"));
    }
    checkpoint();
  }

  /**
   * Goes on from the last checkpoint of a run, or from its beginning where it has none. What
   * metrics.jsonl says after the checkpoint is forgotten.
   */
  public static Trainer resume(Context context, RunFolder run) throws IOException {
    Trainer trainer = new Trainer(context, run, run.readConfig());
    try {
      trainer.findTeacher();
      if (Files.exists(run.latest())) {
        trainer.load();
      } else {
        run.truncate(0);
        trainer.begin();
      }
      return trainer;
    } catch (IOException | RuntimeException e) {
      trainer.close();
      throw e;
    }
  }

  /** The configuration of the run. */
  public TrainConfig config() {
    return config;
  }

  /**
   * Trains until the end, or until {@code stop} says so between two steps; then everything is in a
   * checkpoint.
   *
   * <p>Where a gradient is not finite, which shows when the numbers of a step are read, it goes
   * back to the last checkpoint and takes the same steps again, looking at every gradient: that
   * finds the update and the tensor at no cost to other steps.
   *
   * @throws GradientFaultException if a gradient is not finite
   * @return whether the run is at its end
   */
  public boolean train(Listener listener, BooleanSupplier stop) throws IOException {
    while (stage != Stage.DONE) {
      boolean finished = stage == Stage.SFT ? warmUpEnded() : step >= config.rl().steps();
      if (finished) {
        endStage(listener);
        continue;
      }
      if (stop.getAsBoolean()) {
        checkpoint();
        return false;
      }
      if (stage == Stage.RL && step % config.evaluationInterval() == 0 && step > 0) {
        evaluate(listener, false);
      }
      long start = System.nanoTime();
      Map<String, Object> metrics;
      try {
        metrics = stage == Stage.SFT ? supervisedStep() : policyStep();
      } catch (Update.NotFinite e) {
        if (faulty >= 0) {
          throw e;
        }
        faulty = step;
        load();
        continue;
      }
      if (step == faulty) {
        throw new GradientFaultException(
            where() + ": a gradient was not finite, but was so when the step was run again");
      }
      double seconds = (System.nanoTime() - start) * 1e-9;
      metrics.put("tokens_per_second", ((Number) metrics.remove("tokens")).longValue() / seconds);
      step++;
      Map<String, Object> row = new LinkedHashMap<>();
      row.put("stage", stageName());
      row.put("step", step);
      row.putAll(metrics);
      run.append(row);
      listener.onStep(
          stage, step, stage == Stage.SFT ? config.sft().steps() : config.rl().steps(), row);
      if (step % config.checkpointInterval() == 0) {
        checkpoint();
      }
    }
    return true;
  }

  private boolean warmUpEnded() {
    return step >= config.sft().steps()
        || (step >= LEAST_WARM_UP && runningAccuracy >= config.sft().targetAccuracy());
  }

  private Map<String, Object> supervisedStep() {
    TrainConfig.Sft sft = config.sft();
    double rate = sft.optimizer().rate(step, sft.steps());
    Map<String, Object> metrics =
        supervised.run(warmUpScenes.get(cursor, sft.batch()), update(sft.optimizer(), rate));
    cursor += sft.batch();
    runningAccuracy += ACCURACY_RATE * ((double) metrics.get("accuracy") - runningAccuracy);
    metrics.put("learning_rate", rate);
    return metrics;
  }

  private Map<String, Object> policyStep() {
    TrainConfig.Rl rl = config.rl();
    double rate = rl.optimizer().rate(step, rl.steps());
    Map<String, Object> metrics =
        rule.run(this::questions, config.seed(), step, kl, update(rl.optimizer(), rate));
    kl = rule.kl();
    metrics.put("learning_rate", rate);
    return metrics;
  }

  private List<Example> questions(int count) {
    cursor += count;
    return scenes.get(cursor - count, count);
  }

  private Update update(TrainConfig.Optimizer settings, double rate) {
    Update update = optimizer.update(rate);
    return faulty < 0
        ? update
        : new GradientWatch(policy, settings.maxGradNorm(), run.fault(), where(), update);
  }

  private String where() {
    return "%s, step %d".formatted(stageName(), step + 1);
  }

  /** The stage in metrics. */
  private String stageName() {
    return stage == Stage.SFT ? "sft" : config.algorithm().id();
  }

  private void evaluate(Listener listener, boolean endOfStage) throws IOException {
    Evaluator.Result result = evaluator.evaluate(policy);
    Map<String, Object> row = new LinkedHashMap<>();
    row.put("stage", "eval");
    row.put("after", stageName());
    row.put("policy_step", stage == Stage.SFT ? 0 : step);
    row.put("accuracy", result.accuracy().rate());
    row.put("accuracy_low", result.accuracy().low());
    row.put("accuracy_high", result.accuracy().high());
    row.put("right", result.accuracy().successes());
    row.put("format", result.format().rate());
    row.put("scenes", result.accuracy().n());
    run.append(row);
    listener.onEvaluation(stage, step, endOfStage, result);
  }

  private void endStage(Listener listener) throws IOException {
    evaluate(listener, true);
    if (stage == Stage.SFT) {
      Checkpoint.writePolicy(run.warm(), config, policy, cursor);
    }
    if (stage == Stage.SFT && config.algorithm() != Algorithm.SFT) {
      stage = Stage.RL;
      step = 0;
      beginReinforcement();
    } else {
      Checkpoint.writePolicy(run.last(), config, policy, cursor);
      run.writeCsv();
      stage = Stage.DONE;
    }
    checkpoint();
  }

  private void beginReinforcement() {
    supervised.close(); // what it recorded has the optimizer's moments
    optimizer.close();
    optimizer = new Optimizer(policy, config.rl().optimizer());
    old = policy.copy();
    reference = policy.copy();
    rule =
        new PolicyGradientStep(
            config, new PolicyGradientStep.Models(policy, old, reference, teacher));
  }

  private void checkpoint() throws IOException {
    Map<String, String> counters = new LinkedHashMap<>();
    counters.put("stage", stage.name());
    counters.put("step", Integer.toString(step));
    counters.put(Checkpoint.CURSOR, Long.toString(cursor));
    counters.put("optimizer_steps", Long.toString(optimizer.steps()));
    counters.put("optimizer_skipped", Integer.toString(optimizer.skipped()));
    counters.put("running_accuracy", Double.toString(runningAccuracy));
    counters.put("kl_coef", Double.toString(kl.coef()));
    counters.put("metrics_lines", Long.toString(run.lines()));
    counters.put("instruction_set", context.instructionSet());
    run.synchronise();
    Checkpoint.writeState(run.latest(), config, policy, old, reference, optimizer, counters);
  }

  private void load() throws IOException {
    Safetensors file = Safetensors.open(run.latest());
    if (!Checkpoint.config(file, run.latest()).equals(config)) {
      throw new IOException(
          run.config() + ": is not the configuration that " + run.latest() + " was made with");
    }
    Map<String, String> counters = file.metadata();
    for (String name : COUNTERS) {
      if (!counters.containsKey(name)) {
        throw new IOException(
            run.latest() + ": has no " + name + ": not a checkpoint to resume from");
      }
    }
    String instructionSet = counters.get("instruction_set");
    if (!instructionSet.equals(context.instructionSet())) {
      LOG.log(
          System.Logger.Level.WARNING,
          "the run was made with {0}, this context uses {1}: its numbers will differ in the last bits",
          instructionSet,
          context.instructionSet());
    }
    stage = Stage.valueOf(counters.get("stage"));
    step = Integer.parseInt(counters.get("step"));
    cursor = Long.parseLong(counters.get(Checkpoint.CURSOR));
    runningAccuracy = Double.parseDouble(counters.get("running_accuracy"));
    // Absent where no schedule could move it.
    if (counters.containsKey("kl_coef")) {
      kl = kl.withCoef(Double.parseDouble(counters.get("kl_coef")));
    }
    Checkpoint.load(file, "policy.", policy);
    if (file.contains("old." + policy.parameters().get(0).name())) {
      if (old == null) {
        beginReinforcement();
      }
      Checkpoint.load(file, "old.", old);
      Checkpoint.load(file, "reference.", reference);
    }
    Checkpoint.load(file, policy, optimizer);
    optimizer.resume(
        Long.parseLong(counters.get("optimizer_steps")),
        Integer.parseInt(counters.get("optimizer_skipped")));
    run.truncate(Long.parseLong(counters.get("metrics_lines")));
  }

  /** The policy as it is. */
  public PolicyModel policy() {
    return policy;
  }

  @Override
  public void close() {
    supervised.close();
    if (rule != null) {
      rule.close();
    }
    if (teacher != null) {
      teacher.close();
    }
    optimizer.close();
    policy.close();
    if (old != null) {
      old.close();
    }
    if (reference != null) {
      reference.close();
    }
    try {
      lock.close();
    } catch (IOException e) {
      LOG.log(System.Logger.Level.WARNING, "the lock of the run folder could not be released", e);
    }
  }
}
