package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

/** What needs no provider; the numbers are tested where one is, in saccade-train. */
class GemmTest {
  @Test
  void saysWhichModuleBringsAProvider() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor a = Tensor.zeros(scope, DType.F32, 2, 3);
      Tensor b = Tensor.zeros(scope, DType.F32, 3, 4);
      assertThatThrownBy(() -> Gemm.multiply(scope, a, b, Gemm.Options.DEFAULT))
          .isInstanceOf(UnsupportedException.class)
          .hasMessageContaining("saccade_context_set_gemm")
          .hasMessageContaining("saccade-train");
      context.setGemm(0);
      assertThatThrownBy(() -> Gemm.multiply(scope, a, b, Gemm.Options.DEFAULT))
          .isInstanceOf(UnsupportedException.class);
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    Gemm.Options plain = Gemm.Options.DEFAULT;
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      Tensor a = Tensor.zeros(scope, DType.F32, 2, 3);
      Tensor b = Tensor.zeros(scope, DType.F32, 3, 4);
      Tensor c = Tensor.zeros(scope, DType.F32, 2, 4);
      assertThatThrownBy(() -> Gemm.multiply(context, b, a, plain, c))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("gemm: a: expected f32[2, *], got f32[3, 4]");
      assertThatThrownBy(() -> Gemm.multiply(context, a, b, plain.withTransA(true), c))
          .hasMessage("gemm: a: expected f32[*, 2], got f32[2, 3]");
      assertThatThrownBy(() -> Gemm.multiply(context, a, c, plain, c))
          .hasMessage("gemm: b: expected f32[3, 4], got f32[2, 4]");
      assertThatThrownBy(() -> Gemm.multiply(context, a, b, plain.withTransB(true), c))
          .hasMessage("gemm: b: expected f32[4, 3], got f32[3, 4]");
      assertThatThrownBy(() -> Gemm.multiply(context, a, b, plain, null))
          .hasMessage("gemm: c: expected f32[*, *], got null");
      assertThatThrownBy(
              () -> Gemm.multiply(context, Tensor.zeros(scope, DType.BF16, 2, 3), b, plain, c))
          .hasMessage("gemm: a: expected f32[2, *], got bf16[2, 3]");
      assertThatThrownBy(() -> Gemm.multiply(scope, a, b, plain.withBeta(1)))
          .hasMessage("gemm: beta: expected 0 where C is new, got 1.0");
      Tensor square = Tensor.zeros(scope, DType.F32, 3, 3);
      assertThatThrownBy(() -> Gemm.multiply(context, square, square.reshape(3, 3), plain, square))
          .hasMessage("gemm: c: expected memory that overlaps no input, got an overlap with a");
      assertThat(c.toFloats()).containsOnly(0f);
    }
  }

  @Test
  void rejectsSizesAndStridesThatTheProviderCannotTake() {
    try (Context context = Context.cpu();
        Scope scope = context.scope()) {
      // Nothing is read before the sizes are checked; the address stands for memory that is not
      // there.
      Tensor huge = Tensor.wrap(scope, 64, null, DType.F32, 1, 1L << 31);
      Tensor c = Tensor.zeros(scope, DType.F32, 1, 1);
      assertThatThrownBy(
              () -> Gemm.multiply(context, huge, huge, Gemm.Options.DEFAULT.withTransB(true), c))
          .hasMessage("gemm: k: expected 0 to 2147483647, got 2147483648");
      Tensor strided = huge.columns(0, 1);
      assertThatThrownBy(() -> Gemm.multiply(context, strided, c, Gemm.Options.DEFAULT, c))
          .hasMessage("gemm: a_stride: expected 0 to 2147483647, got 2147483648");
    }
  }
}
