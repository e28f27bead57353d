package dev.saccade.train.variance;

import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
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
import java.util.Collections;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.IntStream;

/**
 * Draws groups of responses to fixed prompts and takes the gradient of every response for every
 * estimator, on the same responses.
 *
 * <p>A sample is the gradient of one group. It is the sum of the contributions of its responses,
 * each of which is wanted for itself: the group is a batch whose responses do not share the rows of
 * the prompt, with a forward pass, and a backward pass for each estimator whose gradient is not 0.
 * Sums of estimators add contributions and cost no pass.
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
  private final List<Tensor> contributions = new ArrayList<>();
  private final Tensor sum;
  private final Tensor zeros;

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
    int keyRows =
        prompts.stream().mapToInt(Prompt::length).max().orElse(0) + sampling.responseLength - 1;
    layout = Layout.of(models.policy.config(), sampling.responseLength, keyRows);
    recorder = new Recorder(context, layout, this.names, pairs);
    scope = context.scope();
    int group = setting.group();
    for (int e = 0; e < estimators.size(); e++) {
      contributions.add(Tensor.zeros(scope, DType.F32, group, layout.size()));
    }
    sum = Tensor.empty(scope, DType.F32, group, layout.size());
    zeros =
        Tensor.zeros(
            scope,
            DType.F32,
            (long) group * sampling.responseLength,
            models.policy.config().vocabulary());
  }

  Layout layout() {
    return layout;
  }

  /** What is added up besides the gradients. */
  private final class Sums {
    /** As {@link Block#totals}. */
    final double[] totals = new double[6];

    /** By estimator: Σ over responses of the scores, by layer, head and row; null: not known. */
    final double[][] scores = new double[estimators.size()][];

    /** Σ over the responses to the prompt, by layer and row. */
    double[] entropy;

    /** The same of the mass on visual tokens. */
    double[] mass;

    /** Responses to the prompt that have a row. */
    int[] reached;

    Sums() {
      beginPrompt();
    }

    void beginPrompt() {
      entropy = new double[models.policy.layers() * sampling.responseLength];
      mass = new double[entropy.length];
      reached = new int[sampling.responseLength];
    }

    /** Adds a value of each response row to that of its row in the response. */
    void add(double[] sums, int line, Batch batch, float[] rows, int first) {
      int[] offsets = batch.responseOffsets();
      for (int i = 0; i < batch.sequences(); i++) {
        for (int row = offsets[i]; row < offsets[i + 1]; row++) {
          sums[line * sampling.responseLength + row - offsets[i]] += rows[first + row];
        }
      }
    }

    double[] means(double[] sums) {
      double[] means = new double[sums.length];
      Arrays.setAll(
          means,
          i -> {
            int n = reached[i % sampling.responseLength];
            return n == 0 ? Double.NaN : sums[i] / n;
          });
      return means;
    }
  }

  /**
   * Measures some of the prompts.
   *
   * @param raw sees every sample; null where nobody does
   * @param progress called after every group
   */
  Block measure(int begin, int end, Raw raw, Runnable progress) {
    recorder.begin(end - begin);
    Sums sums = new Sums();
    List<double[]> entropy = new ArrayList<>();
    List<double[]> mass = new ArrayList<>();
    for (int p = begin; p < end; p++) {
      sums.beginPrompt();
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
        group(p, g, Arrays.copyOfRange(responses, first, first + setting.group()), sums);
        for (int e = 0; raw != null && e < names.size(); e++) {
          raw.sample(names.get(e), p, g, recorder.group(e));
        }
        recorder.endGroup(setting.group());
        progress.run();
      }
      recorder.endPrompt();
      entropy.add(sums.means(sums.entropy));
      mass.add(sums.means(sums.mass));
    }
    List<double[]> ofScores = new ArrayList<>();
    double per = (double) sampling.groups * setting.group();
    for (int[] own : terms) {
      double[] scores = own.length == 1 ? sums.scores[own[0]] : null;
      ofScores.add(
          scores == null ? new double[0] : Arrays.stream(scores).map(x -> x / per).toArray());
    }
    Block block = recorder.end(ofScores);
    block.entropy = entropy.stream().flatMapToDouble(Arrays::stream).toArray();
    block.mass = mass.stream().flatMapToDouble(Arrays::stream).toArray();
    block.totals = sums.totals;
    return block;
  }

  /**
   * The gradient of one group of given responses, for every estimator.
   *
   * @param responses no more than the setting's group
   */
  List<float[]> gradients(int prompt, int[][] responses) {
    recorder.begin(1);
    group(prompt, 0, responses, new Sums());
    List<float[]> gradients =
        IntStream.range(0, names.size()).mapToObj(e -> recorder.group(e).toFloats()).toList();
    recorder.endGroup(responses.length);
    recorder.endPrompt();
    return gradients;
  }

  private void group(int p, int g, int[][] responses, Sums sums) {
    float[] earned = new float[responses.length];
    boolean same = true;
    for (int i = 0; i < responses.length; i++) {
      earned[i] = (float) rewards.of(p, responses[i]);
      same &= earned[i] == earned[0];
      sums.totals[0] += earned[i];
      IntStream.range(0, responses[i].length).forEach(t -> sums.reached[t]++);
    }
    sums.totals[1] += same ? 1 : 0;
    sums.totals[2]++;
    try (Scope inner = context.scope()) {
      Look look = look(inner, p, g, responses, earned, sums);
      for (int e = 0; e < estimators.size(); e++) {
        Signal signal = estimators.get(e).of(look);
        if (signal == null) {
          contributions.get(e).zero();
        } else {
          backward(e, look, signal, sums);
        }
      }
      for (int o = 0; o < names.size(); o++) {
        int[] own = terms.get(o);
        Tensor ofResponses = contributions.get(own[0]);
        if (own.length > 1) {
          sum.copyFrom(ofResponses);
          for (int t = 1; t < own.length; t++) {
            Axpby.apply(context, 1, contributions.get(own[t]), 1, sum);
          }
          ofResponses = sum;
        }
        for (int i = 0; i < responses.length; i++) {
          recorder.add(o, ofResponses.rows(i, i + 1).reshape(layout.size()));
        }
      }
    }
  }

  private void backward(int e, Look look, Signal signal, Sums sums) {
    int rows = look.batch().responseRows();
    layout.backward(
        models.policy,
        look.pass(),
        look.batch(),
        signal.dLogits() == null ? zeros.rows(0, rows) : signal.dLogits(),
        signal.attention(),
        contributions.get(e));
    int heads = models.policy.config().heads();
    for (int i = 0; i < signal.scores().size(); i++) {
      if (sums.scores[e] == null) {
        sums.scores[e] = new double[models.policy.layers() * heads * sampling.responseLength];
      }
      float[] scores = signal.scores().get(i).toFloats();
      int line = signal.attention().get(i).layer() * heads;
      for (int h = 0; h < heads; h++) {
        sums.add(sums.scores[e], line + h, look.batch(), scores, h * rows);
      }
    }
  }

  private Look look(Scope inner, int p, int g, int[][] responses, float[] earned, Sums sums) {
    Prompt prompt = prompts.get(p);
    int count = responses.length;
    Batch batch =
        Batch.of(
            Collections.nCopies(count, prompt), IntStream.range(0, count).toArray(), responses);
    PolicyModel.Inputs inputs = models.policy.prepare(inner, batch);
    Tensor targets = Tensor.of(inner, batch.targets());
    int[] all = IntStream.range(0, models.policy.layers()).toArray();
    Activations pass = models.policy.forward(inner, inputs, all);
    Activations old =
        models.old == models.policy ? pass : models.old.forward(inner, inputs, attention.layers());
    int[] ranges = new int[2 * count];
    Arrays.setAll(ranges, i -> i % 2 * prompt.patchCount());
    Tensor visual = Tensor.of(inner, ranges, count, 2);
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
            batch,
            pass,
            targets,
            Tensor.of(inner, batch.responseOffsets()),
            oldLogProb,
            refLogProb,
            maps,
            visual,
            earned,
            sampling.responseLength,
            (response, layer, row) -> uniform(p, g * setting.group() + response, layer, row));
    for (int layer : attention.layers()) {
      AttentionPolicy.Input input = old.attention(layer);
      Tensor map = Tensor.empty(inner, DType.F32, batch.responseRows(), input.maxKeys());
      AttentionPolicy.forward(
          context,
          new AttentionPolicy.Input(
              input.q(), input.k(), input.offsetsQ(), input.offsetsK(), input.maxKeys(), visual),
          attention.options(setting.support()),
          new AttentionPolicy.Outputs(null, null, null, map));
      maps.add(map);
    }
    watch(inner, look, sums);
    float[] own = old == pass ? null : logProb(inner, pass, targets).toFloats();
    float[] theirs = old == pass ? null : oldLogProb.toFloats();
    int[] offsets = batch.responseOffsets();
    for (int i = 0; i < count; i++) {
      double difference = 0;
      for (int row = offsets[i]; own != null && row < offsets[i + 1]; row++) {
        difference += (double) own[row] - theirs[row];
      }
      double ratio = Math.exp(difference);
      sums.totals[3] += ratio;
      sums.totals[4] += ratio * ratio;
      sums.totals[5]++;
    }
    return look;
  }

  /** The number in [0, 1) that the position of a row is drawn with. */
  double uniform(int prompt, int response, int layer, int row) {
    long of = (long) prompt * sampling.groups * setting.group() + response;
    long index = (of * models.policy.layers() + layer) * sampling.responseLength + row;
    return new CounterRandom(sampling.seed ^ POSITIONS, index).nextDouble();
  }

  /** Adds up entropy of the whole attention, and its mass on visual tokens, of every layer. */
  private void watch(Scope inner, Look look, Sums sums) {
    int rows = look.batch().responseRows();
    int layers = models.policy.layers();
    // A line for each layer.
    Tensor entropy = Tensor.empty(inner, DType.F32, layers, rows);
    Tensor mass = Tensor.empty(inner, DType.F32, layers, rows);
    AttentionPolicy.Options options = AttentionPolicy.Options.DEFAULT;
    for (int l = 0; l < layers; l++) {
      AttentionPolicy.forward(
          context,
          look.input(l),
          options.withSupport(AttentionPolicy.Support.ALL),
          new AttentionPolicy.Outputs(entropy.rows(l, l + 1).reshape(rows), null, null, null));
      AttentionPolicy.forward(
          context,
          look.input(l),
          options.withSupport(AttentionPolicy.Support.RANGES),
          new AttentionPolicy.Outputs(null, mass.rows(l, l + 1).reshape(rows), null, null));
    }
    float[] entropies = entropy.toFloats();
    float[] masses = mass.toFloats();
    for (int l = 0; l < layers; l++) {
      sums.add(sums.entropy, l, look.batch(), entropies, l * rows);
      sums.add(sums.mass, l, look.batch(), masses, l * rows);
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
