package dev.saccade.train;

import com.fasterxml.jackson.annotation.JsonSetter;
import com.fasterxml.jackson.annotation.Nulls;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.saccade.GroupAdvantage;
import dev.saccade.KlEstimator;
import dev.saccade.PolicyLoss;
import dev.saccade.Precision;
import dev.saccade.train.model.TransformerConfig;
import dev.saccade.train.task.Digits;
import dev.saccade.train.task.Examples;
import dev.saccade.train.task.ReadTask;
import dev.saccade.train.task.Reward;
import dev.saccade.train.task.Task;
import dev.saccade.train.task.TaskMixture;
import dev.saccade.train.task.Vocabulary;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Everything that a training run depends on; the same configuration on the same machine gives the
 * same numbers.
 *
 * <p>{@code presets.yaml} and {@code rules.yaml} among the resources hold what configurations begin
 * with; {@link #resolve} lays others over them.
 *
 * @param algorithm the learning rule after the warm-up: the preset that section {@code rl} began
 *     with
 * @param task questions, as {@link TaskMixture#parse} reads them
 * @param room more questions that the policy has tokens and positions for; may be null
 * @param cells cells of a scene, each way
 * @param patch side of a patch in pixels, a divisor of that of an image, 28 · {@code cells}
 * @param thinking whether a response first says what it reads in the image
 * @param seed of weights, scenes and samples
 * @param model size of the policy
 * @param sft the supervised warm-up
 * @param rl the reinforcement learning
 * @param evaluationScenes held-out scenes of an evaluation
 * @param evaluationInterval steps between evaluations
 * @param checkpointInterval steps between checkpoints
 * @param precision of the products of matrices
 */
public record TrainConfig(
    Algorithm algorithm,
    @JsonSetter(nulls = Nulls.FAIL) String task,
    String room,
    int cells,
    int patch,
    boolean thinking,
    long seed,
    Model model,
    Sft sft,
    Rl rl,
    int evaluationScenes,
    int evaluationInterval,
    int checkpointInterval,
    Precision precision) {
  /** Names that {@link #preset} knows. */
  public static final List<String> PRESETS = List.of("demo", "full", "tiny");

  private static final Map<String, ObjectNode> SIZES = ConfigTree.presets("presets.yaml");
  private static final Map<String, ObjectNode> RULES = ConfigTree.presets("rules.yaml");

  /** Size of the policy; vocabulary, patches and positions follow from the tasks. */
  public record Model(int width, int layers, int heads, int kvHeads, int headDim, int hidden) {
    public Model {
      atLeast("model.width", width, 1);
      atLeast("model.layers", layers, 1);
      atLeast("model.heads", heads, 1);
      atLeast("model.kvHeads", kvHeads, 1);
      atLeast("model.headDim", headDim, 1);
      atLeast("model.hidden", hidden, 1);
      require(
          heads % kvHeads == 0, "model.kvHeads", "a divisor of model.heads = " + heads, kvHeads);
    }
  }

  /**
   * @param task its questions; null: those of the run
   * @param from checkpoint of the policy to begin with, of the same size; null: fresh weights
   * @param steps most optimizer steps
   * @param targetAccuracy the warm-up ends where the running training accuracy reaches this; 1 or
   *     more: never
   * @param batch examples a step
   * @param optimizer its optimizer
   */
  public record Sft(
      String task, String from, int steps, double targetAccuracy, int batch, Optimizer optimizer) {
    public Sft {
      if (task != null) {
        TaskMixture.parse(task);
      }
      atLeast("sft.steps", steps, 0);
      require(targetAccuracy > 0, "sft.targetAccuracy", "a number above 0", targetAccuracy);
      atLeast("sft.batch", batch, 1);
      optimizer.require("sft");
    }
  }

  /**
   * The learning rule: {@code weight · (policy loss + KL term) + attention terms + distillation}.
   *
   * @param steps rollout batches
   * @param prompts questions of a rollout batch
   * @param group responses to each question
   * @param minibatches optimizer steps per rollout batch and epoch, a divisor of {@code prompts}
   * @param epochs passes over a rollout batch
   * @param temperature of sampling
   * @param rounds most times that {@code prompts} questions are asked for a rollout batch. Beyond
   *     1, groups whose rewards are all equal are left out while others can be had (dynamic
   *     sampling, DAPO); those that are missing after the last round are filled with such
   * @param reward what a response earns
   * @param advantage how rewards become advantages
   * @param weight of the policy loss with its KL term; 0: responses are sampled for distillation
   * @param loss the policy loss
   * @param kl coefficient of the estimate of the KL divergence from the warm-up's policy
   * @param attention attention as a policy
   * @param distillation a teacher's logits and attention
   * @param optimizer its optimizer
   */
  public record Rl(
      int steps,
      int prompts,
      int group,
      int minibatches,
      int epochs,
      double temperature,
      int rounds,
      Weights reward,
      GroupAdvantage.Estimator advantage,
      double weight,
      Loss loss,
      KlCoefficient kl,
      AttentionTerm attention,
      Distillation distillation,
      Optimizer optimizer) {
    public Rl {
      atLeast("rl.steps", steps, 0);
      atLeast("rl.prompts", prompts, 1);
      require(weight >= 0, "rl.weight", "0 or more", weight);
      atLeast("rl.group", group, weight == 0 && attention.lambda == 0 ? 1 : 2);
      atLeast("rl.minibatches", minibatches, 1);
      require(
          prompts % minibatches == 0,
          "rl.minibatches",
          "a divisor of rl.prompts = " + prompts,
          minibatches);
      atLeast("rl.epochs", epochs, 1);
      require((float) temperature > 0, "rl.temperature", "a number above 0", temperature);
      atLeast("rl.rounds", rounds, 1);
      optimizer.require("rl");
      kl.require("rl.kl.", prompts / minibatches * group);
      require(
          weight > 0 || kl.isZero(),
          "rl.weight",
          "above 0 with a KL term (rl.kl), whose weight it is too",
          weight);
    }

    /** Optimizer steps of a rollout batch. */
    public int updates() {
      return epochs * minibatches;
    }
  }

  /**
   * Weights of what {@link Reward} looks at.
   *
   * @param accuracy of a right answer
   * @param format of a response of the right form
   */
  public record Weights(double accuracy, double format) {
    public Weights {
      require(accuracy >= 0, "rl.reward.accuracy", "0 or more", accuracy);
      require(format >= 0, "rl.reward.format", "0 or more", format);
    }
  }

  /**
   * The policy loss; see {@link PolicyLoss.Options}.
   *
   * @param objective loss of a token
   * @param aggregation of the tokens; {@code CONSTANT} divides by the tokens of as many responses
   *     of the greatest length
   * @param clipLow of the ratio, below
   * @param clipHigh of the ratio, above
   * @param dualClip 0 (off), or above 1
   * @param delta 0 (off), or at least 1 + clipHigh
   * @param tauPos of {@code SAPO}
   * @param tauNeg of {@code SAPO}
   * @param klEstimator of the KL term
   * @param entropy weight of the entropy of the tokens, which is maximised
   */
  public record Loss(
      PolicyLoss.Objective objective,
      PolicyLoss.Aggregation aggregation,
      double clipLow,
      double clipHigh,
      double dualClip,
      double delta,
      double tauPos,
      double tauNeg,
      KlEstimator klEstimator,
      double entropy) {
    public Loss {
      require(clipLow >= 0 && clipLow <= 1, "rl.loss.clipLow", "a number from 0 to 1", clipLow);
      require(clipHigh >= 0, "rl.loss.clipHigh", "0 or more", clipHigh);
      boolean ppo =
          objective == PolicyLoss.Objective.PPO_CLIP
              || objective == PolicyLoss.Objective.GSPO
              || objective == PolicyLoss.Objective.GSPO_TOKEN;
      String only = " with rl.loss.objective PPO_CLIP, GSPO or GSPO_TOKEN";
      require(
          dualClip == 0 || ppo && dualClip > 1,
          "rl.loss.dualClip",
          "0 or, " + only.strip() + ", above 1",
          dualClip);
      require(
          delta == 0 || ppo && delta >= 1 + clipHigh,
          "rl.loss.delta",
          "0 or, " + only.strip() + ", at least 1 + rl.loss.clipHigh",
          delta);
      require(tauPos > 0, "rl.loss.tauPos", "a number above 0", tauPos);
      require(tauNeg > 0, "rl.loss.tauNeg", "a number above 0", tauNeg);
      require(entropy == entropy, "rl.loss.entropy", "a number", entropy);
    }

    /**
     * @param constant divisor of {@code CONSTANT}
     */
    PolicyLoss.Options options(double constant) {
      PolicyLoss.Options options =
          PolicyLoss.Options.DEFAULT
              .withObjective(objective)
              .withAggregation(aggregation)
              .withClipLow((float) clipLow)
              .withClipHigh((float) clipHigh)
              .withDualClip((float) dualClip)
              .withDelta((float) delta)
              .withTauPos((float) tauPos)
              .withTauNeg((float) tauNeg)
              .withKlEstimator(klEstimator)
              .withAdvantagePerSequence(true);
      return aggregation == PolicyLoss.Aggregation.CONSTANT
          ? options.withConstant((float) constant)
          : options;
    }
  }

  /**
   * Attention of some layers as a policy: mean over heads, over a support. Its terms are means over
   * the layers and the response tokens.
   *
   * @param lambda weight of A · JSD½(p_old ‖ p) (RAL)
   * @param warmup rollout batches over which {@code lambda} rises from 0
   * @param layers whose attention; -1 is the last, -2 the one before
   * @param headBegin first head
   * @param headEnd end of the heads; -1: all
   * @param support keys that a policy is over
   * @param entropy weight of the policy's entropy, which is maximised
   * @param referenceInterval rollout batches between refreshes of p_old; 1: the policy that sampled
   *     the batch
   */
  public record AttentionTerm(
      double lambda,
      int warmup,
      List<Integer> layers,
      int headBegin,
      int headEnd,
      Support support,
      double entropy,
      int referenceInterval) {
    /** Keys that an attention policy is over. */
    public enum Support {
      /** Every visible key. */
      ALL,
      /** Every visible key but the token's own position. */
      PREVIOUS,
      /** The visual tokens. */
      VISUAL
    }

    public AttentionTerm {
      require(lambda >= 0, "rl.attention.lambda", "0 or more", lambda);
      atLeast("rl.attention.warmup", warmup, 0);
      layers = List.copyOf(layers);
      require(!layers.isEmpty(), "rl.attention.layers", "a layer or more", layers);
      require(entropy == entropy, "rl.attention.entropy", "a number", entropy);
      atLeast("rl.attention.referenceInterval", referenceInterval, 1);
    }

    /** Its weight in a rollout batch, counted from 0. */
    double lambda(long rollout) {
      return rollout < warmup ? lambda * rollout / warmup : lambda;
    }
  }

  /**
   * A teacher that says of the student's responses what it would.
   *
   * @param teacher run folder or checkpoint; its size may differ from the student's
   * @param mu weight of the generalised Jensen-Shannon divergence of its logits (GKD)
   * @param beta weight of the teacher in that mixture, inside (0, 1)
   * @param gamma weight of JSD½(p_teacher ‖ p) between attention policies
   * @param layers of the teacher, one for each of {@code rl.attention.layers}; all their heads
   */
  public record Distillation(
      String teacher, double mu, double beta, double gamma, List<Integer> layers) {
    public Distillation {
      require(mu >= 0, "rl.distillation.mu", "0 or more", mu);
      require(beta > 0 && beta < 1, "rl.distillation.beta", "a number between 0 and 1", beta);
      require(gamma >= 0, "rl.distillation.gamma", "0 or more", gamma);
      layers = List.copyOf(layers);
    }

    /** Whether a teacher has a say. */
    boolean isOn() {
      return mu != 0 || gamma != 0;
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
    private void require(String section) {
      String prefix = section + ".optimizer.";
      TrainConfig.require(
          learningRate > 0, prefix + "learningRate", "a number above 0", learningRate);
      atLeast(prefix + "warmup", warmup, 0);
      TrainConfig.require(
          finalFraction >= 0 && finalFraction <= 1,
          prefix + "finalFraction",
          "a number from 0 to 1",
          finalFraction);
      TrainConfig.require(weightDecay >= 0, prefix + "weightDecay", "0 or more", weightDecay);
      TrainConfig.require(maxGradNorm > 0, prefix + "maxGradNorm", "a number above 0", maxGradNorm);
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
    TaskMixture tasks = TaskMixture.parse(task);
    atLeast("cells", cells, 1);
    require(cells <= Vocabulary.MAX_CELLS, "cells", "at most " + Vocabulary.MAX_CELLS, cells);
    int side = cells * Digits.SIDE;
    require(
        patch >= 1 && side % patch == 0, "patch", "a divisor of the image's side " + side, patch);
    Examples.training(cells, seed, tasks);
    Examples.training(cells, seed, warmUpTasks(task, sft));
    if (room != null) {
      TaskMixture.parse(room);
    }
    requireLayers("rl.attention.layers", rl.attention.layers, model.layers);
    List<Integer> counted =
        rl.attention.layers.stream().map(layer -> Math.floorMod(layer, model.layers)).toList();
    require(
        counted.stream().distinct().count() == counted.size(),
        "rl.attention.layers",
        "layers that differ",
        rl.attention.layers
            + (counted.equals(rl.attention.layers) ? "" : ", which are " + counted));
    require(
        rl.attention.headBegin >= 0 && rl.attention.headBegin < model.heads,
        "rl.attention.headBegin",
        "0 to " + (model.heads - 1),
        rl.attention.headBegin);
    require(
        rl.attention.headEnd == -1
            || rl.attention.headEnd > rl.attention.headBegin && rl.attention.headEnd <= model.heads,
        "rl.attention.headEnd",
        "-1, or above rl.attention.headBegin and at most " + model.heads,
        rl.attention.headEnd);
    require(
        rl.distillation.gamma == 0 || rl.distillation.layers.size() == rl.attention.layers.size(),
        "rl.distillation.layers",
        "one for each of rl.attention.layers = " + rl.attention.layers,
        rl.distillation.layers);
    require(
        !rl.distillation.isOn() || algorithm == Algorithm.SFT || rl.distillation.teacher != null,
        "rl.distillation.teacher",
        "a run folder or a checkpoint with rl.distillation.mu or gamma above 0",
        rl.distillation.teacher);
    require(
        algorithm == Algorithm.SFT || rl.weight > 0 || rl.distillation.isOn(),
        "rl.weight",
        "above 0 without distillation",
        rl.weight);
    atLeast("evaluationScenes", evaluationScenes, 1);
    atLeast("evaluationInterval", evaluationInterval, 1);
    atLeast("checkpointInterval", checkpointInterval, 1);
  }

  static void requireLayers(String name, List<Integer> layers, int count) {
    for (int layer : layers) {
      require(
          layer >= -count && layer < count, name, "each " + -count + " to " + (count - 1), layers);
    }
  }

  static void require(boolean fits, String name, String expected, Object actual) {
    if (!fits || actual instanceof Double number && number.isInfinite()) {
      throw new IllegalArgumentException(name + ": expected " + expected + ", got " + actual);
    }
  }

  private static void atLeast(String name, int value, int least) {
    require(value >= least, name, least + " or more", value);
  }

  // ------------------------------------------------------------------------------- presets, layers

  /**
   * A configuration by name: {@code demo}, a few minutes on two cores: reading a cell of 2×2
   * scenes; {@code full}: 3×3 scenes, counting and reading; {@code tiny}: seconds, for tests.
   *
   * @throws IllegalArgumentException if there is no preset of that name
   */
  public static TrainConfig preset(String name) {
    return resolve(List.of(ConfigTree.of(Map.of("preset", name))));
  }

  /**
   * The preset that the last layer with {@code preset} names (demo where none does), then the rule
   * that the last with {@code algorithm} names, then the other values of the layers in order.
   *
   * @param layers trees of the shape of a configuration, of any part of it
   * @throws IllegalArgumentException if a name is unknown, or a value is out of range; the message
   *     names it
   */
  public static TrainConfig resolve(List<ObjectNode> layers) {
    String size = "demo";
    List<ObjectNode> values = new ArrayList<>();
    for (ObjectNode layer : layers) {
      ObjectNode copy = layer.deepCopy();
      if (copy.has("preset")) {
        size = ConfigTree.given(copy.remove("preset"));
      }
      values.add(copy);
    }
    require(PRESETS.contains(size), "preset", "one of " + String.join(", ", PRESETS), size);
    ObjectNode under = SIZES.get(size).deepCopy();
    values.add(0, ConfigTree.of(Map.of("algorithm", under.get("algorithm").asText())));
    return over(under, values);
  }

  private static TrainConfig over(ObjectNode under, List<ObjectNode> layers) {
    ObjectNode values = ConfigTree.JSON.createObjectNode();
    layers.forEach(layer -> ConfigTree.lay(values, layer));
    if (values.has("algorithm")) {
      Algorithm rule = ConfigTree.bind(values.path("algorithm"), Algorithm.class, "algorithm");
      ConfigTree.lay((ObjectNode) under.get("rl"), RULES.get(rule.id()));
    }
    ConfigTree.requireNames(under, values, "");
    return ConfigTree.bind(ConfigTree.lay(under, values), TrainConfig.class, "configuration");
  }

  /** This configuration with one value changed; see {@link #with(Map)}. */
  public TrainConfig with(String name, Object value) {
    return with(Map.of(name, value));
  }

  /**
   * This configuration with some values changed; an {@code algorithm} among them first sets what
   * belongs to the rule.
   *
   * @param values new values by name, such as {@code seed} or {@code rl.kl.coef}
   * @throws IllegalArgumentException if there is no such value, or the configuration does not allow
   *     it
   */
  public TrainConfig with(Map<String, ?> values) {
    return over(ConfigTree.JSON.valueToTree(this), List.of(ConfigTree.of(values)));
  }

  /** As JSON, which is YAML too. */
  public String toJson() {
    return ConfigTree.write(this);
  }

  /**
   * From the JSON of {@link #toJson}.
   *
   * @throws IllegalArgumentException if it is not a whole configuration
   */
  public static TrainConfig fromJson(String json) {
    return ConfigTree.bind(ConfigTree.parse(json), TrainConfig.class, "configuration");
  }

  // ------------------------------------------------------------------------------- what follows

  /**
   * This configuration with other questions, for the evaluation of its policy.
   *
   * @throws IllegalArgumentException if scenes of this size are too small for them, or the policy
   *     lacks tokens that they use
   */
  public TrainConfig asking(TaskMixture questions) {
    TrainConfig other = with("task", questions.toString());
    if (questions.vocabulary() > transformer().vocabulary()) {
      throw new IllegalArgumentException(
          "task \"%s\": a policy that was trained on \"%s\" does not know its tokens"
              .formatted(questions, allTasks()));
    }
    return other;
  }

  private static TaskMixture warmUpTasks(String task, Sft sft) {
    return TaskMixture.parse(sft.task == null ? task : sft.task);
  }

  /** Scenes to train on. */
  public Examples scenes() {
    return Examples.training(cells, seed, TaskMixture.parse(task));
  }

  /** Scenes of the warm-up. */
  Examples warmUpScenes() {
    return Examples.training(cells, seed, warmUpTasks(task, sft));
  }

  /** The questions of the run, of its warm-up, and those that there is to be room for. */
  private TaskMixture allTasks() {
    Map<String, Task> all = new LinkedHashMap<>();
    for (String tasks : Arrays.asList(task, sft.task, room)) {
      if (tasks != null) {
        TaskMixture.parse(tasks).tasks().forEach(own -> all.putIfAbsent(own.name(), own));
      }
    }
    return new TaskMixture(List.copyOf(all.values()));
  }

  /** Tokens of the longest response. */
  public int responseLength() {
    return scenes().tasks().responseLength(cells, thinking);
  }

  /** The rule that scores responses. */
  public Reward reward() {
    return new Reward(
        rl.reward.accuracy, rl.reward.format, thinking, scenes().tasks().answerLength(cells));
  }

  /** Size of the policy for its tasks. */
  public TransformerConfig transformer() {
    int perSide = cells * Digits.SIDE / patch;
    TaskMixture own = allTasks();
    // Whatever the tokens allow, so that a policy of COUNT can be asked READ.
    TaskMixture known =
        new TaskMixture(
            TaskMixture.KNOWN.stream()
                .filter(task -> task.vocabulary() <= own.vocabulary())
                .toList());
    int question = Math.max(own.questionLength(), new ReadTask().questionLength());
    int text =
        Math.max(
            question + own.responseLength(cells, thinking),
            // The last token of a response has no position.
            known.questionLength() + known.responseLength(cells, thinking) - 1);
    return new TransformerConfig(
        own.vocabulary(),
        patch * patch,
        perSide * perSide + text,
        model.width,
        model.layers,
        model.heads,
        model.kvHeads,
        model.headDim,
        model.hidden);
  }
}
