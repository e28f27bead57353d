package dev.saccade.train;

import com.fasterxml.jackson.core.JsonPointer;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.saccade.Precision;
import dev.saccade.train.model.TransformerConfig;
import dev.saccade.train.task.DigitScenes;
import dev.saccade.train.task.Digits;
import dev.saccade.train.task.ReadTask;
import dev.saccade.train.task.Reward;
import dev.saccade.train.task.Scene;
import dev.saccade.train.task.TaskMixture;
import dev.saccade.train.task.Vocabulary;
import java.util.List;
import java.util.Map;

/**
 * Everything that a training run depends on; the same configuration on the same machine gives the
 * same numbers.
 *
 * @param algorithm the learning rule after the warm-up
 * @param task questions, as {@link TaskMixture#parse} reads them
 * @param cells cells of a scene, each way
 * @param thinking whether a response first reads the cells
 * @param seed of weights, scenes and samples
 * @param model size of the policy
 * @param sft the supervised warm-up
 * @param rl the reinforcement learning
 * @param evaluationScenes held-out scenes of an evaluation
 * @param evaluationInterval steps between evaluations
 * @param checkpointInterval steps between checkpoints
 * @param precision of the products of matrices; absent: f32
 */
public record TrainConfig(
    Algorithm algorithm,
    String task,
    int cells,
    boolean thinking,
    long seed,
    Model model,
    Sft sft,
    Rl rl,
    int evaluationScenes,
    int evaluationInterval,
    int checkpointInterval,
    Precision precision) {
  private static final ObjectMapper JSON =
      new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);

  /** Size of the policy; vocabulary, patches and positions follow from the task. */
  public record Model(int width, int layers, int heads, int kvHeads, int headDim, int hidden) {}

  /**
   * @param steps most optimizer steps
   * @param targetAccuracy the warm-up ends where the running training accuracy reaches this; 1 or
   *     more: never
   * @param batch examples a step
   * @param optimizer its optimizer
   */
  public record Sft(int steps, double targetAccuracy, int batch, Optimizer optimizer) {}

  /**
   * @param steps rollout batches
   * @param prompts questions of a rollout batch
   * @param group responses to each question
   * @param minibatches optimizer steps per rollout batch and epoch, a divisor of {@code prompts}
   * @param epochs passes over a rollout batch
   * @param temperature of sampling
   * @param clipLow of the ratio, below
   * @param clipHigh of the ratio, above
   * @param klSchedule of the coefficient of the K3 estimate of the KL divergence from the warm-up's
   *     policy; absent: constant
   * @param klCoef the coefficient, with an adaptive schedule the first
   * @param klMin the least coefficient of {@code GRPO_D} and {@code RISING}
   * @param klMax the last coefficient of {@code GRPO_D} and {@code RISING}
   * @param klTarget KL divergence that {@code ADAPTIVE} holds, in nats per token
   * @param klHorizon responses over which {@code ADAPTIVE} changes the coefficient by a fifth at
   *     most; no fewer than those of an optimizer step
   * @param lambda weight of the attention divergence; only {@link Algorithm#RAL} uses it
   * @param attentionLayer whose attention is the policy; -1: the last
   * @param referenceInterval rollout batches between refreshes of the old policy that attention is
   *     compared with; 1: the policy that sampled the batch
   * @param optimizer its optimizer
   */
  public record Rl(
      int steps,
      int prompts,
      int group,
      int minibatches,
      int epochs,
      double temperature,
      double clipLow,
      double clipHigh,
      KlCoefficient.Schedule klSchedule,
      double klCoef,
      double klMin,
      double klMax,
      double klTarget,
      double klHorizon,
      double lambda,
      int attentionLayer,
      int referenceInterval,
      Optimizer optimizer) {
    public Rl {
      klSchedule = klSchedule == null ? KlCoefficient.Schedule.CONSTANT : klSchedule;
    }

    /** The coefficient of the KL term at the first optimizer step. */
    KlCoefficient klCoefficient() {
      return new KlCoefficient(klSchedule, klCoef, klMin, klMax, klTarget, klHorizon);
    }

    /** Optimizer steps of a rollout batch. */
    int updates() {
      return epochs * minibatches;
    }
  }

  /**
   * AdamW with warm-up and linear decay.
   *
   * @param learningRate at its peak
   * @param warmup steps over which the rate rises from 0
   * @param finalFraction of the peak that the rate decays to, one step after the last
   * @param weightDecay of matrices
   * @param maxGradNorm norm that gradients are clipped to
   */
  public record Optimizer(
      double learningRate,
      int warmup,
      double finalFraction,
      double weightDecay,
      double maxGradNorm) {
    public Optimizer {
      require(learningRate > 0, "optimizer.learningRate", "a number above 0", learningRate);
      atLeast("optimizer.warmup", warmup, 0);
      require(
          finalFraction >= 0 && finalFraction <= 1,
          "optimizer.finalFraction",
          "a number from 0 to 1",
          finalFraction);
      require(weightDecay >= 0, "optimizer.weightDecay", "0 or more", weightDecay);
      require(maxGradNorm > 0, "optimizer.maxGradNorm", "a number above 0", maxGradNorm);
    }

    /** The rate of a step, counted from 0, out of {@code steps}. */
    double rate(int step, int steps) {
      if (step < warmup) {
        return learningRate * (step + 1) / warmup;
      }
      double left = steps <= warmup ? 0 : (double) (steps - step) / (steps - warmup);
      return learningRate * (finalFraction + (1 - finalFraction) * left);
    }
  }

  public TrainConfig {
    precision = precision == null ? Precision.F32 : precision;
    TaskMixture tasks = TaskMixture.parse(task);
    atLeast("cells", cells, 1);
    if (cells > Vocabulary.MAX_CELLS) {
      throw new IllegalArgumentException(
          "cells: expected at most " + Vocabulary.MAX_CELLS + ", got " + cells);
    }
    DigitScenes.training(cells, seed, tasks);
    atLeast("sft.steps", sft.steps, 0);
    atLeast("sft.batch", sft.batch, 1);
    atLeast("rl.steps", rl.steps, 0);
    atLeast("rl.prompts", rl.prompts, 1);
    atLeast("rl.group", rl.group, 2);
    atLeast("rl.minibatches", rl.minibatches, 1);
    atLeast("rl.epochs", rl.epochs, 1);
    atLeast("rl.referenceInterval", rl.referenceInterval, 1);
    require((float) rl.temperature > 0, "rl.temperature", "a number above 0", rl.temperature);
    require(rl.clipLow >= 0 && rl.clipLow <= 1, "rl.clipLow", "a number from 0 to 1", rl.clipLow);
    require(rl.clipHigh >= 0, "rl.clipHigh", "0 or more", rl.clipHigh);
    requireKl(rl);
    require(rl.lambda >= 0, "rl.lambda", "0 or more", rl.lambda);
    if (rl.prompts % rl.minibatches != 0) {
      throw new IllegalArgumentException(
          "rl.minibatches: expected a divisor of rl.prompts = "
              + rl.prompts
              + ", got "
              + rl.minibatches);
    }
    if (rl.attentionLayer < -1 || rl.attentionLayer >= model.layers) {
      throw new IllegalArgumentException(
          "rl.attentionLayer: expected -1 to " + (model.layers - 1) + ", got " + rl.attentionLayer);
    }
    atLeast("evaluationScenes", evaluationScenes, 1);
    atLeast("evaluationInterval", evaluationInterval, 1);
    atLeast("checkpointInterval", checkpointInterval, 1);
  }

  private static void requireKl(Rl rl) {
    boolean ramp =
        rl.klSchedule == KlCoefficient.Schedule.GRPO_D
            || rl.klSchedule == KlCoefficient.Schedule.RISING;
    boolean adaptive = rl.klSchedule == KlCoefficient.Schedule.ADAPTIVE;
    requireKl("klCoef", rl.klCoef, adaptive, rl);
    requireKl("klMin", rl.klMin, false, rl);
    requireKl("klMax", rl.klMax, ramp, rl);
    requireKl("klTarget", rl.klTarget, adaptive, rl);
    requireKl("klHorizon", rl.klHorizon, adaptive, rl);
    require(!ramp || rl.klMax >= rl.klMin, "rl.klMax", "at least rl.klMin = " + rl.klMin, rl.klMax);
    int responses = rl.prompts / rl.minibatches * rl.group;
    require(
        !adaptive || rl.klHorizon >= responses,
        "rl.klHorizon",
        "at least the " + responses + " responses of an optimizer step",
        rl.klHorizon);
  }

  private static void requireKl(String name, double value, boolean above0, Rl rl) {
    require(
        above0 ? value > 0 : value >= 0,
        "rl." + name,
        above0 ? "a number above 0 with rl.klSchedule " + rl.klSchedule : "0 or more",
        value);
  }

  private static void require(boolean fits, String name, String expected, double actual) {
    if (!fits || Double.isInfinite(actual)) {
      throw new IllegalArgumentException(name + ": expected " + expected + ", got " + actual);
    }
  }

  private static void atLeast(String name, int value, int least) {
    if (value < least) {
      throw new IllegalArgumentException(name + ": expected " + least + " or more, got " + value);
    }
  }

  /** Names that {@link #preset} knows. */
  public static final List<String> PRESETS = List.of("demo", "full", "tiny");

  /**
   * A configuration by name: {@code demo}, a few minutes on two cores: reading a cell of 2×2
   * scenes; {@code full}: 3×3 scenes, counting and reading; {@code tiny}: seconds, for tests.
   *
   * @throws IllegalArgumentException if there is no preset of that name
   */
  public static TrainConfig preset(String name) {
    Optimizer warm = new Optimizer(1.5e-3, 50, 1.0, 0.01, 1.0);
    return switch (name) {
      case "demo" ->
          new TrainConfig(
              Algorithm.RAL,
              "read",
              2,
              false,
              1,
              new Model(64, 2, 4, 2, 16, 128),
              new Sft(600, 0.55, 128, warm),
              new Rl(
                  400,
                  128,
                  4,
                  4,
                  1,
                  1.0,
                  0.2,
                  0.2,
                  KlCoefficient.Schedule.CONSTANT,
                  0.02,
                  0,
                  0.04,
                  0.1,
                  10_000,
                  10,
                  -1,
                  1,
                  new Optimizer(1e-3, 10, 0.1, 0.01, 1.0)),
              2048,
              20,
              20,
              Precision.F32);
      case "full" ->
          new TrainConfig(
              Algorithm.RAL,
              "count+read",
              3,
              false,
              1,
              new Model(192, 4, 6, 6, 32, 512),
              new Sft(1500, 0.75, 256, new Optimizer(1e-3, 50, 1.0, 0.01, 1.0)),
              new Rl(
                  500,
                  128,
                  8,
                  8,
                  1,
                  1.0,
                  0.2,
                  0.2,
                  KlCoefficient.Schedule.CONSTANT,
                  0.02,
                  0,
                  0.04,
                  0.1,
                  10_000,
                  10,
                  -1,
                  1,
                  new Optimizer(3e-4, 10, 0.1, 0.01, 1.0)),
              4096,
              25,
              10,
              Precision.F32);
      case "tiny" ->
          new TrainConfig(
              Algorithm.RAL,
              "read",
              1,
              false,
              1,
              new Model(32, 1, 2, 1, 16, 64),
              new Sft(60, 2, 64, new Optimizer(3e-3, 20, 1.0, 0.01, 1.0)),
              new Rl(
                  80,
                  64,
                  4,
                  2,
                  1,
                  1.0,
                  0.2,
                  0.2,
                  KlCoefficient.Schedule.CONSTANT,
                  0.02,
                  0,
                  0.04,
                  0.1,
                  10_000,
                  10,
                  -1,
                  1,
                  new Optimizer(2e-3, 5, 0.1, 0.01, 1.0)),
              512,
              20,
              10,
              Precision.F32);
      default ->
          throw new IllegalArgumentException(
              "preset: expected one of " + String.join(", ", PRESETS) + ", got " + name);
    };
  }

  /** This configuration with one value changed; see {@link #with(Map)}. */
  public TrainConfig with(String name, Object value) {
    return with(Map.of(name, value));
  }

  /**
   * This configuration with some values changed.
   *
   * @param values new values by name, such as {@code seed} or {@code rl.klCoef}
   * @throws IllegalArgumentException if there is no such value, or the configuration does not allow
   *     it
   */
  public TrainConfig with(Map<String, ?> values) {
    ObjectNode root = JSON.valueToTree(this);
    values.forEach(
        (name, value) -> {
          JsonPointer path = JsonPointer.compile("/" + name.replace('.', '/'));
          if (!root.at(path).isValueNode()) {
            throw new IllegalArgumentException(name + ": is not the name of a value");
          }
          ((ObjectNode) root.at(path.head()))
              .set(path.last().getMatchingProperty(), JSON.valueToTree(value));
        });
    return fromJson(root.toString());
  }

  /**
   * This configuration with other questions, for the evaluation of its policy.
   *
   * @throws IllegalArgumentException if scenes of this size are too small for them, or the policy
   *     lacks tokens that they use
   */
  public TrainConfig asking(TaskMixture questions) {
    TrainConfig other = with("task", questions.toString());
    if (questions.vocabulary() > scenes().tasks().vocabulary()) {
      throw new IllegalArgumentException(
          "task \"%s\": a policy that was trained on \"%s\" does not know its tokens"
              .formatted(questions, task));
    }
    return other;
  }

  /** Scenes to train on. */
  DigitScenes scenes() {
    return DigitScenes.training(cells, seed, TaskMixture.parse(task));
  }

  /** Tokens of the longest response. */
  int responseLength() {
    return scenes().responseLength(thinking);
  }

  /** The rule that scores responses. */
  Reward reward() {
    return new Reward(thinking, scenes().tasks().answerLength(cells));
  }

  /** Size of the policy for this task. */
  TransformerConfig transformer() {
    int patch = Scene.DEFAULT_PATCH;
    int perSide = cells * Digits.SIDE / patch;
    TaskMixture tasks = scenes().tasks();
    // Room for every question that the tokens allow, so that a policy of COUNT can be asked READ.
    int question = Math.max(new ReadTask().questionLength(), tasks.questionLength());
    return new TransformerConfig(
        tasks.vocabulary(),
        patch * patch,
        perSide * perSide + question + responseLength(),
        model.width,
        model.layers,
        model.heads,
        model.kvHeads,
        model.headDim,
        model.hidden);
  }

  /** As JSON. */
  public String toJson() {
    try {
      return JSON.writeValueAsString(this);
    } catch (JsonProcessingException e) {
      throw new IllegalStateException(e);
    }
  }

  /**
   * From JSON.
   *
   * @throws IllegalArgumentException if it is not a configuration
   */
  public static TrainConfig fromJson(String json) {
    try {
      return JSON.readValue(json, TrainConfig.class);
    } catch (JsonProcessingException e) {
      // A value that the configuration rejects says so itself.
      throw e.getCause() instanceof IllegalArgumentException rejected
          ? rejected
          : new IllegalArgumentException("configuration: " + e.getOriginalMessage(), e);
    }
  }
}
