package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.reference.SampleTokensReference;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class SampleTokensTest {
  private static final SampleTokens.Options WARM =
      new SampleTokens.Options(0.8f, 0x1234_5678_9abc_def0L, 42);

  private static float[] logits(Random random, int n, double scale) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) (random.nextGaussian() * scale);
    }
    return x;
  }

  /** The known answers that Random123 publishes for philox4x32, 10 rounds. */
  @Test
  void referenceGivesThePublishedRandomNumbers() {
    assertThat(SampleTokensReference.philox(new int[4], new int[2]))
        .containsExactly(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
    assertThat(SampleTokensReference.philox(new int[] {-1, -1, -1, -1}, new int[] {-1, -1}))
        .containsExactly(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
    assertThat(
            SampleTokensReference.philox(
                new int[] {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
                new int[] {0xa4093822, 0x299f31d0}))
        .containsExactly(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
  }

  /**
   * With 2^16 equal logits the token is the leading bits of the random number: those of the known
   * answers.
   */
  @Test
  void drawsThePublishedRandomNumbers() {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor equal = Tensor.zeros(scope, DType.F32, 1, 1 << 16);
        Tensor token = Tensor.empty(scope, DType.I32, 1);
        SampleTokens.sample(context, equal, null, new SampleTokens.Options(1, 0, 0), token);
        assertThat(token.toInts()[0]).isEqualTo(0xe169);
        Tensor last = Tensor.of(scope, new int[] {-1});
        SampleTokens.sample(context, equal, last, new SampleTokens.Options(1, -1, -1), token);
        assertThat(token.toInts()[0]).isEqualTo(0x41c8);
      }
    }
  }

  /**
   * One token, around the widest vector, around a block of the search, many blocks, a real
   * vocabulary.
   */
  @ParameterizedTest
  @CsvSource({
    "0, 5",
    "200, 1",
    "200, 2",
    "200, 15",
    "200, 16",
    "200, 17",
    "100, 511",
    "100, 512",
    "100, 513",
    "50, 5003",
    "5, 151936"
  })
  void drawsTheFirstTokenWhoseCumulativeProbabilityExceedsTheNumber(int rows, int vocabulary) {
    float[] x = logits(new Random(vocabulary), rows * vocabulary, 2);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        int[] tokens =
            SampleTokens.sample(scope, Tensor.of(scope, x, rows, vocabulary), WARM).toInts();
        for (int r = 0; r < rows; r++) {
          double[] p =
              SampleTokensReference.probabilities(
                  Arrays.copyOfRange(x, r * vocabulary, (r + 1) * vocabulary), 0.8f);
          double u = SampleTokensReference.uniform(WARM.seed(), WARM.offset(), r);
          assertThat(tokens[r]).isBetween(0, vocabulary - 1);
          double before = 0;
          for (int j = 0; j < tokens[r]; j++) {
            before += p[j];
          }
          // The cumulative sums of the operation and of this test differ by their rounding.
          assertThat(u).isBetween(before - 2e-6, before + p[tokens[r]] + 2e-6);
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16", "F16"})
  void takesTheLargestAtTemperatureZero(DType dtype) {
    Random random = new Random(2);
    for (int vocabulary : new int[] {1, 2, 15, 16, 17, 33, 1000, 32_001}) {
      float[] x = logits(random, 20 * vocabulary, 2);
      for (Context context : Contexts.every()) {
        try (context;
            Scope scope = context.scope()) {
          Tensor logits = Tensor.of(scope, dtype, x, 20, vocabulary);
          float[] rounded = logits.toFloats(); // equal logits are common in 16 bits
          int[] tokens = SampleTokens.sample(scope, logits, SampleTokens.Options.GREEDY).toInts();
          for (int r = 0; r < 20; r++) {
            int best = 0;
            for (int j = 1; j < vocabulary; j++) {
              if (rounded[r * vocabulary + j] > rounded[r * vocabulary + best]) {
                best = j;
              }
            }
            assertThat(tokens[r]).isEqualTo(best);
          }
        }
      }
    }
  }

  /** χ² with 9 degrees of freedom stays below 27.9 with probability 0.999; the seed is fixed. */
  @ParameterizedTest
  @EnumSource(
      value = DType.class,
      names = {"F32", "BF16", "F16"})
  void frequenciesAreTheProbabilities(DType dtype) {
    int draws = 100_000;
    float[] row = {0, 1, -1, 2, 0.5f, Float.NEGATIVE_INFINITY, -2, 1.5f, 0.25f, -0.5f, 0.75f};
    double[] p = SampleTokensReference.probabilities(row, 0.8f);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.empty(scope, dtype, draws, row.length);
      float[] all = new float[draws * row.length];
      for (int i = 0; i < all.length; i++) {
        all[i] = row[i % row.length];
      }
      logits.copyFrom(all);
      int[] count = new int[row.length];
      for (int token : SampleTokens.sample(scope, logits, WARM).toInts()) {
        count[token]++;
      }
      assertThat(count[5]).as("a masked token").isZero();
      double chi = 0;
      for (int j = 0; j < row.length; j++) {
        if (p[j] > 0) {
          chi += Math.pow(count[j] - draws * p[j], 2) / (draws * p[j]);
        }
      }
      assertThat(chi).isLessThan(27.9);
    }
  }

  /**
   * Every draw is the first token of the nucleus whose cumulative probability exceeds the number;
   * with many draws of one row, every token of a small nucleus is drawn.
   */
  @ParameterizedTest
  @CsvSource({
    "F32, 1, 0.5",
    "F32, 2, 0.6",
    "F32, 15, 0.3",
    "F32, 16, 0.9",
    "F32, 17, 0.99",
    "F32, 513, 0.9",
    "F32, 5003, 0.999999",
    "BF16, 17, 0.7",
    "BF16, 5003, 0.95",
    "F16, 33, 0.5",
    "F16, 5003, 0.1",
    "F32, 151936, 0.9",
    "BF16, 151936, 0.9"
  })
  void drawsFromTheNucleus(DType dtype, int vocabulary, float topP) {
    int draws = vocabulary > 10_000 ? 3 : 200;
    Random random = new Random(vocabulary);
    float[] x = logits(random, vocabulary, 2);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor row = Tensor.of(scope, dtype, x, 1, vocabulary);
        float[] rounded = row.toFloats(); // equal logits are common in 16 bits
        double[] p = SampleTokensReference.nucleus(rounded, 0.8f, topP);
        for (int i = 0; i < draws; i++) {
          SampleTokens.Options options = WARM.withOffset(i).withTopP(topP);
          int token = SampleTokens.sample(scope, row, options).toInts()[0];
          double u = SampleTokensReference.uniform(WARM.seed(), i, 0), before = 0;
          assertThat(token).isBetween(0, vocabulary - 1);
          for (int j = 0; j < token; j++) {
            before += p[j];
          }
          assertThat(p[token]).isPositive();
          assertThat(u).isBetween(before - 2e-6, before + p[token] + 2e-6);
        }
      }
    }
  }

  /**
   * Exactly the nucleus is drawn, and χ² with one degree of freedom less than it has tokens stays
   * below the 0.999 quantile.
   */
  @ParameterizedTest
  @CsvSource({"0.3, 1, 0", "0.6, 3, 13.9", "0.9, 6, 20.6", "0.98, 7, 22.5", "1, 10, 27.9"})
  void frequenciesAreThoseOfTheNucleus(float topP, int size, double bound) {
    int draws = 20_000;
    float inf = Float.POSITIVE_INFINITY;
    // 0 and -0 tie, as 1 does with 1.
    float[] row = {0, 1, -1, 2, -0f, -inf, -2, 1, 0, -1.5f, -3.5f};
    double[] p = SampleTokensReference.nucleus(row, 0.8f, topP == 1 ? 2 : topP);
    float[] all = new float[draws * row.length];
    for (int i = 0; i < all.length; i++) {
      all[i] = row[i % row.length];
    }
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor logits = Tensor.of(scope, all, draws, row.length);
        int[] count = new int[row.length];
        for (int token : SampleTokens.sample(scope, logits, WARM.withTopP(topP)).toInts()) {
          count[token]++;
        }
        double chi = 0;
        int drawn = 0;
        for (int j = 0; j < row.length; j++) {
          assertThat(count[j] > 0).as("token %d", j).isEqualTo(p[j] > 0);
          if (p[j] > 0) {
            chi += Math.pow(count[j] - draws * p[j], 2) / (draws * p[j]);
            drawn++;
          }
        }
        assertThat(drawn).isEqualTo(size);
        assertThat(chi).isLessThanOrEqualTo(bound);
      }
    }
  }

  @Test
  void tinyTopPDrawsAmongTheLargestAlone() {
    for (DType dtype : new DType[] {DType.F32, DType.BF16, DType.F16}) {
      for (Context context : Contexts.every()) {
        try (context;
            Scope scope = context.scope()) {
          float[] x = logits(new Random(8), 1000, 1);
          x[70] = x[500] = x[999] = 9;
          Tensor row = Tensor.of(scope, dtype, x, 1, 1000);
          Set<Integer> drawn = new HashSet<>();
          for (int i = 0; i < 100; i++) {
            SampleTokens.Options options = WARM.withOffset(i).withTopP(Float.MIN_VALUE);
            drawn.add(SampleTokens.sample(scope, row, options).toInts()[0]);
          }
          assertThat(drawn).containsExactlyInAnyOrder(70, 500, 999);
        }
      }
    }
  }

  @Test
  void topPOfZeroIsOneAndChangesNoGreedyChoice() {
    float[] x = logits(new Random(9), 300 * 1003, 2);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.of(scope, x, 300, 1003);
      int[] plain = SampleTokens.sample(scope, logits, WARM).toInts();
      assertThat(SampleTokens.sample(scope, logits, WARM.withTopP(0)).toInts()).isEqualTo(plain);
      SampleTokens.Options greedy = SampleTokens.Options.GREEDY;
      assertThat(SampleTokens.sample(scope, logits, greedy.withTopP(0.1f)).toInts())
          .isEqualTo(SampleTokens.sample(scope, logits, greedy).toInts());
    }
  }

  @Test
  void rowsDependOnTheirStreamAloneAndOffsetsDiffer() {
    Random random = new Random(4);
    int vocabulary = 1000;
    float[] row = logits(random, vocabulary, 1);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[] many = new float[60 * vocabulary];
      for (int i = 0; i < many.length; i++) {
        many[i] = row[i % vocabulary];
      }
      Tensor logits = Tensor.of(scope, many, 60, vocabulary);
      int[] plain = SampleTokens.sample(scope, logits, WARM).toInts();
      Tensor alone = Tensor.empty(scope, DType.I32, 1);
      Tensor stream = Tensor.of(scope, new int[] {17});
      SampleTokens.sample(context, logits.rows(3, 4), stream, WARM, alone);
      assertThat(alone.toInts()[0]).isEqualTo(plain[17]);
      Tensor scalar = Tensor.of(scope, new long[] {42}, new long[] {1});
      int[] byScalar =
          SampleTokens.sample(scope, logits, WARM.withOffset(7).withOffsetScalar(scalar)).toInts();
      assertThat(byScalar).isEqualTo(plain);
      assertThat(SampleTokens.sample(scope, logits, WARM.withOffset(43)).toInts())
          .isNotEqualTo(plain);
      assertThat(SampleTokens.sample(scope, logits, WARM.withSeed(1)).toInts()).isNotEqualTo(plain);
      assertThat(Arrays.stream(plain).distinct().count()).isGreaterThan(40);
    }
  }

  @Test
  void brokenRowsGiveNoTokenAndMaskedTokensAreNotDrawn() {
    float inf = Float.POSITIVE_INFINITY;
    int vocabulary = 1200; // more than two blocks of the search
    float[] x = new float[6 * vocabulary];
    x[5] = Float.NaN;
    x[vocabulary + 1100] = inf;
    Arrays.fill(x, 2 * vocabulary, 3 * vocabulary, -inf);
    Arrays.fill(x, 3 * vocabulary, 4 * vocabulary, -inf);
    x[3 * vocabulary + 700] = -1e30f; // the only token left
    Arrays.fill(x, 4 * vocabulary, 4 * vocabulary + 600, -inf);
    Arrays.fill(x, 5 * vocabulary + 600, 6 * vocabulary, -inf);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor logits = Tensor.of(scope, x, 6, vocabulary);
        int[] greedy = SampleTokens.sample(scope, logits, SampleTokens.Options.GREEDY).toInts();
        assertThat(greedy).containsExactly(-1, -1, -1, 700, 600, 0);
        for (int offset = 0; offset < 200; offset++) {
          SampleTokens.Options options =
              WARM.withOffset(offset).withTopP(offset % 2 == 0 ? 1 : 0.9f);
          int[] tokens = SampleTokens.sample(scope, logits, options).toInts();
          assertThat(Arrays.copyOf(tokens, 4)).containsExactly(-1, -1, -1, 700);
          assertThat(tokens[4]).isBetween(600, 1199);
          assertThat(tokens[5]).isBetween(0, 599);
        }
      }
    }
  }

  @ParameterizedTest
  @ValueSource(floats = {1, 0.9f})
  void bitsDoNotDependOnTheThreadCountAndStrideIsHonoured(float topP) {
    SampleTokens.Options options = WARM.withTopP(topP);
    Random random = new Random(6);
    float[] wide = logits(random, 300 * 1030, 2);
    int[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        Tensor strided = Tensor.of(scope, wide, 300, 1030).columns(10, 1013);
        int[] tokens = SampleTokens.sample(scope, strided, options).toInts();
        if (first == null) {
          first = tokens;
          Tensor dense = Tensor.of(scope, strided.toFloats(), 300, 1003);
          assertThat(SampleTokens.sample(scope, dense, options).toInts()).isEqualTo(tokens);
        }
        assertThat(tokens).isEqualTo(first);
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.zeros(scope, DType.F32, 4, 6);
      Tensor tokens = Tensor.zeros(scope, DType.I32, 4);
      for (float temperature : new float[] {-0.5f, Float.NaN, Float.POSITIVE_INFINITY}) {
        assertThatThrownBy(
                () -> SampleTokens.sample(scope, logits, WARM.withTemperature(temperature)))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageContaining(
                "sample_tokens: temperature: expected a finite number of at least 0, got ");
      }
      for (float topP : new float[] {-0.5f, 1.5f, Float.NaN}) {
        assertThatThrownBy(() -> SampleTokens.sample(scope, logits, WARM.withTopP(topP)))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageContaining(
                "sample_tokens: top_p: expected 0 (off) or a number in (0, 1], got ");
      }
      assertThatThrownBy(
              () -> SampleTokens.sample(scope, Tensor.zeros(scope, DType.F32, 4, 0), WARM))
          .hasMessage("sample_tokens: vocabulary: expected 1 to 2147483647, got 0");
      assertThatThrownBy(
              () -> SampleTokens.sample(scope, Tensor.zeros(scope, DType.F64, 4, 6), WARM))
          .hasMessage("sample_tokens: logits: expected f32 or bf16 or f16[*, *], got f64[4, 6]");
      assertThatThrownBy(
              () -> SampleTokens.sample(context, logits, tokens.rows(0, 3), WARM, tokens))
          .hasMessage("sample_tokens: stream: expected i32[4], got i32[3]");
      assertThatThrownBy(() -> SampleTokens.sample(context, logits, null, WARM, null))
          .hasMessage("sample_tokens: tokens: expected i32[4], got null");
      assertThatThrownBy(
              () -> SampleTokens.sample(scope, logits, WARM.withOffsetScalar(tokens.rows(0, 1))))
          .hasMessage("sample_tokens: offset_scalar: expected i64[1], got i32[1]");
      assertThatThrownBy(() -> SampleTokens.sample(context, logits, tokens, WARM, tokens))
          .hasMessage(
              "sample_tokens: tokens: expected memory that overlaps no input, got an overlap with"
                  + " stream");
    }
  }
}
