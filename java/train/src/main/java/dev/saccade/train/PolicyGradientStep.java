package dev.saccade.train;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GroupAdvantage;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.train.Readings.Reading;
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
import java.util.function.Consumer;

/**
 * One rollout batch of GRPO or RAL: sample groups of responses, score them, then several optimizer
 * steps on
 *
 * <pre>L = L_GRPO + λ · mean over response tokens of A · JSD½(p_old ‖ p)</pre>
 *
 * with p the attention policy of one layer, mean over its heads, over previous positions. The
 * divergence has no gradient at p = p_old, so the first minibatch of a fresh reference gets nothing
 * from it.
 *
 * <p>To a GPU go the prompts, tables of indices and the rewards; back come the tokens, for λ &gt; 0
 * the advantages, and after the last optimizer step the numbers to be reported. An adaptive
 * coefficient of the KL term makes every step wait for its divergence.
 */
final class PolicyGradientStep {
  private static final GroupAdvantage.Options ADVANTAGE = GroupAdvantage.Options.DEFAULT;
  private static final AttentionDivergence.Options DIVERGENCE = AttentionDivergence.Options.DEFAULT;

  private final TrainConfig.Rl config;
  private final double lambda;
  private final int layer;
  private final PolicyModel policy;
  private final PolicyModel old;
  private final PolicyModel reference;
  private final Reward reward;
  private final int responseLength;
  private KlCoefficient kl;

  /**
   * @param kl the coefficient of the KL term at the first optimizer step
   * @param policy the model that learns
   * @param old whose attention the policy's is compared with
   * @param reference of the KL term
   */
  PolicyGradientStep(
      TrainConfig config,
      KlCoefficient kl,
      PolicyModel policy,
      PolicyModel old,
      PolicyModel reference) {
    this.config = config.rl();
    this.kl = kl;
    this.lambda = config.algorithm() == Algorithm.RAL ? this.config.lambda() : 0;
    this.layer =
        this.config.attentionLayer() < 0 ? policy.layers() - 1 : this.config.attentionLayer();
    this.policy = policy;
    this.old = old;
    this.reference = reference;
    this.reward = config.reward();
    this.responseLength = config.responseLength();
  }

  /** A minibatch with what was computed for it before the first optimizer step. */
  private record Minibatch(
      Batch batch,
      PolicyModel.Inputs inputs,
      Tensor targets,
      Tensor offsets,
      Tensor advantage,
      Tensor oldLogProb,
      Tensor refLogProb,
      AttentionDivergence.Reference.Map oldAttention,
      Tensor attentionWeight) {}

  /**
   * What an optimizer step leaves to be reported; null where it has no such number.
   *
   * @param divergence of every response row, as the next three
   */
  private record Numbers(
      double klCoef,
      Reading loss,
      Reading attentionLoss,
      Reading divergence,
      Reading attentionEntropy,
      Reading entropy,
      Reading kl,
      Reading metrics,
      Reading norm) {
    void addTo(Totals totals) {
      double total = loss.value();
      if (attentionLoss != null) {
        total += attentionLoss.value();
        totals.add("attention_divergence", divergence.mean());
        totals.add("attention_entropy", attentionEntropy.mean());
      }
      totals.add("loss", total);
      totals.add("entropy", entropy.mean());
      if (kl != null) {
        totals.add("kl", kl.mean());
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
   * @param examples the questions
   * @param rollout counts rollout batches; with the seed it fixes the samples
   * @param takeStep takes an optimizer step with the gradients as they are, and writes their norm
   *     to f32[1]
   */
  Map<String, Object> run(
      List<Example> examples, long seed, long rollout, Consumer<Tensor> takeStep) {
    List<Prompt> prompts = examples.stream().map(Evaluator::prompt).toList();
    int group = config.group();
    int[][] responses =
        policy.sample(
            prompts,
            group,
            new PolicyModel.Sampling(
                (float) config.temperature(),
                responseLength,
                Vocabulary.END_ANSWER,
                seed,
                rollout));
    Map<String, Object> metrics = new LinkedHashMap<>();
    float[] rewards = score(examples, responses, metrics);
    if (rollout % config.referenceInterval() == 0) {
      old.copyFrom(policy);
    }
    Context context = policy.context();
    try (Scope scope = context.scope()) {
      int[] groups = new int[prompts.size() + 1];
      Arrays.setAll(groups, g -> g * group);
      GroupAdvantage.Outputs advantage =
          GroupAdvantage.forward(
              scope, Tensor.of(scope, rewards), Tensor.of(scope, groups), null, ADVANTAGE);
      List<Minibatch> minibatches = prepare(scope, prompts, responses, advantage.advantage());
      Readings readings = new Readings(scope, numbers(minibatches));
      List<Numbers> numbers = new ArrayList<>();
      long step = rollout * config.updates();
      long steps = (long) config.steps() * config.updates();
      long rows = 0;
      for (int epoch = 0; epoch < config.epochs(); epoch++) {
        for (Minibatch minibatch : minibatches) {
          Numbers own = gradient(minibatch, kl.at(step++, steps), readings);
          takeStep.accept(own.norm.tensor());
          numbers.add(own);
          rows += minibatch.batch.rows();
        }
      }
      readings.read();
      int degenerate = 0;
      for (byte b : advantage.degenerate().toBytes()) {
        degenerate += b;
      }
      metrics.put("degenerate", (double) degenerate / prompts.size());
      Totals totals = new Totals();
      numbers.forEach(own -> own.addTo(totals));
      totals.into(metrics);
      metrics.put("tokens", rows);
    }
    return metrics;
  }

  /** Room for the numbers of all optimizer steps. */
  private int numbers(List<Minibatch> minibatches) {
    int perRow = 1 + (kl.isZero() ? 0 : 1) + (lambda == 0 ? 0 : 2);
    int each = 3 + PolicyLoss.Metrics.COUNT;
    long all = 0;
    for (Minibatch minibatch : minibatches) {
      all += each + (long) perRow * minibatch.batch.responseRows();
    }
    return Math.toIntExact(all * config.epochs());
  }

  /** The coefficient of the KL term after the optimizer steps. */
  KlCoefficient kl() {
    return kl;
  }

  private float[] score(List<Example> examples, int[][] responses, Map<String, Object> metrics) {
    float[] rewards = new float[responses.length];
    double total = 0;
    double accuracy = 0;
    double format = 0;
    long length = 0;
    for (int i = 0; i < responses.length; i++) {
      Score score = reward.score(responses[i], examples.get(i / config.group()).truth());
      rewards[i] = (float) score.total();
      total += score.total();
      accuracy += score.accuracy();
      format += score.format();
      length += responses[i].length;
    }
    metrics.put("reward", total / responses.length);
    metrics.put("accuracy", accuracy / responses.length);
    metrics.put("format", format / responses.length);
    metrics.put("response_length", (double) length / responses.length);
    return rewards;
  }

  /**
   * Cuts the rollout batch into minibatches of whole groups and computes what the old policies say
   * to them.
   */
  private List<Minibatch> prepare(
      Scope scope, List<Prompt> prompts, int[][] responses, Tensor advantage) {
    int group = config.group();
    int size = prompts.size() / config.minibatches();
    boolean stale = config.referenceInterval() > 1;
    float[] attentionAdvantage = lambda == 0 ? null : advantage.toFloats();
    List<Minibatch> minibatches = new ArrayList<>();
    for (int first = 0; first < prompts.size(); first += size) {
      int[] promptOf = new int[size * group];
      Arrays.setAll(promptOf, s -> s / group);
      int[][] own = Arrays.copyOfRange(responses, first * group, (first + size) * group);
      Batch batch = Batch.of(prompts.subList(first, first + size), promptOf, own);
      int end = (first + size) * group;
      Tensor weight = null;
      if (lambda != 0) {
        float[] perRow =
            batch.perResponseRow(Arrays.copyOfRange(attentionAdvantage, first * group, end));
        for (int r = 0; r < perRow.length; r++) {
          perRow[r] = (float) (lambda * perRow[r] / perRow.length);
        }
        weight = Tensor.of(scope, perRow);
      }
      PolicyModel.Inputs inputs = policy.prepare(scope, batch);
      Tensor targets = Tensor.of(scope, batch.targets());
      Looked looked = look(scope, policy, batch, inputs, targets, lambda != 0 && !stale);
      Tensor map =
          lambda != 0 && stale ? look(scope, old, batch, inputs, targets, true).map : looked.map;
      minibatches.add(
          new Minibatch(
              batch,
              inputs,
              targets,
              Tensor.of(scope, batch.responseOffsets()),
              advantage.rows(first * group, end),
              looked.logProb,
              kl.isZero() ? null : look(scope, reference, batch, inputs, targets, false).logProb,
              map == null ? null : new AttentionDivergence.Reference.Map(map),
              weight));
    }
    return minibatches;
  }

  /** Log-probabilities and attention of a model that does not learn from them. */
  private record Looked(Tensor logProb, Tensor map) {}

  private Looked look(
      Scope scope,
      PolicyModel model,
      Batch batch,
      PolicyModel.Inputs inputs,
      Tensor targets,
      boolean attention) {
    Context context = model.context();
    Tensor logProb = Tensor.empty(scope, DType.F32, targets.size());
    Tensor map = attention ? Tensor.empty(scope, DType.F32, targets.size(), batch.longest()) : null;
    try (Scope inner = context.scope()) {
      Activations pass = model.forward(inner, inputs, attention ? new int[] {layer} : new int[0]);
      TokenLogProbs.forward(
          context,
          pass.logits(),
          targets,
          TokenLogProbs.Options.DEFAULT.withTemperature((float) config.temperature()),
          new TokenLogProbs.Outputs(logProb, null, null));
      if (attention) {
        AttentionPolicy.forward(
            context,
            pass.attention(layer),
            DIVERGENCE.policy(),
            new AttentionPolicy.Outputs(null, null, null, map));
      }
    }
    return new Looked(logProb, map);
  }

  /** Adds the gradient of a minibatch. All but the norm are of it. */
  private Numbers gradient(Minibatch minibatch, double klCoef, Readings readings) {
    Context context = policy.context();
    boolean attention = minibatch.oldAttention != null;
    int rows = minibatch.batch.responseRows();
    Numbers numbers =
        new Numbers(
            klCoef,
            readings.take(1),
            attention ? readings.take(1) : null,
            attention ? readings.take(rows) : null,
            attention ? readings.take(rows) : null,
            readings.take(rows),
            kl.isZero() ? null : readings.take(rows),
            readings.take(PolicyLoss.Metrics.COUNT),
            readings.take(1));
    try (Scope scope = context.scope()) {
      Activations pass =
          policy.forward(scope, minibatch.inputs, attention ? new int[] {layer} : new int[0]);
      Tensor dLogits = Tensor.empty(scope, DType.F32, pass.logits().shape());
      PolicyLossFromLogits.forward(
          context,
          new PolicyLossFromLogits.Inputs(
              pass.logits(),
              minibatch.targets,
              PolicyLoss.Inputs.of(
                      null, minibatch.oldLogProb, minibatch.advantage, minibatch.offsets)
                  .withRefLogProb(minibatch.refLogProb)),
          PolicyLossFromLogits.Options.DEFAULT
              .withTemperature((float) config.temperature())
              .withPolicy(
                  PolicyLoss.Options.DEFAULT
                      .withClipLow((float) config.clipLow())
                      .withClipHigh((float) config.clipHigh())
                      .withKlCoef((float) klCoef)
                      .withAdvantagePerSequence(true)),
          new PolicyLossFromLogits.Outputs(
              new PolicyLossFromLogits.Values(
                  numbers.loss.tensor(),
                  null,
                  numbers.metrics.tensor(),
                  null,
                  numbers.entropy.tensor(),
                  null,
                  numbers.kl == null ? null : numbers.kl.tensor()),
              dLogits));
      List<AttentionGradient> gradients = List.of();
      if (attention) {
        AttentionPolicy.Input looked = pass.attention(layer);
        Tensor dq = Tensor.empty(scope, DType.F32, looked.q().shape());
        Tensor dk = Tensor.empty(scope, DType.F32, looked.k().shape());
        AttentionDivergence.forwardBackward(
            context,
            looked,
            minibatch.oldAttention,
            AttentionDivergence.Weights.of(minibatch.attentionWeight),
            DIVERGENCE,
            new AttentionDivergence.Outputs(
                numbers.attentionLoss.tensor(),
                numbers.divergence.tensor(),
                numbers.attentionEntropy.tensor(),
                null,
                dq,
                dk,
                null));
        gradients = List.of(new AttentionGradient(layer, dq, dk));
      }
      policy.backward(pass, dLogits, gradients);
    }
    if (kl.schedule() == KlCoefficient.Schedule.ADAPTIVE) {
      // The next step's coefficient waits for this one's divergence.
      kl = kl.after(Readings.mean(numbers.kl.tensor().toFloats()), minibatch.batch.sequences());
    }
    return numbers;
  }
}
