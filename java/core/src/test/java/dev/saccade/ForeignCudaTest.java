package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.bytedeco.cuda.global.cublas.CUBLAS_OP_N;
import static org.bytedeco.cuda.global.cublas.CUBLAS_OP_T;
import static org.bytedeco.cuda.global.cublas.cublasCreate_v2;
import static org.bytedeco.cuda.global.cublas.cublasDestroy_v2;
import static org.bytedeco.cuda.global.cublas.cublasSetStream_v2;
import static org.bytedeco.cuda.global.cublas.cublasSgemm_v2;
import static org.bytedeco.cuda.global.cudart.cudaFree;
import static org.bytedeco.cuda.global.cudart.cudaMalloc;
import static org.bytedeco.cuda.global.cudart.cudaMemcpy;
import static org.bytedeco.cuda.global.cudart.cudaMemcpyAsync;
import static org.bytedeco.cuda.global.cudart.cudaMemcpyDeviceToHost;
import static org.bytedeco.cuda.global.cudart.cudaMemcpyHostToDevice;
import static org.bytedeco.cuda.global.cudart.cudaStreamCreateWithFlags;
import static org.bytedeco.cuda.global.cudart.cudaStreamDestroy;
import static org.bytedeco.cuda.global.cudart.cudaStreamNonBlocking;
import static org.bytedeco.cuda.global.cudart.cudaStreamSynchronize;

import java.util.Arrays;
import java.util.Random;
import org.bytedeco.cuda.cublas.cublasContext;
import org.bytedeco.cuda.cudart.CUstream_st;
import org.bytedeco.cuda.global.cublas;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.IntPointer;
import org.bytedeco.javacpp.Loader;
import org.bytedeco.javacpp.Pointer;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Device memory and a stream that others made: the CUDA runtime and cuBLAS, through their JavaCPP
 * presets.
 */
@OnGpu
class ForeignCudaTest {
  private static final int ROWS = 64;
  private static final int VOCABULARY = 1000;
  private static final int WIDTH = 32;
  private static final int STEPS = 20;

  @BeforeAll
  static void needsTheToolkit() {
    try {
      Loader.load(cublas.class);
    } catch (LinkageError e) {
      Assumptions.abort("no cuBLAS on the library path: " + e.getMessage());
    }
  }

  private static void require(int status) {
    assertThat(status).isZero();
  }

  /** Memory of cudaMalloc, holding a copy of the values. */
  private static FloatPointer device(float[] values) {
    FloatPointer memory = new FloatPointer();
    long bytes = (long) values.length * Float.BYTES;
    require(cudaMalloc(memory, bytes));
    try (FloatPointer host = new FloatPointer(values)) {
      require(cudaMemcpy(memory, host, bytes, cudaMemcpyHostToDevice));
    }
    return memory;
  }

  private static float[] normal(Random random, int size) {
    float[] values = new float[size];
    for (int i = 0; i < size; i++) {
      values[i] = (float) random.nextGaussian();
    }
    return values;
  }

  /**
   * Products of cuBLAS before and after an operation, over and over without waiting: logits = X·Wᵀ,
   * the gradient of Σ log_prob in their place, X = dLogits·W. On a stream of the context's own the
   * two are ordered by events; on cuBLAS's stream by that. Either way the last X is that of a
   * computation which waits after every step.
   */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void productsOfCublasFeedOperationsAndUseTheirResults(boolean sameStream) {
    float[] x = normal(new Random(1), ROWS * WIDTH);
    float[] w = normal(new Random(2), VOCABULARY * WIDTH);
    float[] expected = steps(x, w, sameStream, true);
    for (int i = 0; i < 5; i++) {
      assertThat(steps(x, w, sameStream, false)).containsExactly(expected);
    }
  }

  private static float[] steps(float[] x, float[] w, boolean sameStream, boolean wait) {
    CUstream_st stream = new CUstream_st();
    require(cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking));
    cublasContext handle = new cublasContext();
    require(cublasCreate_v2(handle));
    require(cublasSetStream_v2(handle, stream));
    FloatPointer deviceX = device(x);
    FloatPointer deviceW = device(w);
    FloatPointer deviceLogits = device(new float[ROWS * VOCABULARY]);
    IntPointer deviceTargets = new IntPointer();
    require(cudaMalloc(deviceTargets, (long) ROWS * Integer.BYTES));
    FloatPointer one = new FloatPointer(1f);
    FloatPointer zero = new FloatPointer(0f);
    FloatPointer result = new FloatPointer(x.length);
    // tag::context[]
    Context.Builder builder = Context.builder().device(Device.cuda(0));
    try (Context context = (sameStream ? builder.stream(stream.address()) : builder).build();
        Scope scope = context.scope()) {
      Tensor logits = Tensor.wrap(scope, deviceLogits, DType.F32, ROWS, VOCABULARY);
      // end::context[]
      Tensor targets = Tensor.wrap(scope, deviceTargets, DType.I32, ROWS).zero();
      float[] ones = new float[ROWS];
      Arrays.fill(ones, 1);
      Tensor dLogProb = Tensor.of(scope, ones);
      context.synchronize();
      for (int i = 0; i < STEPS; i++) {
        // To cuBLAS, which thinks in columns, matrices are transposed and factors change places.
        require(
            cublasSgemm_v2(
                handle,
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                VOCABULARY,
                ROWS,
                WIDTH,
                one,
                deviceW,
                WIDTH,
                deviceX,
                WIDTH,
                zero,
                deviceLogits,
                VOCABULARY));
        // tag::order[]
        if (!sameStream) {
          context.waitFor(stream.address()); // what cuBLAS was given before comes first
        }
        TokenLogProbs.backward(
            context, logits, targets, TokenLogProbs.Options.DEFAULT, dLogProb, null, logits);
        if (!sameStream) {
          context.signal(stream.address()); // what cuBLAS is given from here on comes later
        }
        // end::order[]
        require(
            cublasSgemm_v2(
                handle,
                CUBLAS_OP_N,
                CUBLAS_OP_N,
                WIDTH,
                ROWS,
                VOCABULARY,
                one,
                deviceW,
                WIDTH,
                deviceLogits,
                VOCABULARY,
                zero,
                deviceX,
                WIDTH));
        if (wait) {
          context.synchronize();
          require(cudaStreamSynchronize(stream));
        }
      }
      require(
          cudaMemcpyAsync(
              result, deviceX, (long) x.length * Float.BYTES, cudaMemcpyDeviceToHost, stream));
      require(cudaStreamSynchronize(stream));
      float[] values = new float[x.length];
      result.get(values);
      return values;
    } finally {
      require(cublasDestroy_v2(handle));
      for (Pointer memory : new Pointer[] {deviceX, deviceW, deviceLogits, deviceTargets}) {
        require(cudaFree(memory));
      }
      require(cudaStreamDestroy(stream));
    }
  }

  @Test
  void memoryOfTheCudaRuntimeIsInPlace() {
    FloatPointer memory = device(new float[] {1, 2, 3, 4, 5, 6});
    try (Context context = Context.cuda(0);
        Scope scope = context.scope();
        FloatPointer host = new FloatPointer(6)) {
      Tensor tensor = Tensor.wrap(scope, memory, DType.F32, 2, 3);
      assertThat(tensor.address()).isEqualTo(memory.address());
      assertThat(tensor.toFloats()).containsExactly(1, 2, 3, 4, 5, 6);
      Tensor gaps =
          Tensor.wrap(
              scope, memory.address(), memory, DType.F32, new long[] {2, 2}, new long[] {3, 1});
      Axpby.apply(context, 1, Tensor.of(scope, new float[] {10, 20, 40, 50}, 2, 2), 2, gaps);
      context.synchronize();
      require(cudaMemcpy(host, memory, 6L * Float.BYTES, cudaMemcpyDeviceToHost));
      float[] values = new float[6];
      host.get(values);
      assertThat(values).containsExactly(12, 24, 3, 48, 60, 6);
    } finally {
      require(cudaFree(memory));
    }
  }
}
