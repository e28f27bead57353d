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
import java.io.IOException;
import java.io.PrintWriter;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;

/**
 * One screen of what a GPU does: the operations on shapes of post-training, each against the
 * ceilings of the same run and, where one is set, its aim.
 *
 * <p>Ceilings are a copy within the GPU and cuBLAS's product of bf16 matrices. Data is random; what
 * is smaller than a cache takes turns with copies of itself, but in lines that say "cached", whose
 * launches back to back have the same data. A shape that the memory of the GPU does not hold is
 * halved until it does.
 */
public final class GpuFigures {
  private static final String ROW = "%-37s %-30s %-4s  %9s  %13s  %5s  %-16s %s%n";

  private static final int REPETITIONS = 15;

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

    boolean isOfPeers() {
      return !Double.isNaN(percentOfPeers);
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

  /**
   * One line of the table, before it is measured.
   *
   * @param cached whether all launches have the same data
   */
  record Plan(Case work, Aim aim, boolean cached) {}

  private final Device device;
  private final boolean h100;
  private final ArrayNode figures = JsonNodeFactory.instance.arrayNode();
  private final Ceilings ceilings;
  private int met;
  private int missed;

  private GpuFigures(Device device, boolean h100, Ceilings ceilings) {
    this.device = device;
    this.h100 = h100;
    this.ceilings = ceilings;
  }

  /**
   * Measures the first GPU, prints the table and writes it all as JSON.
   *
   * @param args the file to write; a file with a JSON object a line: facts, which are written as
   *     they are, and {@code {"check": name, "passed": n, "failed": n}}
   */
  public static void main(String[] args) throws IOException {
    ObjectMapper json = new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT);
    ObjectNode root = json.createObjectNode();
    ArrayNode checks = json.createArrayNode();
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
      } else {
        root.setAll((ObjectNode) node);
      }
    }
    Ceilings ceilings = ceilings(gpu.device());
    GpuFigures figures = new GpuFigures(gpu.device(), gpu.name().contains("H100"), ceilings);
    System.out.printf(
        "%s, driver %s, CUDA runtime %s, %s; ceilings: copy %s, bf16 products %s%n",
        gpu.name(),
        root.path("driver").asText("unknown"),
        cudaRuntime(),
        root.get("date").asText(),
        rate(ceilings.copy(), 0),
        Double.isNaN(ceilings.product()) ? "not run: no cuBLAS" : rate(0, ceilings.product()));
    root.set("checks", checks);
    root.putObject("ceilings")
        .put("copy_gb_per_s", rounded(ceilings.copy() / 1e9))
        .put("bf16_tflop_per_s", rounded(ceilings.product() / 1e12));
    root.set("figures", figures.figures);
    Path out = Path.of(args[0]).toAbsolutePath();
    Files.createDirectories(out.getParent());
    figures.print(
        () -> {
          try {
            Files.writeString(out, json.writeValueAsString(root) + "\n");
          } catch (IOException e) {
            throw new UncheckedIOException(e);
          }
        });
  }

  private static String cudaRuntime() {
    return Context.nativeBuild().replaceAll(".*\\bcuda ", "");
  }

  /**
   * @param save keeps what there is, whatever becomes of the rest
   */
  private void print(Runnable save) throws IOException {
    save.run();
    System.out.printf(ROW, "operation", "shape", "type", "time", "rate", "share", "aim", "PyTorch");
    List<Plan> compared = plans().stream().filter(plan -> plan.aim().isOfPeers()).toList();
    plans().stream()
        .filter(plan -> !compared.contains(plan))
        .forEach(
            plan ->
                System.out.print(
                    line(plan, measure(device, plan.work(), ceilings, plan.cached()), List.of())));
    save.run();
    List<Figure> measured = new ArrayList<>();
    List<PythonPeers.Item> items = new ArrayList<>();
    Result.Machine machine = Suite.machine(device, 0);
    for (Plan plan : compared) {
      Figure figure = measure(device, plan.work(), ceilings, plan.cached());
      measured.add(figure);
      items.add(
          new PythonPeers.Item(
              plan.work(),
              figure.benchmark(),
              Suite.line(plan.work(), figure.benchmark(), 0),
              machine,
              ceilings.launches(figure.workload())));
    }
    List<Result> peers = new ArrayList<>();
    new PythonPeers(device, 0, List.of("eager"), new PrintWriter(System.err))
        .run(items, peers::add);
    for (int i = 0; i < compared.size(); i++) {
      Result.Line line = items.get(i).line();
      List<Result> ofLine =
          peers.stream().filter(peer -> peer.line() == line && peer.isRun()).toList();
      System.out.print(line(compared.get(i), measured.get(i), ofLine));
    }
    save.run();
    System.out.printf(
        "aims: %d met, %d missed%s%n",
        met, missed, peers.stream().anyMatch(Result::isRun) ? "" : "; PyTorch not run");
  }

  // ------------------------------------------------------------------------------------- the lines

  static List<Plan> plans() {
    List<Plan> plans = new ArrayList<>();
    plan(plans, Cases.logits("TokenLogProbs", "forward", 8192, Model.QWEN_7B), Aim.share(94));
    for (int vocabulary : new int[] {151_936, 128_256, 262_144, 32_000}) {
      policyLossFromLogits(plans, "BF16", vocabulary);
    }
    policyLossFromLogits(plans, "F32", 151_936);
    policyLossFromLogits(plans, "F16", 151_936);
    divergence(plans, "FORWARD_KL", "BF16", Aim.microseconds(2800));
    divergence(plans, "REVERSE_KL", "BF16", Aim.microseconds(2800));
    divergence(plans, "JSD", "BF16", Aim.microseconds(3200));
    divergence(plans, "JSD", "F16", Aim.NONE);
    for (Divergence kind : Divergence.values()) {
      divergence(plans, kind.name(), "F32", Aim.NONE);
    }
    Case tensors = Case.of("AdamW", "step").with("tensors", 256).with("elements", 1 << 20);
    plan(plans, tensors.with("bf16Copies", true), Aim.share(85));
    plan(plans, Case.of("GradNorm", "forward").with("tensors", 256), Aim.NONE);
    for (GroupAdvantage.Estimator estimator : GroupAdvantage.Estimator.values()) {
      int launches =
          switch (estimator) {
            case GRPO, DR_GRPO, RLOO -> 1;
            case BATCH_STD, REINFORCE_PP_BASELINE -> 2; // the deviation of the batch comes first
          };
      backToBack(plans, Cases.groupAdvantage(estimator.name(), 16_384, 64), launches);
    }
    plan(plans, Case.of("SampledKl", "gradient"), Aim.NONE);
    backToBack(plans, Case.of("SampledKl", "gradient").with("rows", 1 << 20), 1);
    plan(plans, Case.of("PolicyLoss", "gradient"), Aim.NONE);
    Case shorter = Case.of("PolicyLoss", "gradient").with("sequences", 16_384);
    backToBack(plans, shorter.with("length", 64), 2);
    plan(plans, Case.of("GradientMoments", "update"), Aim.NONE);
    backToBack(plans, Case.of("GradientMoments", "update").with("size", 1 << 20), 2);
    Case sample = Cases.logits("SampleTokens", "forward", 64, Model.QWEN_7B);
    plan(plans, sample.with("temperature", 0.7f), Aim.NONE);
    plan(plans, sample.with("temperature", 0.7f).with("topP", 0.9f), Aim.NONE);
    for (int dim : new int[] {64, 128}) {
      for (String pass : new String[] {"forward", "backward"}) {
        plan(plans, attention(pass, 16, 16, 2048, dim, "F32"), Aim.ofPeers(60));
        plan(plans, attention(pass, 16, 16, 2048, dim, "BF16"), Aim.ofPeers(60));
        plan(plans, attention(pass, 32, 8, 4096, dim, "BF16"), Aim.ofPeers(60));
      }
    }
    plan(plans, Case.of("AttentionPolicy", "forward").with("batch", 16), Aim.NONE);
    plan(plans, Case.of("AttentionDivergence", "gradient").with("batch", 16), Aim.NONE);
    // In TFLOP/s; of the smallest a tenth may be launches.
    double aim = 370;
    attentionDivergence(plans, Cases.divergence(Model.QWEN_7B, 1, 512, 4096), 0.9 * aim);
    attentionDivergence(plans, Cases.divergence(Model.QWEN_7B, 1, 512, 16_384), aim);
    attentionDivergence(plans, Cases.divergence(Model.QWEN_7B, 4, 1024, 8192), aim);
    attentionDivergence(plans, Cases.divergence(Model.LLAMA_3, 2, 4096, 4096), aim);
    return plans;
  }

  private static void plan(List<Plan> plans, Case work, Aim aim) {
    plans.add(new Plan(work, aim, false));
  }

  /** Some launches that an aim is about, and their time with data from memory. */
  private static void backToBack(List<Plan> plans, Case work, int launches) {
    plans.add(new Plan(work, Aim.launches(launches), true));
    plan(plans, work, Aim.NONE);
  }

  /** As many rows as take 2.5 GB, 8192 at most. */
  private static void policyLossFromLogits(List<Plan> plans, String dtype, int vocabulary) {
    long most = 8192L * 151_936 * 2 / ((long) vocabulary * DType.valueOf(dtype).bytes());
    int rows = (int) Math.min(8192, most / 512 * 512);
    plan(plans, Cases.policyLossFromLogits(rows, vocabulary, dtype), Aim.share(85));
  }

  private static void divergence(List<Plan> plans, String kind, String dtype, Aim aim) {
    int rows = dtype.equals("F32") ? 4096 : 8192;
    Case work = Cases.logits("LogitDivergence", "gradient", rows, 151_936, dtype);
    plan(plans, work.with("kind", kind), aim);
  }

  private static Case attention(
      String pass, int heads, int kvHeads, int rows, int dim, String precision) {
    return Case.of("Attention", pass)
        .with("batch", 2)
        .with("heads", heads)
        .with("kvHeads", kvHeads)
        .with("rows", rows)
        .with("dim", dim)
        .with("precision", precision);
  }

  private static void attentionDivergence(List<Plan> plans, Case work, double teraflops) {
    plan(plans, work, Aim.microseconds(work.workload().flops() / (teraflops * 1e6)));
  }

  // ------------------------------------------------------------------------------------- measuring

  /** A figure, of as much of the data as the memory holds. */
  record Figure(OperationBenchmark benchmark, Workload workload, double seconds) {}

  static Figure measure(Device device, Case work, Ceilings ceilings, boolean cached) {
    OperationBenchmark benchmark = work.instance();
    while (true) {
      Workload workload = benchmark.workload(work.method());
      try (Engine engine = Engine.open(Engine.SACCADE, device, 0, benchmark.dtype())) {
        List<Work> works = new ArrayList<>();
        for (int i = 0; i < (cached ? 1 : workload.copies()); i++) {
          works.add(workload.work().apply(engine));
        }
        int count = ceilings.launches(workload);
        try (Launches launches = Launches.of(engine, works, count, benchmark.isRecorded())) {
          return new Figure(benchmark, workload, median(launches) / count);
        }
      } catch (OutOfMemoryException e) {
        if (!benchmark.shrink()) {
          throw e;
        }
      }
    }
  }

  private static double median(Launches launches) {
    launches.run();
    double[] times = new double[REPETITIONS];
    for (int i = 0; i < times.length; i++) {
      long start = System.nanoTime();
      launches.run();
      times[i] = (System.nanoTime() - start) / 1e9;
    }
    Arrays.sort(times);
    return times[times.length / 2];
  }

  /** What the device does best. */
  static Ceilings ceilings(Device device) {
    List<Double> rates = new ArrayList<>();
    for (Case ceiling : Cases.ceilings(Device.Kind.CUDA)) {
      try {
        Figure figure = measure(device, ceiling, Ceilings.BOUNDS, false);
        Workload w = figure.workload();
        rates.add((w.flops() > 0 ? w.flops() : w.bytes()) / figure.seconds());
      } catch (LinkageError e) {
        rates.add(Double.NaN); // no cuBLAS: the table says so
      }
    }
    return new Ceilings(rates.get(0), rates.get(0), rates.get(1));
  }

  private String line(Plan plan, Figure measured, List<Result> peers) {
    double seconds = measured.seconds();
    Workload w = measured.workload();
    String name = w.operation();
    String shape = w.shape() + (plan.cached() ? ", cached" : "");
    String dtype = measured.benchmark().dtype().toString();
    double share = 100 * ceilings.seconds(w) / seconds;
    double bytesPerSecond = w.bytes() / seconds;
    ObjectNode figure =
        figures
            .addObject()
            .put("name", name)
            .put("shape", shape)
            .put("dtype", dtype)
            .put("microseconds", rounded(1e6 * seconds))
            .put("gb_per_s", rounded(bytesPerSecond / 1e9));
    if (w.flops() > 0) {
      figure.put("tflop_per_s", rounded(w.flops() / seconds / 1e12));
    }
    figure.put("percent_of_ceiling", rounded(share));
    List<String> others = new ArrayList<>();
    double fastest = Double.NaN;
    for (Result peer : peers) {
      double time = peer.milliseconds() / 1e3;
      fastest = Double.isNaN(fastest) ? time : Math.min(fastest, time);
      others.add(peer.engine() + " " + time(time));
      figure.withObject("/pytorch_microseconds").put(peer.engine(), rounded(1e6 * time));
    }
    boolean whole = measured.benchmark().extentValue() == plan.work().instance().extentValue();
    Aim aim = whole || Double.isNaN(plan.aim().microseconds()) ? plan.aim() : Aim.NONE;
    Boolean isMet = aim.isMet(seconds, share, h100, fastest);
    if (isMet != null && isMet) {
      met++;
    } else if (isMet != null) {
      missed++;
    }
    if (isMet != null) {
      figure.put("aim", aim.toString()).put("met", isMet);
    }
    return String.format(
        Locale.ROOT,
        ROW,
        name,
        shape,
        dtype,
        time(seconds),
        rate(bytesPerSecond, w.flops() / seconds),
        Double.isNaN(share) ? "–" : String.format(Locale.ROOT, "%.0f %%", share),
        aim + (isMet == null ? "" : isMet ? "  met" : "  missed"),
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
