package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.AdamW.Options;
import dev.saccade.AdamW.Parameter;
import dev.saccade.AdamW.Scalars;
import dev.saccade.reference.AdamWReference;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

class AdamWTest {
  /**
   * Empty, one, around every vector width, small ones that share a block, ones that span blocks.
   */
  private static final int[] SIZES = {
    0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 0, 4097, 16384, 40_003, 2
  };

  private static final Options OPTIONS = new Options(3e-3f, 0.9f, 0.95f, 1e-8f, 0.25f);

  private static float[] gaussian(Random random, int n, double scale) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) (scale * random.nextGaussian());
    }
    return x;
  }

  private static List<Parameter> parameters(Scope scope, long seed) {
    Random random = new Random(seed);
    List<Parameter> parameters = new ArrayList<>();
    for (int n : SIZES) {
      float[] v = gaussian(random, n, 0.01);
      for (int i = 0; i < n; i++) {
        v[i] = Math.abs(v[i]);
      }
      parameters.add(
          new Parameter(
              Tensor.of(scope, gaussian(random, n, 1)),
              Tensor.of(scope, gaussian(random, n, 1)),
              Tensor.of(scope, gaussian(random, n, 0.1)),
              Tensor.of(scope, v),
              parameters.size() % 2 == 0 ? Tensor.empty(scope, DType.BF16, n) : null,
              parameters.size() % 3 * 0.1f));
    }
    return parameters;
  }

  @Test
  void agreesWithDoublePrecisionOnEveryInstructionSet() {
    for (Context context : Contexts.every()) {
      try (context;
          Scope scope = context.scope()) {
        List<Parameter> parameters = parameters(scope, 1);
        List<AdamWReference[]> references = new ArrayList<>();
        for (Parameter parameter : parameters) {
          float[] p = parameter.param().toFloats();
          float[] m = parameter.m().toFloats();
          float[] v = parameter.v().toFloats();
          AdamWReference[] reference = new AdamWReference[p.length];
          for (int i = 0; i < p.length; i++) {
            reference[i] = new AdamWReference(p[i], m[i], v[i]);
          }
          references.add(reference);
        }
        for (int step = 1; step <= 3; step++) {
          AdamW.step(context, parameters, OPTIONS, step);
        }
        for (int t = 0; t < parameters.size(); t++) {
          Parameter parameter = parameters.get(t);
          AdamWReference[] reference = references.get(t);
          int n = reference.length;
          float[] g = parameter.grad().toFloats();
          double[][] want = new double[3][n];
          for (int i = 0; i < n; i++) {
            for (int step = 1; step <= 3; step++) {
              reference[i].step(
                  0.25 * g[i], 3e-3f, 0.9f, 0.95f, 1e-8f, parameter.weightDecay(), step);
            }
            want[0][i] = reference[i].param;
            want[1][i] = reference[i].m;
            want[2][i] = reference[i].v;
          }
          float[] p = parameter.param().toFloats();
          Near.assertNear("param", p, want[0], 3e-7, 2e-7);
          Near.assertNear("m", parameter.m().toFloats(), want[1], 3e-7, 3e-8);
          Near.assertNear("v", parameter.v().toFloats(), want[2], 5e-7, 1e-12);
          if (parameter.paramBf16() != null) {
            float[] copy = parameter.paramBf16().toFloats();
            for (int i = 0; i < n; i++) {
              assertThat(copy[i]).isEqualTo(DType.bf16ToFloat(DType.floatToBf16(p[i])));
            }
          }
        }
      }
    }
  }

  @Test
  void scalarsTakeThePlaceOfOptions() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      List<Parameter> plain = parameters(scope, 2);
      List<Parameter> replayed = parameters(scope, 2);
      AdamW.step(context, plain, OPTIONS, 17);
      Tensor skipped = Tensor.of(scope, new int[] {5});
      AdamW.step(
          context,
          replayed,
          OPTIONS.withLr(Float.NaN).withGradScale(Float.NaN),
          0,
          Scalars.NONE
              .withLr(Tensor.of(scope, new float[] {3e-3f}))
              .withGradScale(Tensor.of(scope, new float[] {0.25f}))
              .withStep(Tensor.of(scope, new long[] {17}, new long[] {1}))
              .withSkipped(skipped));
      assertThat(skipped.toInts()).containsExactly(5);
      for (int t = 0; t < plain.size(); t++) {
        assertThat(replayed.get(t).param().toFloats()).isEqualTo(plain.get(t).param().toFloats());
        assertThat(replayed.get(t).v().toFloats()).isEqualTo(plain.get(t).v().toFloats());
      }
    }
  }

  @Test
  void notFiniteScaleSkipsTheWholeStep() {
    float inf = Float.POSITIVE_INFINITY;
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      List<Parameter> parameters = parameters(scope, 3);
      List<Parameter> untouched = parameters(scope, 3);
      Tensor skipped = Tensor.zeros(scope, DType.I32, 1);
      for (float scale : new float[] {Float.NaN, inf, -inf}) {
        AdamW.step(
            context,
            parameters,
            OPTIONS,
            1,
            Scalars.NONE.withGradScale(Tensor.of(scope, new float[] {scale})).withSkipped(skipped));
      }
      assertThat(skipped.toInts()).containsExactly(3);
      for (int t = 0; t < parameters.size(); t++) {
        Parameter got = parameters.get(t);
        Parameter want = untouched.get(t);
        assertThat(got.param().toFloats()).isEqualTo(want.param().toFloats());
        assertThat(got.m().toFloats()).isEqualTo(want.m().toFloats());
        assertThat(got.v().toFloats()).isEqualTo(want.v().toFloats());
        if (got.paramBf16() != null) {
          float[] p = want.param().toFloats();
          float[] copy = got.paramBf16().toFloats();
          for (int i = 0; i < p.length; i++) {
            assertThat(copy[i]).isEqualTo(DType.bf16ToFloat(DType.floatToBf16(p[i])));
          }
        }
      }
    }
  }

  @Test
  void clipsByTheScaleOfGradNorm() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor grad = Tensor.of(scope, new float[] {3, 4});
      Parameter parameter = Parameter.of(scope, Tensor.zeros(scope, DType.F32, 2), grad, 0);
      var norm = GradNorm.forward(scope, List.of(grad), new GradNorm.Options(0.5f));
      AdamW.step(
          context,
          List.of(parameter),
          Options.of(1e-3f),
          1,
          Scalars.NONE.withGradScale(norm.scale()));
      Near.assertNear("m", parameter.m().toFloats(), new double[] {0.03, 0.04}, 1e-6, 0);
    }
  }

  @Test
  void decayBelowTheRoundingOfOneIsNotLost() {
    // lr·decay = 2e-8: 1 - lr·decay is 1 in f32.  In units of 2^-24 a step takes 16.44 of gradient
    // and 0.34 of decay, 17
    // after rounding; without the decay it would be 16.
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor param = Tensor.of(scope, new float[] {1});
      Tensor grad = Tensor.of(scope, new float[] {1});
      List<Parameter> parameters = List.of(Parameter.of(scope, param, grad, 0.0204f));
      for (int step = 1; step <= 20; step++) {
        AdamW.step(context, parameters, Options.of(0.98e-6f).withBeta1(0), step);
      }
      assertThat((1 - param.item()) * 0x1p24).isBetween(335.0, 345.0);
    }
  }

  @Test
  void nanGradientBreaksItsOwnWeightOnly() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      List<Parameter> clean = parameters(scope, 4);
      List<Parameter> broken = parameters(scope, 4);
      float[] g = broken.get(12).grad().toFloats();
      g[100] = Float.NaN;
      broken.get(12).grad().copyFrom(g);
      AdamW.step(context, clean, OPTIONS, 1);
      AdamW.step(context, broken, OPTIONS, 1);
      for (int t = 0; t < clean.size(); t++) {
        float[] want = clean.get(t).param().toFloats();
        float[] got = broken.get(t).param().toFloats();
        if (t == 12) {
          assertThat(got[100]).isNaN();
          got[100] = want[100];
        }
        assertThat(got).isEqualTo(want);
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    List<float[]> first = null;
    for (int threads : new int[] {1, 2, 3}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        List<Parameter> parameters = parameters(scope, 5);
        AdamW.step(context, parameters, OPTIONS, 2);
        List<float[]> all = parameters.stream().map(p -> p.param().toFloats()).toList();
        if (first == null) {
          first = all;
        }
        for (int t = 0; t < all.size(); t++) {
          assertThat(all.get(t)).isEqualTo(first.get(t));
        }
      }
    }
  }

  @Test
  void nothingToDo() {
    try (Context context = Contexts.one()) {
      AdamW.step(context, List.of(), OPTIONS, 1);
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor p = Tensor.zeros(scope, DType.F32, 2, 3);
      Tensor g = Tensor.zeros(scope, DType.F32, 2, 3);
      Parameter good = Parameter.of(scope, p, g, 0);
      List<Parameter> list = List.of(good);
      Object[][] options = {
        {OPTIONS.withLr(-1), "lr: expected a finite number of at least 0, got -1"},
        {OPTIONS.withLr(Float.POSITIVE_INFINITY), "lr: expected a finite number"},
        {OPTIONS.withBeta1(1), "beta1: expected at least 0 and below 1, got 1"},
        {OPTIONS.withBeta2(-0.1f), "beta2: expected at least 0 and below 1, got -0.1"},
        {OPTIONS.withEps(0), "eps: expected a finite number above 0, got 0"},
        {OPTIONS.withGradScale(Float.NaN), "grad_scale: expected a finite number, got nan"},
      };
      for (Object[] bad : options) {
        assertThatThrownBy(() -> AdamW.step(context, list, (Options) bad[0], 1))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageStartingWith("adamw: " + bad[1]);
      }
      assertThatThrownBy(() -> AdamW.step(context, list, OPTIONS, 0))
          .hasMessage("adamw: step: expected at least 1, got 0");
      Tensor[] own = new Tensor[3];
      Arrays.setAll(own, i -> Tensor.zeros(scope, DType.F32, 2, 3));
      Object[][] parameters = {
        {
          new Parameter(null, g, good.m(), good.v(), null, 0),
          "entries[1].param: expected f32 of any shape, got null"
        },
        {
          new Parameter(p, g.reshape(6), good.m(), good.v(), null, 0),
          "entries[1].grad: expected f32[2, 3], got f32[6]"
        },
        {
          new Parameter(p, g, good.m(), good.v(), g, 0),
          "entries[1].param_bf16: expected bf16[2, 3], got f32[2, 3]"
        },
        {
          good.withParamBf16(Tensor.zeros(scope, DType.BF16, 2, 4).columns(0, 3)),
          "entries[1].param_bf16: expected a dense tensor"
        },
        {
          new Parameter(p, g, good.m(), good.v(), null, -1),
          "entries[1].weight_decay: expected a finite number of at least 0, got -1"
        },
        {
          new Parameter(p, p, good.m(), good.v(), null, 0),
          "entries[1].param: expected memory that overlaps no input, got an overlap with grad"
        },
        {
          new Parameter(p, g, good.m(), good.m(), null, 0),
          "entries[1].m: expected memory that overlaps no input, got an overlap with v"
        },
        {
          new Parameter(own[0], own[1], good.m(), own[2], null, 0),
          "entries[1].m: expected memory that overlaps no other entry, got an overlap with"
              + " entries[0].m"
        },
        {new Parameter(own[0], p, own[1], own[2], null, 0), "entries["},
      };
      for (Object[] bad : parameters) {
        assertThatThrownBy(() -> AdamW.step(context, List.of(good, (Parameter) bad[0]), OPTIONS, 1))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessageStartingWith("adamw: " + bad[1]);
      }
      assertThatThrownBy(
              () ->
                  AdamW.step(
                      context,
                      list,
                      OPTIONS,
                      1,
                      Scalars.NONE.withStep(Tensor.zeros(scope, DType.I32, 1))))
          .hasMessage("adamw: step_scalar: expected i64[1], got i32[1]");
      assertThatThrownBy(
              () ->
                  AdamW.step(
                      context,
                      list,
                      OPTIONS,
                      1,
                      Scalars.NONE.withSkipped(Tensor.zeros(scope, DType.I32, 2))))
          .hasMessage("adamw: skipped: expected i32[1], got i32[2]");
    }
  }
}
