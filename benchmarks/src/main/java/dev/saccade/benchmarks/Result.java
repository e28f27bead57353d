package dev.saccade.benchmarks;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * A line of results/cpu.csv. No field holds a comma.
 *
 * @param operation {@link Workload#name}
 * @param data {@link Workload#shape}
 * @param dtype of the tensors that may be of 16 bits
 * @param milliseconds mean time of an operation
 * @param error half of its 99.9 % interval, NaN where it was measured once
 * @param bytesRead {@link Workload#bytesRead}
 * @param bytesWritten {@link Workload#bytesWritten}
 * @param flops {@link Workload#flops}
 * @param gbPerSecond bytes over time
 * @param gflopPerSecond flops over time
 * @param percentOfCeiling of {@link Ceilings}
 */
public record Result(
    String operation,
    String data,
    String dtype,
    String engine,
    double milliseconds,
    double error,
    long bytesRead,
    long bytesWritten,
    double flops,
    double gbPerSecond,
    double gflopPerSecond,
    double percentOfCeiling,
    int threads,
    String processor,
    String jvm,
    String commit,
    String date) {
  static final String HEADER =
      "operation,data,dtype,engine,milliseconds,error,bytes_read,bytes_written,flops,gb_per_s,"
          + "gflop_per_s,percent_of_ceiling,threads,processor,jvm,commit,date";

  Result withPercentOfCeiling(double percent) {
    return new Result(
        operation,
        data,
        dtype,
        engine,
        milliseconds,
        error,
        bytesRead,
        bytesWritten,
        flops,
        gbPerSecond,
        gflopPerSecond,
        percent,
        threads,
        processor,
        jvm,
        commit,
        date);
  }

  private String line() {
    String line =
        String.join(
            ",",
            operation,
            data,
            dtype,
            engine,
            decimal(milliseconds),
            decimal(error),
            Long.toString(bytesRead),
            Long.toString(bytesWritten),
            String.format(Locale.ROOT, "%.0f", flops),
            decimal(gbPerSecond),
            decimal(gflopPerSecond),
            decimal(percentOfCeiling),
            Integer.toString(threads),
            processor,
            jvm,
            commit,
            date);
    if (line.split(",", -1).length != HEADER.split(",").length) {
      throw new IllegalArgumentException("a field holds a comma: " + line);
    }
    return line;
  }

  private static String decimal(double value) {
    return String.format(Locale.ROOT, "%.4g", value);
  }

  private static Result of(String line) {
    String[] f = line.split(",", -1);
    if (f.length != HEADER.split(",").length) {
      throw new IllegalArgumentException(f.length + " fields: " + line);
    }
    return new Result(
        f[0],
        f[1],
        f[2],
        f[3],
        Double.parseDouble(f[4]),
        Double.parseDouble(f[5]),
        Long.parseLong(f[6]),
        Long.parseLong(f[7]),
        Double.parseDouble(f[8]),
        Double.parseDouble(f[9]),
        Double.parseDouble(f[10]),
        Double.parseDouble(f[11]),
        Integer.parseInt(f[12]),
        f[13],
        f[14],
        f[15],
        f[16]);
  }

  /** Writes results with their header. */
  static void write(Path csv, List<Result> results) throws IOException {
    List<String> lines = new ArrayList<>(List.of(HEADER));
    results.forEach(result -> lines.add(result.line()));
    Files.write(csv, lines);
  }

  /** Reads what {@link #write} wrote. */
  static List<Result> read(Path csv) throws IOException {
    List<String> lines = Files.readAllLines(csv);
    if (!lines.get(0).equals(HEADER)) {
      throw new IllegalArgumentException(csv + ": the header is not that of these results");
    }
    return lines.stream().skip(1).map(Result::of).toList();
  }
}
