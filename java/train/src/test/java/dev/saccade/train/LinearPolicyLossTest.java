package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.fail;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Gemm;
import dev.saccade.InvalidArgumentException;
import dev.saccade.LinearPolicyLoss;
import dev.saccade.LinearPolicyLoss.Inputs;
import dev.saccade.LinearPolicyLoss.Options;
import dev.saccade.LinearPolicyLoss.Outputs;
import dev.saccade.PolicyLoss;
import dev.saccade.PolicyLoss.Objective;
import dev.saccade.PolicyLossFromLogits;
import dev.saccade.PolicyLossFromLogits.Values;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.UnsupportedException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledIf;
import org.junit.jupiter.api.condition.EnabledIf;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * {@link LinearPolicyLoss} with the provider of {@link OpenBlas}, against {@link
 * PolicyLossFromLogits} on logits that are multiplied in double precision, and products in double
 * precision of the gradient that it gives.
 */
class LinearPolicyLossTest {
  private static final int[] RAGGED = {0, 1, 5, 0, 3, 9, 2, 27};

  private record Data(
      int vocabulary,
      int size,
      float[] hidden,
      float[] weight,
      int[] targets,
      float[] old,
      float[] ref,
      float[] advantage,
      byte[] mask,
      int[] offsets) {
    static Data of(long seed, int vocabulary, int size, int... lengths) {
      Random random = new Random(seed);
      int[] offsets = new int[lengths.length + 1];
      for (int s = 0; s < lengths.length; s++) {
        offsets[s + 1] = offsets[s] + lengths[s];
      }
      int rows = offsets[lengths.length];
      Data data =
          new Data(
              vocabulary,
              size,
              gaussian(random, rows * size, 1),
              gaussian(random, vocabulary * size, 2 / Math.sqrt(size)),
              random.ints(rows, 0, vocabulary).toArray(),
              new float[rows],
              new float[rows],
              gaussian(random, rows, 1),
              new byte[rows],
              offsets);
      for (int r = 0; r < rows; r++) {
        data.old[r] = (float) (-Math.log(vocabulary) - 2 + random.nextGaussian());
        data.ref[r] = (float) (data.old[r] + 0.5 * random.nextGaussian());
        data.mask[r] = (byte) (random.nextInt(3) == 0 ? 0 : 1);
      }
      if (rows > 7) {
        data.targets[7] = -100;
      }
      return data;
    }

    private static float[] gaussian(Random random, int n, double scale) {
      float[] x = new float[n];
      for (int i = 0; i < n; i++) {
        x[i] = (float) (scale * random.nextGaussian());
      }
      return x;
    }

    int rows() {
      return targets.length;
    }

    boolean active(int r) {
      return mask[r] != 0 && targets[r] != -100;
    }

    /** hidden·weightᵀ, rounded once. */
    float[] logits() {
      float[] logits = new float[rows() * vocabulary];
      for (int r = 0; r < rows(); r++) {
        for (int v = 0; v < vocabulary; v++) {
          double sum = 0;
          for (int d = 0; d < size; d++) {
            sum += (double) hidden[r * size + d] * weight[v * size + d];
          }
          logits[r * vocabulary + v] = (float) sum;
        }
      }
      return logits;
    }

    PolicyLoss.Inputs policy(Scope scope) {
      return PolicyLoss.Inputs.of(
              null, Tensor.of(scope, old), Tensor.of(scope, advantage), Tensor.of(scope, offsets))
          .withRefLogProb(Tensor.of(scope, ref))
          .withMask(Tensor.of(scope, mask));
    }

    Inputs inputs(Scope scope, DType dtype) {
      return new Inputs(
          Tensor.empty(scope, dtype, rows(), size).copyFrom(hidden),
          Tensor.empty(scope, dtype, vocabulary, size).copyFrom(weight),
          Tensor.of(scope, targets),
          policy(scope));
    }
  }

  private static PolicyLossFromLogits.Options policy(Objective objective) {
    return PolicyLossFromLogits.Options.DEFAULT
        .withPolicy(PolicyLoss.Options.DEFAULT.withObjective(objective).withKlCoef(0.1f))
        .withTemperature(0.8f)
        .withEntropyCoef(0.01f);
  }

  private static void near(
      String what, float[] got, double[] want, double relative, double absolute) {
    assertThat(got).hasSameSizeAs(want);
    for (int i = 0; i < got.length; i++) {
      if (!(Math.abs(got[i] - want[i]) <= relative * Math.abs(want[i]) + absolute)) {
        fail("%s[%d]: got %s, want %s", what, i, got[i], want[i]);
      }
    }
  }

  private static double largest(double[] x) {
    return Arrays.stream(x).map(Math::abs).max().orElse(0);
  }

  private static double[] doubles(float[] x) {
    double[] y = new double[x.length];
    Arrays.setAll(y, i -> x[i]);
    return y;
  }

  private static List<float[]> rowResults(Values out) {
    return Stream.of(out.logProb(), out.entropy(), out.lse(), out.kl(), out.tokenLoss())
        .map(Tensor::toFloats)
        .toList();
  }

  /** dHidden += g·weight, dWeight += gᵀ·hidden. */
  private static void addProducts(
      double[] g,
      float[] hidden,
      float[] weight,
      int v,
      int d,
      double[] dHidden,
      double[] dWeight) {
    for (int k = 0; k < g.length; k++) {
      int r = k / v;
      int j = k % v;
      for (int i = 0; i < d; i++) {
        dHidden[r * d + i] += g[k] * weight[j * d + i];
        dWeight[j * d + i] += g[k] * hidden[r * d + i];
      }
    }
  }

  private static float[] absolute(float[] x) {
    float[] y = x.clone();
    for (int i = 0; i < y.length; i++) {
      y[i] = Math.abs(y[i]);
    }
    return y;
  }

  private static void agrees(Context context, Data data, Options options) {
    int rows = data.rows();
    int v = data.vocabulary;
    int d = data.size;
    try (Scope scope = context.scope()) {
      var out = LinearPolicyLoss.forward(scope, data.inputs(scope, DType.F32), options);
      var want =
          PolicyLossFromLogits.forward(
              scope,
              new PolicyLossFromLogits.Inputs(
                  Tensor.of(scope, data.logits(), rows, v),
                  Tensor.of(scope, data.targets),
                  data.policy(scope)),
              options.policy());
      near(
          "loss",
          out.values().loss().toFloats(),
          doubles(want.values().loss().toFloats()),
          1e-5,
          1e-6);
      near(
          "metrics",
          out.values().metrics().toFloats(),
          doubles(want.values().metrics().toFloats()),
          1e-5,
          1e-5);
      List<float[]> got = rowResults(out.values());
      List<Tensor> wanted =
          List.of(
              want.values().logProb(),
              want.values().entropy(),
              want.values().lse(),
              want.values().kl(),
              want.values().tokenLoss());
      for (int i = 0; i < got.size(); i++) {
        near("result " + i, got.get(i), doubles(wanted.get(i).toFloats()), 1e-5, 1e-5);
      }
      float[] dLogits = want.dLogits().toFloats();
      double[] dHidden = new double[rows * d];
      double[] dWeight = new double[v * d];
      addProducts(doubles(dLogits), data.hidden, data.weight, v, d, dHidden, dWeight);
      near("d_hidden", out.dHidden().toFloats(), dHidden, 1e-5, 1e-5 * largest(dHidden));
      near("d_weight", out.dWeight().toFloats(), dWeight, 1e-5, 1e-5 * largest(dWeight));
    }
  }

  /**
   * One chunk, chunks that divide the active rows and that do not, a chunk a row; one element; many
   * rows of a small vocabulary in a task; a long inner dimension, which products cut into slices.
   */
  @ParameterizedTest
  @CsvSource({
    "515, 48, 1000",
    "515, 48, 7",
    "515, 48, 1",
    "1, 1, 3",
    "2, 3, 5",
    "37, 1, 4",
    "3000, 33, 16",
  })
  void agreesWithTheLossOfExactLogits(int vocabulary, int size, int chunkRows) {
    Data data = Data.of(1, vocabulary, size, RAGGED);
    try (Context context = Contexts.open(2)) {
      for (Objective objective : Objective.values()) {
        agrees(context, data, new Options(policy(objective), chunkRows));
      }
    }
  }

  private static List<float[]> all(Outputs out) {
    return Stream.concat(
            rowResults(out.values()).stream(),
            Stream.of(out.values().loss(), out.values().metrics(), out.dHidden(), out.dWeight())
                .map(Tensor::toFloats))
        .toList();
  }

  private static void assertSame(List<float[]> got, List<float[]> want) {
    for (int i = 0; i < want.size(); i++) {
      assertThat(Arrays.equals(got.get(i), want.get(i))).as("result %d", i).isTrue();
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"PPO_CLIP", "GSPO"})
  void bitsDoNotDependOnTheThreadCount(Objective objective) {
    Data data = Data.of(2, 2100, 160, 100, 300);
    List<float[]> first = null;
    for (int threads : new int[] {1, 2, 3}) {
      try (Context context = Contexts.open(threads);
          Scope scope = context.scope()) {
        List<float[]> got =
            all(
                LinearPolicyLoss.forward(
                    scope, data.inputs(scope, DType.F32), new Options(policy(objective), 128)));
        first = first == null ? got : first;
        assertSame(got, first);
      }
    }
  }

  /**
   * The same as f32 tensors of the same values, but for the rounding of the gradients: the products
   * see the same numbers. A weight of more than one widened block changes the order of the sums.
   */
  @ParameterizedTest
  @CsvSource({"BF16, 515, 48, true", "F16, 515, 48, true", "BF16, 1300, 2048, false"})
  @DisabledIf("dev.saccade.train.Contexts#onGpu")
  void sixteenBitTensors(DType dtype, int vocabulary, int size, boolean exact) {
    Data data = Data.of(3, vocabulary, size, RAGGED);
    double unit = dtype == DType.BF16 ? 0x1p-8 : 0x1p-11;
    Options options = new Options(policy(Objective.PPO_CLIP), 10);
    try (Context context = Contexts.open(2);
        Scope scope = context.scope()) {
      Inputs narrow = data.inputs(scope, dtype);
      Inputs wide =
          new Inputs(
              Tensor.of(scope, narrow.hidden().toFloats(), data.rows(), size),
              Tensor.of(scope, narrow.weight().toFloats(), vocabulary, size),
              narrow.targets(),
              narrow.policy());
      var want = LinearPolicyLoss.forward(scope, wide, options);
      var got = LinearPolicyLoss.forward(scope, narrow, options);
      if (exact) {
        assertSame(rowResults(got.values()), rowResults(want.values()));
      } else {
        near(
            "log_prob",
            got.values().logProb().toFloats(),
            doubles(want.values().logProb().toFloats()),
            0,
            1e-5);
      }
      for (boolean hidden : new boolean[] {true, false}) {
        Tensor g = hidden ? got.dHidden() : got.dWeight();
        double[] w = doubles((hidden ? want.dHidden() : want.dWeight()).toFloats());
        assertThat(g.dtype()).isEqualTo(dtype);
        near("gradient", g.toFloats(), w, unit, exact ? 0x1p-24 : 1e-6 * largest(w));
      }
      // f32 gradients of 16-bit tensors are not rounded.
      Tensor dHidden = Tensor.empty(scope, DType.F32, data.rows(), size);
      Tensor dWeight = Tensor.empty(scope, DType.F32, vocabulary, size);
      Tensor loss = Tensor.empty(scope, DType.F32, 1);
      LinearPolicyLoss.forward(
          context, narrow, options, new Outputs(Values.of(loss), dHidden, dWeight));
      double[] w = doubles(want.dWeight().toFloats());
      near("d_weight", dWeight.toFloats(), w, exact ? 0 : 1e-5, exact ? 0 : 1e-6 * largest(w));
      w = doubles(want.dHidden().toFloats());
      near("d_hidden", dHidden.toFloats(), w, exact ? 0 : 1e-5, exact ? 0 : 1e-6 * largest(w));
    }
  }

  /**
   * On a GPU the gradient of the logits is rounded to the type of the factors, each element by a
   * unit at most; f16 is even below 2^-14. Sums and f32 results are as those of f32 tensors.
   */
  @ParameterizedTest
  @CsvSource({"BF16, 515, 48, 10", "F16, 515, 48, 1000", "BF16, 1300, 1001, 7"})
  @EnabledIf("dev.saccade.train.Contexts#onGpu")
  void sixteenBitTensorsOnAGpu(DType dtype, int vocabulary, int size, int chunkRows) {
    Data data = Data.of(3, vocabulary, size, RAGGED);
    double unit = dtype == DType.BF16 ? 0x1p-8 : 0x1p-11;
    double least = dtype == DType.BF16 ? 0 : 0x1p-24;
    Options options = new Options(policy(Objective.PPO_CLIP), chunkRows);
    try (Context context = Contexts.open(2);
        Scope scope = context.scope()) {
      Inputs narrow = data.inputs(scope, dtype);
      float[] hidden = narrow.hidden().toFloats();
      float[] weight = narrow.weight().toFloats();
      Inputs wide =
          new Inputs(
              Tensor.of(scope, hidden, data.rows(), size),
              Tensor.of(scope, weight, vocabulary, size),
              narrow.targets(),
              narrow.policy());
      var want = LinearPolicyLoss.forward(scope, wide, options);
      var got = LinearPolicyLoss.forward(scope, narrow, options);
      List<float[]> wanted = rowResults(want.values());
      for (int i = 0; i < wanted.size(); i++) {
        near("result " + i, rowResults(got.values()).get(i), doubles(wanted.get(i)), 1e-5, 1e-5);
      }
      Tensor logits =
          Gemm.multiply(scope, wide.hidden(), wide.weight(), Gemm.Options.DEFAULT.withTransB(true));
      var exact =
          PolicyLossFromLogits.forward(
              scope,
              new PolicyLossFromLogits.Inputs(logits, narrow.targets(), narrow.policy()),
              options.policy());
      double[] error = doubles(absolute(exact.dLogits().toFloats()));
      Arrays.setAll(error, k -> error[k] == 0 ? 0 : Math.max(unit * error[k], least));
      double[] ofHidden = new double[hidden.length];
      double[] ofWeight = new double[weight.length];
      addProducts(error, absolute(hidden), absolute(weight), vocabulary, size, ofHidden, ofWeight);
      for (boolean rounded : new boolean[] {true, false}) {
        DType type = rounded ? dtype : DType.F32;
        Tensor dHidden = Tensor.empty(scope, type, data.rows(), size);
        Tensor dWeight = Tensor.empty(scope, type, vocabulary, size);
        Tensor loss = Tensor.empty(scope, DType.F32, 1);
        LinearPolicyLoss.forward(
            context, narrow, options, new Outputs(Values.of(loss), dHidden, dWeight));
        double relative = rounded ? unit : 1e-5;
        within("d_hidden", dHidden.toFloats(), want.dHidden().toFloats(), relative, ofHidden);
        within("d_weight", dWeight.toFloats(), want.dWeight().toFloats(), relative, ofWeight);
      }
    }
  }

  private static void within(
      String what, float[] got, float[] want, double relative, double[] error) {
    for (int i = 0; i < want.length; i++) {
      double bound = relative * Math.abs(want[i]) + error[i] + 1e-7;
      if (!(Math.abs((double) got[i] - want[i]) <= bound)) {
        fail("%s[%d]: got %s, want %s within %s", what, i, got[i], want[i], bound);
      }
    }
  }

  @Test
  void stridesAreHonouredAndPaddingUntouched() {
    Data data = Data.of(4, 50, 12, RAGGED);
    Options options = new Options(policy(Objective.PPO_CLIP), 8);
    try (Context context = Contexts.open(2);
        Scope scope = context.scope()) {
      Inputs dense = data.inputs(scope, DType.F32);
      var want = LinearPolicyLoss.forward(scope, dense, options);
      Tensor[] wide = new Tensor[4];
      for (int i = 0; i < 4; i++) {
        int rows = i % 2 == 0 ? data.rows() : 50;
        float[] fill = new float[rows * 20];
        Arrays.fill(fill, 777f);
        wide[i] = Tensor.of(scope, fill, rows, 20);
      }
      Tensor loss = Tensor.empty(scope, DType.F32, 1);
      Tensor dHidden = wide[2].columns(5, 17);
      Tensor dWeight = wide[3].columns(5, 17);
      LinearPolicyLoss.forward(
          context,
          new Inputs(
              wide[0].columns(5, 17).copyFrom(data.hidden),
              wide[1].columns(5, 17).copyFrom(data.weight),
              dense.targets(),
              dense.policy()),
          options,
          new Outputs(Values.of(loss), dHidden, dWeight));
      assertThat(loss.toFloats()).isEqualTo(want.values().loss().toFloats());
      assertThat(dHidden.toFloats()).isEqualTo(want.dHidden().toFloats());
      assertThat(dWeight.toFloats()).isEqualTo(want.dWeight().toFloats());
      for (Tensor all : wide) {
        float[] after = all.toFloats();
        for (int i = 0; i < after.length; i++) {
          if (i % 20 < 5 || i % 20 >= 17) {
            assertThat(after[i]).isEqualTo(777f);
          }
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void inactiveRowsMayHoldAnything(Objective objective) {
    Data clean = Data.of(5, 60, 16, RAGGED);
    Data garbage = Data.of(5, 60, 16, RAGGED);
    float[] junk = {Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY};
    for (int r = 0; r < clean.rows(); r++) {
      if (!clean.active(r)) {
        Arrays.fill(garbage.hidden, r * 16, (r + 1) * 16, junk[r % 3]);
        garbage.old[r] = junk[(r + 1) % 3];
        garbage.ref[r] = junk[(r + 2) % 3];
        garbage.advantage[r] = junk[r % 3];
      }
    }
    Options options = new Options(policy(objective), 10);
    try (Context context = Contexts.open(2);
        Scope scope = context.scope()) {
      assertSame(
          all(LinearPolicyLoss.forward(scope, garbage.inputs(scope, DType.F32), options)),
          all(LinearPolicyLoss.forward(scope, clean.inputs(scope, DType.F32), options)));
    }
  }

  @ParameterizedTest
  @EnumSource
  void brokenRowsStayInTheirSequence(Objective objective) {
    Data clean = Data.of(6, 60, 16, RAGGED);
    Data broken = Data.of(6, 60, 16, RAGGED);
    int begin = clean.offsets[5];
    int end = clean.offsets[6];
    int row = begin + 3;
    clean.mask[row] = broken.mask[row] = 1;
    broken.hidden[row * 16 + 5] = Float.NaN;
    Options options = new Options(policy(objective), 10);
    try (Context context = Contexts.open(2);
        Scope scope = context.scope()) {
      var want = LinearPolicyLoss.forward(scope, clean.inputs(scope, DType.F32), options);
      var got = LinearPolicyLoss.forward(scope, broken.inputs(scope, DType.F32), options);
      assertThat(got.values().loss().item()).isNaN();
      assertThat(got.values().logProb().toFloats()[row]).isNaN();
      assertThat(got.dHidden().toFloats()[row * 16]).isNaN();
      for (int i = 0; i < 5; i++) {
        float[] g = rowResults(got.values()).get(i);
        float[] w = rowResults(want.values()).get(i);
        for (int r = 0; r < g.length; r++) {
          if (r < begin || r >= end) {
            assertThat(g[r]).isEqualTo(w[r]);
          }
        }
      }
      float[] g = got.dHidden().toFloats();
      float[] w = want.dHidden().toFloats();
      for (int i = 0; i < g.length; i++) {
        if (i < begin * 16 || i >= end * 16) {
          assertThat(g[i]).isEqualTo(w[i]);
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource
  void nothingActiveGivesZeros(Objective objective) {
    Options options = new Options(policy(objective), 4);
    try (Context context = Contexts.open(2)) {
      for (int[] lengths : new int[][] {{}, {0}, {5, 0, 20}}) {
        Data data = Data.of(7, 20, 8, lengths);
        Arrays.fill(data.mask, (byte) 0);
        Arrays.fill(data.hidden, Float.NaN);
        try (Scope scope = context.scope()) {
          for (float[] zeros :
              all(LinearPolicyLoss.forward(scope, data.inputs(scope, DType.F32), options))) {
            for (float zero : zeros) {
              assertThat(zero).isZero();
            }
          }
        }
      }
    }
  }

  private static long status(String field) throws IOException {
    for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
      if (line.startsWith(field + ":")) {
        return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
      }
    }
    throw new IOException(field + " is not in /proc/self/status");
  }

  /**
   * The peak of the process while it computes with 2000 x 60,000 logits (480 MB) in chunks of 256
   * rows (61 MB, more than the C library ever takes from memory that it kept), gradients included:
   * never a second chunk.
   */
  @Test
  void atMostOneChunkOfLogitsExists() throws IOException {
    Path reset = Path.of("/proc/self/clear_refs");
    assumeTrue(Files.isWritable(reset), "the peak of a process can be reset on Linux only");
    int rows = 2000;
    int vocabulary = 60_000;
    int size = 16;
    int chunk = 256;
    Random random = new Random(8);
    try (Context context = Contexts.cpu(2);
        Scope scope = context.scope()) {
      float[] ones = new float[rows];
      Arrays.fill(ones, 1);
      Tensor one = Tensor.of(scope, ones);
      Inputs inputs =
          new Inputs(
              Tensor.of(scope, Data.gaussian(random, rows * size, 1), rows, size),
              Tensor.of(scope, Data.gaussian(random, vocabulary * size, 0.5), vocabulary, size),
              Tensor.of(scope, random.ints(rows, 0, vocabulary).toArray()),
              PolicyLoss.Inputs.of(
                  null,
                  Tensor.of(scope, Data.gaussian(random, rows, 1)),
                  one,
                  Tensor.of(scope, new int[] {0, rows})));
      Outputs outputs =
          new Outputs(
              Values.of(Tensor.zeros(scope, DType.F32, 1)),
              Tensor.zeros(scope, DType.F32, rows, size),
              Tensor.zeros(scope, DType.F32, vocabulary, size));
      // The provider's own buffers, and code, are there after a first call.
      Inputs few =
          new Inputs(
              inputs.hidden().rows(0, 2),
              inputs.weight(),
              inputs.targets().rows(0, 2),
              PolicyLoss.Inputs.of(
                  null, one.rows(0, 2), one.rows(0, 2), Tensor.of(scope, new int[] {0, 2})));
      Outputs fewOutputs =
          new Outputs(outputs.values(), outputs.dHidden().rows(0, 2), outputs.dWeight());
      Options options = Options.DEFAULT.withChunkRows(chunk);
      LinearPolicyLoss.forward(context, few, options, fewOutputs);
      Files.writeString(reset, "5");
      long before = status("VmRSS");
      LinearPolicyLoss.forward(context, inputs, options, outputs);
      long logits = 4L * chunk * vocabulary;
      // Beside the chunk: hidden of a chunk, per-row values, the products' partial sums.
      assertThat(status("VmHWM") - before).isBetween(logits / 2, logits + (8L << 20));
      assertThat(outputs.values().loss().item()).isFinite();
    }
  }

  @Test
  void rejectsWhatDoesNotFit() {
    Data data = Data.of(9, 9, 5, 4);
    Options d = Options.DEFAULT;
    try (Context context = Contexts.cpu(1);
        Scope scope = context.scope()) {
      Inputs good = data.inputs(scope, DType.F32);
      assertThatThrownBy(() -> LinearPolicyLoss.forward(scope, good, d.withChunkRows(0)))
          .isInstanceOf(InvalidArgumentException.class)
          .hasMessage("linear_policy_loss: chunk_rows: expected 1 to 2147483647, got 0");
      Object[][] inputs = {
        {
          new Inputs(
              good.hidden(), Tensor.zeros(scope, DType.BF16, 9, 5), good.targets(), good.policy()),
          "weight: expected f32[*, 5], got bf16[9, 5]"
        },
        {
          new Inputs(
              good.hidden(), Tensor.zeros(scope, DType.F32, 9, 6), good.targets(), good.policy()),
          "weight: expected f32[*, 5], got f32[9, 6]"
        },
        {
          new Inputs(
              good.hidden(), good.weight(), Tensor.zeros(scope, DType.I32, 3), good.policy()),
          "targets: expected i32[4], got i32[3]"
        },
      };
      Outputs loss = new Outputs(Values.of(Tensor.zeros(scope, DType.F32, 1)), null, null);
      for (Object[] bad : inputs) {
        assertThatThrownBy(() -> LinearPolicyLoss.forward(context, (Inputs) bad[0], d, loss))
            .isInstanceOf(InvalidArgumentException.class)
            .hasMessage("linear_policy_loss: " + bad[1]);
      }
      Outputs narrow = new Outputs(loss.values(), null, Tensor.zeros(scope, DType.BF16, 9, 5));
      assertThatThrownBy(() -> LinearPolicyLoss.forward(context, good, d, narrow))
          .hasMessage(
              "linear_policy_loss: d_weight_dtype: expected the dtype of weight, or f32, got 1");
      context.setGemm(0);
      assertThatThrownBy(() -> LinearPolicyLoss.forward(scope, good, d))
          .isInstanceOf(UnsupportedException.class)
          .hasMessageContaining("saccade-train");
    }
  }
}
