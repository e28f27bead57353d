package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Gemm;
import dev.saccade.Graph;
import dev.saccade.Precision;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.UnsupportedException;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledIf;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@link Gemm} with the providers of {@link MatrixProducts}. */
class GemmTest {
  private static float[] gaussian(Random random, int n) {
    float[] x = new float[n];
    for (int i = 0; i < n; i++) {
      x[i] = (float) random.nextGaussian();
    }
    return x;
  }

  /** The matrix in the middle of a wider one whose other elements are 777. */
  private static Tensor padded(Scope scope, float[] values, int rows, int columns, int padding) {
    float[] wide = new float[rows * (columns + 2 * padding)];
    Arrays.fill(wide, 777f);
    Tensor all = Tensor.of(scope, wide, rows, columns + 2 * padding);
    return all.columns(padding, padding + columns).copyFrom(values);
  }

  /**
   * One element; one call; blocks of rows; of rows and columns; slices of k that divide it and that
   * leave a remainder; a single row and a single column; every transposition; strides.
   */
  @ParameterizedTest
  @CsvSource({
    "1, 1, 1, false, false, 1, 0, 0",
    "17, 33, 9, false, false, 1, 0, 1",
    "17, 33, 9, true, false, 2, 0.5, 2",
    "17, 33, 9, false, true, 1, 1, 3",
    "17, 33, 9, true, true, -1, 0, 0",
    "601, 300, 41, false, false, 1, 0, 0",
    "1300, 1030, 17, false, true, 1, 0.5, 5",
    "96, 96, 4096, true, false, 1, 1, 0",
    "33, 47, 20001, false, true, 0.5, -1, 2",
    "96, 512, 3000, true, false, 1, 0, 0",
    "5000, 1, 300, false, false, 1, 0, 0",
    "1, 5000, 300, false, true, 1, 0, 0"
  })
  void agreesWithDoublePrecision(
      int m, int n, int k, boolean transA, boolean transB, float alpha, float beta, int padding) {
    Random random = new Random(m + 31L * n + 961L * k);
    float[] a = gaussian(random, m * k);
    float[] b = gaussian(random, k * n);
    float[] c = gaussian(random, m * n);
    if (beta == 0) {
      Arrays.fill(c, Float.NaN);
    }
    try (Context context = Contexts.open(2);
        Scope scope = context.scope()) {
      Tensor ta = padded(scope, a, transA ? k : m, transA ? m : k, padding);
      Tensor tb = padded(scope, b, transB ? n : k, transB ? k : n, padding);
      int width = n + 2 * padding;
      float[] wide = new float[m * width];
      Arrays.fill(wide, 777f);
      Tensor all = Tensor.of(scope, wide, m, width);
      Tensor tc = all.columns(padding, padding + n).copyFrom(c);
      Gemm.multiply(
          context, ta, tb, new Gemm.Options(transA, transB, alpha, beta, Precision.F32), tc);
      float[] out = tc.toFloats();
      double tolerance = 3e-7 * Math.sqrt(k) * (1 + Math.log(k));
      for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
          double sum = 0;
          for (int l = 0; l < k; l++) {
            sum += (double) a[transA ? l * m + i : i * k + l] * b[transB ? j * k + l : l * n + j];
          }
          double want = alpha * sum + (beta == 0 ? 0 : beta * (double) c[i * n + j]);
          if (!(Math.abs(out[i * n + j] - want) <= tolerance * (1 + Math.abs(alpha)))) {
            assertThat((double) out[i * n + j])
                .as("[%d, %d]", i, j)
                .isCloseTo(want, within(tolerance * (1 + Math.abs(alpha))));
          }
        }
      }
      if (padding > 0) {
        assertThat(all.columns(0, padding).toFloats()).containsOnly(777f);
        assertThat(all.columns(width - padding, width).toFloats()).containsOnly(777f);
      }
    }
  }

  @Test
  void emptyProductsScaleWhatIsThere() {
    try (Context context = Contexts.open(1);
        Scope scope = context.scope()) {
      Tensor a = Tensor.zeros(scope, DType.F32, 2, 0);
      Tensor b = Tensor.zeros(scope, DType.F32, 0, 3);
      Tensor c = Tensor.of(scope, new float[] {1, 2, 3, 4, 5, 6}, 2, 3);
      Gemm.multiply(context, a, b, Gemm.Options.DEFAULT.withBeta(2), c);
      assertThat(c.toFloats()).containsExactly(2, 4, 6, 8, 10, 12);
      c.copyFrom(new float[] {Float.NaN, 1, 1, 1, 1, 1});
      Gemm.multiply(context, a, b, Gemm.Options.DEFAULT, c);
      assertThat(c.toFloats()).containsOnly(0f);
      Tensor none = Tensor.zeros(scope, DType.F32, 0, 3);
      assertThat(
              Gemm.multiply(scope, none, Tensor.zeros(scope, DType.F32, 3, 4), Gemm.Options.DEFAULT)
                  .shape())
          .containsExactly(0, 4);
    }
  }

  /** Every factor is rounded to a unit of the precision; small integers are not rounded at all. */
  @ParameterizedTest
  @CsvSource({"F32, 24", "TF32, 11", "BF16, 8"})
  @EnabledIf("dev.saccade.train.Contexts#onGpu")
  void precisionsRoundFactorsOnly(Precision precision, int bits) {
    int m = 65;
    int n = 130;
    int k = 257;
    Random random = new Random(8);
    float[] a = gaussian(random, m * k);
    float[] b = gaussian(random, k * n);
    float[] integers = new float[m * k];
    for (int i = 0; i < integers.length; i++) {
      integers[i] = random.nextInt(17) - 8;
    }
    Gemm.Options options = Gemm.Options.DEFAULT.withPrecision(precision);
    try (Context context = Contexts.open(0);
        Scope scope = context.scope()) {
      float[] c =
          Gemm.multiply(scope, Tensor.of(scope, a, m, k), Tensor.of(scope, b, k, n), options)
              .toFloats();
      Tensor left = Tensor.of(scope, integers, m, k);
      float[] exact = Gemm.multiply(scope, left, left, options.withTransB(true)).toFloats();
      for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
          double sum = 0;
          double size = 0;
          for (int l = 0; l < k; l++) {
            double term = (double) a[i * k + l] * b[l * n + j];
            sum += term;
            size += Math.abs(term);
          }
          // TF32 factors may be cut off instead of rounded.
          double bound = size * (4 * Math.pow(2, -bits) + 1e-6);
          assertThat((double) c[i * n + j]).isCloseTo(sum, within(bound));
        }
        for (int j = 0; j < m; j++) {
          double sum = 0;
          for (int l = 0; l < k; l++) {
            sum += (double) integers[i * k + l] * integers[j * k + l];
          }
          assertThat((double) exact[i * m + j]).isEqualTo(sum);
        }
      }
    }
  }

  @Test
  void lowPrecisionIsRefused() {
    try (Context context = Contexts.cpu(1);
        Scope scope = context.scope()) {
      Tensor a = Tensor.zeros(scope, DType.F32, 2, 2);
      for (Precision precision : List.of(Precision.TF32, Precision.BF16)) {
        assertThatThrownBy(
                () -> Gemm.multiply(scope, a, a, Gemm.Options.DEFAULT.withPrecision(precision)))
            .isInstanceOf(UnsupportedException.class)
            .hasMessageContaining("precision: expected F32 (0) on the CPU, got " + precision);
      }
    }
  }

  @Test
  void providersOfGpusAreRefused() {
    try (Context context = Contexts.cpu(1)) {
      assertThatThrownBy(() -> context.setCublas(null))
          .isInstanceOf(UnsupportedException.class)
          .hasMessage(
              "context_set_cublas: context: expected a CUDA context; saccade_context_set_gemm is"
                  + " for the CPU, got a CPU context");
      assertThatThrownBy(() -> CuBlas.provideTo(context)).isInstanceOf(UnsupportedException.class);
    }
  }

  @Test
  void nanStaysInItsRow() {
    Random random = new Random(5);
    float[] a = gaussian(random, 700 * 40);
    float[] b = gaussian(random, 40 * 90);
    try (Context context = Contexts.open(2);
        Scope scope = context.scope()) {
      Tensor tb = Tensor.of(scope, b, 40, 90);
      float[] clean =
          Gemm.multiply(scope, Tensor.of(scope, a, 700, 40), tb, Gemm.Options.DEFAULT).toFloats();
      a[333 * 40 + 7] = Float.NaN;
      float[] broken =
          Gemm.multiply(scope, Tensor.of(scope, a, 700, 40), tb, Gemm.Options.DEFAULT).toFloats();
      for (int i = 0; i < broken.length; i++) {
        float expected = i / 90 == 333 ? Float.NaN : clean[i];
        assertThat(Float.compare(broken[i], expected)).as("element %d", i).isZero();
      }
    }
  }

  /** Blocks of C; slices of k. */
  @ParameterizedTest
  @CsvSource({"1500, 200, 96", "96, 200, 9000"})
  void bitsDoNotDependOnTheThreadCount(int m, int n, int k) {
    Random random = new Random(6);
    float[] a = gaussian(random, m * k);
    float[] b = gaussian(random, k * n);
    float[] first = null;
    for (int threads : new int[] {1, 2, 3, 7}) {
      try (Context context = Contexts.open(threads);
          Scope scope = context.scope()) {
        Tensor ta = Tensor.of(scope, a, m, k);
        Tensor tb = Tensor.of(scope, b, k, n);
        float[] c = Gemm.multiply(scope, ta, tb, Gemm.Options.DEFAULT).toFloats();
        if (first == null) {
          first = c;
        }
        assertThat(Arrays.equals(c, first)).as("%d threads", threads).isTrue();
      }
    }
  }

  /** OpenBLAS is called from several contexts, each with threads of its own, at the same time. */
  @Test
  void contextsComputeInParallel() throws InterruptedException {
    Random random = new Random(7);
    float[] a = gaussian(random, 1100 * 64);
    float[] b = gaussian(random, 64 * 64);
    float[][] results = new float[4][];
    Thread[] threads = new Thread[4];
    for (int t = 0; t < 4; t++) {
      int self = t;
      threads[t] =
          new Thread(
              () -> {
                try (Context context = Contexts.open(2);
                    Scope scope = context.scope()) {
                  Tensor ta = Tensor.of(scope, a, 1100, 64);
                  Tensor tb = Tensor.of(scope, b, 64, 64);
                  Tensor c = Tensor.empty(scope, DType.F32, 1100, 64);
                  for (int i = 0; i < 50; i++) {
                    Gemm.multiply(context, ta, tb, Gemm.Options.DEFAULT, c);
                  }
                  results[self] = c.toFloats();
                }
              });
      threads[t].start();
    }
    for (Thread thread : threads) {
      thread.join();
    }
    for (float[] result : results) {
      assertThat(result).isEqualTo(results[0]);
    }
  }

  /** Long sums over few rows: products that are cut along k, whose parts meet in the workspace. */
  @Test
  @OnGpu
  void productsOfABranchAreThoseOfTheStream() {
    Random random = new Random(8);
    int m = 96;
    int n = 64;
    int k = 20000;
    try (Context context = Contexts.gpu();
        Scope scope = context.scope()) {
      Gemm.Options options = Gemm.Options.DEFAULT.withTransA(true);
      Tensor a = Tensor.of(scope, gaussian(random, m * k), k, m);
      Tensor b = Tensor.of(scope, gaussian(random, k * n), k, n);
      Tensor c = Tensor.of(scope, gaussian(random, k * n), k, n);
      float[] ab = Gemm.multiply(scope, a, b, options).toFloats();
      float[] ac = Gemm.multiply(scope, a, c, options).toFloats();
      Tensor x = Tensor.empty(scope, DType.F32, m, n);
      Tensor y = Tensor.empty(scope, DType.F32, m, n);
      try (Graph graph =
          Graph.capture(
              context,
              () -> {
                context.fork(() -> Gemm.multiply(context, a, b, options, x));
                Gemm.multiply(context, a, c, options, y);
                context.join();
              })) {
        for (int i = 0; i < 50; i++) {
          x.zero();
          y.zero();
          graph.launch();
          assertThat(x.toFloats()).containsExactly(ab);
          assertThat(y.toFloats()).containsExactly(ac);
        }
      }
    }
  }

  /** A context that closes waits for the whole GPU, which no recording would outlive. */
  @Test
  @OnGpu
  void contextsComeAndGoWhileAnotherThreadRecords() throws Exception {
    AtomicBoolean over = new AtomicBoolean();
    ExecutorService other = Executors.newSingleThreadExecutor();
    try (Context context = Contexts.gpu();
        Scope scope = context.scope()) {
      Future<Integer> opened =
          other.submit(
              () -> {
                int count = 0;
                for (; !over.get(); count++) {
                  Contexts.gpu().close();
                }
                return count;
              });
      Tensor a = Tensor.of(scope, gaussian(new Random(9), 64 * 64), 64, 64);
      Tensor c = Tensor.empty(scope, DType.F32, 64, 64);
      Gemm.multiply(context, a, a, Gemm.Options.DEFAULT, c);
      float[] want = c.toFloats();
      try {
        for (int i = 0; i < 300; i++) {
          Runnable work =
              () -> {
                for (int j = 0; j < 20; j++) {
                  Gemm.multiply(context, a, a, Gemm.Options.DEFAULT, c);
                }
              };
          try (Graph graph = Graph.capture(context, work)) {
            c.zero();
            graph.launch();
            assertThat(c.toFloats()).containsExactly(want);
          }
        }
      } finally {
        over.set(true);
      }
      assertThat(opened.get(60, TimeUnit.SECONDS)).isPositive();
    } finally {
      other.shutdown();
    }
  }
}
