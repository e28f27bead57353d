package dev.saccade.train.variance;

import dev.saccade.Axpby;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.GradientMoments;
import dev.saccade.GradientMoments.Outputs;
import dev.saccade.GradientMoments.State;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Takes gradient samples as they come, prompt by prompt and group by group, and keeps their moments
 * alone, besides the gradients of a few groups that are added together: what it holds does not
 * depend on how many there are.
 */
final class Recorder implements AutoCloseable {
  /** Groups that are added together. */
  private static final int TOGETHER = 8;

  private final Context context;
  private final Scope scope;
  private final Layout layout;
  private final List<String> names;
  private final Tensor offsets;
  private final Outputs report;
  private final List<Channel> channels = new ArrayList<>();
  private final List<Pair> sums = new ArrayList<>();

  /** f32[TOGETHER, estimators · size]: those that are to be added, and the open one. */
  private final Tensor gradients;

  private final Tensor scratch;
  private int waiting;
  private int groups;
  private int responses;
  private Block block;
  private int done;

  /** Of an estimator. */
  private final class Channel {
    final State ofGroups = State.zeros(scope, layout.size());
    final State ofResponses = State.zeros(scope, layout.size());
    final Tensor mean = Tensor.zeros(scope, DType.F32, layout.size());
    double[] within;
    double[] own;
    double[] second;
    double[] rows;

    void begin(int prompts) {
      mean.zero();
      within = new double[layout.parts().size()];
      own = new double[layout.parts().size()];
      second = new double[layout.parts().size()];
      rows = new double[prompts * layout.rows().size()];
    }
  }

  /** The sum of two estimators' gradients, for their covariance. */
  private final class Pair {
    final int a;
    final int b;
    final State state = State.zeros(scope, layout.size());
    double[] within;
    double[] second;

    Pair(int a, int b) {
      this.a = a;
      this.b = b;
    }
  }

  /**
   * @param names of the estimators
   * @param pairs whether covariances between estimators are wanted
   */
  Recorder(Context context, Layout layout, List<String> names, boolean pairs) {
    this.context = context;
    this.layout = layout;
    this.names = names;
    scope = context.scope();
    offsets = layout.offsets(scope);
    long segments = offsets.shape(0) - 1;
    report =
        new Outputs(
            Tensor.empty(scope, DType.F32, segments),
            Tensor.empty(scope, DType.F32, segments),
            null,
            null);
    gradients = Tensor.empty(scope, DType.F32, TOGETHER, names.size() * layout.size());
    scratch = pairs ? Tensor.empty(scope, DType.F32, TOGETHER, layout.size()) : null;
    for (int a = 0; a < names.size(); a++) {
      channels.add(new Channel());
      for (int b = a + 1; pairs && b < names.size(); b++) {
        sums.add(new Pair(a, b));
      }
    }
  }

  /** Begins a block of prompts. */
  void begin(int prompts) {
    block = new Block(prompts);
    done = 0;
    channels.forEach(channel -> channel.begin(prompts));
    for (Pair pair : sums) {
      pair.within = new double[layout.parts().size()];
      pair.second = new double[layout.parts().size()];
    }
  }

  /** f32[estimators, size]: where the gradients of the open group go. */
  Tensor open() {
    return gradients.rows(waiting, waiting + 1).reshape(names.size(), layout.size());
  }

  /** The gradient of the open group. */
  Tensor group(int estimator) {
    return open().rows(estimator, estimator + 1).reshape(layout.size());
  }

  /**
   * Adds the responses of the open group: nothing but an operation.
   *
   * @param contributions f32[responses, size]
   * @param gradients as {@link #open}; receives the estimator's gradient, their sum
   */
  void add(int estimator, Tensor contributions, Tensor gradients) {
    GradientMoments.update(
        context,
        channels.get(estimator).ofResponses,
        contributions,
        gradients.rows(estimator, estimator + 1).reshape(layout.size()));
  }

  /**
   * Ends a group.
   *
   * @param size responses that were added for each estimator
   */
  void endGroup(int size) {
    groups++;
    responses += size;
    waiting++;
    if (waiting == TOGETHER) {
      addGroups();
    }
  }

  private void addGroups() {
    for (int e = 0; e < channels.size(); e++) {
      GradientMoments.update(context, channels.get(e).ofGroups, ofGroups(e), null);
    }
    for (Pair pair : sums) {
      Tensor both = scratch.rows(0, waiting).copyFrom(ofGroups(pair.a));
      Axpby.apply(context, 1, ofGroups(pair.b), 1, both);
      GradientMoments.update(context, pair.state, both, null);
    }
    waiting = 0;
  }

  /** f32[groups that wait, size]. */
  private Tensor ofGroups(int estimator) {
    return gradients
        .rows(0, waiting)
        .columns(estimator * layout.size(), (estimator + 1) * layout.size());
  }

  /** Ends a prompt. */
  void endPrompt() {
    addGroups();
    double size = (double) responses / groups;
    for (Channel channel : channels) {
      GradientMoments.report(context, channel.ofGroups, offsets, report);
      float[] squares = report.meanSq().toFloats();
      double[] meanSq = layout.byPart(squares);
      float[] traces = report.trace().toFloats();
      double[] trace = layout.byPart(traces);
      double[] ofRows = layout.byRow(traces);
      System.arraycopy(ofRows, 0, channel.rows, done * ofRows.length, ofRows.length);
      GradientMoments.report(context, channel.ofResponses, offsets, report);
      double[] ofResponses = layout.byPart(report.trace().toFloats());
      for (int p = 0; p < trace.length; p++) {
        double m2 = groups > 1 ? trace[p] * (groups - 1) : 0;
        channel.second[p] += meanSq[p] + m2 / groups;
        channel.within[p] += trace[p];
        // Analysis of variance of the contributions, responses within groups.
        double between = trace[p] / size;
        double inside = (ofResponses[p] * (responses - 1) - m2 / size) / (groups * (size - 1));
        channel.own[p] += between + (size - 1) * inside;
      }
      Axpby.apply(context, 1f / block.prompts, channel.ofGroups.mean(), 1, channel.mean);
      channel.ofGroups.count().zero();
      channel.ofResponses.count().zero();
    }
    for (Pair pair : sums) {
      GradientMoments.report(context, pair.state, offsets, report);
      double[] trace = layout.byPart(report.trace().toFloats());
      double[] meanSq = layout.byPart(report.meanSq().toFloats());
      for (int p = 0; p < trace.length; p++) {
        pair.within[p] += trace[p];
        pair.second[p] += meanSq[p] + (groups > 1 ? trace[p] * (groups - 1) / groups : 0);
      }
      pair.state.count().zero();
    }
    groups = 0;
    responses = 0;
    done++;
  }

  /**
   * Ends the block.
   *
   * @param scores by estimator; an empty array where they are not known
   */
  Block end(List<double[]> scores) {
    for (int e = 0; e < names.size(); e++) {
      Channel channel = channels.get(e);
      block.moments.put(
          names.get(e),
          new Block.Moments(
              channel.within,
              channel.own,
              channel.second,
              Arrays.copyOf(channel.rows, done * layout.rows().size()),
              scores.get(e),
              channel.mean.toFloats()));
    }
    for (Pair pair : sums) {
      block.pairs.put(
          names.get(pair.a) + "|" + names.get(pair.b), new Block.Pair(pair.within, pair.second));
    }
    return block;
  }

  @Override
  public void close() {
    scope.close();
  }
}
