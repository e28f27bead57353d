package dev.saccade.benchmarks;

import dev.saccade.DType;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Param;

/** Look-up of embeddings. */
public class GatherRowsBenchmark extends OperationBenchmark {
  @Param("65536")
  private int tableRows;

  @Param("65536")
  private int count;

  @Param("1024")
  private int columns;

  @Override
  protected Workload workload(String method) {
    long size = (long) count * columns;
    return Workload.of(
            "gather_rows",
            "%d rows of %d × %d".formatted(count, tableRows, columns),
            engine -> engine.gatherRows(RowsInputs.of(tableRows, count, columns)))
        .reads(size)
        .reads(count, DType.I32)
        .writes(size);
  }

  @Override
  protected String extent() {
    return "count";
  }

  /** The rows. */
  @Benchmark
  public Object forward() {
    return run();
  }
}
