package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.GradNorm.Options;
import dev.saccade.reference.GradNormReference;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;

class GradNormTest {
  private static List<float[]> gradients(int... sizes) {
    Random random = new Random(sizes.length);
    List<float[]> gradients = new ArrayList<>();
    for (int n : sizes) {
      float[] x = new float[n];
      for (int i = 0; i < n; i++) {
        x[i] = (float) random.nextGaussian();
      }
      gradients.add(x);
    }
    return gradients;
  }

  private static GradNorm.Outputs forward(Scope scope, List<float[]> gradients, float maxNorm) {
    List<Tensor> tensors = gradients.stream().map(x -> Tensor.of(scope, x)).toList();
    return GradNorm.forward(scope, tensors, new Options(maxNorm));
  }

  @Test
  void agreesWithDoublePrecisionOnEveryInstructionSet() {
    // Nothing, empty tensors, around every vector width, many in a block, one over several blocks.
    int[][] shapes = {
      {}, {0}, {0, 0}, {1}, {7, 8, 9}, {15, 0, 16, 17, 31, 32, 33}, {32_767, 1, 32_769}, {100_003}
    };
    for (Context context : Contexts.every()) {
      try (context) {
        for (int[] sizes : shapes) {
          List<float[]> gradients = gradients(sizes);
          double norm = GradNormReference.norm(gradients);
          for (float maxNorm : new float[] {0.5f, 1e6f}) {
            try (Scope scope = context.scope()) {
              var out = forward(scope, gradients, maxNorm);
              double[] scale = {Math.min(1, maxNorm / (norm + 1e-6))};
              Near.assertNear("norm", out.norm().toFloats(), new double[] {norm}, 1e-7, 0);
              Near.assertNear("scale", out.scale().toFloats(), scale, 1e-7, 0);
            }
          }
        }
      }
    }
  }

  @Test
  void squaresNeitherOverflowNorVanish() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      float[] huge = {3e30f, 4e30f};
      float[] tiny = {3e-30f, 4e-30f};
      Near.assertNear(
          "huge", forward(scope, List.of(huge), 1).norm().toFloats(), new double[] {5e30}, 1e-6, 0);
      Near.assertNear(
          "tiny",
          forward(scope, List.of(tiny), 1).norm().toFloats(),
          new double[] {5e-30},
          1e-6,
          0);
    }
  }

  @Test
  void notFiniteGradientGivesAScaleOfNan() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      for (float bad : new float[] {Float.NaN, Float.NEGATIVE_INFINITY}) {
        var out = forward(scope, List.of(new float[40], new float[] {1, bad, 2}), 1);
        assertThat(Float.isFinite(out.norm().item())).isFalse();
        assertThat(out.scale().item()).isNaN();
      }
    }
  }

  @Test
  void bitsDoNotDependOnTheThreadCount() {
    List<float[]> gradients = gradients(100_003, 5, 70_000, 1, 33_000);
    Float first = null;
    for (int threads : new int[] {1, 2, 3}) {
      try (Context context = Context.builder().threads(threads).build();
          Scope scope = context.scope()) {
        float norm = forward(scope, gradients, 1).norm().item();
        first = first == null ? norm : first;
        assertThat(norm).isEqualTo(first);
      }
    }
  }

  @Test
  void scaleIsOptionalAndShapesAreFree() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor norm = Tensor.empty(scope, DType.F32, 1);
      GradNorm.forward(
          context,
          List.of(Tensor.of(scope, new float[] {1, 1, 1, 1}, 2, 2)),
          new Options(0),
          new GradNorm.Outputs(norm, null));
      assertThat(norm.item()).isEqualTo(2);
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    try (Context context = Contexts.one();
        Scope scope = context.scope()) {
      Tensor g = Tensor.zeros(scope, DType.F32, 4);
      Tensor half = Tensor.zeros(scope, DType.BF16, 4);
      assertThatThrownBy(() -> GradNorm.forward(scope, List.of(g, half), Options.DEFAULT))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("grad_norm: entries[1].grad: expected f32[4], got bf16[4]");
      Tensor gaps = Tensor.zeros(scope, DType.F32, 4, 4).columns(0, 3);
      assertThatThrownBy(() -> GradNorm.forward(scope, List.of(gaps), Options.DEFAULT))
          .hasMessageContaining("entries[0].grad: expected a dense tensor");
      assertThatThrownBy(() -> GradNorm.forward(scope, List.of(g), new Options(0)))
          .hasMessage("grad_norm: max_norm: expected a finite number above 0, got 0");
      assertThatThrownBy(
              () ->
                  GradNorm.forward(
                      context,
                      List.of(g),
                      Options.DEFAULT,
                      new GradNorm.Outputs(g.rows(0, 1), null)))
          .hasMessage(
              "grad_norm: norm: expected memory that overlaps no input, got an overlap with grad");
      assertThatThrownBy(
              () ->
                  GradNorm.forward(
                      context,
                      List.of(g),
                      Options.DEFAULT,
                      new GradNorm.Outputs(Tensor.zeros(scope, DType.F32, 1), g)))
          .hasMessage("grad_norm: scale: expected f32[1], got f32[4]");
    }
  }
}
