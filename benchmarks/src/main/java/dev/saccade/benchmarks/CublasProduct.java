package dev.saccade.benchmarks;

import static org.bytedeco.cuda.global.cublas.CUBLAS_COMPUTE_32F;
import static org.bytedeco.cuda.global.cublas.CUBLAS_GEMM_DEFAULT;
import static org.bytedeco.cuda.global.cublas.CUBLAS_OP_N;
import static org.bytedeco.cuda.global.cublas.cublasCreate_v2;
import static org.bytedeco.cuda.global.cublas.cublasDestroy_v2;
import static org.bytedeco.cuda.global.cublas.cublasGemmEx;
import static org.bytedeco.cuda.global.cublas.cublasSetStream_v2;
import static org.bytedeco.cuda.global.cudart.CUDA_R_16BF;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import org.bytedeco.cuda.cublas.cublasContext;
import org.bytedeco.cuda.cudart.CUstream_st;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.Pointer;

/**
 * A product of square bf16 matrices by cuBLAS itself: a GPU's ceiling of arithmetic. {@link
 * dev.saccade.Gemm} takes f32 and rounds first.
 */
final class CublasProduct implements AutoCloseable {
  /** Device memory, as JavaCPP wants it named. */
  private static final class Address extends Pointer {
    Address(long address) {
      this.address = address;
    }
  }

  private final cublasContext handle = new cublasContext();
  private final FloatPointer one = new FloatPointer(1.0f);
  private final FloatPointer zero = new FloatPointer(0.0f);
  private final int size;
  private final Tensor a;
  private final Tensor b;
  private final Tensor c;

  /**
   * @throws LinkageError where the toolkit's cuBLAS cannot be loaded
   */
  CublasProduct(Context context, Scope scope, GemmBenchmark.Inputs in) {
    size = in.size();
    a = Tensor.of(scope, DType.BF16, in.a(), size, size);
    b = Tensor.of(scope, DType.BF16, in.b(), size, size);
    c = Tensor.empty(scope, DType.BF16, size, size);
    require(cublasCreate_v2(handle));
    require(cublasSetStream_v2(handle, new CUstream_st(new Address(context.stream()))));
  }

  /** [size, size]. */
  Tensor result() {
    return c;
  }

  /** C = A·B. cuBLAS thinks in columns: to it the factors change places. */
  void run() {
    require(
        cublasGemmEx(
            handle,
            CUBLAS_OP_N,
            CUBLAS_OP_N,
            size,
            size,
            size,
            one,
            new Address(b.address()),
            CUDA_R_16BF,
            size,
            new Address(a.address()),
            CUDA_R_16BF,
            size,
            zero,
            new Address(c.address()),
            CUDA_R_16BF,
            size,
            CUBLAS_COMPUTE_32F,
            CUBLAS_GEMM_DEFAULT));
  }

  private static void require(int status) {
    if (status != 0) {
      throw new IllegalStateException("cuBLAS: status " + status);
    }
  }

  @Override
  public void close() {
    cublasDestroy_v2(handle);
    one.close();
    zero.close();
  }
}
