package dev.saccade.benchmarks;

import com.fasterxml.jackson.databind.JsonNode;
import dev.saccade.Context;
import dev.saccade.Device;
import dev.saccade.Precision;
import dev.saccade.train.TrainConfig;
import dev.saccade.train.TrainingLoop;
import dev.saccade.train.TrainingLoop.Times;
import dev.saccade.train.model.TransformerConfig;
import java.io.IOException;
import java.io.PrintWriter;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * Rollout batches of reinforcement learning, and the share of each of their stages: sampling,
 * scoring, what is to be known before the first update, and the updates. Beside them the same loop
 * in plain PyTorch, eager and compiled.
 */
public final class LoopFigures {
  /** What {@code saccade bench} calls it. */
  public static final String NAME = "training_loop";

  private static final String ROW = "%-6s %-5s %-22s %9s  %s%n";
  private static final List<String> STAGES =
      List.of("question", "sample", "score", "prepare", "update");

  /** A line of the table, before it is measured. */
  record Plan(String rule, Precision precision) {}

  private final Device device;
  private final List<String> peers;
  private final TrainConfig base;
  private final int batches;
  private final PrintWriter out;

  private LoopFigures(
      Device device, List<String> peers, TrainConfig base, int batches, PrintWriter out) {
    this.device = device;
    this.peers = peers.stream().filter(List.of("eager", "compiled")::contains).toList();
    this.base = base;
    this.batches = batches;
    this.out = out;
  }

  /**
   * Measures, and prints a table.
   *
   * @param isQuick a small model on few questions, one rule
   * @param peers those of {@link Suite#PEERS} that are measured too, where they have the loop
   */
  public static void run(
      Device device, int threads, boolean isQuick, List<String> peers, PrintWriter out)
      throws IOException {
    TrainConfig base =
        TrainConfig.preset(isQuick ? "tiny" : "full")
            .with(
                Map.of(
                    "rl.prompts", isQuick ? 8 : 64,
                    "rl.group", isQuick ? 4 : 8,
                    "rl.minibatches", isQuick ? 2 : 8));
    new LoopFigures(device, peers, base, isQuick ? 3 : 15, out).run(threads, isQuick);
  }

  private void run(int threads, boolean isQuick) throws IOException {
    out.printf(
        "%d questions × %d responses of %d tokens, %d updates; %s%n",
        base.rl().prompts(),
        base.rl().group(),
        TrainingLoop.sizes(base).response(),
        base.rl().updates(),
        Suite.machine(device, threads).hardware());
    out.printf(ROW, "rule", "type", "engine", "ms", "share of each stage");
    boolean gpu = device.kind() == Device.Kind.CUDA;
    List<Plan> plans = new ArrayList<>(List.of(new Plan("grpo", Precision.F32)));
    if (!isQuick) {
      plans.add(new Plan("ral", Precision.F32));
    }
    if (gpu) {
      plans.add(new Plan("grpo", Precision.TF32));
      plans.add(new Plan("grpo", Precision.BF16));
    }
    for (Plan plan : plans) {
      Duration warmUp = isQuick ? Duration.ZERO : Duration.ofSeconds(3);
      TrainConfig config =
          base.with("algorithm", plan.rule).with("precision", plan.precision.name());
      Times own;
      try (Context context = Context.builder().device(device).threads(threads).build()) {
        own = TrainingLoop.measure(context, config, batches, warmUp);
      }
      print(plan, "saccade", own, own);
      if (gpu) {
        // The legacy default stream records nothing.
        try (Context context = Context.builder().device(device).stream(0).build()) {
          print(
              plan,
              "saccade, no graphs",
              TrainingLoop.measure(context, config, batches, warmUp),
              own);
        }
      }
      if (!peers.isEmpty()) {
        peers(plan, config, threads, own);
      }
    }
  }

  private void peers(Plan plan, TrainConfig config, int threads, Times own) throws IOException {
    String problem =
        PythonPeers.converse(
            PythonPeers.TRAINING_LOOP,
            List.of(
                "--device=" + device,
                "--threads=" + threads,
                "--engines=" + String.join(",", peers)),
            List.of(request(config, batches)),
            answer -> {
              if (answer.has("note")) {
                out.printf(
                    ROW,
                    plan.rule,
                    plan.precision,
                    answer.get("engine").asText(),
                    "-",
                    answer.get("note").asText());
              } else if (answer.has("engine")) {
                print(plan, answer.get("engine").asText(), times(answer), own);
              }
            });
    if (!problem.isEmpty()) {
      out.printf(ROW, plan.rule, plan.precision, "PyTorch", "-", problem);
    }
  }

  private static Times times(JsonNode answer) {
    Map<String, Double> stages = new LinkedHashMap<>();
    answer
        .get("stages")
        .properties()
        .forEach(stage -> stages.put(stage.getKey(), stage.getValue().asDouble()));
    return new Times(answer.get("seconds").asDouble(), stages);
  }

  /** What training_loop.py reads. */
  static Map<String, Object> request(TrainConfig config, int batches) {
    TrainingLoop.Sizes sizes = TrainingLoop.sizes(config);
    TransformerConfig model = sizes.model();
    Map<String, Object> request = new LinkedHashMap<>();
    request.put("vocabulary", model.vocabulary());
    request.put("patch_size", model.patchSize());
    request.put("positions", model.positions());
    request.put("width", model.width());
    request.put("layers", model.layers());
    request.put("heads", model.heads());
    request.put("kv_heads", model.kvHeads());
    request.put("head_dim", model.headDim());
    request.put("hidden", model.hidden());
    request.put("patches", sizes.visual());
    request.put("question", sizes.question());
    request.put("response", sizes.response());
    request.put("prompts", config.rl().prompts());
    request.put("group", config.rl().group());
    request.put("minibatches", config.rl().minibatches());
    request.put("kl_coef", config.rl().kl().coef());
    request.put("lambda", config.rl().attention().lambda());
    request.put("precision", config.precision().name());
    request.put("batches", batches);
    return request;
  }

  private void print(Plan plan, String engine, Times times, Times own) {
    double total = times.stages().values().stream().mapToDouble(Double::doubleValue).sum();
    StringBuilder shares = new StringBuilder();
    for (String stage : STAGES) {
      if (times.stages().containsKey(stage)) {
        shares.append(
            String.format(
                Locale.ROOT, "%s %.0f %%  ", stage, 100 * times.stages().get(stage) / total));
      }
    }
    if (times != own) {
      shares.append(String.format(Locale.ROOT, " %.2f× saccade", times.seconds() / own.seconds()));
    }
    out.printf(
        ROW,
        plan.rule,
        plan.precision,
        engine,
        String.format(Locale.ROOT, "%.2f", 1e3 * times.seconds()),
        shares.toString().strip());
    out.flush();
  }
}
