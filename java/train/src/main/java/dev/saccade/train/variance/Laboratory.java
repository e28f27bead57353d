package dev.saccade.train.variance;

import dev.saccade.AttentionPolicy;
import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.GroupAdvantage;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import dev.saccade.train.Readings;
import dev.saccade.train.Readings.Reading;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.PolicyModel.Activations;
import dev.saccade.train.model.Prompt;
import dev.saccade.train.model.Replays;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.task.CounterRandom;
import dev.saccade.train.variance.Estimator.AttentionTerm;
import dev.saccade.train.variance.Estimator.Look;
import dev.saccade.train.variance.Estimator.Signal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.function.Predicate;
import java.util.function.UnaryOperator;
import java.util.stream.IntStream;

/**
 * Draws groups of responses to fixed prompts and takes the gradient of every response for every
 * estimator, on the same responses.
 *
 * <p>A sample is the gradient of one group. It is the sum of the contributions of its responses,
 * each of which is wanted for itself: the group is a batch whose responses do not share the rows of
 * the prompt, with a forward pass, and a backward pass for each estimator whose gradient is not 0.
 * Sums of estimators add contributions and cost no pass.
 *
 * <p>On a GPU groups have the same room ({@link Batch.Room}), and what a group costs is recorded
 * once and launched from then on. The host waits for a prompt's responses, and for its numbers.
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
  private final Replays replays;
  private final int[] layers;

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
    replays = new Replays(context);
    layers = IntStream.range(0, models.policy.layers()).toArray();
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
      for (int i = 0; i < batch.sequences(); i++) {
        int begin = first + batch.firstRow(i);
        for (int t = 0; t < batch.response(i).length; t++) {
          sums[line * sampling.responseLength + t] += rows[begin + t];
        }
      }
    }

    /** Adds what is known of a group before a model has seen it. */
    void add(Estimator.Group group) {
      boolean same = true;
      for (int i = 0; i < group.rewards().length; i++) {
        same &= group.rewards()[i] == group.rewards()[0];
        totals[0] += group.rewards()[i];
        IntStream.range(0, group.batch().response(i).length).forEach(t -> reached[t]++);
      }
      totals[1] += same ? 1 : 0;
      totals[2]++;
    }

    /** Adds what the device has left of a group. */
    void add(Watched group) {
      Batch batch = group.batch;
      Numbers numbers = group.numbers;
      float[] read = group.read.toFloats();
      int rows = batch.responseRows();
      for (int l = 0; l < layers.length; l++) {
        add(entropy, l, batch, read, numbers.entropy.from() + l * rows);
        add(mass, l, batch, read, numbers.mass.from() + l * rows);
      }
      int heads = models.policy.config().heads();
      numbers.scores.forEach(
          (e, ofLayers) -> {
            if (scores[e] == null) {
              scores[e] = new double[layers.length * heads * sampling.responseLength];
            }
            for (int i = 0; i < ofLayers.size(); i++) {
              for (int h = 0; h < heads; h++) {
                int line = attention.layers()[i] * heads + h;
                add(scores[e], line, batch, read, ofLayers.get(i).from() + h * rows);
              }
            }
          });
      for (int i = 0; i < batch.sequences(); i++) {
        double difference = 0;
        for (int t = 0; isStale() && t < batch.response(i).length; t++) {
          int row = batch.firstRow(i) + t;
          difference += (double) read[numbers.own.from() + row] - read[numbers.theirs.from() + row];
        }
        double ratio = Math.exp(difference);
        totals[3] += ratio;
        totals[4] += ratio * ratio;
        totals[5]++;
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
      try (Scope ofPrompt = context.scope()) {
        List<Watched> watched = new ArrayList<>();
        List<Estimator.Group> groups = groups(p, responses, setting.group());
        for (int g = 0; g < sampling.groups; g++) {
          watched.add(group(ofPrompt, p, g, groups.get(g)));
          sums.add(groups.get(g));
          for (int e = 0; raw != null && e < names.size(); e++) {
            raw.sample(names.get(e), p, g, recorder.group(e));
          }
          recorder.endGroup(setting.group());
          progress.run();
        }
        watched.forEach(sums::add);
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
    try (Scope inner = context.scope()) {
      group(inner, prompt, 0, groups(prompt, responses, responses.length).get(0));
    }
    List<float[]> gradients =
        IntStream.range(0, names.size()).mapToObj(e -> recorder.group(e).toFloats()).toList();
    recorder.endGroup(responses.length);
    recorder.endPrompt();
    return gradients;
  }

  /** The groups of some responses to a prompt. */
  private List<Estimator.Group> groups(int p, int[][] responses, int size) {
    float[] rewards = new float[responses.length];
    for (int i = 0; i < rewards.length; i++) {
      rewards[i] = (float) this.rewards.of(p, responses[i]);
    }
    Map<GroupAdvantage.Estimator, float[]> advantages = new HashMap<>();
    List<Estimator.Group> groups = new ArrayList<>();
    for (int first = 0; first < responses.length; first += size) {
      int begin = first;
      int end = first + size;
      groups.add(
          new Estimator.Group(
              setting,
              attention,
              Batch.padded(
                  Collections.nCopies(size, prompts.get(p)),
                  IntStream.range(0, size).toArray(),
                  Arrays.copyOfRange(responses, begin, end),
                  room()),
              Arrays.copyOfRange(rewards, begin, end),
              estimator ->
                  Arrays.copyOfRange(
                      advantages.computeIfAbsent(
                          estimator, any -> advantages(rewards, size, estimator)),
                      begin,
                      end)));
    }
    return groups;
  }

  private float[] advantages(float[] rewards, int size, GroupAdvantage.Estimator estimator) {
    int[] offsets = new int[rewards.length / size + 1];
    Arrays.setAll(offsets, g -> g * size);
    try (Scope inner = context.scope()) {
      return GroupAdvantage.forward(
              inner,
              Tensor.of(inner, rewards),
              Tensor.of(inner, offsets),
              null,
              GroupAdvantage.Options.DEFAULT.withEstimator(estimator))
          .advantage()
          .toFloats();
    }
  }

  /** Of every sequence; null where each has its own length. */
  Batch.Room room() {
    return context.device().kind() == Device.Kind.CUDA
        ? Batch.Room.of(prompts, sampling.responseLength)
        : null;
  }

  private boolean isStale() {
    return models.old != models.policy;
  }

  /** Where a group leaves numbers; lines of one for each response row. */
  private final class Numbers {
    final Readings readings = new Readings();

    /** A line for each layer. */
    final Reading entropy;

    final Reading mass;

    /** Log-probabilities of this policy and the one that sampled; null where they are one. */
    final Reading own;

    final Reading theirs;

    /** By estimator that has some, for each of its layers a line for each head. */
    final Map<Integer, List<Reading>> scores = new LinkedHashMap<>();

    Numbers(Batch batch, List<float[]> weights) {
      int rows = batch.responseRows();
      entropy = readings.take(layers.length * rows);
      mass = readings.take(layers.length * rows);
      own = isStale() ? readings.take(rows) : null;
      theirs = isStale() ? readings.take(rows) : null;
      for (int e = 0; e < estimators.size(); e++) {
        if (weights.get(e) != null && estimators.get(e) instanceof AttentionTerm) {
          int size = models.policy.config().heads() * rows;
          scores.put(
              e, Arrays.stream(attention.layers()).mapToObj(any -> readings.take(size)).toList());
        }
      }
    }
  }

  /** What the device leaves of a group, as its numbers say. */
  private record Watched(Batch batch, Numbers numbers, Tensor read) {}

  /**
   * A group on the device.
   *
   * @param targets i32[response rows]
   * @param offsets i32[responses + 1], of the response rows
   * @param visual i32[responses, 2]
   * @param weights of each estimator; null where it has no gradient
   * @param positions drawn for the estimators that ask for some, i32[response rows] a layer
   * @param read f32, receives what {@code numbers} describes
   * @param gradients as {@link Recorder#open}, receives those of the group
   */
  private record Work(
      Batch batch,
      Numbers numbers,
      PolicyModel.Inputs inputs,
      Layout.Rows rows,
      Tensor targets,
      Tensor offsets,
      Tensor visual,
      List<Tensor> weights,
      List<Tensor> positions,
      Tensor read,
      Tensor gradients)
      implements Replays.Data<Work> {
    @Override
    public Work with(UnaryOperator<Tensor> input, UnaryOperator<Tensor> output) {
      return new Work(
          batch,
          numbers,
          inputs.with(input),
          rows.with(input),
          input.apply(targets),
          input.apply(offsets),
          input.apply(visual),
          weights.stream().map(input).toList(),
          positions.stream().map(input).toList(),
          output.apply(read),
          output.apply(gradients));
    }
  }

  /** The gradients of a group, which the recorder has then. */
  private Watched group(Scope outer, int p, int g, Estimator.Group group) {
    Batch batch = group.batch();
    List<float[]> weights = new ArrayList<>();
    estimators.forEach(estimator -> weights.add(estimator.weights(group)));
    Numbers numbers = new Numbers(batch, weights);
    Tensor read = Tensor.empty(outer, DType.F32, numbers.readings.size());
    try (Scope inner = context.scope()) {
      PolicyModel.Inputs inputs = models.policy.prepare(inner, batch);
      int[] ranges = new int[2 * batch.sequences()];
      Arrays.setAll(ranges, i -> i % 2 * prompts.get(p).patchCount());
      Tensor visual = Tensor.of(inner, ranges, batch.sequences(), 2);
      Work work =
          new Work(
              batch,
              numbers,
              inputs,
              layout.rows(inner, batch),
              Tensor.of(inner, batch.targets()),
              Tensor.of(inner, batch.responseOffsets()),
              visual,
              weights.stream().map(own -> own == null ? null : Tensor.of(inner, own)).toList(),
              draw(inner, p, g, batch, inputs, visual),
              read,
              recorder.open());
      List<Boolean> weighed = weights.stream().map(Objects::nonNull).toList();
      List<Integer> offsets = Arrays.stream(batch.offsets()).boxed().toList();
      replays.run(List.of(inputs.layout(), offsets, weighed), work, this::differentiate);
    }
    return new Watched(batch, numbers, read);
  }

  /** All passes of a group: nothing but operations. */
  private void differentiate(Work work) {
    int responses = work.batch.sequences();
    try (Scope inner = context.scope()) {
      Look look = look(inner, work);
      watch(look, work);
      for (int e = 0; e < estimators.size(); e++) {
        if (work.weights.get(e) == null) {
          contributions.get(e).zero();
        } else {
          backward(e, look, work);
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
        recorder.add(o, ofResponses.rows(0, responses), work.gradients);
      }
    }
  }

  private void backward(int e, Look look, Work work) {
    try (Scope inner = context.scope()) {
      Signal signal = estimators.get(e).of(inner, look, work.weights.get(e));
      layout.backward(
          models.policy,
          look.pass(),
          work.rows,
          signal.dLogits() == null
              ? Tensor.zeros(inner, DType.F32, look.pass().logits().shape())
              : signal.dLogits(),
          signal.attention(),
          contributions.get(e));
      for (int i = 0; i < signal.scores().size(); i++) {
        Tensor scores = signal.scores().get(i);
        Reading place = work.numbers.scores.get(e).get(i);
        place.in(work.read).copyFrom(scores.reshape(scores.size()));
      }
    }
  }

  private Look look(Scope inner, Work work) {
    Activations pass = models.policy.forward(inner, work.inputs, layers);
    Activations old = isStale() ? models.old.forward(inner, work.inputs, attention.layers()) : pass;
    Tensor oldLogProb =
        isStale()
            ? work.numbers.theirs.in(work.read)
            : Tensor.empty(inner, DType.F32, work.targets.size());
    logProb(old, work.targets, oldLogProb);
    Tensor refLogProb = null;
    if (models.reference != null) {
      refLogProb = Tensor.empty(inner, DType.F32, work.targets.size());
      logProb(models.reference.forward(inner, work.inputs), work.targets, refLogProb);
    }
    if (isStale()) {
      logProb(pass, work.targets, work.numbers.own.in(work.read));
    }
    return new Look(
        setting,
        attention,
        work.batch,
        pass,
        work.targets,
        work.offsets,
        oldLogProb,
        refLogProb,
        asks(kind -> kind != AttentionTerm.Kind.POSITIONS)
            ? maps(inner, work.batch, old, work.visual)
            : List.of(),
        work.positions,
        work.visual,
        sampling.responseLength);
  }

  /** Whether an attention estimator is of some kind. */
  private boolean asks(Predicate<AttentionTerm.Kind> kind) {
    return estimators.stream()
        .anyMatch(estimator -> estimator instanceof AttentionTerm term && kind.test(term.kind()));
  }

  /** The attention policies of the layers of the attention estimators. */
  private List<Tensor> maps(Scope scope, Batch batch, Activations pass, Tensor visual) {
    List<Tensor> maps = new ArrayList<>();
    for (int layer : attention.layers()) {
      AttentionPolicy.Input input = pass.attention(layer);
      Tensor map = Tensor.empty(scope, DType.F32, batch.responseRows(), input.maxKeys());
      AttentionPolicy.forward(
          context,
          new AttentionPolicy.Input(
              input.q(), input.k(), input.offsetsQ(), input.offsetsK(), input.maxKeys(), visual),
          attention.options(setting.support()),
          new AttentionPolicy.Outputs(null, null, null, map));
      maps.add(map);
    }
    return maps;
  }

  /** Positions for the estimators that ask for some: the host draws from the old policy's maps. */
  private List<Tensor> draw(
      Scope inner, int p, int g, Batch batch, PolicyModel.Inputs inputs, Tensor visual) {
    List<Tensor> positions = new ArrayList<>();
    if (!asks(kind -> kind == AttentionTerm.Kind.POSITIONS)) {
      return positions;
    }
    List<Tensor> maps =
        maps(inner, batch, models.old.forward(inner, inputs, attention.layers()), visual);
    for (int l = 0; l < maps.size(); l++) {
      float[] probabilities = maps.get(l).toFloats();
      int keys = (int) maps.get(l).shape(1);
      int[] index = new int[batch.responseRows()];
      Arrays.fill(index, -1);
      for (int i = 0; i < batch.sequences(); i++) {
        for (int t = 0; t < batch.response(i).length; t++) {
          int row = batch.firstRow(i) + t;
          double u = uniform(p, g * setting.group() + i, attention.layers()[l], t);
          index[row] = AttentionTerm.draw(probabilities, row * keys, (row + 1) * keys, u);
        }
      }
      positions.add(Tensor.of(inner, index));
    }
    return positions;
  }

  /** The number in [0, 1) that the position of a row is drawn with. */
  double uniform(int prompt, int response, int layer, int row) {
    long of = (long) prompt * sampling.groups * setting.group() + response;
    long index = (of * models.policy.layers() + layer) * sampling.responseLength + row;
    return new CounterRandom(sampling.seed ^ POSITIONS, index).nextDouble();
  }

  /** Entropy of the whole attention, and its mass on visual tokens, of every layer. */
  private void watch(Look look, Work work) {
    int rows = work.batch.responseRows();
    Tensor entropy = work.numbers.entropy.in(work.read).reshape(layers.length, rows);
    Tensor mass = work.numbers.mass.in(work.read).reshape(layers.length, rows);
    AttentionPolicy.Options options = AttentionPolicy.Options.DEFAULT;
    for (int l = 0; l < layers.length; l++) {
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
  }

  private void logProb(Activations pass, Tensor targets, Tensor logProb) {
    TokenLogProbs.forward(
        context,
        pass.logits(),
        targets,
        TokenLogProbs.Options.DEFAULT.withTemperature((float) setting.temperature()),
        new TokenLogProbs.Outputs(logProb, null, null));
  }

  @Override
  public void close() {
    replays.close();
    scope.close();
    recorder.close();
  }
}
