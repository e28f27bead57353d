package dev.saccade.train;

import dev.saccade.AttentionDivergence;
import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GatherRows;
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
import dev.saccade.train.model.Replays;
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
import java.util.function.UnaryOperator;

/**
 * Rollout batches of the learning rule. Each: sample groups of responses, score them, then several
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
 * <p>To a GPU go the prompts, tables of indices and the rewards; back come the tokens, and after
 * the last optimizer step the numbers to be reported. An adaptive coefficient of the KL term makes
 * every step wait for its divergence. Minibatches are padded to the same shapes, so that passes and
 * optimizer steps are recorded once and launched again.
 */
final class PolicyGradientStep implements AutoCloseable {
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
  private final boolean timed;
  private final Replays replays;
  private KlCoefficient kl;

  /**
   * The models of a run.
   *
   * @param policy learns
   * @param old whose attention the policy's is compared with, where that is not its own of before
   *     the optimizer steps: neither read nor written where the reference is of every batch
   * @param reference of the KL term
   * @param teacher of the distillation; null where there is none
   */
  record Models(PolicyModel policy, PolicyModel old, PolicyModel reference, PolicyModel teacher) {}

  /**
   * @param models stay where they are as long as this is open, as does what an {@link Update} has
   */
  PolicyGradientStep(TrainConfig config, Models models) {
    this(config, models, false);
  }

  /**
   * @param timed whether every stage is waited for, so that its time is its own
   */
  PolicyGradientStep(TrainConfig config, Models models, boolean timed) {
    this.config = config.rl();
    this.kl = this.config.kl();
    this.models = models;
    this.timed = timed;
    replays = new Replays(models.policy.context());
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

  /** Whether the policy itself, before the first optimizer step, is the old one. */
  private boolean isFresh() {
    return attention.referenceInterval() == 1;
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
      Tensor entropyWeight) {
    Comparison with(UnaryOperator<Tensor> input) {
      return new Comparison(
          name,
          layer,
          new AttentionDivergence.Reference.Map(input.apply(reference.map())),
          input.apply(weight),
          input.apply(entropyWeight));
    }
  }

  /**
   * A minibatch with what was computed for it before the first optimizer step.
   *
   * @param visual i32[sequences, 2]; null where the support is another
   * @param teaching null without a teacher's logits
   * @param numbers receives what {@link Numbers} describes; null before it has a place
   */
  private record Minibatch(
      Batch batch,
      PolicyModel.Inputs inputs,
      Tensor targets,
      PolicyLoss.Inputs policy,
      Tensor visual,
      List<Comparison> comparisons,
      Teaching teaching,
      Tensor numbers)
      implements Replays.Data<Minibatch> {
    @Override
    public Minibatch with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output) {
      return new Minibatch(
          batch,
          inputs.with(input),
          input.apply(targets),
          new PolicyLoss.Inputs(
              null,
              input.apply(policy.oldLogProb()),
              input.apply(policy.refLogProb()),
              input.apply(policy.advantage()),
              null,
              null,
              input.apply(policy.offsets()),
              input.apply(policy.klCoef()),
              input.apply(policy.gradOutput())),
          input.apply(visual),
          comparisons.stream().map(comparison -> comparison.with(input)).toList(),
          teaching == null ? null : teaching.with(input),
          output.apply(numbers));
    }

    /** For an optimizer step. */
    Minibatch at(Tensor klCoef, Tensor place) {
      return new Minibatch(
          batch, inputs, targets, policy.withKlCoef(klCoef), visual, comparisons, teaching, place);
    }
  }

  /**
   * What the teacher says.
   *
   * @param logits f32[response rows, vocabulary]
   * @param weight f32[response rows]
   */
  private record Teaching(Tensor logits, Tensor weight) {
    Teaching with(UnaryOperator<Tensor> input) {
      return new Teaching(input.apply(logits), input.apply(weight));
    }
  }

  /** Where an optimizer step leaves what is to be reported. */
  private static final class Numbers {
    final Readings readings = new Readings();
    final Reading loss = readings.take(1);
    final Reading metrics = readings.take(PolicyLoss.Metrics.COUNT);
    final Reading norm = readings.take(1);
    final Reading entropy;

    /** Of each comparison a loss that is added to {@link #loss}, divergences and entropies. */
    final List<Reading> terms = new ArrayList<>();

    final List<Reading> divergences = new ArrayList<>();
    final List<Reading> entropies = new ArrayList<>();

    /** Of every response row, to be reported; several under one name are averaged. */
    final Map<String, List<Reading>> rows = new LinkedHashMap<>();

    /**
     * @param kl whether there is a KL term
     */
    Numbers(Minibatch minibatch, boolean kl) {
      int count = minibatch.batch.responseRows();
      entropy = readings.take(count);
      for (Comparison comparison : minibatch.comparisons) {
        terms.add(readings.take(1));
        divergences.add(ofRows(comparison.name + "_divergence", count));
        entropies.add(ofRows("attention_entropy", count));
      }
      if (kl) {
        ofRows(KL, count);
      }
      if (minibatch.teaching != null) {
        ofRows(LOGIT_DIVERGENCE, count);
      }
    }

    private Reading ofRows(String name, int count) {
      Reading reading = readings.take(count);
      rows.computeIfAbsent(name, any -> new ArrayList<>()).add(reading);
      return reading;
    }

    /** The only one under its name. */
    Reading row(String name) {
      return rows.get(name).get(0);
    }

    /** Mean over the response tokens. */
    static double mean(float[] values, int[] targets) {
      double sum = 0;
      int count = 0;
      for (int r = 0; r < values.length; r++) {
        if (targets[r] != Batch.IGNORED) {
          sum += values[r];
          count++;
        }
      }
      return sum / count;
    }

    void addTo(Totals totals, float[] read, int[] targets, double weight, double mu) {
      double total = weight * loss.value(read);
      for (Reading term : terms) {
        total += term.value(read);
      }
      for (Map.Entry<String, List<Reading>> entry : rows.entrySet()) {
        double mean =
            entry.getValue().stream()
                .mapToDouble(reading -> mean(reading.in(read), targets))
                .average()
                .orElseThrow();
        totals.add(entry.getKey(), mean);
        total += entry.getKey().equals(LOGIT_DIVERGENCE) ? mu * mean : 0;
      }
      totals.add("loss", total);
      totals.add("entropy", mean(entropy.in(read), targets));
      PolicyLoss.Metrics policy = PolicyLoss.Metrics.of(metrics.in(read));
      totals.add("ratio", policy.ratio());
      totals.add("clipped_low", policy.clippedLow());
      totals.add("clipped_high", policy.clippedHigh());
      totals.add("grad_norm", norm.value(read));
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
   * @param coefficient of the KL term at the first optimizer step
   * @throws Update.NotFinite if a gradient was not finite
   */
  Map<String, Object> run(
      IntFunction<List<Example>> questions,
      long seed,
      long rollout,
      KlCoefficient coefficient,
      Update update) {
    kl = coefficient;
    Map<String, Object> metrics = new LinkedHashMap<>();
    Context context = policy.context();
    Stages stages = new Stages(context, timed);
    try (Scope scope = context.scope()) {
      List<Group> groups = sample(scope, questions, seed, rollout, metrics, stages);
      if (!isFresh() && rollout % attention.referenceInterval() == 0) {
        models.old.copyFrom(policy);
      }
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
      stages.end("prepare");
      Numbers numbers = new Numbers(minibatches.get(0), !kl.isZero());
      float[] read = update(scope, minibatches, numbers, rollout, update, metrics);
      int size = numbers.readings.size();
      Totals totals = new Totals();
      long rows = 0;
      for (int u = 0; u < config.updates(); u++) {
        float[] own = Arrays.copyOfRange(read, u * size, (u + 1) * size);
        if (!Float.isFinite(numbers.norm.value(own))) {
          throw new Update.NotFinite();
        }
        Batch batch = minibatches.get(u % minibatches.size()).batch;
        numbers.addTo(totals, own, batch.targets(), config.weight(), distillation.mu());
        rows += batch.filledRows();
      }
      int degenerate = 0;
      for (byte b : advantages.degenerate().toBytes()) {
        degenerate += b;
      }
      stages.end("update");
      metrics.put("degenerate", (double) degenerate / groups.size());
      totals.into(metrics);
      metrics.put("tokens", rows);
    }
    stages.into(metrics);
    return metrics;
  }

  /**
   * The optimizer steps.
   *
   * @return for each what {@code numbers} describes
   */
  private float[] update(
      Scope scope,
      List<Minibatch> minibatches,
      Numbers numbers,
      long rollout,
      Update update,
      Map<String, Object> metrics) {
    int updates = config.updates();
    long first = rollout * updates;
    long steps = (long) config.steps() * updates;
    double[] coefficients = new double[updates];
    float[] rounded = new float[updates];
    for (int u = 0; u < updates; u++) {
      coefficients[u] = kl.at(first + u, steps);
      rounded[u] = (float) coefficients[u];
    }
    Tensor klCoef = kl.isZero() ? null : Tensor.of(scope, rounded);
    int size = numbers.readings.size();
    Tensor log = Tensor.empty(scope, DType.F32, updates, size);
    for (int u = 0; u < updates; u++) {
      Tensor place = log.rows(u, u + 1).reshape(size);
      Minibatch minibatch =
          minibatches
              .get(u % minibatches.size())
              .at(klCoef == null ? null : klCoef.rows(u, u + 1), place);
      update.prepare();
      if (update.looks()) {
        step(minibatch, update);
      } else {
        replays.run(
            List.of("update", minibatch.inputs.layout()), minibatch, own -> step(own, update));
      }
      if (kl.schedule() == KlCoefficient.Schedule.ADAPTIVE) {
        // The next step's coefficient waits for this one's divergence.
        float[] measured = numbers.row(KL).in(place).toFloats();
        kl =
            kl.after(
                Numbers.mean(measured, minibatch.batch.targets()), minibatch.batch.sequences());
        if (u + 1 < updates) {
          coefficients[u + 1] = kl.coef();
          klCoef.rows(u + 1, u + 2).copyFrom(new float[] {(float) kl.coef()});
        }
      }
    }
    if (klCoef != null) {
      metrics.put("kl_coef", Arrays.stream(coefficients).sum() / updates);
    }
    return log.toFloats();
  }

  /** The coefficient of the KL term after the optimizer steps. */
  KlCoefficient kl() {
    return kl;
  }

  @Override
  public void close() {
    replays.close();
  }

  // -------------------------------------------------------------------------------------- sampling

  /**
   * The groups of a rollout batch. With several rounds, those that tell something come first, and
   * others only where the last round left too few.
   *
   * @param scope of the rollout batch
   */
  private List<Group> sample(
      Scope scope,
      IntFunction<List<Example>> questions,
      long seed,
      long rollout,
      Map<String, Object> metrics,
      Stages stages) {
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
      List<Prompt> prompts = Evaluator.prompts(examples, patch);
      if (config.rounds() == 1) {
        policy.load(scope, prompts); // for the passes before and in the optimizer steps too
      }
      stages.end("question");
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
      stages.end("sample");
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
      stages.end("score");
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
   * Asks the models that do not learn what they say to the rollout batch, and cuts it into
   * minibatches of whole groups.
   */
  private List<Minibatch> prepare(Scope scope, List<Group> groups, Tensor advantage, long rollout) {
    Tensor weight =
        config.weight() == 1 ? null : Tensor.of(scope, new float[] {(float) config.weight()});
    Batch.Room room = Batch.Room.of(groups.stream().map(Group::prompt).toList(), responseLength);
    Batch whole = batch(groups, room);
    PolicyModel.Inputs inputs = policy.prepare(scope, whole);
    Tensor targets = Tensor.of(scope, whole.targets());
    Tensor visual = visual(scope, whole);
    boolean fresh = isFresh();
    int[] none = new int[0];
    int[] compared = comparesWithOld() ? layers : none;
    Look before = looking(scope, whole, inputs, targets, visual, fresh ? compared : none);
    Look reference = kl.isZero() ? null : looking(scope, whole, inputs, targets, visual, none);
    look(before, reference);
    Look old = fresh ? before : looking(scope, whole, inputs, null, visual, compared);
    if (!fresh && compared.length > 0) {
      replays.run(
          List.of("old", inputs.layout()), old, own -> see(models.old, own, divergence.policy()));
    }
    Look taught = distillation.isOn() ? teach(scope, whole, visual) : null;
    Tensor refLogProb = reference == null ? null : reference.logProb;
    Tensor advantageOfRows =
        attention.lambda() == 0
            ? null
            : GatherRows.gather(
                scope,
                advantage.reshape(advantage.size(), 1),
                Tensor.of(scope, whole.sequenceOfRows()));
    List<Minibatch> minibatches = new ArrayList<>();
    int size = groups.size() / config.minibatches();
    int rows = whole.responseRows() / config.minibatches();
    for (int m = 0; m < config.minibatches(); m++) {
      Batch batch = batch(groups.subList(m * size, (m + 1) * size), room);
      int begin = m * size * config.group();
      int end = begin + batch.sequences();
      int from = m * rows;
      int to = from + rows;
      double tokens = batch.tokens();
      List<Comparison> comparisons = new ArrayList<>();
      if (comparesWithOld()) {
        Tensor ofDivergence =
            advantageOfRows == null
                ? null
                : weights(scope, advantageOfRows.rows(from, to), tokens, rollout);
        Tensor ofEntropy =
            attention.entropy() == 0
                ? null
                : ofTokens(scope, batch, attention.entropy() / layers.length / tokens);
        add(comparisons, OLD, old.maps(from, to), ofDivergence, ofEntropy);
      }
      Teaching teaching = null;
      if (taught != null) {
        Tensor ofMaps = ofTokens(scope, batch, distillation.gamma() / layers.length / tokens);
        add(comparisons, TEACHER, taught.maps(from, to), ofMaps, null);
        if (taught.logits != null) {
          teaching =
              new Teaching(
                  taught.logits.rows(from, to), ofTokens(scope, batch, distillation.mu() / tokens));
        }
      }
      minibatches.add(
          new Minibatch(
              batch,
              policy.prepare(scope, batch),
              targets.rows(from, to),
              PolicyLoss.Inputs.of(
                      null,
                      before.logProb.rows(from, to),
                      advantage.rows(begin, end),
                      Tensor.of(scope, batch.responseOffsets()))
                  .withRefLogProb(refLogProb == null ? null : refLogProb.rows(from, to))
                  .withGradOutput(weight),
              visual == null ? null : visual.rows(begin, end),
              comparisons,
              teaching,
              null));
    }
    return minibatches;
  }

  private Batch batch(List<Group> groups, Batch.Room room) {
    int[] promptOf = new int[groups.size() * config.group()];
    Arrays.setAll(promptOf, s -> s / config.group());
    return Batch.padded(
        groups.stream().map(Group::prompt).toList(),
        promptOf,
        groups.stream().flatMap(g -> Arrays.stream(g.responses)).toArray(int[][]::new),
        room);
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

  /**
   * λ · A, for the mean over layers and response tokens.
   *
   * @param advantage f32[rows, 1], 0 where there is no token
   */
  private Tensor weights(Scope scope, Tensor advantage, double tokens, long rollout) {
    double lambda = attention.lambda(rollout) / layers.length / tokens;
    Tensor weights = Tensor.empty(scope, DType.F32, advantage.shape());
    Axpby.apply(policy.context(), (float) lambda, advantage, 0, weights);
    return weights.reshape(weights.size());
  }

  /** A value for each response token. */
  private static Tensor ofTokens(Scope scope, Batch batch, double value) {
    float[] values = new float[batch.sequences()];
    Arrays.fill(values, (float) value);
    return Tensor.of(scope, batch.perResponseRow(values));
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

  /**
   * What a model that does not learn from it says to a rollout batch.
   *
   * @param layers whose attention policies go to {@code maps}
   * @param logProb null where there are no targets
   * @param logits null where they are not wanted
   */
  private record Look(
      Batch batch,
      PolicyModel.Inputs inputs,
      Tensor targets,
      Tensor visual,
      int[] layers,
      Tensor logProb,
      Tensor logits,
      List<Tensor> maps)
      implements Replays.Data<Look> {
    @Override
    public Look with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output) {
      return new Look(
          batch,
          inputs.with(input),
          input.apply(targets),
          input.apply(visual),
          layers,
          output.apply(logProb),
          output.apply(logits),
          maps.stream().map(output).toList());
    }

    /** Maps of some response rows. */
    List<Tensor> maps(int from, int to) {
      return maps.stream().map(map -> map.rows(from, to)).toList();
    }
  }

  /**
   * What the policy and the reference say to the same inputs.
   *
   * @param reference null without one
   */
  private record Looks(Look policy, Look reference) implements Replays.Data<Looks> {
    @Override
    public Looks with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output) {
      Look own = policy.with(input, output);
      return new Looks(
          own,
          reference == null
              ? null
              : new Look(
                  own.batch,
                  own.inputs,
                  own.targets,
                  own.visual,
                  reference.layers,
                  output.apply(reference.logProb),
                  null,
                  List.of()));
    }
  }

  private Look looking(
      Scope scope,
      Batch batch,
      PolicyModel.Inputs inputs,
      Tensor targets,
      Tensor visual,
      int[] layers) {
    Tensor logProb = targets == null ? null : Tensor.empty(scope, DType.F32, batch.responseRows());
    return new Look(
        batch, inputs, targets, visual, layers, logProb, null, maps(scope, batch, layers));
  }

  /** The reference beside the policy, where a GPU has room. */
  private void look(Look before, Look reference) {
    replays.run(
        List.of("looks", before.inputs.layout()),
        new Looks(before, reference),
        own -> {
          if (own.reference != null) {
            policy.context().fork(() -> see(models.reference, own.reference, divergence.policy()));
          }
          see(policy, own.policy, divergence.policy());
          policy.context().join();
        });
  }

  /** The teacher's logits, and the attention policies of its layers, over all their heads. */
  private Look teach(Scope scope, Batch batch, Tensor visual) {
    PolicyModel teacher = models.teacher;
    Tensor logits =
        distillation.mu() == 0
            ? null
            : Tensor.empty(scope, DType.F32, batch.responseRows(), teacher.vocabulary());
    Look look =
        new Look(
            batch,
            teacher.prepare(scope, batch),
            null,
            visual,
            teacherLayers,
            null,
            logits,
            maps(scope, batch, teacherLayers));
    replays.run(
        List.of("teacher", look.inputs.layout()), look, own -> see(teacher, own, heads(0, -1)));
    return look;
  }

  private void see(PolicyModel model, Look look, AttentionPolicy.Options options) {
    Context context = model.context();
    try (Scope inner = context.scope()) {
      Activations pass = model.forward(inner, look.inputs, look.layers);
      if (look.logits != null) {
        look.logits.copyFrom(pass.logits());
      }
      if (look.logProb != null) {
        TokenLogProbs.forward(
            context,
            pass.logits(),
            look.targets,
            TokenLogProbs.Options.DEFAULT
                .withTemperature((float) config.temperature())
                .withIgnoreIndex(Batch.IGNORED),
            new TokenLogProbs.Outputs(look.logProb, null, null));
      }
      for (int i = 0; i < look.layers.length; i++) {
        AttentionPolicy.forward(
            context,
            over(pass.attention(look.layers[i]), look.visual),
            options,
            new AttentionPolicy.Outputs(null, null, null, look.maps.get(i)));
      }
    }
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

  // ------------------------------------------------------------------------------------- gradients

  /** An optimizer step on a minibatch. */
  private void step(Minibatch minibatch, Update update) {
    Context context = policy.context();
    Numbers numbers = new Numbers(minibatch, !kl.isZero());
    try (Scope scope = context.scope()) {
      Activations pass =
          policy.forward(
              scope, minibatch.inputs, minibatch.comparisons.isEmpty() ? new int[0] : layers);
      Tensor dLogits = Tensor.empty(scope, DType.F32, pass.logits().shape());
      List<AttentionGradient> gradients = new ArrayList<>();
      if (!minibatch.comparisons.isEmpty()) {
        // Beside the loss and the first steps back.
        context.fork(
            () -> {
              for (int i = 0; i < minibatch.comparisons.size(); i++) {
                gradients.add(compare(scope, pass, minibatch, i, numbers, update));
              }
            });
      }
      policyLoss(pass, minibatch, numbers, dLogits, update);
      if (minibatch.teaching != null) {
        distil(scope, pass, minibatch, numbers, dLogits, update);
      }
      policy.backward(pass, dLogits, gradients);
      update.step(numbers.norm.in(minibatch.numbers));
    }
  }

  private void policyLoss(
      Activations pass, Minibatch minibatch, Numbers numbers, Tensor dLogits, Update update) {
    PolicyLossFromLogits.Inputs inputs =
        new PolicyLossFromLogits.Inputs(pass.logits(), minibatch.targets, minibatch.policy);
    PolicyLossFromLogits.Options options =
        PolicyLossFromLogits.Options.DEFAULT
            .withTemperature((float) config.temperature())
            .withIgnoreIndex(Batch.IGNORED)
            .withEntropyCoef((float) config.loss().entropy())
            .withPolicy(
                config.loss().options((double) minibatch.batch.sequences() * responseLength));
    Tensor all = minibatch.numbers;
    PolicyLossFromLogits.forward(
        policy.context(),
        inputs,
        options,
        new PolicyLossFromLogits.Outputs(
            new PolicyLossFromLogits.Values(
                numbers.loss.in(all),
                null,
                numbers.metrics.in(all),
                null,
                numbers.entropy.in(all),
                null,
                kl.isZero() ? null : numbers.row(KL).in(all)),
            dLogits));
    update.ran(() -> OperationCase.of(inputs, options));
  }

  private AttentionGradient compare(
      Scope scope, Activations pass, Minibatch minibatch, int i, Numbers numbers, Update update) {
    Comparison comparison = minibatch.comparisons.get(i);
    AttentionPolicy.Input looked = over(pass.attention(comparison.layer), minibatch.visual);
    AttentionDivergence.Weights weights =
        new AttentionDivergence.Weights(comparison.weight, comparison.entropyWeight, null, null);
    Tensor dq = Tensor.empty(scope, DType.F32, looked.q().shape());
    Tensor dk = Tensor.empty(scope, DType.F32, looked.k().shape());
    Tensor all = minibatch.numbers;
    AttentionDivergence.forwardBackward(
        policy.context(),
        looked,
        comparison.reference,
        weights,
        divergence,
        new AttentionDivergence.Outputs(
            numbers.terms.get(i).in(all),
            numbers.divergences.get(i).in(all),
            numbers.entropies.get(i).in(all),
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
        new LogitDivergence.Outputs(numbers.row(LOGIT_DIVERGENCE).in(minibatch.numbers), own));
    Axpby.apply(policy.context(), 1, own, 1, dLogits);
    update.ran(() -> OperationCase.of(inputs, options));
  }
}
