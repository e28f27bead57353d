package dev.saccade.train.variance;

import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GroupAdvantage;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.model.Prompt;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.task.CounterRandom;
import dev.saccade.train.variance.Estimator.Look;
import dev.saccade.train.variance.Estimator.Signal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.IntStream;

/**
 * Draws groups of responses to fixed prompts and takes the gradient of every response for every
 * estimator, on the same responses.
 *
 * <p>A sample is the gradient of one group. It is the sum of the contributions of its responses,
 * which are taken one by one: a forward pass of a response, and a backward pass for each estimator
 * whose gradient is not 0. Sums of estimators add contributions and cost no pass.
 */
class Laboratory implements AutoCloseable {
  private static final long POSITIONS = 0x706f736974696f6eL;

  private final Models models;
  private final List<Prompt> prompts;
  private final Rewards rewards;
  private final Setting setting;
  private final AttentionChoice attention;
  private final Sampling sampling;
  private final List<String> names;
  private final List<Estimator> estimators;
  private final List<int[]> terms = new ArrayList<>();
  private final Context context;
  private final Layout layout;
  private final Recorder recorder;
  private final Scope scope;
  private final List<Tensor> samples = new ArrayList<>();
  private final List<Tensor> scores = new ArrayList<>();
  private final Tensor sum;
  private final Tensor zeros;
  private final Tensor looks;
  private final int keyRows;

  /**
   * @param policy whose gradient is measured
   * @param old that samples, and whose attention is the reference; may be the policy
   * @param reference of the KL term; null where there is none
   */
  record Models(Transformer policy, Transformer old, Transformer reference) {}

  /** What a response earns. */
  interface Rewards {
    double of(int prompt, int[] response);
  }

  /**
   * @param groups for each prompt
   * @param seed of responses and of sampled positions
   * @param responseLength most tokens of a response
   * @param stopToken that ends one
   */
  record Sampling(int groups, long seed, int responseLength, int stopToken) {}

  /** Sees the gradient of every group; its tensor is valid during the call. */
  interface Raw {
    void sample(String estimator, int prompt, int group, Tensor gradient);
  }

  /**
   * @param names of estimators and sums of them
   * @param pairs whether covariances between them are wanted
   */
  Laboratory(
      Models models,
      List<Prompt> prompts,
      Rewards rewards,
      Setting setting,
      AttentionChoice attention,
      Sampling sampling,
      List<String> names,
      boolean pairs) {
    this.models = models;
    this.prompts = prompts;
    this.rewards = rewards;
    this.setting = setting;
    this.attention = attention;
    this.sampling = sampling;
    this.names = List.copyOf(names);
    context = models.policy.context();
    Set<String> single = new LinkedHashSet<>();
    names.forEach(name -> single.addAll(List.of(name.split("\\+"))));
    List<String> order = List.copyOf(single);
    estimators = order.stream().map(Estimator::of).toList();
    names.forEach(
        name -> terms.add(Arrays.stream(name.split("\\+")).mapToInt(order::indexOf).toArray()));
    keyRows =
        prompts.stream().mapToInt(Prompt::length).max().orElse(0) + sampling.responseLength - 1;
    layout = Layout.of(models.policy.config(), sampling.responseLength, keyRows);
    recorder = new Recorder(context, layout, this.names, pairs);
    scope = context.scope();
    int layers = models.policy.layers();
    int heads = models.policy.config().heads();
    for (int e = 0; e < estimators.size(); e++) {
      samples.add(Tensor.zeros(scope, DType.F32, layout.size()));
      scores.add(Tensor.zeros(scope, DType.F32, (long) layers * heads, sampling.responseLength));
    }
    sum = Tensor.empty(scope, DType.F32, layout.size());
    zeros =
        Tensor.zeros(
            scope, DType.F32, sampling.responseLength, models.policy.config().vocabulary());
    // Entropy and visual mass: a line for each layer.
    looks = Tensor.zeros(scope, DType.F32, 2L * layers, sampling.responseLength);
  }

  Layout layout() {
    return layout;
  }

  /**
   * Measures some of the prompts.
   *
   * @param raw sees every sample; null where nobody does
   * @param progress called after every group
   */
  Block measure(int begin, int end, Raw raw, Runnable progress) {
    recorder.begin(end - begin);
    scores.forEach(Tensor::zero);
    int[] scored = new int[estimators.size()];
    int lines = models.policy.layers() * sampling.responseLength;
    double[] entropy = new double[(end - begin) * lines];
    double[] mass = new double[(end - begin) * lines];
    double[] totals = new double[6];
    for (int p = begin; p < end; p++) {
      looks.zero();
      int[] reached = new int[sampling.responseLength];
      int[][] responses =
          models.old.sample(
              List.of(prompts.get(p)),
              sampling.groups * setting.group(),
              new PolicyModel.Sampling(
                  (float) setting.temperature(),
                  sampling.responseLength,
                  sampling.stopToken,
                  sampling.seed,
                  p));
      for (int g = 0; g < sampling.groups; g++) {
        int first = g * setting.group();
        group(p, g, Arrays.copyOfRange(responses, first, first + setting.group()), totals, scored);
        for (int e = 0; raw != null && e < names.size(); e++) {
          raw.sample(names.get(e), p, g, recorder.group(e));
        }
        recorder.endGroup(setting.group());
        progress.run();
      }
      recorder.endPrompt();
      for (int[] response : responses) {
        IntStream.range(0, response.length).forEach(t -> reached[t]++);
      }
      float[] looked = looks.toFloats();
      for (int i = 0; i < lines; i++) {
        int n = reached[i % sampling.responseLength];
        entropy[(p - begin) * lines + i] = n == 0 ? Double.NaN : looked[i] / n;
        mass[(p - begin) * lines + i] = n == 0 ? Double.NaN : looked[lines + i] / n;
      }
    }
    List<double[]> ofScores = new ArrayList<>();
    double per = (double) sampling.groups * setting.group();
    for (int[] own : terms) {
      boolean known = own.length == 1 && scored[own[0]] > 0;
      ofScores.add(
          known
              ? Arrays.stream(scores.get(own[0]).toDoubles()).map(x -> x / per).toArray()
              : new double[0]);
    }
    Block block = recorder.end(ofScores);
    block.entropy = entropy;
    block.mass = mass;
    block.totals = totals;
    return block;
  }

  /** The gradient of one group of given responses, for every estimator. */
  List<float[]> gradients(int prompt, int[][] responses) {
    recorder.begin(1);
    group(prompt, 0, responses, new double[6], new int[estimators.size()]);
    List<float[]> gradients =
        IntStream.range(0, names.size()).mapToObj(e -> recorder.group(e).toFloats()).toList();
    recorder.endGroup(responses.length);
    recorder.endPrompt();
    return gradients;
  }

  private void group(int p, int g, int[][] responses, double[] totals, int[] scored) {
    float[] earned = new float[responses.length];
    int[] lengths = new int[responses.length];
    for (int i = 0; i < responses.length; i++) {
      earned[i] = (float) rewards.of(p, responses[i]);
      lengths[i] = responses[i].length;
      totals[0] += earned[i];
    }
    boolean same = true;
    for (float reward : earned) {
      same &= reward == earned[0];
    }
    totals[1] += same ? 1 : 0;
    totals[2]++;
    Map<GroupAdvantage.Estimator, float[]> advantages =
        new EnumMap<>(GroupAdvantage.Estimator.class);
    for (int i = 0; i < responses.length; i++) {
      try (Scope inner = context.scope()) {
        Look look = look(inner, p, g, responses[i], earned, advantages, lengths, i, totals);
        for (int e = 0; e < estimators.size(); e++) {
          Signal signal = estimators.get(e).of(look);
          if (signal == null) {
            samples.get(e).zero();
          } else {
            backward(e, look, signal, scored);
          }
        }
        for (int o = 0; o < names.size(); o++) {
          int[] own = terms.get(o);
          Tensor contribution = samples.get(own[0]);
          if (own.length > 1) {
            sum.copyFrom(contribution);
            for (int t = 1; t < own.length; t++) {
              Axpby.apply(context, 1, samples.get(own[t]), 1, sum);
            }
            contribution = sum;
          }
          recorder.add(o, contribution);
        }
      }
    }
  }

  private void backward(int e, Look look, Signal signal, int[] scored) {
    int rows = look.rows();
    layout.backward(
        models.policy,
        look.pass(),
        signal.dLogits() == null ? zeros.rows(0, rows) : signal.dLogits(),
        signal.attention(),
        rows,
        samples.get(e));
    int heads = models.policy.config().heads();
    for (int i = 0; i < signal.scores().size(); i++) {
      long line = (long) signal.attention().get(i).layer() * heads;
      Axpby.apply(
          context,
          1,
          signal.scores().get(i),
          1,
          scores.get(e).rows(line, line + heads).columns(0, rows));
      scored[e]++;
    }
  }

  private Look look(
      Scope inner,
      int p,
      int g,
      int[] response,
      float[] earned,
      Map<GroupAdvantage.Estimator, float[]> advantages,
      int[] lengths,
      int index,
      double[] totals) {
    Prompt prompt = prompts.get(p);
    Batch batch = Batch.of(List.of(prompt), new int[] {0}, new int[][] {response});
    PolicyModel.Inputs inputs = models.policy.prepare(inner, batch);
    Tensor targets = Tensor.of(inner, response);
    int[] all = IntStream.range(0, models.policy.layers()).toArray();
    Activations pass = models.policy.forward(inner, inputs, all);
    Activations old =
        models.old == models.policy ? pass : models.old.forward(inner, inputs, attention.layers());
    Tensor visual = Tensor.of(inner, new int[] {0, prompt.patchCount()}, 1, 2);
    Tensor oldLogProb = logProb(inner, old, targets);
    Tensor refLogProb =
        models.reference == null
            ? null
            : logProb(inner, models.reference.forward(inner, inputs), targets);
    List<Tensor> maps = new ArrayList<>();
    Look look =
        new Look(
            inner,
            setting,
            attention,
            pass,
            targets,
            Tensor.of(inner, batch.responseOffsets()),
            oldLogProb,
            refLogProb,
            maps,
            visual,
            earned,
            advantages,
            lengths,
            index,
            sampling.responseLength,
            (layer, row) -> uniform(p, g * setting.group() + index, layer, row));
    for (int layer : attention.layers()) {
      AttentionPolicy.Input input = old.attention(layer);
      Tensor map = Tensor.empty(inner, DType.F32, response.length, input.maxKeys());
      AttentionPolicy.forward(
          context,
          new AttentionPolicy.Input(
              input.q(), input.k(), input.offsetsQ(), input.offsetsK(), input.maxKeys(), visual),
          attention.options(setting.support()),
          new AttentionPolicy.Outputs(null, null, null, map));
      maps.add(map);
    }
    watch(inner, look, response.length);
    double ratio = 1;
    if (old != pass) {
      float[] own = logProb(inner, pass, targets).toFloats();
      float[] theirs = oldLogProb.toFloats();
      double difference = 0;
      for (int t = 0; t < own.length; t++) {
        difference += (double) own[t] - theirs[t];
      }
      ratio = Math.exp(difference);
    }
    totals[3] += ratio;
    totals[4] += ratio * ratio;
    totals[5]++;
    return look;
  }

  /** The number in [0, 1) that the position of a row is drawn with. */
  double uniform(int prompt, int response, int layer, int row) {
    long of = (long) prompt * sampling.groups * setting.group() + response;
    long index = (of * models.policy.layers() + layer) * sampling.responseLength + row;
    return new CounterRandom(sampling.seed ^ POSITIONS, index).nextDouble();
  }

  /** Adds up entropy of the whole attention, and its mass on visual tokens, of every layer. */
  private void watch(Scope inner, Look look, int rows) {
    int layers = models.policy.layers();
    for (int l = 0; l < layers; l++) {
      Tensor entropy = Tensor.empty(inner, DType.F32, rows);
      Tensor mass = Tensor.empty(inner, DType.F32, rows);
      AttentionPolicy.Options options = AttentionPolicy.Options.DEFAULT;
      AttentionPolicy.forward(
          context,
          look.input(l),
          options.withSupport(AttentionPolicy.Support.ALL),
          new AttentionPolicy.Outputs(entropy, null, null, null));
      AttentionPolicy.forward(
          context,
          look.input(l),
          options.withSupport(AttentionPolicy.Support.RANGES),
          new AttentionPolicy.Outputs(null, mass, null, null));
      Axpby.apply(context, 1, entropy.reshape(1, rows), 1, looks.rows(l, l + 1).columns(0, rows));
      Axpby.apply(
          context,
          1,
          mass.reshape(1, rows),
          1,
          looks.rows(layers + l, layers + l + 1).columns(0, rows));
    }
  }

  private Tensor logProb(Scope inner, Activations pass, Tensor targets) {
    Tensor logProb = Tensor.empty(inner, DType.F32, targets.size());
    TokenLogProbs.forward(
        context,
        pass.logits(),
        targets,
        TokenLogProbs.Options.DEFAULT.withTemperature((float) setting.temperature()),
        new TokenLogProbs.Outputs(logProb, null, null));
    return logProb;
  }

  @Override
  public void close() {
    scope.close();
    recorder.close();
  }
}
