package dev.saccade.train.report;

import dev.saccade.train.task.Proportion;

/** A line of the summary. */
public sealed interface SummaryRow {

  /** What it is about. */
  String label();

  /**
   * A share of successes before and after training.
   *
   * @param label such as {@code "COUNT accuracy"}
   */
  record Comparison(String label, Proportion before, Proportion after) implements SummaryRow {}

  /**
   * Anything else worth a headline.
   *
   * @param label such as {@code "Throughput"}
   * @param value such as {@code "41,300 tokens/s"}
   */
  record Fact(String label, String value) implements SummaryRow {}
}
