package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Arrays;
import java.util.Random;
import java.util.function.Function;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Offsets, targets and indices in the memory of a GPU are data: where they are wrong, the rows that
 * they are wrong for are NaN, and all others have the bits that they have without.
 */
@OnGpu
class CudaBadDataTest {
  private final Context context = Context.cuda(0);
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    context.synchronize();
    scope.close();
    context.close();
  }

  private Tensor floats(long seed, long... shape) {
    Random random = new Random(seed);
    float[] x = new float[(int) Arrays.stream(shape).reduce(1, (a, b) -> a * b)];
    for (int i = 0; i < x.length; i++) {
      x[i] = (float) random.nextGaussian();
    }
    return Tensor.of(scope, x, shape);
  }

  /** Poisoned with a number, since NaN is what is asked for. */
  private Tensor output(long... shape) {
    Tensor tensor = Tensor.empty(scope, DType.F32, shape);
    float[] poison = new float[(int) tensor.size()];
    Arrays.fill(poison, 777);
    return tensor.copyFrom(poison);
  }

  private Tensor ints(int... values) {
    return Tensor.of(scope, values);
  }

  /** Rows from {@code from} to {@code to} are NaN, the others as they should be. */
  private static void requireNan(float[] expected, float[] actual, int width, int from, int to) {
    for (int i = 0; i < expected.length; i++) {
      boolean bad = i >= from * width && i < to * width;
      assertThat(Float.floatToIntBits(actual[i]))
          .as("element %d, of a %s row, is %s", i, bad ? "bad" : "good", actual[i])
          .isEqualTo(Float.floatToIntBits(bad ? Float.NaN : expected[i]));
    }
  }

  /** Sequences of 3, 4 and 3 rows; the second's end is wrong, or the third's. */
  private void requireOffsets(int width, Function<Tensor, float[]> run) {
    float[] good = run.apply(ints(0, 3, 7, 10));
    requireNan(good, run.apply(ints(0, 3, 99, 10)), width, 3, 10);
    requireNan(good, run.apply(ints(0, 3, Integer.MAX_VALUE, 10)), width, 3, 10);
    requireNan(good, run.apply(ints(0, 3, 7, 11)), width, 7, 10);
    requireNan(good, run.apply(ints(0, 3, 7, 5)), width, 7, 10);
    requireNan(good, run.apply(ints(0, 3, 7, Integer.MIN_VALUE)), width, 7, 10);
    requireNan(good, run.apply(ints(0, 3, 7, 10)), width, 0, 0);
  }

  @ParameterizedTest
  @ValueSource(ints = {-1, -101, 257, Integer.MAX_VALUE, Integer.MIN_VALUE})
  void targets(int bad) {
    Tensor logits = floats(1, 5, 257);
    Function<int[], float[]> run =
        targets -> {
          var out = new TokenLogProbs.Outputs(output(5), output(5), output(5));
          TokenLogProbs.forward(context, logits, ints(targets), TokenLogProbs.Options.DEFAULT, out);
          return out.logProb().toFloats();
        };
    requireNan(
        run.apply(new int[] {0, 256, 3, 4, 5}), run.apply(new int[] {0, 256, bad, 4, 5}), 1, 2, 3);
  }

  @Test
  void offsetsOfGroups() {
    Tensor rewards = floats(2, 10);
    requireOffsets(
        1,
        offsets -> {
          var out = new GroupAdvantage.Outputs(output(10), output(3), output(3), null);
          GroupAdvantage.forward(
              context, rewards, offsets, null, GroupAdvantage.Options.DEFAULT, out);
          return out.advantage().toFloats();
        });
  }

  @ParameterizedTest
  @ValueSource(strings = {"PPO_CLIP", "GSPO"})
  void offsetsOfPolicies(String objective) {
    var options =
        PolicyLoss.Options.DEFAULT
            .withObjective(PolicyLoss.Objective.valueOf(objective))
            .withAggregation(PolicyLoss.Aggregation.CONSTANT)
            .withConstant(10);
    Tensor logProb = floats(3, 10);
    Tensor old = floats(4, 10);
    Tensor advantage = floats(5, 10);
    requireOffsets(
        1,
        offsets -> {
          var out = new PolicyLoss.Outputs(output(1), output(10), output(10), null);
          PolicyLoss.forward(
              context, PolicyLoss.Inputs.of(logProb, old, advantage, offsets), options, out);
          return out.tokenLoss().toFloats();
        });
  }

  @Test
  void offsetsOfQueriesAndKeys() {
    Tensor q = floats(6, 10, 2, 16);
    Tensor k = floats(7, 10, 2, 16);
    Tensor v = floats(8, 10, 2, 16);
    Tensor good = ints(0, 3, 7, 10);
    requireOffsets(2 * 16, offsets -> attention(q, k, v, offsets, good, null));
    requireOffsets(2 * 16, offsets -> attention(q, k, v, good, offsets, null));
  }

  @Test
  void lengthsOfACache() {
    Tensor q = floats(6, 3, 2, 16);
    Tensor k = floats(7, 10, 2, 16);
    Tensor offsetsQ = ints(0, 1, 2, 3);
    Tensor offsetsK = ints(0, 3, 7, 10);
    float[] good = attention(q, k, k, offsetsQ, offsetsK, ints(2, 3, 1));
    for (int bad : new int[] {5, -1, Integer.MAX_VALUE, Integer.MIN_VALUE}) {
      requireNan(good, attention(q, k, k, offsetsQ, offsetsK, ints(2, bad, 1)), 2 * 16, 1, 2);
    }
  }

  private float[] attention(
      Tensor q, Tensor k, Tensor v, Tensor offsetsQ, Tensor offsetsK, Tensor lengths) {
    Tensor o = output(q.shape());
    var input = new Attention.Input(q, k, v, offsetsQ, offsetsK, lengths, 4, 0.25f);
    Attention.forward(context, input, o, null);
    return o.toFloats();
  }

  @ParameterizedTest
  @ValueSource(ints = {-2, 7, Integer.MAX_VALUE, Integer.MIN_VALUE})
  void indicesOfRows(int bad) {
    Tensor x = floats(9, 7, 5);
    Function<int[], float[]> gather =
        index -> {
          Tensor y = output(3, 5);
          GatherRows.gather(context, x, ints(index), null, false, y);
          return y.toFloats();
        };
    float[] good = gather.apply(new int[] {6, 0, 3});
    requireNan(good, gather.apply(new int[] {6, bad, 3}), 5, 1, 2);

    Function<int[], float[]> place =
        outIndex -> {
          Tensor y = output(3, 5);
          GatherRows.gather(context, x, ints(1, 2), ints(outIndex), false, y);
          return y.toFloats();
        };
    float[] one = place.apply(new int[] {2, bad});
    assertThat(Arrays.copyOf(one, 10)).containsOnly(777f);
    assertThat(Arrays.copyOfRange(one, 10, 15)).containsExactly(x.rows(1, 2).toFloats());

    Tensor sum = output(7, 5);
    ScatterAddRows.add(context, x.rows(0, 2), ints(4, bad), sum);
    float[] added = sum.toFloats();
    float[] want = x.rows(0, 1).toFloats();
    for (int i = 0; i < added.length; i++) {
      assertThat(added[i]).isEqualTo(i / 5 == 4 ? 777f + want[i % 5] : 777f);
    }
  }
}
