package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.PolicyLoss.Aggregation;
import dev.saccade.PolicyLoss.Objective;
import dev.saccade.PolicyLossFromLogits.Inputs;
import dev.saccade.PolicyLossFromLogits.Options;
import dev.saccade.PolicyLossFromLogits.Outputs;
import dev.saccade.PolicyLossFromLogits.Values;
import dev.saccade.reference.PolicyLossReference;
import dev.saccade.reference.TokenLogProbsReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.MethodSource;

class PolicyLossFromLogitsTest {
  private static final float NAN = Float.NaN;
  private static final float TEMPERATURE = 0.8f;

  /** Empty, one row, several; sequence 4 has no active row. */
  private static final int[] RAGGED = {0, 1, 5, 0, 3, 9, 2};

  /** A batch; row 7 is inactive by its target, others by the mask. */
  private record Data(
      int vocabulary,
      float[] logits,
      int[] targets,
      float[] old,
      float[] ref,
      float[] advantage,
      byte[] mask,
      float[] weight,
      int[] offsets) {
    static Data of(long seed, int vocabulary, int... lengths) {
      Random random = new Random(seed);
      int[] offsets = new int[lengths.length + 1];
      for (int s = 0; s < lengths.length; s++) {
        offsets[s + 1] = offsets[s] + lengths[s];
      }
      int rows = offsets[lengths.length];
      Data data =
          new Data(
              vocabulary,
              new float[rows * vocabulary],
              random.ints(rows, 0, vocabulary).toArray(),
              new float[rows],
              new float[rows],
              new float[rows],
              new byte[rows],
              new float[rows],
              offsets);
      for (int i = 0; i < data.logits.length; i++) {
        data.logits[i] = (float) (2 * random.nextGaussian());
      }
      for (int s = 0; s < lengths.length; s++) {
        float advantage = (float) random.nextGaussian();
        for (int r = offsets[s]; r < offsets[s + 1]; r++) {
          double logProb = data.logProb(r);
          // Ratios on either side of the bounds, none near them, where the loss has a kink.
          data.old[r] = (float) (logProb + new double[] {0.4, -0.4, 0.1, -0.1}[r % 4]);
          data.ref[r] = (float) (logProb + 0.3 * random.nextGaussian());
          data.advantage[r] = advantage;
          data.weight[r] = 2 * random.nextFloat();
          data.mask[r] = (byte) (s == 4 || random.nextInt(6) == 0 ? 0 : 1);
        }
      }
      if (rows > 7) {
        data.targets[7] = -100;
      }
      return data;
    }

    int rows() {
      return targets.length;
    }

    double[] z(int r) {
      return TokenLogProbsReference.scaled(
          Arrays.copyOfRange(logits, r * vocabulary, (r + 1) * vocabulary), TEMPERATURE);
    }

    double logProb(int r) {
      return TokenLogProbsReference.logProb(z(r), Math.max(targets[r], 0));
    }

    boolean active(int r) {
      return mask[r] != 0 && targets[r] != -100;
    }

    Inputs inputs(Scope scope, DType dtype) {
      Tensor x = Tensor.empty(scope, dtype, rows(), vocabulary).copyFrom(logits);
      return inputs(scope, x);
    }

    Inputs inputs(Scope scope, Tensor logits) {
      return new Inputs(
          logits,
          Tensor.of(scope, targets),
          PolicyLoss.Inputs.of(
                  null,
                  Tensor.of(scope, old),
                  Tensor.of(scope, advantage),
                  Tensor.of(scope, offsets))
              .withRefLogProb(Tensor.of(scope, ref))
              .withMask(Tensor.of(scope, mask))
              .withIsWeight(Tensor.of(scope, weight)));
    }

    PolicyLossReference reference(PolicyLoss.Options options) {
      byte[] active = new byte[rows()];
      double[] logProb = new double[rows()];
      for (int r = 0; r < rows(); r++) {
        active[r] = (byte) (active(r) ? 1 : 0);
        logProb[r] = active(r) ? logProb(r) : 0;
      }
      return new PolicyLossReference(
          logProb, old, ref, advantage, active, weight, offsets, options);
    }

    /** The scalar loss with its entropy term. */
    double loss(Options options) {
      PolicyLossReference reference = reference(options.policy());
      double loss = reference.loss();
      for (int r = 0; r < rows(); r++) {
        if (active(r)) {
          loss -=
              reference.rowWeight(r) * options.entropyCoef() * TokenLogProbsReference.entropy(z(r));
        }
      }
      return loss;
    }
  }

  private static PolicyLoss.Options policy(Objective objective) {
    boolean sequence = objective == Objective.GSPO || objective == Objective.GSPO_TOKEN;
    return PolicyLoss.Options.DEFAULT
        .withObjective(objective)
        .withClipLow(sequence ? 0.02f : 0.2f)
        .withClipHigh(sequence ? 0.03f : 0.28f)
        .withKlCoef(0.1f);
  }

  private static Options options(Objective objective) {
    return Options.DEFAULT
        .withPolicy(policy(objective))
        .withTemperature(TEMPERATURE)
        .withEntropyCoef(0.01f);
  }

  /** Every objective, aggregation and KL estimator; no KL term; no entropy term. */
  static Stream<Options> options() {
    List<Options> all = new ArrayList<>();
    for (Objective objective : Objective.values()) {
      Options options = options(objective);
      all.add(options);
      all.add(options.withEntropyCoef(0).withPolicy(options.policy().withKlCoef(0)));
      for (Aggregation aggregation : Aggregation.values()) {
        all.add(options.withPolicy(options.policy().withAggregation(aggregation).withConstant(50)));
      }
    }
    for (KlEstimator estimator : KlEstimator.values()) {
      PolicyLoss.Options policy = policy(Objective.PPO_CLIP).withKlEstimator(estimator);
      all.add(options(Objective.PPO_CLIP).withPolicy(policy));
      all.add(options(Objective.PPO_CLIP).withPolicy(policy.withKlImportanceCorrected(true)));
    }
    return all.stream();
  }

  private static void agrees(Context context, Data data, Options options) {
    PolicyLossReference reference = data.reference(options.policy());
    int v = data.vocabulary;
    try (Scope scope = context.scope()) {
      var out = PolicyLossFromLogits.forward(scope, data.inputs(scope, DType.F32), options);
      float[] gradient = out.dLogits().toFloats();
      double[] logProb = new double[data.rows()];
      double[] entropy = new double[data.rows()];
      double[] lse = new double[data.rows()];
      // A row's gradient is a sum of terms that may cancel: its error is measured against the
      // batch.
      double[] byLogProb = new double[data.rows()];
      Arrays.setAll(byLogProb, reference::gradient);
      double scale = Near.largest(byLogProb);
      for (int r = 0; r < data.rows(); r++) {
        float[] got = Arrays.copyOfRange(gradient, r * v, (r + 1) * v);
        if (!data.active(r)) {
          assertThat(got).containsOnly(0f);
          continue;
        }
        double[] z = data.z(r);
        logProb[r] = data.logProb(r);
        entropy[r] = TokenLogProbsReference.entropy(z);
        lse[r] = TokenLogProbsReference.lse(z);
        double dl = byLogProb[r];
        double de = -reference.rowWeight(r) * options.entropyCoef();
        double[] want = new double[v];
        for (int j = 0; j < v; j++) {
          double logP = z[j] - lse[r];
          double p = Math.exp(logP);
          want[j] =
              (dl * ((j == data.targets[r] ? 1 : 0) - p) - de * p * (logP + entropy[r]))
                  / TEMPERATURE;
        }
        Near.assertNear("d_logits of row " + r, got, want, 1e-5, 1e-6 * scale);
      }
      Near.assertNear("log_prob", out.values().logProb().toFloats(), logProb, 1e-6, 2e-6);
      Near.assertNear("entropy", out.values().entropy().toFloats(), entropy, 1e-6, 2e-6);
      Near.assertNear("lse", out.values().lse().toFloats(), lse, 1e-6, 2e-6);
      Near.assertNear("kl", out.values().kl().toFloats(), reference.kl(), 1e-5, 2e-6);
      double[] tokens = reference.tokenLoss();
      Near.assertNear(
          "token_loss",
          out.values().tokenLoss().toFloats(),
          tokens,
          1e-5,
          2e-6 * Near.largest(tokens));
      Near.assertNear(
          "loss", out.values().loss().toFloats(), new double[] {data.loss(options)}, 1e-5, 1e-6);
      var metrics = PolicyLoss.Metrics.of(out.values().metrics());
      assertThat(metrics.active()).isEqualTo(reference.metrics().active());
      assertThat(metrics.clippedLow()).isEqualTo(reference.metrics().clippedLow());
      assertThat(metrics.clippedHigh()).isEqualTo(reference.metrics().clippedHigh());
      assertThat(metrics.ratio()).isCloseTo(reference.metrics().ratio(), within(1e-5f));
    }
  }

  @ParameterizedTest
  @MethodSource("options")
  void agreesWithDoublePrecisionOnEveryInstructionSet(Options options) {
    Data data = Data.of(1, 37, RAGGED);
    for (Context context : Contexts.every()) {
      try (context) {
        agrees(context, data, options);
      }
    }
  }

  /** One element, around the widest vector, around a block of a row, a real vocabulary. */
  static Stream<Integer> vocabularies() {
    return Stream.of(1, 2, 15, 16, 17, 515, 4095, 4097, 40_000, 151_936);
  }

  @ParameterizedTest
  @MethodSource("vocabularies")
  void everyVocabularyIsWalkedToItsEnd(int vocabulary) {
    Data data = Data.of(2, vocabulary, 0, 2, 0, 1, 2, 4);
    try (Context context = Contexts.one()) {
      agrees(context, data, options(Objective.PPO_CLIP));
      agrees(context, data, options(Objective.GSPO));
    }
  }

  /** More rows of a small vocabulary than a task and a block take. */
  @ParameterizedTest
  @EnumSource(names = {"PPO_CLIP", "GSPO"})
  void manyRowsOfASmallVocabulary(Objective objective) {
    Data data = Data.of(3, 3, 4095, 1, 0, 700, 4, 800);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Options options = options(objective);
      var out = PolicyLossFromLogits.forward(scope, data.inputs(scope, DType.F32), options);
      Near.assertNear(
          "loss", out.values().loss().toFloats(), new double[] {data.loss(options)}, 1e-5, 1e-6);
      Near.assertNear(
          "kl", out.values().kl().toFloats(), data.reference(options.policy()).kl(), 1e-5, 2e-6);
    }
  }

  @Test
  void gradientAgreesWithFiniteDifferencesOfTheWholeLoss() {
    for (Objective objective : new Objective[] {Objective.PPO_CLIP, Objective.GSPO}) {
      Data data = Data.of(4, 11, 3, 4);
      Options options = options(objective);
      float[] gradient;
      try (Context context = Contexts.one();
          Scope scope = context.scope()) {
        var out = PolicyLossFromLogits.forward(scope, data.inputs(scope, DType.F32), options);
        gradient = out.dLogits().toFloats();
      }
      for (int i = 0; i < data.logits.length; i++) {
        float at = data.logits[i];
        double[] loss = new double[2];
        float[] x = {at - 1e-3f, at + 1e-3f};
        for (int side = 0; side < 2; side++) {
          data.logits[i] = x[side];
          loss[side] = data.loss(options);
        }
        data.logits[i] = at;
        double want = (loss[1] - loss[0]) / ((double) x[1] - x[0]);
        assertThat((double) gradient[i]).isCloseTo(want, within(2e-6));
      }
    }
  }

  private static List<float[]> floats(Outputs out) {
    return Stream.of(
            out.values().loss(),
            out.values().tokenLoss(),
            out.values().metrics(),
            out.values().logProb(),
            out.values().entropy(),
            out.values().lse(),
            out.values().kl(),
            out.dLogits())
        .map(Tensor::toFloats)
        .toList();
  }

  private static void assertSame(List<float[]> got, List<float[]> want) {
    for (int i = 0; i < got.size(); i++) {
      boolean gradient = i == 7;
      Near.assertSame("result " + i, got.get(i), want.get(i), gradient ? 0 : 5e-7);
    }
  }

  @ParameterizedTest
  @EnumSource
  void bitsDoNotDependOnTheThreadCount(Objective objective) {
    Data data = Data.of(5, 3000, RAGGED);
    List<float[]> first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        List<float[]> all =
            floats(
                PolicyLossFromLogits.forward(
                    scope, data.inputs(scope, DType.F32), options(objective)));
        first = first == null ? all : first;
        assertSame(all, first);
      }
    }
  }

  /** Twice the error of the final rounding, against the f32 result on the same 16-bit values. */
  @ParameterizedTest
  @EnumSource(names = {"BF16", "F16"})
  void sixteenBitLogits(DType dtype) {
    Data data = Data.of(6, 531, RAGGED);
    double unit = dtype == DType.BF16 ? 0x1p-8 : 0x1p-11;
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        Tensor narrow = Tensor.empty(scope, dtype, data.rows(), 531).copyFrom(data.logits);
        Tensor wide = Tensor.of(scope, narrow.toFloats(), data.rows(), 531);
        Options options = options(Objective.PPO_CLIP);
        var want = PolicyLossFromLogits.forward(scope, data.inputs(scope, wide), options);
        var got = PolicyLossFromLogits.forward(scope, data.inputs(scope, narrow), options);
        assertSame(floats(got).subList(0, 7), floats(want).subList(0, 7));
        float[] w = want.dLogits().toFloats();
        float[] g = got.dLogits().toFloats();
        double[] exact = new double[w.length];
        Arrays.setAll(exact, i -> w[i]);
        Near.assertNear("d_logits", g, exact, unit, 0x1p-24);
        // An f32 gradient of 16-bit logits is not rounded.
        Tensor dx = Tensor.empty(scope, DType.F32, data.rows(), 531);
        Tensor loss = Tensor.empty(scope, DType.F32, 1);
        PolicyLossFromLogits.forward(
            context, data.inputs(scope, narrow), options, new Outputs(Values.of(loss), dx));
        Near.assertSame("d_logits", dx.toFloats(), w);
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void theGradientMayTakeThePlaceOfTheLogits(Objective objective) {
    Data data = Data.of(7, 70, RAGGED);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      var want =
          PolicyLossFromLogits.forward(scope, data.inputs(scope, DType.F32), options(objective));
      // In the middle of wider rows, whose padding stays.
      float[] wide = new float[data.rows() * 80];
      Arrays.fill(wide, 777f);
      Tensor all = Tensor.of(scope, wide, data.rows(), 80);
      Tensor logits = all.columns(3, 73).copyFrom(data.logits);
      Tensor loss = Tensor.empty(scope, DType.F32, 1);
      PolicyLossFromLogits.forward(
          context,
          data.inputs(scope, logits),
          options(objective),
          new Outputs(Values.of(loss), logits));
      Near.assertSame("loss", loss.toFloats(), want.values().loss().toFloats());
      Near.assertSame("d_logits", logits.toFloats(), want.dLogits().toFloats());
      float[] after = all.toFloats();
      for (int i = 0; i < after.length; i++) {
        if (i % 80 < 3 || i % 80 >= 73) {
          assertThat(after[i]).isEqualTo(777f);
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void knownLogProbabilitiesTakeThePlaceOfComputedOnes(Objective objective) {
    Data data = Data.of(8, 300, RAGGED);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Inputs inputs = data.inputs(scope, DType.F32);
      Options options = options(objective);
      var want = PolicyLossFromLogits.forward(scope, inputs, options);
      Tensor known =
          TokenLogProbs.forward(
                  scope,
                  inputs.logits(),
                  inputs.targets(),
                  TokenLogProbs.Options.DEFAULT.withTemperature(TEMPERATURE))
              .logProb();
      PolicyLoss.Inputs p = inputs.policy();
      var got =
          PolicyLossFromLogits.forward(
              scope,
              new Inputs(
                  inputs.logits(),
                  inputs.targets(),
                  new PolicyLoss.Inputs(
                      known,
                      p.oldLogProb(),
                      p.refLogProb(),
                      p.advantage(),
                      p.mask(),
                      p.isWeight(),
                      p.offsets(),
                      null,
                      null)),
              options);
      assertSame(floats(got), floats(want));
    }
  }

  @ParameterizedTest
  @EnumSource
  void inactiveRowsMayHoldAnything(Objective objective) {
    Data clean = Data.of(9, 50, RAGGED);
    Data garbage = Data.of(9, 50, RAGGED);
    float[] junk = {NAN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY, Float.MAX_VALUE};
    int[] targets = {-1, 50, Integer.MAX_VALUE, Integer.MIN_VALUE};
    for (int r = 0; r < clean.rows(); r++) {
      if (!clean.active(r)) {
        Arrays.fill(garbage.logits, r * 50, (r + 1) * 50, junk[r % 4]);
        garbage.old[r] = junk[(r + 1) % 4];
        garbage.ref[r] = junk[(r + 2) % 4];
        garbage.advantage[r] = junk[(r / 4) % 4];
        garbage.weight[r] = junk[(r / 2) % 4];
        if (clean.mask[r] == 0) {
          garbage.targets[r] = targets[r % 4];
        }
      }
    }
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        assertSame(
            floats(
                PolicyLossFromLogits.forward(
                    scope, garbage.inputs(scope, DType.F32), options(objective))),
            floats(
                PolicyLossFromLogits.forward(
                    scope, clean.inputs(scope, DType.F32), options(objective))));
      }
    }
  }

  /** NaN, +inf, only -inf, a target outside, a broken log-probability: one row each time. */
  @ParameterizedTest
  @EnumSource
  void brokenRowsStayInTheirSequence(Objective objective) {
    Options options = options(objective);
    Data clean = Data.of(10, 50, RAGGED);
    int begin = clean.offsets[5];
    int end = clean.offsets[6];
    int row = begin + 4;
    clean.mask[row] = 1;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      var want = PolicyLossFromLogits.forward(scope, clean.inputs(scope, DType.F32), options);
      for (int kind = 0; kind < 5; kind++) {
        Data data = Data.of(10, 50, RAGGED);
        data.mask[row] = 1;
        int at = row * 50 + 13;
        switch (kind) {
          case 0 -> data.logits[at] = NAN;
          case 1 -> data.logits[at] = Float.POSITIVE_INFINITY;
          case 2 -> Arrays.fill(data.logits, row * 50, (row + 1) * 50, Float.NEGATIVE_INFINITY);
          case 3 -> data.targets[row] = 50;
          default -> data.ref[row] = NAN;
        }
        var got = PolicyLossFromLogits.forward(scope, data.inputs(scope, DType.F32), options);
        assertThat(got.values().loss().item()).isNaN();
        assertThat(got.values().tokenLoss().toFloats()[row]).isNaN();
        float[] gradient = got.dLogits().toFloats();
        float[] wanted = want.dLogits().toFloats();
        for (int j = 0; j < 50; j++) {
          assertThat(gradient[row * 50 + j]).isNaN();
        }
        for (int i = 0; i < gradient.length; i++) {
          if (i < begin * 50 || i >= end * 50) {
            assertThat(gradient[i]).isEqualTo(wanted[i]);
          }
        }
        for (int i : new int[] {1, 3, 4, 5, 6}) { // per-row results
          float[] g = floats(got).get(i);
          float[] w = floats(want).get(i);
          for (int r = 0; r < g.length; r++) {
            if (r < begin || r >= end) {
              assertThat(g[r]).isEqualTo(w[r]);
            }
          }
        }
      }
    }
  }

  @Test
  void maskedTokensGetNoGradient() {
    Data data = Data.of(11, 40, 3);
    Arrays.fill(data.mask, (byte) 1);
    for (int r = 0; r < 3; r++) {
      data.targets[r] = 5;
      for (int j = 10; j < 30; j++) {
        data.logits[r * 40 + j] = Float.NEGATIVE_INFINITY;
      }
    }
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[] gradient =
          PolicyLossFromLogits.forward(
                  scope, data.inputs(scope, DType.F32), options(Objective.PPO_CLIP))
              .dLogits()
              .toFloats();
      for (int r = 0; r < 3; r++) {
        for (int j = 10; j < 30; j++) {
          assertThat(gradient[r * 40 + j]).isZero();
        }
        double sum = 0;
        for (int j = 0; j < 40; j++) {
          sum += gradient[r * 40 + j];
        }
        assertThat(sum).isCloseTo(0, within(1e-6));
        assertThat(gradient[r * 40]).isNotZero();
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void nothingActiveGivesZeros(Objective objective) {
    try (Context context = Contexts.one()) {
      for (int[] lengths : new int[][] {{}, {0}, {5, 0, 20}}) {
        Data data = Data.of(12, 20, lengths);
        Arrays.fill(data.mask, (byte) 0);
        Arrays.fill(data.logits, NAN);
        try (Scope scope = context.scope()) {
          for (float[] zeros :
              floats(
                  PolicyLossFromLogits.forward(
                      scope, data.inputs(scope, DType.F32), options(objective)))) {
            for (float zero : zeros) {
              assertThat(zero).isZero();
            }
          }
        }
      }
    }
  }

  @Test
  void onlyTheLossIsRequired() {
    Data data = Data.of(13, 64, RAGGED);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      for (Objective objective : Objective.values()) {
        Tensor loss = Tensor.empty(scope, DType.F32, 1);
        PolicyLossFromLogits.forward(
            context,
            data.inputs(scope, DType.F32),
            options(objective),
            new Outputs(Values.of(loss), null));
        assertThat(loss.item())
            .isEqualTo(
                PolicyLossFromLogits.forward(
                        scope, data.inputs(scope, DType.F32), options(objective))
                    .values()
                    .loss()
                    .item());
      }
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    Data data = Data.of(14, 9, 4);
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Options d = Options.DEFAULT;
      Inputs good = data.inputs(scope, DType.F32);
      Object[][] options = {
        {d.withTemperature(0), "temperature: expected a finite number above 0, got 0"},
        {d.withEntropyCoef(NAN), "entropy_coef: expected a finite number, got nan"},
        {d.withPolicy(d.policy().withClipLow(2)), "clip_low: expected 0 to 1, got 2"},
      };
      for (Object[] bad : options) {
        assertThatThrownBy(() -> PolicyLossFromLogits.forward(scope, good, (Options) bad[0]))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("policy_loss_from_logits: " + bad[1]);
      }
      Tensor loss = Tensor.zeros(scope, DType.F32, 1);
      Tensor x = good.logits();
      Tensor wrong = Tensor.zeros(scope, DType.F32, 5);
      Object[][] inputs = {
        {
          new Inputs(Tensor.zeros(scope, DType.I32, 4, 9), good.targets(), good.policy()),
          "logits: expected f32 or bf16 or f16[*, *], got i32[4, 9]"
        },
        {new Inputs(x, wrong, good.policy()), "targets: expected i32[4], got f32[5]"},
        {
          new Inputs(Tensor.zeros(scope, DType.F32, 4, 0), good.targets(), good.policy()),
          "vocabulary: expected 1 to 2147483647, got 0"
        },
        {
          new Inputs(x, good.targets(), good.policy().withMask(wrong)),
          "mask: expected u8[4], got f32[5]"
        },
      };
      for (Object[] bad : inputs) {
        assertThatThrownBy(
                () ->
                    PolicyLossFromLogits.forward(
                        context, (Inputs) bad[0], d, new Outputs(Values.of(loss), null)))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("policy_loss_from_logits: " + bad[1]);
      }
      Object[][] outputs = {
        {new Outputs(Values.of(wrong), null), "loss: expected f32[1]"},
        {
          new Outputs(new Values(loss, null, null, null, wrong, null, null), null),
          "entropy: expected f32[4], got f32[5]"
        },
        {
          new Outputs(Values.of(loss), Tensor.zeros(scope, DType.BF16, 4, 9)),
          "d_logits_dtype: expected the dtype of the logits, or f32, got 1"
        },
        {
          new Outputs(Values.of(loss), x.columns(0, 8)),
          "d_logits: expected f32 or bf16 or f16[4, 9], got f32[4, 8]"
        },
        {
          new Outputs(
              new Values(loss, null, null, x.reshape(36).rows(0, 4), null, null, null), null),
          "log_prob: expected memory that overlaps no input, got an overlap with logits"
        },
      };
      for (Object[] bad : outputs) {
        assertThatThrownBy(() -> PolicyLossFromLogits.forward(context, good, d, (Outputs) bad[0]))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageStartingWith("policy_loss_from_logits: " + bad[1]);
      }
    }
  }
}
