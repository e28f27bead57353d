package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_gemm_args;

/**
 * Product of matrices, f32: C = alpha · op(A) · op(B) + beta · C, op the matrix or its transpose.
 *
 * <p>The arithmetic is that of the provider that the context was given ({@link Context#setGemm},
 * {@link Context#setCublas}; the module saccade-train brings OpenBLAS and cuBLAS). On the CPU the
 * product is cut into calls of it by its size only, so the bits do not depend on the thread count.
 */
public final class Gemm {
  private Gemm() {}

  /**
   * @param transA whether A is given as [k, m] instead of [m, k]
   * @param transB whether B is given as [n, k] instead of [k, n]
   * @param alpha multiplies the product
   * @param beta multiplies what C holds; at 0 C is not read
   * @param precision of the factors; the CPU takes f32 only
   */
  public record Options(
      boolean transA, boolean transB, float alpha, float beta, Precision precision) {
    /** C = A·B in f32. */
    public static final Options DEFAULT = new Options(false, false, 1.0f, 0.0f, Precision.F32);

    public Options withTransA(boolean transA) {
      return new Options(transA, transB, alpha, beta, precision);
    }

    public Options withTransB(boolean transB) {
      return new Options(transA, transB, alpha, beta, precision);
    }

    public Options withAlpha(float alpha) {
      return new Options(transA, transB, alpha, beta, precision);
    }

    public Options withBeta(float beta) {
      return new Options(transA, transB, alpha, beta, precision);
    }

    public Options withPrecision(Precision precision) {
      return new Options(transA, transB, alpha, beta, precision);
    }
  }

  /**
   * Computes into a tensor that the caller gives.
   *
   * @param a f32[m, k], or [k, m] where it is transposed; rows may have a stride
   * @param b f32[k, n], or [n, k] where it is transposed; rows may have a stride
   * @param c in and out, f32[m, n]; rows may have a stride; overlaps neither factor
   * @throws InvalidArgumentException if a type or shape is wrong
   * @throws UnsupportedException if the context has no provider, or not the precision
   */
  public static void multiply(Context context, Tensor a, Tensor b, Options options, Tensor c) {
    try (Call call = context.begin("gemm")) {
      var args = call.args(saccade_gemm_args.class, saccade_gemm_args::new);
      args.c(call.strided("c", c, Types.F32, -1, -1)).c_stride(c.stride(0));
      long m = c.shape(0);
      long n = c.shape(1);
      boolean transA = options.transA();
      boolean transB = options.transB();
      args.a(call.strided("a", a, Types.F32, transA ? -1 : m, transA ? m : -1));
      long k = a.shape(transA ? 0 : 1);
      args.b(call.strided("b", b, Types.F32, transB ? n : k, transB ? k : n))
          .m(m)
          .n(n)
          .k(k)
          .a_stride(a.stride(0))
          .b_stride(b.stride(0))
          .trans_a(transA ? 1 : 0)
          .trans_b(transB ? 1 : 0)
          .alpha(options.alpha())
          .beta(options.beta())
          .precision(options.precision().code());
      args.workspace(
          call.workspace(Saccade.saccade_gemm_workspace(context.handle(), args, call.bytes())));
      call.invoke(Saccade.saccade_gemm(context.handle(), args));
    }
  }

  /**
   * Computes into a new tensor f32[m, n] of {@code scope}; beta must be 0.
   *
   * @throws InvalidArgumentException if a type, shape or option is wrong
   * @throws UnsupportedException if the context has no provider, or not the precision
   */
  public static Tensor multiply(Scope scope, Tensor a, Tensor b, Options options) {
    if (options.beta() != 0.0f) {
      throw new InvalidArgumentException(
          "gemm", "beta", "0 where C is new", Float.toString(options.beta()));
    }
    long m = Call.shapeOf(scope, "gemm", "a", a, Types.F32, -1, -1)[options.transA() ? 1 : 0];
    long n = Call.shapeOf(scope, "gemm", "b", b, Types.F32, -1, -1)[options.transB() ? 0 : 1];
    Tensor c = Tensor.empty(scope, DType.F32, m, n);
    multiply(scope.context(), a, b, options, c);
    return c;
  }
}
