package dev.saccade.benchmarks;

import dev.saccade.DType;
import java.util.Arrays;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Accumulation of the gradients of embeddings. */
public class ScatterAddRowsBenchmark extends OperationBenchmark {
  @Param("32768")
  private int tableRows;

  @Param("65536")
  private int count;

  @Param("1024")
  private int columns;

  @Override
  protected Workload workload(String method) {
    int[] index = RowsInputs.index(tableRows, count);
    long table = Arrays.stream(index).distinct().count() * columns; // of rows that are added to
    return Workload.of(
            "scatter_add_rows",
            "%d rows into %d × %d".formatted(count, tableRows, columns),
            engine -> engine.scatterAddRows(RowsInputs.of(tableRows, count, columns)))
        .reads((long) count * columns + table)
        .reads(count, DType.I32)
        .writes(table);
  }

  @Override
  protected String extent() {
    return "count";
  }

  /** The rows are added. */
  @Benchmark
  public Object add() {
    return run();
  }
}
