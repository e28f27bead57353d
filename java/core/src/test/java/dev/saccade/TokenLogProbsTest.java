package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.reference.TokenLogProbsReference;
import java.util.Arrays;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class TokenLogProbsTest {
  private static final TokenLogProbs.Options WARM =
      TokenLogProbs.Options.DEFAULT.withTemperature(0.8f);

  /**
   * One element, around the widest vector, around a block of a row, a remainder, a real vocabulary.
   */
  static Stream<Integer> vocabularies() {
    return Stream.of(1, 2, 7, 15, 16, 17, 63, 64, 65, 515, 4095, 4096, 4097, 8200, 151_936);
  }

  private static float[] logits(Random random, int n, double scale) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) (random.nextGaussian() * scale);
    }
    return x;
  }

  @ParameterizedTest
  @MethodSource("vocabularies")
  void agreesWithDoublePrecisionOnEveryInstructionSet(int vocabulary) {
    Random random = new Random(vocabulary);
    int rows = 3;
    float[] x = logits(random, rows * vocabulary, 3);
    int[] targets = random.ints(rows, 0, vocabulary).toArray();
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor logits = Tensor.of(scope, x, rows, vocabulary);
        Tensor target = Tensor.of(scope, targets);
        var out = TokenLogProbs.forward(scope, logits, target, WARM);
        float[] dl = logits(random, rows, 1);
        float[] de = logits(random, rows, 1);
        Tensor dx = Tensor.empty(scope, DType.F32, rows, vocabulary);
        TokenLogProbs.backward(
            context, logits, target, WARM, Tensor.of(scope, dl), Tensor.of(scope, de), dx);
        float[] gradient = dx.toFloats();
        for (int r = 0; r < rows; r++) {
          float[] row = Arrays.copyOfRange(x, r * vocabulary, (r + 1) * vocabulary);
          double[] z = TokenLogProbsReference.scaled(row, 0.8f);
          double lse = TokenLogProbsReference.lse(z);
          double entropy = TokenLogProbsReference.entropy(z);
          assertThat((double) out.logProb().toFloats()[r])
              .isCloseTo(z[targets[r]] - lse, within(2e-6 * (1 + Math.abs(lse))));
          assertThat((double) out.entropy().toFloats()[r])
              .isCloseTo(entropy, within(2e-6 * (1 + entropy)));
          assertThat((double) out.lse().toFloats()[r])
              .isCloseTo(lse, within(1e-6 * (1 + Math.abs(lse))));
          double largest = 0;
          for (double zj : z) {
            largest = Math.max(largest, Math.exp(zj - lse));
          }
          for (int j = 0; j < vocabulary; j++) {
            double logP = z[j] - lse;
            double p = Math.exp(logP);
            double want =
                (dl[r] * ((j == targets[r] ? 1 : 0) - p) - de[r] * p * (logP + entropy)) / 0.8f;
            assertThat((double) gradient[r * vocabulary + j])
                .isCloseTo(want, within(1e-5 * Math.abs(want) + 5e-6 * largest));
          }
        }
      }
    }
  }

  @Test
  void gradientAgreesWithFiniteDifferences() {
    Random random = new Random(3);
    int vocabulary = 37;
    float[] x = logits(random, vocabulary, 2);
    float dl = 0.7f;
    float de = -1.3f;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor dx = Tensor.empty(scope, DType.F32, 1, vocabulary);
      TokenLogProbs.backward(
          context,
          Tensor.of(scope, x, 1, vocabulary),
          Tensor.of(scope, new int[] {5}),
          WARM,
          Tensor.of(scope, new float[] {dl}),
          Tensor.of(scope, new float[] {de}),
          dx);
      for (int j = 0; j < vocabulary; j++) {
        double[] loss = new double[2];
        for (int side = 0; side < 2; side++) {
          double[] z = TokenLogProbsReference.scaled(x, 0.8f);
          z[j] += (side == 0 ? -1e-5 : 1e-5) / 0.8f;
          loss[side] =
              dl * TokenLogProbsReference.logProb(z, 5) + de * TokenLogProbsReference.entropy(z);
        }
        assertThat((double) dx.toFloats()[j]).isCloseTo((loss[1] - loss[0]) / 2e-5, within(2e-6));
      }
    }
  }

  @Test
  void maskedIgnoredAndBrokenRows() {
    float inf = Float.POSITIVE_INFINITY;
    float[] x = {
      -inf, 1, 2, -inf, // masked tokens
      1, 2, 3, 4, // ignored
      -inf, -inf, -inf, -inf, // nothing left
      1, Float.NaN, 2, 3, 1, inf, 2, 3, 1, 2, 3, 4, // target outside
      5, 6, 7, 8
    };
    int[] targets = {2, -100, 1, 0, 0, 4, 3};
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.of(scope, x, 7, 4);
      Tensor target = Tensor.of(scope, targets);
      var options = TokenLogProbs.Options.DEFAULT;
      var out = TokenLogProbs.forward(scope, logits, target, options);
      float[] logProb = out.logProb().toFloats();
      float[] entropy = out.entropy().toFloats();
      double two = Math.log(Math.exp(1) + Math.exp(2));
      assertThat((double) logProb[0]).isCloseTo(2 - two, within(1e-6));
      assertThat((double) entropy[0])
          .isCloseTo(TokenLogProbsReference.entropy(new double[] {1, 2}), within(1e-6));
      assertThat(logProb[1]).isZero();
      assertThat(entropy[1]).isZero();
      assertThat(out.lse().toFloats()[1]).isCloseTo(4.44019f, within(1e-5f));
      for (int bad = 2; bad <= 5; bad++) {
        assertThat(logProb[bad]).as("row %d", bad).isNaN();
        assertThat(entropy[bad]).as("row %d", bad).isNaN();
      }
      assertThat(logProb[6]).isCloseTo(8 - 8.44019f, within(1e-5f));

      Tensor ones = Tensor.of(scope, new float[] {1, 1, 1, 1, 1, 1, 1});
      TokenLogProbs.backward(context, logits, target, options, ones, ones, logits);
      float[] d = logits.toFloats();
      assertThat(d[0]).isZero();
      assertThat(d[3]).isZero();
      assertThat(d[1] + d[2]).isCloseTo(0, within(1e-6f));
      assertThat(Arrays.copyOfRange(d, 4, 8)).containsOnly(0f);
      for (int i = 8; i < 24; i++) {
        assertThat(d[i]).as("element %d", i).isNaN();
      }
      assertThat(d[24] + d[25] + d[26] + d[27]).isCloseTo(0, within(1e-6f));
    }
  }

  @Test
  void strideIsHonouredAndPaddingUntouched() {
    Random random = new Random(1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[] wide = logits(random, 5 * 40, 1);
      Tensor all = Tensor.of(scope, wide, 5, 40);
      Tensor logits = all.columns(3, 36);
      Tensor targets = Tensor.of(scope, new int[] {0, 32, 5, 6, 7});
      var out = TokenLogProbs.forward(scope, logits, targets, TokenLogProbs.Options.DEFAULT);
      var dense =
          TokenLogProbs.forward(
              scope,
              Tensor.of(scope, logits.toFloats(), 5, 33),
              targets,
              TokenLogProbs.Options.DEFAULT);
      Near.assertSame("log_prob", out.logProb().toFloats(), dense.logProb().toFloats());
      Tensor one = Tensor.of(scope, new float[] {1, 1, 1, 1, 1});
      TokenLogProbs.backward(
          context, logits, targets, TokenLogProbs.Options.DEFAULT, one, null, logits);
      float[] after = all.toFloats();
      for (int i = 0; i < after.length; i++) {
        if (i % 40 < 3 || i % 40 >= 36) {
          assertThat(after[i]).isEqualTo(wide[i]);
        }
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    Random random = new Random(8);
    float[] x = logits(random, 33 * 5000, 4);
    int[] targets = random.ints(33, 0, 5000).toArray();
    float[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        var out =
            TokenLogProbs.forward(
                scope, Tensor.of(scope, x, 33, 5000), Tensor.of(scope, targets), WARM);
        float[] all = out.entropy().toFloats();
        if (first == null) {
          first = all;
        }
        assertThat(all).isEqualTo(first);
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.zeros(scope, DType.F32, 4, 7);
      Tensor targets = Tensor.zeros(scope, DType.I32, 4);
      assertThatThrownBy(
              () -> TokenLogProbs.forward(scope, logits, targets, WARM.withTemperature(0)))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("token_log_probs: temperature: expected a finite number above 0, got 0");
      assertThatThrownBy(
              () ->
                  TokenLogProbs.forward(scope, Tensor.zeros(scope, DType.I32, 4, 7), targets, WARM))
          .hasMessage("token_log_probs: logits: expected f32 or bf16 or f16[*, *], got i32[4, 7]");
      assertThatThrownBy(
              () -> TokenLogProbs.forward(scope, logits, Tensor.zeros(scope, DType.I32, 5), WARM))
          .hasMessage("token_log_probs: targets: expected i32[4], got i32[5]");
      assertThatThrownBy(
              () ->
                  TokenLogProbs.forward(scope, Tensor.zeros(scope, DType.F32, 4, 0), targets, WARM))
          .hasMessageContaining("vocabulary: expected 1 to");
      assertThatThrownBy(
              () ->
                  TokenLogProbs.backward(
                      context,
                      logits,
                      targets,
                      WARM,
                      null,
                      null,
                      Tensor.zeros(scope, DType.BF16, 4, 7)))
          .hasMessageContaining("d_logits_dtype: expected the dtype of the logits, or f32");
      assertThatThrownBy(
              () ->
                  TokenLogProbs.forward(
                      context,
                      logits,
                      targets,
                      WARM,
                      new TokenLogProbs.Outputs(logits.reshape(28).rows(0, 4), null, null)))
          .hasMessageContaining("log_prob: expected memory that overlaps no input");
    }
  }
}
