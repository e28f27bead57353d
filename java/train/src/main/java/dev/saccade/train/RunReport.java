package dev.saccade.train;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.saccade.AttentionPolicy;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.model.Batch;
import dev.saccade.train.model.PolicyModel;
import dev.saccade.train.model.Transformer;
import dev.saccade.train.report.AttentionPicture;
import dev.saccade.train.report.Report;
import dev.saccade.train.report.ReportData;
import dev.saccade.train.report.SummaryRow;
import dev.saccade.train.task.Example;
import dev.saccade.train.task.Image;
import dev.saccade.train.task.Proportion;
import dev.saccade.train.task.Reward;
import dev.saccade.train.task.Vocabulary;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/** Makes the report of a run from the files in its folder. */
public final class RunReport {
  private static final int PICTURES = 9;
  private static final int SAMPLES = 4;
  private static final String HELD_OUT = "held-out accuracy";

  private RunReport() {}

  /**
   * Writes report.html of a run, at its end or as far as it came: curves, and scenes with the
   * attention policy of the likeliest answer before and after reinforcement learning, and sampled
   * responses.
   *
   * @throws dev.saccade.train.report.NoFontsException if this host cannot draw text
   */
  public static Path write(Context context, RunFolder run) throws IOException {
    TrainConfig config = run.readConfig();
    List<Map<String, Object>> metrics = Report.readMetrics(run.metrics());
    List<AttentionPicture> pictures = new ArrayList<>();
    Path last = Checkpoint.find(run.root());
    try (Transformer before =
            Checkpoint.loadPolicy(context, Files.exists(run.warm()) ? run.warm() : last);
        Transformer after = Checkpoint.loadPolicy(context, last)) {
      List<Example> examples = config.scenes().heldOut(PICTURES);
      List<AttentionPicture.Glance> first = glances(config, before, examples);
      List<AttentionPicture.Glance> second = glances(config, after, examples);
      int[][] sampled = sampled(config, after, examples);
      for (int i = 0; i < examples.size(); i++) {
        Example example = examples.get(i);
        Image image = example.image();
        pictures.add(
            new AttentionPicture(
                image.canvas(),
                image.side(),
                image.side() / config.patch(),
                Vocabulary.decode(example.question()),
                text(example.truth()),
                first.get(i),
                second.get(i),
                Arrays.stream(sampled, i * SAMPLES, (i + 1) * SAMPLES)
                    .map(Vocabulary::decode)
                    .toList()));
      }
    }
    Report.write(
        run.report(),
        new ReportData(
            "Saccade: "
                + config.algorithm().id().toUpperCase(Locale.ROOT)
                + " on "
                + config.task()
                + ", "
                + config.cells()
                + "×"
                + config.cells()
                + " scenes",
            summary(config, metrics),
            flatten(config),
            metrics,
            pictures));
    return run.report();
  }

  /**
   * Writes one page about several runs: held-out accuracies, their curves in the same charts, and
   * the values in which they differ. Runs are named by their folders.
   *
   * @param out the page
   * @throws dev.saccade.train.report.NoFontsException if this host cannot draw text
   */
  public static Path compare(List<RunFolder> runs, Path out) throws IOException {
    List<SummaryRow> summary = new ArrayList<>();
    List<Map<String, Object>> metrics = new ArrayList<>();
    Map<String, Map<String, String>> values = new LinkedHashMap<>();
    for (RunFolder run : runs) {
      String name = run.root().toAbsolutePath().normalize().getFileName().toString();
      while (values.containsKey(name)) {
        name += "'";
      }
      TrainConfig config = run.readConfig();
      List<Map<String, Object>> own = Report.readMetrics(run.metrics());
      for (SummaryRow row : summary(config, own)) {
        if (row instanceof SummaryRow.Comparison accuracy) {
          summary.add(new SummaryRow.Comparison(name, accuracy.before(), accuracy.after()));
        } else if (row.label().equals(HELD_OUT) && row instanceof SummaryRow.Fact accuracy) {
          summary.add(new SummaryRow.Fact(name, accuracy.value()));
        }
      }
      metrics.addAll(named(name, config, own));
      values.put(name, flatten(config));
    }
    Report.write(
        out,
        new ReportData(
            "Saccade: " + runs.size() + " runs", summary, different(values), metrics, List.of()));
    return out;
  }

  /** Rows of the rule, and of evaluations after it began, as curves of a run. */
  private static List<Map<String, Object>> named(
      String name, TrainConfig config, List<Map<String, Object>> metrics) {
    String stage = config.algorithm().id();
    List<Map<String, Object>> rows = new ArrayList<>();
    for (Map<String, Object> row : metrics) {
      Map<String, Object> copy = new LinkedHashMap<>();
      if (stage.equals(row.get("stage"))) {
        copy.putAll(row);
      } else if ("eval".equals(row.get("stage"))) {
        copy.put("step", row.get("policy_step"));
        copy.put("held_out_accuracy", row.get("accuracy"));
      } else {
        continue;
      }
      copy.put("run", name);
      rows.add(copy);
    }
    return rows;
  }

  /** The values that are not the same in all runs. */
  private static Map<String, String> different(Map<String, Map<String, String>> values) {
    Map<String, String> different = new LinkedHashMap<>();
    List<Map<String, String>> all = List.copyOf(values.values());
    Set<String> names = new LinkedHashSet<>();
    all.forEach(own -> names.addAll(own.keySet()));
    for (String name : names) {
      if (all.stream().map(own -> own.getOrDefault(name, "")).distinct().count() > 1) {
        values.forEach((run, own) -> different.put(run + ": " + name, own.getOrDefault(name, "")));
      }
    }
    return different;
  }

  private static List<SummaryRow> summary(TrainConfig config, List<Map<String, Object>> metrics) {
    Proportion warm = null;
    Proportion last = null;
    for (Map<String, Object> row : metrics) {
      if ("eval".equals(row.get("stage"))) {
        last =
            new Proportion(
                ((Number) row.get("right")).longValue(), ((Number) row.get("scenes")).longValue());
        warm = "sft".equals(row.get("after")) ? last : warm;
      }
    }
    List<SummaryRow> rows = new ArrayList<>();
    if (warm != null) {
      rows.add(
          config.algorithm() == Algorithm.SFT
              ? new SummaryRow.Fact(HELD_OUT, warm.toString())
              : new SummaryRow.Comparison(HELD_OUT, warm, last));
    }
    rows.add(new SummaryRow.Fact("held-out scenes", Integer.toString(config.evaluationScenes())));
    String stages = stages(metrics);
    if (!stages.isEmpty()) {
      rows.add(new SummaryRow.Fact("time of the rollout batches", stages));
    }
    return rows;
  }

  /** The share of each stage of the rollout batches, and their time. */
  private static String stages(List<Map<String, Object>> metrics) {
    Map<String, Double> seconds = new LinkedHashMap<>();
    for (Map<String, Object> row : metrics) {
      row.forEach(
          (name, value) -> {
            if (name.endsWith(Stages.SECONDS)) {
              String stage = name.substring(0, name.length() - Stages.SECONDS.length());
              seconds.merge(stage, ((Number) value).doubleValue(), Double::sum);
            }
          });
    }
    double total = seconds.values().stream().mapToDouble(Double::doubleValue).sum();
    List<String> shares = new ArrayList<>();
    seconds.forEach(
        (stage, own) ->
            shares.add(String.format(Locale.ROOT, "%s %.0f %%", stage, 100 * own / total)));
    return shares.isEmpty()
        ? ""
        : String.format(Locale.ROOT, "%.3g s: %s", total, String.join(", ", shares));
  }

  private static Map<String, String> flatten(TrainConfig config) throws IOException {
    Map<String, String> flat = new LinkedHashMap<>();
    flatten("", new ObjectMapper().readTree(config.toJson()), flat);
    return flat;
  }

  private static void flatten(String name, JsonNode node, Map<String, String> flat) {
    if (node.isObject()) {
      node.properties()
          .forEach(
              field ->
                  flatten(
                      name.isEmpty() ? field.getKey() : name + "." + field.getKey(),
                      field.getValue(),
                      flat));
    } else {
      flat.put(name, node.isArray() ? node.toString() : node.asText());
    }
  }

  /** As in training, {@link #SAMPLES} to each example. */
  private static int[][] sampled(TrainConfig config, PolicyModel model, List<Example> examples) {
    return model.sample(
        Evaluator.prompts(examples, config.patch()),
        SAMPLES,
        new PolicyModel.Sampling(
            (float) config.rl().temperature(),
            config.responseLength(),
            Vocabulary.END_ANSWER,
            config.seed(),
            0));
  }

  private static List<AttentionPicture.Glance> glances(
      TrainConfig config, PolicyModel model, List<Example> examples) {
    return glances(config, model, examples, Evaluator.answer(model, config, examples));
  }

  /**
   * What responses answer, and where a policy looks when it predicts the answer: the attention
   * policy, mean over the tokens of the answer.
   */
  static List<AttentionPicture.Glance> glances(
      TrainConfig config, PolicyModel model, List<Example> examples, int[][] responses) {
    int[] own = new int[examples.size()];
    Arrays.setAll(own, i -> i);
    Batch batch = Batch.of(Evaluator.prompts(examples, config.patch()), own, responses);
    int layer = Math.floorMod(config.rl().attention().layers().get(0), model.layers());
    int patches = batch.prompts().get(0).patchCount();
    List<AttentionPicture.Glance> glances = new ArrayList<>();
    try (Scope scope = model.context().scope()) {
      PolicyModel.Activations pass = model.forward(scope, batch, layer);
      Tensor map = Tensor.empty(scope, DType.F32, batch.responseRows(), batch.longest());
      AttentionPolicy.forward(
          model.context(),
          pass.attention(layer),
          AttentionPolicy.Options.DEFAULT,
          new AttentionPolicy.Outputs(null, null, null, map));
      float[] all = map.toFloats();
      int[] offsets = batch.responseOffsets();
      for (int s = 0; s < responses.length; s++) {
        int begin = answerBegin(responses[s]);
        int end = answerEnd(responses[s], begin);
        float[] attention = new float[patches];
        for (int row = offsets[s] + begin; row < offsets[s] + end; row++) {
          for (int i = 0; i < patches; i++) {
            attention[i] += all[row * batch.longest() + i] / (end - begin);
          }
        }
        glances.add(
            new AttentionPicture.Glance(
                Reward.answer(responses[s]).map(RunReport::text).orElse(""),
                attention,
                Vocabulary.decode(responses[s])));
      }
    }
    return glances;
  }

  /** A number without spaces between its digits. */
  private static String text(int[] answer) {
    String names = Vocabulary.decode(answer);
    return Arrays.stream(answer).allMatch(Vocabulary::isDigit) ? names.replace(" ", "") : names;
  }

  /** The first response row that predicts the answer: after its opening tag, else the last row. */
  private static int answerBegin(int[] response) {
    for (int i = 0; i + 1 < response.length; i++) {
      if (response[i] == Vocabulary.ANSWER) {
        return i + 1;
      }
    }
    return response.length - 1;
  }

  /** Past the last response row that predicts the answer: at its closing tag, or the end. */
  private static int answerEnd(int[] response, int begin) {
    int end = begin + 1;
    while (end < response.length && response[end] != Vocabulary.END_ANSWER) {
      end++;
    }
    return end;
  }
}
