package dev.saccade.benchmarks;

import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * A line of results/*.csv: what one engine took for one workload. No field holds a comma; what is
 * not known is NaN or empty.
 *
 * @param engine {@link Engine#names} of the JVM, or a peer of {@link PythonPeers}
 * @param percentOfCeiling of the {@link Ceilings} of the same run
 * @param extraBytes most memory beyond inputs and outputs
 * @param note why there is no time; empty where there is one
 */
record Result(
    Line line,
    String engine,
    Time time,
    double percentOfCeiling,
    double extraBytes,
    Conditions conditions,
    Machine machine,
    String note) {
  /**
   * What was computed.
   *
   * @param operation {@link Workload#name}
   * @param model whose shape it is, empty for none
   * @param data {@link Workload#shape}
   * @param dtype of the tensors that may be of 16 bits
   * @param axis {@code name=value} of a point of a series, else empty
   */
  record Line(
      String operation,
      String model,
      String data,
      String dtype,
      String axis,
      long bytesRead,
      long bytesWritten,
      double flops) {}

  /**
   * Milliseconds of one operation.
   *
   * @param median of the iterations
   * @param mean of the iterations
   * @param error half of the 99.9 % interval of the mean, NaN for one iteration
   * @param events median by the events of the GPU
   */
  record Time(double median, double mean, double error, double events) {
    static final Time NONE = new Time(Double.NaN, Double.NaN, Double.NaN, Double.NaN);
  }

  /**
   * Of a GPU, while it was measured.
   *
   * @param megahertz clock of the multiprocessors
   * @param watts cap of the power
   * @param throttle {@link NvidiaSmi#reasons}
   */
  record Conditions(double megahertz, double watts, String throttle) {
    static final Conditions UNKNOWN = new Conditions(Double.NaN, Double.NaN, "");
  }

  /**
   * Where, with what, when.
   *
   * @param device cpu or cuda
   * @param hardware the processor or the GPU
   * @param driver of the GPU
   * @param cuda version of the runtime
   * @param software that the engine ran on
   */
  record Machine(
      String device,
      int threads,
      String hardware,
      String driver,
      String cuda,
      String software,
      String commit,
      String date) {
    Machine withSoftware(String other) {
      return new Machine(device, threads, hardware, driver, cuda, other, commit, date);
    }
  }

  /** What is said of a time beside another of the same work. */
  enum Verdict {
    SLOWER,
    FASTER,
    /** Not told apart. */
    SAME,
    /** One of the two did not run, or was measured once, so that nobody knows its noise. */
    UNKNOWN
  }

  /**
   * By what share of a time the same code may differ from one process to another. Errors do not
   * tell, since they are of the iterations of one.
   */
  static final double BETWEEN_PROCESSES = 0.02;

  static final String HEADER =
      "operation,model,data,dtype,axis,device,engine,median_ms,mean_ms,error_ms,event_ms,"
          + "bytes_read,bytes_written,flops,gb_per_s,gflop_per_s,percent_of_ceiling,extra_bytes,"
          + "sm_mhz,power_cap_w,throttle,threads,hardware,driver,cuda,software,commit,date,note";

  private static final int FIELDS = HEADER.split(",").length;

  static Result notRun(Line line, String engine, Machine machine, String why) {
    return new Result(
        line,
        engine,
        Time.NONE,
        Double.NaN,
        Double.NaN,
        Conditions.UNKNOWN,
        machine,
        "not run: " + why.replace(',', ';').replaceAll("\\s+", " ").strip());
  }

  boolean isRun() {
    return !Double.isNaN(time.mean);
  }

  /** The median, or the mean where that alone was kept. */
  double milliseconds() {
    return Double.isNaN(time.median) ? time.mean : time.median;
  }

  /** Slower or faster where the times differ by more than both errors and than processes do. */
  Verdict beside(Result other) {
    double noise = time.error + other.time.error;
    double own = milliseconds();
    double others = other.milliseconds();
    if (Double.isNaN(noise) || Double.isNaN(own) || Double.isNaN(others)) {
      return Verdict.UNKNOWN;
    }
    if (Math.abs(own - others) <= Math.max(noise, BETWEEN_PROCESSES * Math.min(own, others))) {
      return Verdict.SAME;
    }
    return own > others ? Verdict.SLOWER : Verdict.FASTER;
  }

  double gbPerSecond() {
    return (line.bytesRead + line.bytesWritten) / (1e6 * milliseconds());
  }

  double gflopPerSecond() {
    return line.flops / (1e6 * milliseconds());
  }

  /** What it shares with the results of other engines. */
  String work() {
    return String.join(",", line.operation, line.data, line.dtype, line.axis, machine.device);
  }

  /** What it shares with the result of the same engine in another run. */
  String key() {
    return work() + "," + engine;
  }

  Result withPercentOf(Ceilings ceilings) {
    return new Result(
        line, engine, time, ceilings.percent(this), extraBytes, conditions, machine, note);
  }

  private String csv() {
    String text =
        String.join(
            ",",
            line.operation,
            line.model,
            line.data,
            line.dtype,
            line.axis,
            machine.device,
            engine,
            decimal(time.median),
            decimal(time.mean),
            decimal(time.error),
            decimal(time.events),
            Long.toString(line.bytesRead),
            Long.toString(line.bytesWritten),
            String.format(Locale.ROOT, "%.0f", line.flops),
            decimal(gbPerSecond()),
            decimal(gflopPerSecond()),
            decimal(percentOfCeiling),
            decimal(extraBytes),
            decimal(conditions.megahertz),
            decimal(conditions.watts),
            conditions.throttle,
            Integer.toString(machine.threads),
            machine.hardware,
            machine.driver,
            machine.cuda,
            machine.software,
            machine.commit,
            machine.date,
            note);
    if (text.split(",", -1).length != FIELDS) {
      throw new IllegalArgumentException("a field holds a comma: " + text);
    }
    return text;
  }

  private static String decimal(double value) {
    return Double.isNaN(value) ? "" : String.format(Locale.ROOT, "%.6g", value);
  }

  private static double number(String field) {
    return field.isEmpty() ? Double.NaN : Double.parseDouble(field);
  }

  private static Result of(String text) {
    String[] f = text.split(",", -1);
    if (f.length != FIELDS) {
      throw new IllegalArgumentException(f.length + " fields: " + text);
    }
    return new Result(
        new Line(
            f[0],
            f[1],
            f[2],
            f[3],
            f[4],
            Long.parseLong(f[11]),
            Long.parseLong(f[12]),
            number(f[13])),
        f[6],
        new Time(number(f[7]), number(f[8]), number(f[9]), number(f[10])),
        number(f[16]),
        number(f[17]),
        new Conditions(number(f[18]), number(f[19]), f[20]),
        new Machine(f[5], Integer.parseInt(f[21]), f[22], f[23], f[24], f[25], f[26], f[27]),
        f[28]);
  }

  /** Writes results with their header, all or nothing: the file is replaced as a whole. */
  static void write(Path csv, List<Result> results) throws IOException {
    List<String> lines = new ArrayList<>(List.of(HEADER));
    results.forEach(result -> lines.add(result.csv()));
    Path target = Files.exists(csv) ? csv.toRealPath() : csv.toAbsolutePath();
    Files.createDirectories(target.getParent());
    Path whole = target.resolveSibling("." + target.getFileName() + ".tmp");
    try {
      Files.write(whole, lines);
      Files.move(
          whole, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } finally {
      Files.deleteIfExists(whole);
    }
  }

  /**
   * Reads what {@link #write} wrote.
   *
   * @throws IOException if the file cannot be read or is not one of results
   */
  static List<Result> read(Path csv) throws IOException {
    try {
      List<String> lines = Files.readAllLines(csv);
      if (lines.isEmpty() || !lines.get(0).equals(HEADER)) {
        throw new IOException(csv + ": the first line is not the header of benchmark results");
      }
      return lines.stream().skip(1).map(Result::of).toList();
    } catch (CharacterCodingException | IllegalArgumentException e) {
      throw new IOException(csv + ": not a file of benchmark results: " + e.getMessage(), e);
    }
  }

  /**
   * The newer results, and those of the older ones that were not measured again. What did not run
   * leaves a time of the same commit in its place.
   */
  static List<Result> merge(List<Result> older, List<Result> newer) {
    Map<String, Result> merged = new LinkedHashMap<>();
    older.forEach(result -> merged.put(result.key(), result));
    for (Result result : newer) {
      Result old = merged.get(result.key());
      boolean keepsOld =
          old != null
              && old.isRun()
              && !result.isRun()
              && old.machine.commit.equals(result.machine.commit);
      if (!keepsOld) {
        merged.put(result.key(), result);
      }
    }
    return List.copyOf(merged.values());
  }
}
