package dev.saccade.train.report;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What a report shows. Any part may be empty; its section then says so.
 *
 * <p>A row of {@code metrics} has a {@code step}, a {@code stage} and numbers by name. Stage {@code
 * "sft"} is the warm-up, {@code "eval"} a held-out evaluation after step {@code policy_step}
 * ({@code step} if absent) with {@code accuracy}, {@code accuracy_low} and {@code accuracy_high};
 * any other stage is reinforcement learning, named by the stage, or by {@code run} where rows of
 * several runs are compared. Values that are missing, not numbers or not finite are left out of a
 * curve.
 *
 * @param title the heading
 * @param summary the headline results, in order
 * @param config settings by name, in order
 * @param metrics rows of {@code metrics.jsonl}; see {@link Report#readMetrics}
 * @param pictures scenes with the attention of the answer
 */
public record ReportData(
    String title,
    List<SummaryRow> summary,
    Map<String, String> config,
    List<Map<String, Object>> metrics,
    List<AttentionPicture> pictures) {

  /** Copies the collections, but not the rows of {@code metrics}. */
  public ReportData {
    summary = List.copyOf(summary);
    config = Collections.unmodifiableMap(new LinkedHashMap<>(config));
    metrics = List.copyOf(metrics);
    pictures = List.copyOf(pictures);
  }
}
