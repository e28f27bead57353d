package dev.saccade.benchmarks;

import java.util.List;

/** Results for tests. */
final class Results {
  static final Result.Machine CPU =
      new Result.Machine("cpu", 2, "A processor", "", "", "A VM 17", "abc", "2026-01-02");
  static final Result.Machine GPU =
      new Result.Machine("cuda", 8, "A GPU", "580.1", "13.0", "A VM 17", "abc", "2026-01-02");

  private Results() {}

  static Result of(
      Result.Machine machine,
      String operation,
      String dtype,
      String engine,
      double milliseconds,
      long read,
      long written,
      double flops) {
    return new Result(
        new Result.Line(operation, "", "4 × 8", dtype, "", read, written, flops),
        engine,
        new Result.Time(milliseconds, milliseconds, 0.1, Double.NaN),
        50,
        Double.NaN,
        Result.Conditions.UNKNOWN,
        machine,
        "");
  }

  /** {@link #CPU} at another commit. */
  static Result.Machine ofCommit(String commit) {
    return new Result.Machine("cpu", 2, "A processor", "", "", "A VM 17", commit, "2026-01-02");
  }

  static Result cpu(
      String operation, String dtype, String engine, double ms, long read, long written) {
    return of(CPU, operation, dtype, engine, ms, read, written, 0);
  }

  /** A point of a series on a GPU. */
  static Result point(
      String operation, String engine, String axis, double ms, long bytes, double extra) {
    return new Result(
        new Result.Line(operation, "", axis, "bf16", axis, bytes, 0, 0),
        engine,
        new Result.Time(ms, ms, 0.01, Double.NaN),
        Double.NaN,
        extra,
        Result.Conditions.UNKNOWN,
        GPU,
        "");
  }

  static Result withEvents(Result of, double events) {
    var time = new Result.Time(of.time().median(), of.time().mean(), of.time().error(), events);
    return new Result(
        of.line(), of.engine(), time, 50, 4096, of.conditions(), of.machine(), of.note());
  }

  static final List<Result> SOME =
      List.of(
          cpu("§2 token_log_probs", "f32", "saccade", 10, 200_000_000, 0),
          cpu("§2 token_log_probs", "f32", "djl", 35, 200_000_000, 0),
          cpu("§2 token_log_probs", "f32", "nd4j", 120, 200_000_000, 0),
          cpu("§2 token_log_probs", "bf16", "saccade", 6, 100_000_000, 0),
          cpu(AxpbyBenchmark.COPY, "f32", "saccade", 20, 100_000_000, 100_000_000),
          cpu(AxpbyBenchmark.COPY, "f32", "djl", 16, 100_000_000, 100_000_000),
          Result.notRun(
              cpu(AxpbyBenchmark.COPY, "f32", "nd4j", 1, 1, 1).line(), "nd4j", CPU, "no, none"));
}
