package dev.saccade.train;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GroupAdvantage;
import dev.saccade.LogitDivergence;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.train.Readings.Reading;
import dev.saccade.train.TrainConfig.AttentionTerm;
import dev.saccade.train.TrainConfig.Distillation;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.model.PolicyModel.AttentionGradient;
import dev.saccade.train.model.Prompt;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Reward;
import dev.saccade.train.task.Score;
import dev.saccade.train.task.Vocabulary;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.IntFunction;

/**
 * One rollout batch of the learning rule: sample groups of responses, score them, then several
 * optimizer steps on
 *
 * <pre>
 * L = weight · (L_policy + coef · KL)
 *   + mean over layers and response tokens of
 *       λ · A · JSD½(p_old ‖ p) − entropy · H(p) + γ · JSD½(p_teacher ‖ p)
 *   + μ · mean over response tokens of JSD_β(teacher ‖ policy)
 * </pre>
 *
 * with p the attention policy of a layer, mean over its heads. The divergence from p_old has no
 * gradient at p = p_old, so the first minibatch of a fresh reference gets nothing from it.
 *
 * <p>To a GPU go the prompts, tables of indices and the rewards; back come the tokens, for λ &gt; 0
 * the advantages, and after the last optimizer step the numbers to be reported. An adaptive
 * coefficient of the KL term makes every step wait for its divergence.
 */
final class PolicyGradientStep {
  private static final String KL = "kl";
  private static final String LOGIT_DIVERGENCE = "logit_divergence";
  private static final String OLD = "attention";
  private static final String TEACHER = "teacher_attention";

  private final TrainConfig.Rl config;
  private final AttentionTerm attention;
  private final Distillation distillation;
  private final GroupAdvantage.Options advantage;
  private final AttentionDivergence.Options divergence;
  private final int[] layers;
  private final int[] teacherLayers;
  private final Models models;
  private final PolicyModel policy;
  private final int patch;
  private final Reward reward;
  private final int responseLength;
  private KlCoefficient kl;

  /**
   * The models of a run.
   *
   * @param policy learns
   * @param old whose attention the policy's is compared with
   * @param reference of the KL term
   * @param teacher of the distillation; null where there is none
   */
  record Models(PolicyModel policy, PolicyModel old, PolicyModel reference, PolicyModel teacher) {}

  /**
   * @param kl the coefficient of the KL term at the first optimizer step
   */
  PolicyGradientStep(TrainConfig config, KlCoefficient kl, Models models) {
    this.config = config.rl();
    this.kl = kl;
    this.models = models;
    policy = models.policy;
    attention = this.config.attention();
    distillation = this.config.distillation();
    advantage = GroupAdvantage.Options.DEFAULT.withEstimator(this.config.advantage());
    divergence =
        AttentionDivergence.Options.DEFAULT.withPolicy(
            heads(attention.headBegin(), attention.headEnd()));
    layers = layers(attention.layers(), policy);
    teacherLayers =
        distillation.gamma() == 0 ? new int[0] : layers(distillation.layers(), models.teacher);
    patch = config.patch();
    reward = config.reward();
    responseLength = config.responseLength();
  }

  /** The attention policy of some heads. */
  private AttentionPolicy.Options heads(int begin, int end) {
    AttentionPolicy.Options options = AttentionPolicy.Options.DEFAULT.withHeads(begin, end);
    return switch (attention.support()) {
      case ALL -> options.withSupport(AttentionPolicy.Support.ALL);
      case PREVIOUS -> options.withSupport(AttentionPolicy.Support.PREVIOUS);
      case VISUAL -> options.withSupport(AttentionPolicy.Support.RANGES).withCompact(true);
    };
  }

  private static int[] layers(List<Integer> layers, PolicyModel model) {
    return layers.stream().mapToInt(layer -> Math.floorMod(layer, model.layers())).toArray();
  }

  private boolean comparesWithOld() {
    return attention.lambda() != 0 || attention.entropy() != 0;
  }

  /** A question with its responses and what they earned. */
  private record Group(Prompt prompt, int[][] responses, float[] rewards) {
    /** Whether some responses are better than others. */
    boolean tells() {
      for (float reward : rewards) {
        if (reward != rewards[0]) {
          return true;
        }
      }
      return false;
    }
  }

  /**
   * An attention policy to be compared with that of a layer.
   *
   * @param weight f32[response rows], of the divergence; null for 0
   * @param entropyWeight f32[response rows]; null for 0
   */
  private record Comparison(
      String name,
      int layer,
      AttentionDivergence.Reference.Map reference,
      Tensor weight,
      Tensor entropyWeight) {}

  /** A minibatch with what was computed for it before the first optimizer step. */
  private record Minibatch(
      Batch batch,
      PolicyModel.Inputs inputs,
      Tensor targets,
      PolicyLoss.Inputs policy,
      Tensor visual,
      List<Comparison> comparisons,
      Teaching teaching) {}

  /**
   * What the teacher says.
   *
   * @param logits f32[response rows, vocabulary]
   * @param weight f32[response rows]
   */
  private record Teaching(Tensor logits, Tensor weight) {}

  /** What an optimizer step leaves to be reported. */
  private static final class Numbers {
    final double klCoef;
    final double weight;
    final Reading loss;
    final Reading entropy;
    final Reading metrics;
    final Reading norm;

    /** Losses that are added to {@link #loss}. */
    final List<Reading> terms = new ArrayList<>();

    /** Of every response row; several under one name are averaged. */
    final Map<String, List<Reading>> rows = new LinkedHashMap<>();

    Numbers(Readings readings, int rows, double klCoef, double weight) {
      this.klCoef = klCoef;
      this.weight = weight;
      loss = readings.take(1);
      entropy = readings.take(rows);
      metrics = readings.take(PolicyLoss.Metrics.COUNT);
      norm = readings.take(1);
    }

    Tensor ofRows(Readings readings, String name, int count) {
      Reading reading = readings.take(count);
      rows.computeIfAbsent(name, any -> new ArrayList<>()).add(reading);
      return reading.tensor();
    }

    double mean(String name) {
      return rows.get(name).stream().mapToDouble(Reading::mean).average().orElseThrow();
    }

    void addTo(Totals totals, double mu) {
      double total = weight * loss.value();
      for (Reading term : terms) {
        total += term.value();
      }
      for (String name : rows.keySet()) {
        totals.add(name, mean(name));
      }
      if (rows.containsKey(LOGIT_DIVERGENCE)) {
        total += mu * mean(LOGIT_DIVERGENCE);
      }
      totals.add("loss", total);
      totals.add("entropy", entropy.mean());
      if (rows.containsKey(KL)) {
        totals.add("kl_coef", klCoef);
      }
      PolicyLoss.Metrics policy = PolicyLoss.Metrics.of(metrics.values());
      totals.add("ratio", policy.ratio());
      totals.add("clipped_low", policy.clippedLow());
      totals.add("clipped_high", policy.clippedHigh());
      totals.add("grad_norm", norm.value());
      totals.count++;
    }
  }

  /** Sums over minibatches of what is reported as means. */
  private static final class Totals {
    private final Map<String, Double> sums = new LinkedHashMap<>();
    private int count;

    void add(String name, double value) {
      sums.merge(name, value, Double::sum);
    }

    void into(Map<String, Object> metrics) {
      sums.forEach((name, sum) -> metrics.put(name, sum / count));
    }
  }

  /**
   * @param questions the next so many
   * @param rollout counts rollout batches; with the seed it fixes the samples
   * @throws Update.NotFinite if a gradient was not finite
   */
  Map<String, Object> run(
      IntFunction<List<Example>> questions, long seed, long rollout, Update update) {
    Map<String, Object> metrics = new LinkedHashMap<>();
    List<Group> groups = sample(questions, seed, rollout, metrics);
    if (rollout % attention.referenceInterval() == 0) {
      models.old.copyFrom(policy);
    }
    Context context = policy.context();
    try (Scope scope = context.scope()) {
      float[] rewards = new float[groups.size() * config.group()];
      int[] offsets = new int[groups.size() + 1];
      for (int g = 0; g < groups.size(); g++) {
        offsets[g + 1] = offsets[g] + config.group();
        System.arraycopy(groups.get(g).rewards, 0, rewards, offsets[g], config.group());
      }
      GroupAdvantage.Outputs advantages =
          GroupAdvantage.forward(
              scope, Tensor.of(scope, rewards), Tensor.of(scope, offsets), null, advantage);
      List<Minibatch> minibatches = prepare(scope, groups, advantages.advantage(), rollout);
      Readings readings = new Readings(scope, numbers(minibatches));
      List<Numbers> numbers = new ArrayList<>();
      long step = rollout * config.updates();
      long steps = (long) config.steps() * config.updates();
      long rows = 0;
      for (int epoch = 0; epoch < config.epochs(); epoch++) {
        for (Minibatch minibatch : minibatches) {
          Numbers own = gradient(minibatch, kl.at(step++, steps), readings, update);
          update.step(own.norm.tensor());
          numbers.add(own);
          rows += minibatch.batch.rows();
        }
      }
      readings.read();
      if (!numbers.stream().allMatch(own -> own.norm.isFinite())) {
        throw new Update.NotFinite();
      }
      int degenerate = 0;
      for (byte b : advantages.degenerate().toBytes()) {
        degenerate += b;
      }
      metrics.put("degenerate", (double) degenerate / groups.size());
      Totals totals = new Totals();
      numbers.forEach(own -> own.addTo(totals, distillation.mu()));
      totals.into(metrics);
      metrics.put("tokens", rows);
    }
    return metrics;
  }

  /** Room for the numbers of all optimizer steps. */
  private int numbers(List<Minibatch> minibatches) {
    long all = 0;
    for (Minibatch minibatch : minibatches) {
      int comparisons = minibatch.comparisons.size();
      int perRow =
          1 + (kl.isZero() ? 0 : 1) + 2 * comparisons + (minibatch.teaching == null ? 0 : 1);
      all += 2 + PolicyLoss.Metrics.COUNT + comparisons;
      all += (long) perRow * minibatch.batch.responseRows();
    }
    return Math.toIntExact(all * config.epochs());
  }

  /** The coefficient of the KL term after the optimizer steps. */
  KlCoefficient kl() {
    return kl;
  }

  // -------------------------------------------------------------------------------------- sampling

  /**
   * The groups of a rollout batch. With several rounds, those that tell something come first, and
   * others only where the last round left too few.
   */
  private List<Group> sample(
      IntFunction<List<Example>> questions, long seed, long rollout, Map<String, Object> metrics) {
    List<Group> kept = new ArrayList<>();
    List<Group> spare = new ArrayList<>();
    double total = 0;
    double accuracy = 0;
    double format = 0;
    long length = 0;
    int asked = 0;
    int round = 0;
    for (; round < config.rounds() && kept.size() < config.prompts(); round++) {
      List<Example> examples = questions.apply(config.prompts());
      List<Prompt> prompts =
          examples.stream().map(example -> Evaluator.prompt(example, patch)).toList();
      int[][] responses =
          policy.sample(
              prompts,
              config.group(),
              new PolicyModel.Sampling(
                  (float) config.temperature(),
                  responseLength,
                  Vocabulary.END_ANSWER,
                  seed,
                  rollout * config.rounds() + round));
      asked += responses.length;
      for (int g = 0; g < prompts.size(); g++) {
        int first = g * config.group();
        int[][] own = Arrays.copyOfRange(responses, first, first + config.group());
        float[] rewards = new float[own.length];
        for (int i = 0; i < own.length; i++) {
          Score score = reward.score(own[i], examples.get(g).truth());
          rewards[i] = (float) score.total();
          total += score.total();
          accuracy += score.accuracy();
          format += score.format();
          length += own[i].length;
        }
        Group group = new Group(prompts.get(g), own, rewards);
        (config.rounds() == 1 || group.tells() ? kept : spare).add(group);
      }
    }
    for (int i = 0; kept.size() < config.prompts(); i++) {
      kept.add(spare.get(i));
    }
    metrics.put("reward", total / asked);
    metrics.put("accuracy", accuracy / asked);
    metrics.put("format", format / asked);
    metrics.put("response_length", (double) length / asked);
    if (config.rounds() > 1) {
      metrics.put("rounds", round);
    }
    return kept.subList(0, config.prompts());
  }

  // ----------------------------------------------------------------------------------- preparation

  /**
   * Cuts the rollout batch into minibatches of whole groups and computes what the models that do
   * not learn say to them.
   */
  private List<Minibatch> prepare(Scope scope, List<Group> groups, Tensor advantage, long rollout) {
    int group = config.group();
    int size = groups.size() / config.minibatches();
    float[] advantages = attention.lambda() == 0 ? null : advantage.toFloats();
    Tensor weight = config.weight() == 1 ? null : of(scope, 1, config.weight());
    List<Minibatch> minibatches = new ArrayList<>();
    for (int first = 0; first < groups.size(); first += size) {
      List<Group> own = groups.subList(first, first + size);
      int[] promptOf = new int[size * group];
      Arrays.setAll(promptOf, s -> s / group);
      Batch batch =
          Batch.of(
              own.stream().map(Group::prompt).toList(),
              promptOf,
              own.stream().flatMap(g -> Arrays.stream(g.responses)).toArray(int[][]::new));
      int begin = first * group;
      int end = (first + size) * group;
      PolicyModel.Inputs inputs = policy.prepare(scope, batch);
      Tensor targets = Tensor.of(scope, batch.targets());
      Tensor visual = visual(scope, batch);
      boolean fresh = attention.referenceInterval() == 1;
      int[] compared = comparesWithOld() ? layers : new int[0];
      Seen before =
          look(scope, policy, batch, inputs, targets, visual, fresh ? compared : new int[0]);
      List<Tensor> maps =
          fresh ? before.maps : look(scope, models.old, batch, inputs, null, visual, compared).maps;
      List<Comparison> comparisons = new ArrayList<>();
      int rows = batch.responseRows();
      if (comparesWithOld()) {
        Tensor ofDivergence =
            advantages == null
                ? null
                : weights(scope, batch, Arrays.copyOfRange(advantages, begin, end), rollout);
        Tensor ofEntropy =
            attention.entropy() == 0
                ? null
                : of(scope, rows, attention.entropy() / layers.length / rows);
        add(comparisons, OLD, maps, ofDivergence, ofEntropy);
      }
      Teaching teaching = null;
      if (distillation.isOn()) {
        Seen taught = teach(scope, batch, models.teacher.prepare(scope, batch), visual);
        Tensor ofMaps = of(scope, rows, distillation.gamma() / layers.length / rows);
        add(comparisons, TEACHER, taught.maps, ofMaps, null);
        if (taught.logits != null) {
          teaching = new Teaching(taught.logits, of(scope, rows, distillation.mu() / rows));
        }
      }
      Tensor refLogProb =
          kl.isZero()
              ? null
              : look(scope, models.reference, batch, inputs, targets, visual, new int[0]).logProb;
      minibatches.add(
          new Minibatch(
              batch,
              inputs,
              targets,
              PolicyLoss.Inputs.of(
                      null,
                      before.logProb,
                      advantage.rows(begin, end),
                      Tensor.of(scope, batch.responseOffsets()))
                  .withRefLogProb(refLogProb)
                  .withGradOutput(weight),
              visual,
              comparisons,
              teaching));
    }
    return minibatches;
  }

  private void add(
      List<Comparison> comparisons,
      String name,
      List<Tensor> maps,
      Tensor weight,
      Tensor entropyWeight) {
    for (int i = 0; i < maps.size(); i++) {
      comparisons.add(
          new Comparison(
              name,
              layers[i],
              new AttentionDivergence.Reference.Map(maps.get(i)),
              weight,
              entropyWeight));
    }
  }

  /** λ · A, for the mean over layers and response rows. */
  private Tensor weights(Scope scope, Batch batch, float[] advantages, long rollout) {
    double lambda = attention.lambda(rollout) / layers.length;
    float[] perRow = batch.perResponseRow(advantages);
    for (int r = 0; r < perRow.length; r++) {
      perRow[r] = (float) (lambda * perRow[r] / perRow.length);
    }
    return Tensor.of(scope, perRow);
  }

  private static Tensor of(Scope scope, int size, double value) {
    float[] values = new float[size];
    Arrays.fill(values, (float) value);
    return Tensor.of(scope, values);
  }

  /** The visual tokens of each sequence; null where the support is another. */
  private Tensor visual(Scope scope, Batch batch) {
    if (attention.support() != AttentionTerm.Support.VISUAL) {
      return null;
    }
    int[] ranges = new int[2 * batch.sequences()];
    for (int s = 0; s < batch.sequences(); s++) {
      ranges[2 * s + 1] = batch.prompts().get(batch.promptOf(s)).patchCount();
    }
    return Tensor.of(scope, ranges, batch.sequences(), 2);
  }

  private static AttentionPolicy.Input over(AttentionPolicy.Input input, Tensor visual) {
    return visual == null
        ? input
        : new AttentionPolicy.Input(
            input.q(), input.k(), input.offsetsQ(), input.offsetsK(), input.maxKeys(), visual);
  }

  /** What a model that does not learn from it says to a minibatch. */
  private record Seen(Tensor logProb, Tensor logits, List<Tensor> maps) {}

  /** Log-probabilities where there are targets, and attention policies of layers. */
  private Seen look(
      Scope scope,
      PolicyModel model,
      Batch batch,
      PolicyModel.Inputs inputs,
      Tensor targets,
      Tensor visual,
      int[] layers) {
    Context context = model.context();
    if (targets == null && layers.length == 0) {
      return new Seen(null, null, List.of());
    }
    Tensor logProb = targets == null ? null : Tensor.empty(scope, DType.F32, batch.responseRows());
    List<Tensor> maps = maps(scope, batch, layers);
    try (Scope inner = context.scope()) {
      Activations pass = model.forward(inner, inputs, layers);
      if (targets != null) {
        TokenLogProbs.forward(
            context,
            pass.logits(),
            targets,
            TokenLogProbs.Options.DEFAULT.withTemperature((float) config.temperature()),
            new TokenLogProbs.Outputs(logProb, null, null));
      }
      fill(maps, pass, layers, visual, divergence.policy());
    }
    return new Seen(logProb, null, maps);
  }

  /** The teacher's logits, and the attention policies of its layers, over all their heads. */
  private Seen teach(Scope scope, Batch batch, PolicyModel.Inputs inputs, Tensor visual) {
    List<Tensor> maps = maps(scope, batch, teacherLayers);
    Tensor logits = null;
    try (Scope inner = models.teacher.context().scope()) {
      Activations pass = models.teacher.forward(inner, inputs, teacherLayers);
      if (distillation.mu() != 0) {
        logits = Tensor.empty(scope, DType.F32, pass.logits().shape()).copyFrom(pass.logits());
      }
      fill(maps, pass, teacherLayers, visual, heads(0, -1));
    }
    return new Seen(null, logits, maps);
  }

  private List<Tensor> maps(Scope scope, Batch batch, int[] layers) {
    int width =
        attention.support() == AttentionTerm.Support.VISUAL
            ? batch.prompts().stream().mapToInt(Prompt::patchCount).max().orElse(0)
            : batch.longest();
    return Arrays.stream(layers)
        .mapToObj(layer -> Tensor.empty(scope, DType.F32, batch.responseRows(), Math.max(1, width)))
        .toList();
  }

  private static void fill(
      List<Tensor> maps,
      Activations pass,
      int[] layers,
      Tensor visual,
      AttentionPolicy.Options options) {
    for (int i = 0; i < layers.length; i++) {
      AttentionPolicy.forward(
          maps.get(i).context(),
          over(pass.attention(layers[i]), visual),
          options,
          new AttentionPolicy.Outputs(null, null, null, maps.get(i)));
    }
  }

  // ------------------------------------------------------------------------------------- gradients

  /** Adds the gradient of a minibatch. All but the norm are of it. */
  private Numbers gradient(Minibatch minibatch, double klCoef, Readings readings, Update update) {
    Context context = policy.context();
    int rows = minibatch.batch.responseRows();
    try (Scope scope = context.scope()) {
      Activations pass =
          policy.forward(
              scope, minibatch.inputs, minibatch.comparisons.isEmpty() ? new int[0] : layers);
      Tensor dLogits = Tensor.empty(scope, DType.F32, pass.logits().shape());
      List<AttentionGradient> gradients = new ArrayList<>();
      Numbers numbers = new Numbers(readings, rows, klCoef, config.weight());
      for (Comparison comparison : minibatch.comparisons) {
        gradients.add(compare(scope, pass, minibatch, comparison, numbers, readings, update));
      }
      policyLoss(pass, minibatch, numbers, readings, dLogits, update);
      if (minibatch.teaching != null) {
        distil(scope, pass, minibatch, numbers, readings, dLogits, update);
      }
      policy.backward(pass, dLogits, gradients);
      if (kl.schedule() == KlCoefficient.Schedule.ADAPTIVE) {
        // The next step's coefficient waits for this one's divergence.
        float[] measured = numbers.rows.get(KL).get(0).tensor().toFloats();
        kl = kl.after(Readings.mean(measured), minibatch.batch.sequences());
      }
      return numbers;
    }
  }

  private void policyLoss(
      Activations pass,
      Minibatch minibatch,
      Numbers numbers,
      Readings readings,
      Tensor dLogits,
      Update update) {
    PolicyLossFromLogits.Inputs inputs =
        new PolicyLossFromLogits.Inputs(pass.logits(), minibatch.targets, minibatch.policy);
    PolicyLossFromLogits.Options options =
        PolicyLossFromLogits.Options.DEFAULT
            .withTemperature((float) config.temperature())
            .withEntropyCoef((float) config.loss().entropy())
            .withPolicy(
                config
                    .loss()
                    .options(
                        numbers.klCoef, (double) minibatch.batch.sequences() * responseLength));
    Tensor ofRows =
        kl.isZero() ? null : numbers.ofRows(readings, KL, minibatch.batch.responseRows());
    PolicyLossFromLogits.forward(
        policy.context(),
        inputs,
        options,
        new PolicyLossFromLogits.Outputs(
            new PolicyLossFromLogits.Values(
                numbers.loss.tensor(),
                null,
                numbers.metrics.tensor(),
                null,
                numbers.entropy.tensor(),
                null,
                ofRows),
            dLogits));
    update.ran(() -> OperationCase.of(inputs, options));
  }

  private AttentionGradient compare(
      Scope scope,
      Activations pass,
      Minibatch minibatch,
      Comparison comparison,
      Numbers numbers,
      Readings readings,
      Update update) {
    AttentionPolicy.Input looked = over(pass.attention(comparison.layer), minibatch.visual);
    AttentionDivergence.Weights weights =
        new AttentionDivergence.Weights(comparison.weight, comparison.entropyWeight, null, null);
    Tensor dq = Tensor.empty(scope, DType.F32, looked.q().shape());
    Tensor dk = Tensor.empty(scope, DType.F32, looked.k().shape());
    Reading loss = readings.take(1);
    numbers.terms.add(loss);
    int rows = minibatch.batch.responseRows();
    AttentionDivergence.forwardBackward(
        policy.context(),
        looked,
        comparison.reference,
        weights,
        divergence,
        new AttentionDivergence.Outputs(
            loss.tensor(),
            numbers.ofRows(readings, comparison.name + "_divergence", rows),
            numbers.ofRows(readings, "attention_entropy", rows),
            null,
            dq,
            dk,
            null));
    update.ran(() -> OperationCase.of(looked, comparison.reference, weights, divergence));
    return new AttentionGradient(comparison.layer, dq, dk);
  }

  /** Adds the gradient of the divergence from the teacher's logits. */
  private void distil(
      Scope scope,
      Activations pass,
      Minibatch minibatch,
      Numbers numbers,
      Readings readings,
      Tensor dLogits,
      Update update) {
    LogitDivergence.Inputs inputs =
        LogitDivergence.Inputs.of(pass.logits(), minibatch.teaching.logits)
            .withWeight(minibatch.teaching.weight);
    LogitDivergence.Options options =
        LogitDivergence.Options.DEFAULT
            .withBeta((float) distillation.beta())
            .withTemperature((float) config.temperature());
    Tensor own = Tensor.empty(scope, DType.F32, dLogits.shape());
    LogitDivergence.forward(
        policy.context(),
        inputs,
        options,
        new LogitDivergence.Outputs(
            numbers.ofRows(readings, LOGIT_DIVERGENCE, minibatch.batch.responseRows()), own));
    Axpby.apply(policy.context(), 1, own, 1, dLogits);
    update.ran(() -> OperationCase.of(inputs, options));
  }
}
