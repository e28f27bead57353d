package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.PolicyLoss.Aggregation;
import dev.saccade.PolicyLoss.Inputs;
import dev.saccade.PolicyLoss.Metrics;
import dev.saccade.PolicyLoss.Objective;
import dev.saccade.PolicyLoss.Options;
import dev.saccade.binding.Saccade;
import dev.saccade.reference.PolicyLossReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

class PolicyLossTest {
  private static final float NAN = Float.NaN;

  /** Empty, one row, around every vector width, a remainder. */
  private static final int[] RAGGED = {0, 1, 3, 4, 5, 7, 8, 9, 0, 15, 16, 17, 33, 0};

  /** Sequences that end at, straddle and fill blocks of 4096 rows. */
  private static final int[] LONG = {4095, 1, 0, 4097, 3, 8200, 1};

  /**
   * Rows of random sequences. One sequence has no active row; the mask's bytes are 0, 1, 2 and 255.
   */
  private record Data(
      float[] logProb,
      float[] old,
      float[] ref,
      float[] advantage,
      float[] perSequence,
      byte[] mask,
      float[] weight,
      int[] offsets) {
    static Data of(long seed, int... lengths) {
      Random random = new Random(seed);
      int[] offsets = new int[lengths.length + 1];
      for (int s = 0; s < lengths.length; s++) {
        offsets[s + 1] = offsets[s] + lengths[s];
      }
      int n = offsets[lengths.length];
      Data data =
          new Data(
              new float[n],
              new float[n],
              new float[n],
              new float[n],
              new float[lengths.length],
              new byte[n],
              new float[n],
              offsets);
      for (int s = 0; s < lengths.length; s++) {
        data.perSequence[s] = (float) random.nextGaussian();
        double drift = 0.05 * random.nextGaussian();
        for (int r = offsets[s]; r < offsets[s + 1]; r++) {
          data.advantage[r] = data.perSequence[s];
          data.logProb[r] = -6 * random.nextFloat();
          data.old[r] = (float) (data.logProb[r] + drift + spread(random));
          data.ref[r] = (float) (data.logProb[r] + 0.3 * random.nextGaussian());
          data.weight[r] = 2 * random.nextFloat();
          int m = random.nextInt(8);
          data.mask[r] = (byte) (s == 4 ? 0 : m == 3 ? -1 : m);
        }
      }
      return data;
    }

    /** Log-ratios keep away from the clipping bounds of the tests, where the loss has a kink. */
    private static double spread(Random random) {
      while (true) {
        double x = 0.3 * random.nextGaussian();
        double ratio = Math.exp(-x);
        boolean near = false;
        for (double bound : new double[] {0.8, 1.28, 1.4, 1.5}) {
          near |= Math.abs(ratio - bound) < 1e-3;
        }
        if (!near) {
          return x;
        }
      }
    }

    Inputs inputs(Scope scope) {
      return Inputs.of(
              Tensor.of(scope, logProb),
              Tensor.of(scope, old),
              Tensor.of(scope, advantage),
              Tensor.of(scope, offsets))
          .withRefLogProb(Tensor.of(scope, ref))
          .withMask(Tensor.of(scope, mask))
          .withIsWeight(Tensor.of(scope, weight));
    }

    PolicyLossReference reference(Options options) {
      return new PolicyLossReference(logProb, old, ref, advantage, mask, weight, offsets, options);
    }
  }

  private static Options base(Objective objective) {
    boolean sequence = objective == Objective.GSPO || objective == Objective.GSPO_TOKEN;
    return Options.DEFAULT
        .withObjective(objective)
        .withClipLow(sequence ? 0.02f : 0.2f)
        .withClipHigh(sequence ? 0.03f : 0.28f);
  }

  /** Every objective, bound, aggregation and KL estimator. */
  static Stream<Options> options() {
    List<Options> all = new ArrayList<>();
    for (Objective objective : Objective.values()) {
      for (Aggregation aggregation : Aggregation.values()) {
        Options options = base(objective).withAggregation(aggregation).withConstant(500);
        all.add(options);
        all.add(options.withNormalizer(37));
      }
      for (KlEstimator estimator : KlEstimator.values()) {
        Options kl = base(objective).withKlCoef(0.1f).withKlEstimator(estimator);
        all.add(kl);
        all.add(kl.withKlImportanceCorrected(true));
      }
    }
    for (Objective objective : List.of(Objective.PPO_CLIP, Objective.GSPO, Objective.GSPO_TOKEN)) {
      all.add(base(objective).withDualClip(1.5f));
      all.add(base(objective).withDelta(1.4f));
      all.add(base(objective).withDualClip(1.5f).withDelta(1.4f));
    }
    all.add(base(Objective.PPO_CLIP).withClipLow(1));
    all.add(base(Objective.SAPO).withTauPos(3).withTauNeg(0.5f));
    return all.stream();
  }

  private static void agrees(Context context, Data data, Options options, int stride) {
    PolicyLossReference reference = data.reference(options);
    try (Scope scope = context.scope()) {
      var out = PolicyLoss.forward(scope, data.inputs(scope), options);
      double[] tokens = reference.tokenLoss();
      double scale = Near.largest(tokens);
      Near.assertNear("token_loss", out.tokenLoss().toFloats(), tokens, 2e-6, 1e-6 * scale);
      double loss = reference.loss();
      Near.assertNear(
          "loss", out.loss().toFloats(), new double[] {loss}, 5e-6, 1e-6 * Math.abs(scale));
      float[] all = out.dLogProb().toFloats();
      float[] some = new float[(all.length + stride - 1) / stride];
      double[] gradient = new double[some.length];
      for (int i = 0; i < some.length; i++) {
        some[i] = all[i * stride];
        gradient[i] = reference.gradient(i * stride);
      }
      double largest = Near.largest(gradient);
      Near.assertNear("d_log_prob", some, gradient, 5e-6, 1e-6 * largest);
      for (int r = 0; r < all.length; r++) {
        if (data.mask[r] == 0) {
          assertThat(all[r]).isZero();
        }
      }
      Metrics want = reference.metrics();
      Metrics got = Metrics.of(out.metrics());
      assertThat(got.clippedLow()).isEqualTo(want.clippedLow());
      assertThat(got.clippedHigh()).isEqualTo(want.clippedHigh());
      assertThat(got.active()).isEqualTo(want.active());
      assertThat(got.maxLogRatio()).isCloseTo(want.maxLogRatio(), within(1e-6f));
      assertThat(got.ratio()).isCloseTo(want.ratio(), within(2e-6f));
      assertThat(got.kl()).isCloseTo(want.kl(), within(2e-6f));
      assertThat(got.tokenLoss()).isCloseTo(want.tokenLoss(), within(2e-6f));
    }
  }

  @ParameterizedTest
  @MethodSource("options")
  void agreesWithDoublePrecisionOnEveryInstructionSet(Options options) {
    Data data = Data.of(1, RAGGED);
    for (Context context : Contexts.every()) {
      try (context) {
        agrees(context, data, options, 1);
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void sequencesMayCrossBlocks(Objective objective) {
    try (Context context = Contexts.one()) {
      Options options =
          base(objective).withAggregation(Aggregation.SEQ_MEAN_TOKEN_MEAN).withKlCoef(0.1f);
      agrees(context, Data.of(2, LONG), options, 97);
    }
  }

  @ParameterizedTest
  @EnumSource
  void bitsDoNotDependOnTheThreadCount(Objective objective) {
    Data data = Data.of(3, LONG);
    List<float[]> first = null;
    for (int threads : new int[] {1, 2, 3}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        var out = PolicyLoss.forward(scope, data.inputs(scope), base(objective).withKlCoef(0.1f));
        List<float[]> all = floats(out);
        first = first == null ? all : first;
        assertSame(all, first);
      }
    }
  }

  private static List<float[]> floats(PolicyLoss.Outputs out) {
    return List.of(
        out.loss().toFloats(),
        out.tokenLoss().toFloats(),
        out.dLogProb().toFloats(),
        out.metrics().toFloats());
  }

  private static void assertSame(List<float[]> got, List<float[]> want) {
    for (int i = 0; i < got.size(); i++) {
      assertThat(Arrays.equals(got.get(i), want.get(i))).isTrue();
    }
  }

  @ParameterizedTest
  @EnumSource
  void inactiveRowsMayHoldAnything(Objective objective) {
    Data clean = Data.of(4, RAGGED);
    Data garbage = Data.of(4, RAGGED);
    float[] junk = {NAN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY, Float.MAX_VALUE};
    for (int r = 0; r < clean.mask.length; r++) {
      if (clean.mask[r] == 0) {
        garbage.logProb[r] = junk[r % 4];
        garbage.old[r] = junk[(r + 1) % 4];
        garbage.ref[r] = junk[(r + 2) % 4];
        garbage.advantage[r] = junk[(r / 4) % 4];
        garbage.weight[r] = junk[(r / 2) % 4];
      }
    }
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Options options =
            base(objective).withAggregation(Aggregation.SEQ_MEAN_TOKEN_MEAN).withKlCoef(0.1f);
        assertSame(
            floats(PolicyLoss.forward(scope, garbage.inputs(scope), options)),
            floats(PolicyLoss.forward(scope, clean.inputs(scope), options)));
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void nanStaysInItsSequence(Objective objective) {
    Options options = base(objective).withKlCoef(0.1f);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Data data = Data.of(5, RAGGED);
      int row = data.offsets[11] + 3; // in the sequence of 17
      int begin = data.offsets[11];
      int end = data.offsets[12];
      data.mask[row] = 1;
      var want = PolicyLoss.forward(scope, data.inputs(scope), options);
      // One at a time: log-probability, advantage, weight, reference.
      for (int input = 0; input < 4; input++) {
        Data broken = Data.of(5, RAGGED);
        broken.mask[row] = 1;
        float[][] arrays = {broken.logProb, broken.advantage, broken.weight, broken.ref};
        arrays[input][row] = NAN;
        var got = PolicyLoss.forward(scope, broken.inputs(scope), options);
        assertThat(got.loss().item()).isNaN();
        assertThat(Metrics.of(got.metrics()).tokenLoss()).isNaN();
        float[] tokens = got.tokenLoss().toFloats();
        float[] gradient = got.dLogProb().toFloats();
        assertThat(tokens[row]).isNaN();
        assertThat(gradient[row]).isNaN();
        float[] wantTokens = want.tokenLoss().toFloats();
        float[] wantGradient = want.dLogProb().toFloats();
        for (int r = 0; r < tokens.length; r++) {
          if (r < begin || r >= end) {
            assertThat(tokens[r]).isEqualTo(wantTokens[r]);
            assertThat(gradient[r]).isEqualTo(wantGradient[r]);
          }
        }
        if (input == 0) {
          assertThat(Metrics.of(got.metrics()).maxLogRatio()).isNaN();
        }
      }
    }
  }

  @Test
  void metricsOfAKnownBatch() {
    // Ratios 1/2, 1, 2 with an advantage of each sign; the last row is not active.
    float log2 = (float) Math.log(2);
    float[] l = {-1 - log2, -1, -1 + log2, -1 - log2, -1, -1 + log2, 50};
    float[] old = {-1, -1, -1, -1, -1, -1, NAN};
    float[] a = {1, 1, 1, -1, -1, -1, 9};
    byte[] mask = {1, 1, 1, 1, 1, 1, 0};
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Inputs inputs =
          Inputs.of(
                  Tensor.of(scope, l),
                  Tensor.of(scope, old),
                  Tensor.of(scope, a),
                  Tensor.of(scope, new int[] {0, 7}))
              .withMask(Tensor.of(scope, mask));
      // -ρA, clipped: -0.5, -1, -1.2; 0.8, 1, 2.
      Metrics ppo = Metrics.of(PolicyLoss.forward(scope, inputs, Options.DEFAULT).metrics());
      assertThat(ppo.clippedLow()).isEqualTo(1 / 6f);
      assertThat(ppo.clippedHigh()).isEqualTo(1 / 6f);
      assertThat(ppo.ratio()).isCloseTo(7 / 6f, within(1e-6f));
      assertThat(ppo.kl()).isZero();
      assertThat(ppo.tokenLoss()).isCloseTo(1.1f / 6, within(1e-6f));
      assertThat(ppo.active()).isEqualTo(6);
      assertThat(ppo.maxLogRatio()).isEqualTo(log2);
      // The bound 1.5 binds at ρ = 2, A < 0.
      Metrics dual =
          Metrics.of(
              PolicyLoss.forward(scope, inputs, Options.DEFAULT.withDualClip(1.5f)).metrics());
      assertThat(dual.clippedHigh()).isEqualTo(2 / 6f);
      assertThat(dual.tokenLoss()).isCloseTo(0.6f / 6, within(1e-6f));
      // CISPO replaces the ratio whatever the advantage.
      Metrics cispo =
          Metrics.of(
              PolicyLoss.forward(scope, inputs, Options.DEFAULT.withObjective(Objective.CISPO))
                  .metrics());
      assertThat(cispo.clippedLow()).isEqualTo(2 / 6f);
      assertThat(cispo.clippedHigh()).isEqualTo(2 / 6f);
    }
  }

  @ParameterizedTest
  @EnumSource
  void clampedRatioPassesNoGradient(Objective objective) {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Inputs inputs =
          Inputs.of(
              Tensor.of(scope, new float[] {-1, -30}),
              Tensor.of(scope, new float[] {-30, -1}),
              Tensor.of(scope, new float[] {-1, 1}),
              Tensor.of(scope, new int[] {0, 1, 2}));
      var out = PolicyLoss.forward(scope, inputs, base(objective));
      float[] gradient = out.dLogProb().toFloats();
      switch (objective) {
        case REINFORCE -> assertThat(gradient).containsExactly(0.5f, -0.5f);
        case CISPO -> assertThat(gradient).containsExactly(0.64f, -0.4f);
        default -> assertThat(gradient).containsExactly(0, 0);
      }
      assertThat(Metrics.of(out.metrics()).maxLogRatio()).isEqualTo(29);
    }
  }

  @ParameterizedTest
  @EnumSource
  void nothingActiveGivesZeros(Objective objective) {
    Options options = base(objective).withKlCoef(0.1f);
    try (Context context = Contexts.one()) {
      for (Aggregation aggregation : Aggregation.values()) {
        for (int[] lengths : new int[][] {{}, {0}, {0, 0}, {5, 0, 20}}) {
          try (Scope scope = context.scope()) {
            Data data = Data.of(6, lengths);
            Arrays.fill(data.mask, (byte) 0);
            Arrays.fill(data.logProb, NAN);
            var out =
                PolicyLoss.forward(
                    scope,
                    data.inputs(scope),
                    options.withAggregation(aggregation).withConstant(1));
            for (float[] zeros : floats(out)) {
              for (float zero : zeros) {
                assertThat(zero).isZero();
              }
            }
          }
        }
      }
    }
  }

  @Test
  void advantagesOfSequencesAreThoseOfTheirRows() {
    Data data = Data.of(7, RAGGED);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Inputs rows = data.inputs(scope);
      Inputs sequences =
          new Inputs(
              rows.logProb(),
              rows.oldLogProb(),
              null,
              Tensor.of(scope, data.perSequence),
              rows.mask(),
              rows.isWeight(),
              rows.offsets(),
              null,
              null);
      assertSame(
          floats(
              PolicyLoss.forward(scope, sequences, Options.DEFAULT.withAdvantagePerSequence(true))),
          floats(PolicyLoss.forward(scope, rows, Options.DEFAULT)));
    }
  }

  @ParameterizedTest
  @EnumSource
  void scalarsComeAsData(Objective objective) {
    Data data = Data.of(8, RAGGED);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Inputs inputs = data.inputs(scope);
      Options options = base(objective);
      var want = PolicyLoss.forward(scope, inputs, options.withKlCoef(0.25f));
      var got =
          PolicyLoss.forward(
              scope,
              inputs
                  .withKlCoef(Tensor.of(scope, new float[] {0.25f}))
                  .withGradOutput(Tensor.of(scope, new float[] {-4})),
              options.withKlCoef(9));
      assertThat(got.loss().item()).isEqualTo(want.loss().item());
      float[] gradient = want.dLogProb().toFloats();
      float[] scaled = got.dLogProb().toFloats();
      for (int r = 0; r < gradient.length; r++) {
        assertThat(scaled[r]).isEqualTo(-4 * gradient[r]); // a power of two: exact
      }
      // A coefficient of 0 leaves the reference unread in effect.
      Tensor broken = Tensor.of(scope, new float[data.ref.length]);
      float[] nan = new float[data.ref.length];
      Arrays.fill(nan, NAN);
      broken.copyFrom(nan);
      var off =
          PolicyLoss.forward(
              scope,
              inputs.withRefLogProb(broken).withKlCoef(Tensor.of(scope, new float[] {0})),
              options);
      assertSame(floats(off), floats(PolicyLoss.forward(scope, inputs, options)));
    }
  }

  @ParameterizedTest
  @EnumSource
  void microBatchesAddUpToTheirBatch(Aggregation aggregation) {
    Data data = Data.of(9, 20, 7, 0, 33, 5, 12);
    int cut = 3;
    int row = data.offsets[cut];
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Options options = Options.DEFAULT.withAggregation(aggregation).withConstant(100);
      Inputs all = data.inputs(scope);
      var want = PolicyLoss.forward(scope, all, options);
      float active = Metrics.of(want.metrics()).active();
      Options part =
          options.withNormalizer(
              switch (aggregation) {
                case TOKEN_MEAN -> active;
                case CONSTANT -> 100;
                default -> 6;
              });
      double loss = 0;
      float[] gradient = new float[data.logProb.length];
      for (int half = 0; half < 2; half++) {
        int begin = half == 0 ? 0 : row;
        int end = half == 0 ? row : gradient.length;
        int[] offsets =
            half == 0
                ? Arrays.copyOf(data.offsets, cut + 1)
                : Arrays.stream(data.offsets, cut, 7).map(o -> o - row).toArray();
        Inputs inputs =
            Inputs.of(
                    all.logProb().rows(begin, end),
                    all.oldLogProb().rows(begin, end),
                    all.advantage().rows(begin, end),
                    Tensor.of(scope, offsets))
                .withMask(all.mask().rows(begin, end))
                .withIsWeight(all.isWeight().rows(begin, end));
        var out = PolicyLoss.forward(scope, inputs, part);
        loss += out.loss().item();
        System.arraycopy(out.dLogProb().toFloats(), 0, gradient, begin, end - begin);
      }
      assertThat(loss).isCloseTo(want.loss().item(), within(1e-6));
      float[] whole = want.dLogProb().toFloats();
      for (int r = 0; r < whole.length; r++) {
        assertThat(gradient[r]).isCloseTo(whole[r], within(1e-8f));
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void valuesOfTheKlEstimatorNeedNoCoefficient(KlEstimator estimator) {
    Data data = Data.of(12, RAGGED);
    Options options = Options.DEFAULT.withKlEstimator(estimator);
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        for (boolean corrected : new boolean[] {false, true}) {
          Options with = options.withKlImportanceCorrected(corrected);
          Tensor loss = Tensor.empty(scope, DType.F32, 1);
          Tensor kl = Tensor.empty(scope, DType.F32, data.logProb.length);
          PolicyLoss.forward(
              context,
              data.inputs(scope),
              with,
              new PolicyLoss.Outputs(loss, null, null, null, kl));
          Near.assertNear("kl", kl.toFloats(), data.reference(with).kl(), 2e-6, 1e-7);
          assertThat(loss.item())
              .isEqualTo(PolicyLoss.forward(scope, data.inputs(scope), options).loss().item());
        }
      }
    }
  }

  @Test
  void resultsOtherThanTheLossAreOptional() {
    Data data = Data.of(10, RAGGED);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      for (Objective objective : Objective.values()) {
        Tensor loss = Tensor.empty(scope, DType.F32, 1);
        PolicyLoss.forward(
            context,
            data.inputs(scope),
            base(objective),
            new PolicyLoss.Outputs(loss, null, null, null));
        assertThat(loss.item())
            .isEqualTo(
                PolicyLoss.forward(scope, data.inputs(scope), base(objective)).loss().item());
      }
    }
  }

  @Test
  void enumsHaveTheCodesOfTheAbi() {
    assertThat(Objective.REINFORCE.code()).isEqualTo(Saccade.SACCADE_OBJECTIVE_REINFORCE);
    assertThat(Objective.CISPO.code()).isEqualTo(Saccade.SACCADE_OBJECTIVE_CISPO);
    assertThat(Aggregation.CONSTANT.code()).isEqualTo(Saccade.SACCADE_AGGREGATION_CONSTANT);
    assertThat(KlEstimator.K3.code()).isEqualTo(Saccade.SACCADE_KL_K3);
    assertThat(KlEstimator.K3_ST.code()).isEqualTo(Saccade.SACCADE_KL_K3_ST);
    assertThat(GroupAdvantage.Estimator.REINFORCE_PP_BASELINE.code())
        .isEqualTo(Saccade.SACCADE_ADVANTAGE_REINFORCE_PP_BASELINE);
  }

  @Test
  void rejectsOptionsOutOfRange() {
    Options d = Options.DEFAULT;
    Options cispo = d.withObjective(Objective.CISPO);
    Options sapo = d.withObjective(Objective.SAPO);
    Object[][] cases = {
      {d.withClipLow(-0.1f), "clip_low: expected 0 to 1, got -0.1"},
      {d.withClipLow(1.5f), "clip_low: expected 0 to 1, got 1.5"},
      {d.withClipHigh(-1), "clip_high: expected a finite number of at least 0, got -1"},
      {d.withClipHigh(NAN), "clip_high: expected a finite number of at least 0, got nan"},
      {d.withDualClip(1), "dual_clip: expected 0 (off) or above 1, got 1"},
      {d.withDelta(1.1f), "delta: expected 0 (off) or at least 1 + clip_high, got 1.1"},
      {cispo.withDualClip(3), "dual_clip: expected 0 (off): only PPO_CLIP"},
      {cispo.withDelta(3), "delta: expected 0 (off): only PPO_CLIP"},
      {sapo.withTauPos(0), "tau_pos: expected a finite number above 0, got 0"},
      {sapo.withTauNeg(-1), "tau_neg: expected a finite number above 0, got -1"},
      {
        d.withAggregation(Aggregation.CONSTANT), "constant: expected a finite number above 0, got 0"
      },
      {d.withNormalizer(-2), "normalizer: expected 0 (off) or a finite number above 0, got -2"},
      {d.withKlCoef(-1), "kl_coef: expected a finite number of at least 0, got -1"},
      {d.withKlCoef(1), "ref_log_prob: expected an address, got null with 3 elements"},
    };
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 3);
      Inputs inputs = Inputs.of(x, x, x, Tensor.of(scope, new int[] {0, 3}));
      for (Object[] bad : cases) {
        assertThatThrownBy(() -> PolicyLoss.forward(scope, inputs, (Options) bad[0]))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageContaining(": " + bad[1]);
      }
    }
  }

  @Test
  void rejectsTensorsThatDoNotFit() {
    Options d = Options.DEFAULT;
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor x = Tensor.zeros(scope, DType.F32, 3);
      Tensor four = Tensor.zeros(scope, DType.F32, 4);
      Tensor offsets = Tensor.of(scope, new int[] {0, 3});
      Inputs good = Inputs.of(x, x, x, offsets);
      Object[][] cases = {
        {Inputs.of(null, x, x, offsets), "log_prob: expected f32[*], got null"},
        {Inputs.of(x, four, x, offsets), "old_log_prob: expected f32[3], got f32[4]"},
        {Inputs.of(x, x, four, offsets), "advantage: expected f32[3], got f32[4]"},
        {Inputs.of(x, x, x, x), "offsets: expected i32[*], got f32[3]"},
        {
          Inputs.of(x, x, x, Tensor.zeros(scope, DType.I32, 0)),
          "offsets: expected i32[1] or more, got i32[0]"
        },
        {
          Inputs.of(x, x, x, Tensor.of(scope, new int[] {0, 2})),
          "offsets: expected offsets that end at 3, got 2"
        },
        {good.withRefLogProb(four), "ref_log_prob: expected f32[3], got f32[4]"},
        {good.withMask(x), "mask: expected u8[3], got f32[3]"},
        {good.withIsWeight(four), "is_weight: expected f32[3], got f32[4]"},
        {good.withKlCoef(x), "kl_coef_scalar: expected f32[1], got f32[3]"},
        {good.withGradOutput(x), "grad_output: expected f32[1], got f32[3]"},
      };
      for (Object[] bad : cases) {
        var outputs = new PolicyLoss.Outputs(Tensor.zeros(scope, DType.F32, 1), null, null, null);
        assertThatThrownBy(() -> PolicyLoss.forward(context, (Inputs) bad[0], d, outputs))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("policy_loss: " + bad[1]);
      }
      assertThatThrownBy(() -> PolicyLoss.forward(scope, good, d.withAdvantagePerSequence(true)))
          .hasMessage("policy_loss: advantage: expected f32[1], got f32[3]");
      Tensor loss = Tensor.zeros(scope, DType.F32, 1);
      Object[][] outputs = {
        {new PolicyLoss.Outputs(x, null, null, null), "loss: expected f32[1], got f32[3]"},
        {new PolicyLoss.Outputs(loss, four, null, null), "token_loss: expected f32[3]"},
        {new PolicyLoss.Outputs(loss, null, four, null), "d_log_prob: expected f32[3]"},
        {new PolicyLoss.Outputs(loss, null, null, four), "metrics: expected f32[7]"},
        {new PolicyLoss.Outputs(loss, null, null, null, four), "kl: expected f32[3]"},
        {
          new PolicyLoss.Outputs(loss, null, null, null, Tensor.zeros(scope, DType.F32, 3)),
          "ref_log_prob: expected an address, got null with 3 elements"
        },
        {
          new PolicyLoss.Outputs(loss, null, x, null),
          "d_log_prob: expected memory that overlaps no input, got an overlap with log_prob"
        },
      };
      for (Object[] bad : outputs) {
        assertThatThrownBy(() -> PolicyLoss.forward(context, good, d, (PolicyLoss.Outputs) bad[0]))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageStartingWith("policy_loss: " + bad[1]);
      }
    }
  }
}
