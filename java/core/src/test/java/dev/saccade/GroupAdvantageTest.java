package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.GroupAdvantage.Estimator;
import dev.saccade.GroupAdvantage.Options;
import dev.saccade.reference.GroupAdvantageReference;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class GroupAdvantageTest {
  private static int[] offsets(int... sizes) {
    int[] offsets = new int[sizes.length + 1];
    for (int g = 0; g < sizes.length; g++) {
      offsets[g + 1] = offsets[g] + sizes[g];
    }
    return offsets;
  }

  private static float[] rewards(Random random, int n, double shift) {
    float[] r = new float[n];
    for (int i = 0; i < n; i++) {
      r[i] = (float) (shift + random.nextGaussian());
    }
    return r;
  }

  private static GroupAdvantage.Outputs forward(
      Scope scope, float[] rewards, int[] offsets, byte[] valid, Options options) {
    return GroupAdvantage.forward(
        scope,
        Tensor.of(scope, rewards),
        Tensor.of(scope, offsets),
        valid == null ? null : Tensor.of(scope, valid),
        options);
  }

  @ParameterizedTest
  @EnumSource
  void agreesWithDoublePrecision(Estimator estimator) {
    // Ragged, empty, single and constant groups, then many small ones: more than one slice of the
    // batch.
    int[] small = new Random(1).ints(3000, 0, 9).toArray();
    int[][] shapes = {{5, 1, 8, 0, 3, 16, 2}, {4097, 0, 2}, {0, 0}, {}, small};
    for (Context context : Contexts.every()) {
      try (context) {
        for (int[] sizes : shapes) {
          int[] offsets = offsets(sizes);
          int n = offsets[sizes.length];
          for (double shift : new double[] {0, 1000}) {
            Random random = new Random(n);
            float[] r = rewards(random, n, shift);
            byte[] valid = new byte[n];
            for (int i = 0; i < n; i++) {
              valid[i] = (byte) (random.nextInt(8) - 1); // 0 in one of eight; -1 is 255
            }
            if (sizes.length > 2) {
              Arrays.fill(r, offsets[2], offsets[3], 0.1f); // a sum that rounds
            }
            for (int ddof : new int[] {0, 1}) {
              for (byte[] members : new byte[][] {valid, null}) {
                var want = new GroupAdvantageReference(r, offsets, members, estimator, 1e-4f, ddof);
                try (Scope scope = context.scope()) {
                  var options = new Options(estimator, 1e-4f, ddof);
                  var out = forward(scope, r, offsets, members, options);
                  float[] advantage = out.advantage().toFloats();
                  Near.assertNear("advantage", advantage, want.advantage, 2e-6, 1e-9);
                  Near.assertNear("mean", out.mean().toFloats(), want.mean, 1e-6, 1e-12);
                  Near.assertNear("std", out.std().toFloats(), want.std, 1e-6, 0);
                  byte[] degenerate = out.degenerate().toBytes();
                  for (int g = 0; g < sizes.length; g++) {
                    assertThat(degenerate[g] == 1).isEqualTo(want.degenerate[g]);
                  }
                }
              }
            }
          }
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void degenerateGroupsGetExactZeros(Estimator estimator) {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[] r = {0.1f, 0.1f, 0.1f, 7, 1, 5, 5};
      byte[] valid = {1, 1, 1, 1, 0, 1, 0};
      var options = Options.DEFAULT.withEstimator(estimator).withEps(0);
      var out = forward(scope, r, offsets(3, 1, 0, 1, 2), valid, options);
      assertThat(out.advantage().toFloats()).containsOnly(0f);
      assertThat(out.std().toFloats()).containsOnly(0f);
      assertThat(out.degenerate().toBytes()).containsOnly(1);
      assertThat(out.mean().toFloats()).containsExactly(0.1f, 7, 0, 0, 5);
    }
  }

  @ParameterizedTest
  @EnumSource
  void invalidMembersEnterNothing(Estimator estimator) {
    Random random = new Random(4);
    float[] clean = rewards(random, 40, 0);
    float[] garbage = clean.clone();
    byte[] valid = new byte[40];
    for (int i = 0; i < 40; i++) {
      valid[i] = (byte) (i % 3 == 0 ? 0 : 1);
      if (valid[i] == 0) {
        garbage[i] = i % 2 == 0 ? Float.NaN : Float.POSITIVE_INFINITY;
      }
    }
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      var options = Options.DEFAULT.withEstimator(estimator);
      var want = forward(scope, clean, offsets(13, 20, 7), valid, options);
      var got = forward(scope, garbage, offsets(13, 20, 7), valid, options);
      assertThat(got.advantage().toFloats()).isEqualTo(want.advantage().toFloats());
      assertThat(got.mean().toFloats()).isEqualTo(want.mean().toFloats());
      assertThat(got.std().toFloats()).isEqualTo(want.std().toFloats());
    }
  }

  @ParameterizedTest
  @EnumSource
  void nanStaysInItsGroupUnlessTheBatchSharesADeviation(Estimator estimator) {
    float[] clean = rewards(new Random(5), 12, 0);
    float[] broken = clean.clone();
    broken[5] = Float.NaN;
    boolean shared =
        estimator == Estimator.BATCH_STD || estimator == Estimator.REINFORCE_PP_BASELINE;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      var options = Options.DEFAULT.withEstimator(estimator);
      float[] want = forward(scope, clean, offsets(4, 4, 4), null, options).advantage().toFloats();
      float[] got = forward(scope, broken, offsets(4, 4, 4), null, options).advantage().toFloats();
      for (int i = 0; i < 12; i++) {
        if (shared || i / 4 == 1) {
          assertThat(got[i]).isNaN();
        } else {
          assertThat(got[i]).isEqualTo(want[i]);
        }
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    int[] sizes = new Random(6).ints(20_000, 0, 9).toArray();
    int[] offsets = offsets(sizes);
    float[] r = rewards(new Random(7), offsets[sizes.length], 3);
    for (Estimator estimator : Estimator.values()) {
      float[] first = null;
      for (int threads : new int[] {1, 2, 3}) {
        try (Context context = Context.builder().threads(threads).build();
            Scope scope = context.scope()) {
          var options = Options.DEFAULT.withEstimator(estimator);
          float[] a = forward(scope, r, offsets, null, options).advantage().toFloats();
          first = first == null ? a : first;
          assertThat(Arrays.equals(a, first)).isTrue();
        }
      }
    }
  }

  @Test
  void statisticsAreOptional() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor advantage = Tensor.empty(scope, DType.F32, 2);
      GroupAdvantage.forward(
          context,
          Tensor.of(scope, new float[] {1, 3}),
          Tensor.of(scope, new int[] {0, 2}),
          null,
          Options.DEFAULT.withEstimator(Estimator.RLOO),
          new GroupAdvantage.Outputs(advantage, null, null, null));
      assertThat(advantage.toFloats()).containsExactly(-2, 2);
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor r = Tensor.zeros(scope, DType.F32, 4);
      Tensor offsets = Tensor.of(scope, new int[] {0, 1, 4});
      var options = Options.DEFAULT;
      assertThatThrownBy(
              () ->
                  GroupAdvantage.forward(
                      scope, Tensor.zeros(scope, DType.F32, 2, 2), offsets, null, options))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("group_advantage: rewards: expected f32[*], got f32[2, 2]");
      assertThatThrownBy(() -> GroupAdvantage.forward(scope, r, r, null, options))
          .hasMessage("group_advantage: offsets: expected i32[*], got f32[4]");
      assertThatThrownBy(
              () ->
                  GroupAdvantage.forward(
                      scope, r, Tensor.zeros(scope, DType.I32, 0), null, options))
          .hasMessage("group_advantage: offsets: expected i32[1] or more, got i32[0]");
      assertThatThrownBy(
              () ->
                  GroupAdvantage.forward(
                      scope, r, offsets, Tensor.zeros(scope, DType.U8, 3), options))
          .hasMessage("group_advantage: valid: expected u8[4], got u8[3]");
      assertThatThrownBy(() -> GroupAdvantage.forward(scope, r, offsets, null, options.withEps(-1)))
          .hasMessage("group_advantage: eps: expected a finite number of at least 0, got -1");
      assertThatThrownBy(
              () -> GroupAdvantage.forward(scope, r, offsets, null, options.withEps(Float.NaN)))
          .hasMessageContaining("eps: expected a finite number of at least 0");
      assertThatThrownBy(
              () -> GroupAdvantage.forward(scope, r, offsets, null, options.withDdof(-1)))
          .hasMessage("group_advantage: ddof: expected at least 0, got -1");
      int[][] bad = {{1, 4}, {0, 3, 2, 4}, {0, 3}, {0, 5}};
      String[] expected = {
        "expected offsets that begin at 0, got 1",
        "expected non-decreasing offsets, got 2 after 3 at 2",
        "expected offsets that end at 4, got 3",
        "expected offsets that end at 4, got 5"
      };
      for (int i = 0; i < bad.length; i++) {
        Tensor wrong = Tensor.of(scope, bad[i]);
        assertThatThrownBy(() -> GroupAdvantage.forward(scope, r, wrong, null, options))
            .hasMessage("group_advantage: offsets: " + expected[i]);
      }
      Tensor out = Tensor.zeros(scope, DType.F32, 2);
      assertThatThrownBy(
              () ->
                  GroupAdvantage.forward(
                      context,
                      r,
                      offsets,
                      null,
                      options,
                      new GroupAdvantage.Outputs(r, out, null, null)))
          .hasMessageContaining("advantage: expected memory that overlaps no input");
      assertThatThrownBy(
              () ->
                  GroupAdvantage.forward(
                      context,
                      r,
                      offsets,
                      null,
                      options,
                      new GroupAdvantage.Outputs(out, null, null, null)))
          .hasMessage("group_advantage: advantage: expected f32[4], got f32[2]");
      assertThatThrownBy(
              () ->
                  GroupAdvantage.forward(
                      context,
                      r,
                      offsets,
                      null,
                      options,
                      new GroupAdvantage.Outputs(
                          Tensor.zeros(scope, DType.F32, 4), null, null, out)))
          .hasMessage("group_advantage: degenerate: expected u8[2], got f32[2]");
    }
  }
}
