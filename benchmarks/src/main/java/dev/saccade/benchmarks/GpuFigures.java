package dev.saccade.benchmarks;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Device;
import dev.saccade.Divergence;
import dev.saccade.Gpu;
import dev.saccade.GroupAdvantage;
import dev.saccade.OutOfMemoryException;
import dev.saccade.Precision;
import dev.saccade.SampleTokens;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.BiFunction;
import java.util.function.IntFunction;

/**
 * One screen of what a GPU does: the operations on shapes of post-training, each against the
 * ceilings of the same run and, where one is set, its aim.
 *
 * <p>Ceilings are a copy within the GPU and cuBLAS's product of bf16 matrices. Data is random; what
 * is smaller than a cache takes turns with copies of itself. A shape that the memory of the GPU
 * does not hold is halved until it does.
 */
public final class GpuFigures {
  private static final String ROW = "%-37s %-30s %-4s  %9s  %13s  %5s  %-16s %s%n";

  /** Together beyond any cache. */
  private static final long BEYOND_CACHES = 256L << 20;

  private static final int MOST_COPIES = 32;
  private static final int COPIED_ROWS = 512;
  private static final int PRODUCT = 8192;
  private static final int DISTINCT_ROWS = 64;

  /**
   * What a line should reach; NaN where nothing is asked.
   *
   * @param percent of the ceiling, at least
   * @param microseconds at most, on an H100
   */
  record Aim(double percent, double microseconds, double percentOfPeers) {
    static final Aim NONE = new Aim(Double.NaN, Double.NaN, Double.NaN);

    static Aim share(double percent) {
      return new Aim(percent, Double.NaN, Double.NaN);
    }

    static Aim microseconds(double most) {
      return new Aim(Double.NaN, most, Double.NaN);
    }

    /** Of so many launches, back to back. */
    static Aim launches(int count) {
      return microseconds(6 * count);
    }

    /** Of the speed of the fastest of PyTorch's. */
    static Aim ofPeers(double percent) {
      return new Aim(Double.NaN, Double.NaN, percent);
    }

    /**
     * Whether a figure reaches it, null where that is not asked of this GPU.
     *
     * @param peerSeconds the fastest of PyTorch's, NaN without one
     */
    Boolean isMet(double seconds, double share, boolean h100, double peerSeconds) {
      if (!Double.isNaN(percent)) {
        return share >= percent;
      }
      if (!Double.isNaN(percentOfPeers) && !Double.isNaN(peerSeconds)) {
        return 100 * peerSeconds / seconds >= percentOfPeers;
      }
      return Double.isNaN(microseconds) || !h100
          ? null
          : Boolean.valueOf(1e6 * seconds <= microseconds);
    }

    @Override
    public String toString() {
      if (!Double.isNaN(percentOfPeers)) {
        return String.format(Locale.ROOT, "≥ %.0f %% of PyTorch", percentOfPeers);
      }
      return !Double.isNaN(percent)
          ? String.format(Locale.ROOT, "≥ %.0f %%", percent)
          : Double.isNaN(microseconds) ? "" : "≤ " + time(microseconds / 1e6);
    }
  }

  /** One line of the table, before it is measured. */
  record Line(Workload workload, DType dtype, Aim aim) {}

  /**
   * @param size rows, sequences or tensors that {@code line} is asked for first
   */
  record Plan(int size, IntFunction<Line> line) {}

  private final Device device;
  private final boolean h100;
  private final ArrayNode figures = JsonNodeFactory.instance.arrayNode();
  private final List<JsonNode> peers;
  private final Ceilings ceilings;
  private int met;
  private int missed;

  private GpuFigures(Device device, boolean h100, List<JsonNode> peers, Ceilings ceilings) {
    this.device = device;
    this.h100 = h100;
    this.peers = peers;
    this.ceilings = ceilings;
  }

  /**
   * Measures the first GPU, prints the table and writes it all as JSON.
   *
   * @param args the file to write; a file with a JSON object a line: facts, which are written as
   *     they are, {@code {"check": name, "passed": n, "failed": n}}, and times of other libraries,
   *     {@code {"name", "shape", "dtype", "peer", "milliseconds"}}
   */
  public static void main(String[] args) throws IOException {
    ObjectMapper json = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);
    ObjectNode root = json.createObjectNode();
    ArrayNode checks = json.createArrayNode();
    List<JsonNode> peers = new ArrayList<>();
    Gpu gpu = Gpu.all().get(0);
    root.put("gpu", gpu.name())
        .put("compute_capability", gpu.capability())
        .put("driver_cuda", gpu.cuda())
        .put("cuda_runtime", cudaRuntime())
        .put("library", Context.nativeBuild())
        .put("date", LocalDate.now().toString());
    for (String line : Files.readAllLines(Path.of(args[1]))) {
      JsonNode node = json.readTree(line);
      if (node.has("check")) {
        checks.add(node);
      } else if (node.has("peer")) {
        peers.add(node);
      } else {
        root.setAll((ObjectNode) node);
      }
    }
    Ceilings ceilings = ceilings(gpu.device(), COPIED_ROWS);
    GpuFigures figures = new GpuFigures(gpu.device(), gpu.name().contains("H100"), peers, ceilings);
    System.out.printf(
        "%s, driver %s, CUDA runtime %s, %s; ceilings: copy %s, bf16 products %s%n",
        gpu.name(),
        root.path("driver").asText("unknown"),
        cudaRuntime(),
        root.get("date").asText(),
        rate(ceilings.copy(), 0),
        Double.isNaN(ceilings.product()) ? "not run: no cuBLAS" : rate(0, ceilings.product()));
    figures.print();
    root.set("checks", checks);
    root.putObject("ceilings")
        .put("copy_gb_per_s", rounded(ceilings.copy() / 1e9))
        .put("bf16_tflop_per_s", rounded(ceilings.product() / 1e12));
    root.set("figures", figures.figures);
    Path out = Path.of(args[0]).toAbsolutePath();
    Files.createDirectories(out.getParent());
    Files.writeString(out, json.writeValueAsString(root) + "\n");
  }

  private static String cudaRuntime() {
    return Context.nativeBuild().replaceAll(".*\\bcuda ", "");
  }

  private void print() {
    System.out.printf(
        ROW,
        "operation",
        "shape",
        "type",
        "time",
        "rate",
        "share",
        "aim",
        peers.isEmpty() ? "" : "PyTorch");
    plans().forEach(plan -> System.out.print(measure(plan)));
    System.out.printf(
        "aims: %d met, %d missed%s%n", met, missed, peers.isEmpty() ? "; PyTorch not run" : "");
  }

  // ------------------------------------------------------------------------------------- the lines

  static List<Plan> plans() {
    List<Plan> plans = new ArrayList<>();
    plans.add(tokenLogProbs());
    for (int vocabulary : new int[] {151_936, 128_256, 262_144, 32_000}) {
      plans.add(policyLossFromLogits(DType.BF16, vocabulary));
    }
    plans.add(policyLossFromLogits(DType.F32, 151_936));
    plans.add(policyLossFromLogits(DType.F16, 151_936));
    plans.add(divergence(Divergence.FORWARD_KL, DType.BF16, Aim.microseconds(2800)));
    plans.add(divergence(Divergence.REVERSE_KL, DType.BF16, Aim.microseconds(2800)));
    plans.add(divergence(Divergence.JSD, DType.BF16, Aim.microseconds(3200)));
    plans.add(divergence(Divergence.JSD, DType.F16, Aim.NONE));
    for (Divergence kind : Divergence.values()) {
      plans.add(divergence(kind, DType.F32, Aim.NONE));
    }
    plans.add(adamW());
    plans.add(of(256, "tensors", at(new GradNormBenchmark()), "forward"));
    for (GroupAdvantage.Estimator estimator : GroupAdvantage.Estimator.values()) {
      plans.add(groupAdvantage(estimator));
    }
    plans.add(of(1 << 23, "rows", at(new SampledKlBenchmark()), "gradient"));
    plans.add(small(1 << 20, "rows", at(new SampledKlBenchmark()), "gradient", 1));
    plans.add(of(8192, "sequences", at(new PolicyLossBenchmark()), "gradient"));
    plans.add(
        small(16_384, "sequences", at(new PolicyLossBenchmark(), "length", 64), "gradient", 2));
    plans.add(of(1 << 24, "size", at(new GradientMomentsBenchmark()), "update"));
    plans.add(sampleTokens("temperature 0.7", 0));
    plans.add(sampleTokens("top_p 0.9", 0.9f));
    for (int dim : new int[] {64, 128}) {
      var short16 = new AttentionInputs.Shape(16, 16, 2048, 2048, dim);
      var grouped = new AttentionInputs.Shape(32, 8, 4096, 4096, dim);
      for (String pass : new String[] {"forward", "backward"}) {
        plans.add(attention(pass, short16, Precision.F32));
        plans.add(attention(pass, short16, Precision.BF16));
        plans.add(attention(pass, grouped, Precision.BF16));
      }
    }
    plans.add(attentionPolicy());
    plans.add(attentionDivergence());
    // In TFLOP/s; of the smallest a tenth may be launches.
    double aim = 370;
    plans.add(attentionDivergence(1, new AttentionInputs.Shape(28, 4, 512, 4096, 128), 0.9 * aim));
    plans.add(attentionDivergence(1, new AttentionInputs.Shape(28, 4, 512, 16384, 128), aim));
    plans.add(attentionDivergence(4, new AttentionInputs.Shape(28, 4, 1024, 8192, 128), aim));
    plans.add(attentionDivergence(2, new AttentionInputs.Shape(32, 8, 4096, 4096, 128), aim));
    return plans;
  }

  /** A benchmark at its defaults, but for some parameters: name, value, name, value … */
  private static <B extends OperationBenchmark> B at(B benchmark, Object... parameters) {
    benchmark.setDefaults();
    for (int i = 0; i < parameters.length; i += 2) {
      benchmark.with((String) parameters[i], parameters[i + 1].toString());
    }
    return benchmark;
  }

  private static Line f32(Workload workload) {
    return new Line(workload, DType.F32, Aim.NONE);
  }

  private static Plan of(int size, String extent, OperationBenchmark benchmark, String method) {
    return new Plan(size, n -> f32(benchmark.with(extent, Integer.toString(n)).workload(method)));
  }

  /** At a size whose time is that of its launches, of which it takes so many. */
  private static Plan small(
      int size, String extent, OperationBenchmark benchmark, String method, int launches) {
    Plan plan = of(size, extent, benchmark, method);
    return new Plan(
        size, n -> new Line(plan.line().apply(n).workload(), DType.F32, Aim.launches(launches)));
  }

  private static <B extends LogitsBenchmark> B logits(
      B benchmark, int rows, int vocabulary, DType dtype) {
    return at(
        benchmark,
        "rows",
        rows,
        "distinctRows",
        DISTINCT_ROWS,
        "vocabulary",
        vocabulary,
        "dtype",
        dtype.name());
  }

  private static Plan tokenLogProbs() {
    return new Plan(
        8192,
        n -> {
          Workload workload =
              logits(new TokenLogProbsBenchmark(), n, 151_936, DType.BF16).workload("forward");
          return new Line(workload, DType.BF16, Aim.share(94));
        });
  }

  /** As many rows as take 2.5 GB, 8192 at most. */
  private static Plan policyLossFromLogits(DType dtype, int vocabulary) {
    long most = 8192L * 151_936 * 2 / ((long) vocabulary * dtype.bytes());
    return new Plan(
        (int) Math.min(8192, most / 512 * 512),
        n -> {
          var benchmark = logits(new PolicyLossFromLogitsBenchmark(), n, vocabulary, dtype);
          benchmark.with("sequences", Integer.toString(Math.max(1, n / 512)));
          return new Line(benchmark.workload("gradient"), dtype, Aim.share(85));
        });
  }

  private static Plan divergence(Divergence kind, DType dtype, Aim aim) {
    int most = dtype == DType.F32 ? 4096 : 8192;
    return new Plan(
        most,
        n -> {
          var benchmark = logits(new LogitDivergenceBenchmark(), n, 151_936, dtype);
          return new Line(
              benchmark
                  .workload("gradient")
                  .variant(
                      "logit_divergence " + kind,
                      engine -> engine.logitDivergence(benchmark.inputs(), kind)),
              dtype,
              n == most ? aim : Aim.NONE);
        });
  }

  private static Plan adamW() {
    return new Plan(
        256,
        n -> {
          var benchmark = at(new AdamWBenchmark(), "tensors", n, "elements", 1 << 20);
          return new Line(
              benchmark
                  .workload("step")
                  .variant(
                      "adamw with bf16 copies", engine -> engine.adamW(benchmark.inputs(), true))
                  .writes((long) n << 20, DType.BF16),
              DType.F32,
              Aim.share(85));
        });
  }

  private static Plan groupAdvantage(GroupAdvantage.Estimator estimator) {
    int launches =
        switch (estimator) {
          case GRPO, DR_GRPO, RLOO -> 1;
          case BATCH_STD, REINFORCE_PP_BASELINE -> 2; // the deviation of the batch comes first
        };
    return new Plan(
        16_384,
        n -> {
          var benchmark = at(new GroupAdvantageBenchmark(), "groups", n);
          return new Line(
              benchmark
                  .workload("forward")
                  .variant(
                      "group_advantage " + estimator,
                      engine -> engine.groupAdvantage(benchmark.inputs(), estimator)),
              DType.F32,
              Aim.launches(launches));
        });
  }

  private static Plan sampleTokens(String name, float topP) {
    var options = new SampleTokens.Options(0.7f, SampleTokensBenchmark.SEED, 0).withTopP(topP);
    return new Plan(
        64,
        n -> {
          var benchmark = logits(new SampleTokensBenchmark(), n, 151_936, DType.BF16);
          return new Line(
              benchmark
                  .workload("forward")
                  .variant(
                      "sample_tokens " + name,
                      engine -> engine.sampleTokens(benchmark.inputs(), options)),
              DType.BF16,
              Aim.NONE);
        });
  }

  /** Causal attention of sequences with themselves. */
  private static Plan attention(String pass, AttentionInputs.Shape shape, Precision precision) {
    boolean forward = pass.equals("forward");
    return new Plan(
        2,
        n -> {
          long queries = n * shape.querySize();
          long keys = queries / shape.heads() * shape.kvHeads();
          String heads =
              shape.heads() == shape.kvHeads()
                  ? Integer.toString(shape.heads())
                  : shape.heads() + "/" + shape.kvHeads();
          Workload workload =
              Workload.of(
                      "", "%d × %d × %s × %d".formatted(n, shape.rows(), heads, shape.dim()), null)
                  .variant(
                      "attention " + pass + (precision == Precision.F32 ? "" : " " + precision),
                      engine ->
                          forward
                              ? engine.attention(AttentionInputs.of(shape), n, precision)
                              : engine.attentionBackward(AttentionInputs.of(shape), n, precision))
                  .reads(forward ? queries + 2 * keys : 3 * queries + 2 * keys)
                  .writes(forward ? queries : queries + 2 * keys)
                  .withFlops(n * (forward ? 2 : 5) * shape.productFlops());
          return new Line(workload, DType.F32, Aim.ofPeers(60));
        });
  }

  /** An operation on the attention of equal sequences: its benchmark's, so many times. */
  private static Plan ofSequences(
      String name,
      OperationBenchmark benchmark,
      String method,
      AttentionInputs.Shape shape,
      BiFunction<SaccadeEngine, Integer, Work> work) {
    return new Plan(
        16,
        n ->
            f32(
                benchmark
                    .workload(method)
                    .times(n, shape.brief(n))
                    .variant(name, engine -> work.apply(engine, n))));
  }

  private static Plan attentionPolicy() {
    var benchmark = at(new AttentionPolicyBenchmark());
    AttentionInputs.Shape shape = benchmark.inputShape();
    return ofSequences(
        "attention_policy",
        benchmark,
        "forward",
        shape,
        (engine, n) -> engine.attentionPolicy(AttentionInputs.of(shape), n));
  }

  /**
   * Of bf16 queries and keys, against a stored map, by given log-sum-exps. Products count as the
   * five that are needed: scores for the loss; scores twice, dq and dk for the gradient.
   */
  private static Plan attentionDivergence(int sequences, AttentionInputs.Shape shape, double aim) {
    return new Plan(
        sequences,
        n -> {
          long positions = shape.querySize() + shape.keySize();
          double flops = 5 * n * shape.productFlops();
          Workload workload =
              Workload.of("", shape.brief(n), null)
                  .variant(
                      "attention_divergence",
                      engine -> engine.attentionDivergence(AttentionInputs.of(shape), n, true))
                  .reads(n * positions, DType.BF16)
                  .reads((long) n * shape.rows() * (shape.keys() + shape.heads() + 1))
                  .writes(n * positions, DType.BF16)
                  .withFlops(flops);
          return new Line(
              workload,
              DType.BF16,
              n == sequences ? Aim.microseconds(flops / (aim * 1e6)) : Aim.NONE);
        });
  }

  private static Plan attentionDivergence() {
    var benchmark = at(new AttentionDivergenceBenchmark());
    AttentionInputs.Shape shape = benchmark.inputShape();
    return ofSequences(
        "attention_divergence",
        benchmark,
        "gradient",
        shape,
        (engine, n) -> engine.attentionDivergence(AttentionInputs.of(shape), n, false));
  }

  // ------------------------------------------------------------------------------------- measuring

  /** What the device does best. Halves what it copies, rows of 4 MiB, until that fits. */
  static Ceilings ceilings(Device device, int rows) {
    double copy;
    try (Context context = Context.builder().device(device).build();
        Scope scope = context.scope()) {
      Tensor x = Tensor.empty(scope, DType.F32, rows, 1 << 20);
      Tensor y = Tensor.empty(scope, DType.F32, rows, 1 << 20);
      Tensor drawn = x.rows(0, 1).copyFrom(Data.normal(1, x.shape(1), 1));
      for (int row = 1; row < rows; row++) {
        x.rows(row, row + 1).copyFrom(drawn);
      }
      copy = 8.0 * x.size() / new DeviceTimer(context).seconds(List.of(() -> y.copyFrom(x)));
    } catch (OutOfMemoryException e) {
      return ceilings(device, rows / 2);
    }
    double product = Double.NaN;
    try (Context context = Context.builder().device(device).build();
        Scope scope = context.scope();
        CublasProduct gemm = new CublasProduct(context, scope, PRODUCT)) {
      product = gemm.flops() / new DeviceTimer(context).seconds(List.of(gemm::run));
    } catch (LinkageError e) {
      // no cuBLAS: the table says so
    }
    return new Ceilings(copy, copy, product);
  }

  /** Seconds of a line on a device. */
  static double seconds(Device device, Line line) {
    Workload workload = line.workload();
    long bytes = workload.bytesRead() + workload.bytesWritten();
    long copies = Math.max(1, Math.min(MOST_COPIES, (BEYOND_CACHES + bytes - 1) / bytes));
    try (Context context = Context.builder().device(device).build();
        SaccadeEngine engine = new SaccadeEngine(context, line.dtype())) {
      List<Runnable> works = new ArrayList<>();
      for (int i = 0; i < copies; i++) {
        works.add(workload.work().apply(engine)::run);
      }
      return new DeviceTimer(context).seconds(works);
    }
  }

  private String measure(Plan plan) {
    Line line = null;
    double seconds = Double.NaN;
    for (int size = plan.size(); Double.isNaN(seconds); size = (size + 1) / 2) {
      line = plan.line().apply(size);
      try {
        seconds = seconds(device, line);
      } catch (OutOfMemoryException e) {
        if (size == 1) {
          throw e;
        }
      }
    }
    Workload w = line.workload();
    String name = w.name().replaceFirst("^§\\d+ ", "");
    double share = ceilings.percent(w.bytesRead(), w.bytesWritten(), w.flops(), seconds);
    double bytesPerSecond = (w.bytesRead() + w.bytesWritten()) / seconds;
    ObjectNode figure =
        figures
            .addObject()
            .put("name", name)
            .put("shape", w.shape())
            .put("dtype", line.dtype().toString())
            .put("microseconds", rounded(1e6 * seconds))
            .put("gb_per_s", rounded(bytesPerSecond / 1e9));
    if (w.flops() > 0) {
      figure.put("tflop_per_s", rounded(w.flops() / seconds / 1e12));
    }
    figure.put("percent_of_ceiling", rounded(share));
    List<String> others = new ArrayList<>();
    double fastest = Double.NaN;
    for (JsonNode peer : peers) {
      if (peer.get("name").asText().equals(name)
          && peer.get("shape").asText().equals(w.shape())
          && peer.get("dtype").asText().equals(line.dtype().toString())) {
        double milliseconds = peer.get("milliseconds").asDouble();
        fastest =
            Double.isNaN(fastest) ? milliseconds / 1e3 : Math.min(fastest, milliseconds / 1e3);
        others.add(peer.get("peer").asText() + " " + time(milliseconds / 1e3));
        figure
            .withObject("/pytorch_microseconds")
            .put(peer.get("peer").asText(), rounded(1e3 * milliseconds));
      }
    }
    Boolean isMet = line.aim().isMet(seconds, share, h100, fastest);
    if (isMet != null && isMet) {
      met++;
    } else if (isMet != null) {
      missed++;
    }
    if (isMet != null) {
      figure.put("aim", line.aim().toString()).put("met", isMet);
    }
    return String.format(
        Locale.ROOT,
        ROW,
        name,
        w.shape(),
        line.dtype(),
        time(seconds),
        rate(bytesPerSecond, w.flops() / seconds),
        Double.isNaN(share) ? "–" : String.format(Locale.ROOT, "%.0f %%", share),
        line.aim() + (isMet == null ? "" : isMet ? "  met" : "  missed"),
        String.join(", ", others));
  }

  // ---------------------------------------------------------------------------------------- text

  private static String rate(double bytesPerSecond, double flopsPerSecond) {
    return flopsPerSecond > 0
        ? String.format(Locale.ROOT, "%.1f TFLOP/s", flopsPerSecond / 1e12)
        : String.format(Locale.ROOT, "%.0f GB/s", bytesPerSecond / 1e9);
  }

  private static String time(double seconds) {
    return seconds < 1e-4
        ? String.format(Locale.ROOT, "%.1f us", 1e6 * seconds)
        : String.format(Locale.ROOT, "%.2f ms", 1e3 * seconds);
  }

  /** Four digits, null for NaN. */
  private static Double rounded(double value) {
    return Double.isNaN(value) ? null : Double.valueOf(String.format(Locale.ROOT, "%.4g", value));
  }
}
