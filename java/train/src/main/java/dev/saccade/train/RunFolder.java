package dev.saccade.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.saccade.train.report.Report;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;

/**
 * The files of a run:
 *
 * <pre>
 * config.json                       the configuration, whole
 * build.json                        the program that made it: git commit where known, version of Java
 * metrics.jsonl                     a line for every step and every evaluation
 * metrics.csv                       the same as a table, once the run is at its end
 * checkpoints/latest.safetensors    everything that --resume needs
 * checkpoints/sft.safetensors       the policy after the warm-up
 * checkpoints/final.safetensors     the policy at the end
 * report.html                       curves and pictures; opens offline
 * fault/                            after a gradient that was not finite: cases for saccade op
 * </pre>
 */
public final class RunFolder {
  private static final ObjectMapper JSON = new ObjectMapper();

  private final Path root;
  private long lines;
  private boolean made;

  private RunFolder(Path root) {
    this.root = root;
  }

  /**
   * Makes the folder of a new run.
   *
   * @throws IOException if there is a run in it
   */
  public static RunFolder create(Path root, TrainConfig config) throws IOException {
    RunFolder run = new RunFolder(root);
    if (Files.exists(run.config())) {
      throw new IOException(root + ": holds a run already; resume it or choose another folder");
    }
    run.made = Files.notExists(root);
    Files.createDirectories(run.checkpoints());
    Files.writeString(run.metrics(), "");
    run.replace(run.build(), ConfigTree.write(program()) + "\n");
    // Last and at once: a folder with a configuration holds a run.
    run.replace(run.config(), config.toJson() + "\n");
    return run;
  }

  /** Deletes what {@link #create} made: a run that could not begin. */
  void forget() throws IOException {
    // The configuration first: a folder without holds no run, whatever else cannot be deleted.
    List<Path> own = new ArrayList<>(List.of(config(), build(), metrics(), held(), checkpoints()));
    if (made) {
      own.add(root);
    }
    for (Path path : own) {
      try {
        Files.deleteIfExists(path);
      } catch (DirectoryNotEmptyException e) {
        // What others put there stays.
      }
    }
  }

  /** The launchers say of which commit the program is. */
  private static Map<String, String> program() {
    return new TreeMap<>(
        Map.of(
            "commit", System.getProperty("saccade.commit", "unknown"),
            "java", System.getProperty("java.version")));
  }

  /**
   * Opens the folder of a run.
   *
   * @throws IOException if there is none
   */
  public static RunFolder open(Path root) throws IOException {
    RunFolder run = new RunFolder(root);
    if (!Files.isRegularFile(run.config())) {
      throw new IOException(root + ": no such run folder (there is no config.json in it)");
    }
    return run;
  }

  public Path root() {
    return root;
  }

  public Path config() {
    return root.resolve("config.json");
  }

  private Path build() {
    return root.resolve("build.json");
  }

  /** The file that {@link #lock} locks. */
  private Path held() {
    return root.resolve(".lock");
  }

  public Path metrics() {
    return root.resolve("metrics.jsonl");
  }

  public Path report() {
    return root.resolve("report.html");
  }

  private Path checkpoints() {
    return root.resolve("checkpoints");
  }

  /** Everything that a resumed run needs. */
  public Path latest() {
    return checkpoints().resolve("latest.safetensors");
  }

  /** The policy after the warm-up. */
  public Path warm() {
    return checkpoints().resolve("sft.safetensors");
  }

  /** The operations of an update whose gradients were not finite. */
  Path fault() {
    return root.resolve("fault");
  }

  /** The policy at the end of the run. */
  public Path last() {
    return checkpoints().resolve("final.safetensors");
  }

  /**
   * The configuration of the run.
   *
   * @throws IOException if config.json cannot be read or is none
   */
  public TrainConfig readConfig() throws IOException {
    try {
      return TrainConfig.fromJson(Files.readString(config()));
    } catch (IllegalArgumentException e) {
      throw new IOException(config() + ": " + e.getMessage(), e);
    }
  }

  /**
   * Keeps other processes from training in this folder until the result is closed.
   *
   * @throws IOException if another one does
   */
  FileChannel lock() throws IOException {
    FileChannel channel =
        FileChannel.open(held(), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
    try {
      if (channel.tryLock() != null) {
        return channel;
      }
    } catch (OverlappingFileLockException e) {
      // held by this process
    }
    channel.close();
    throw new IOException(root + ": is in use by another run of saccade train");
  }

  /** Makes what was appended outlive a crash of the machine: a checkpoint counts these lines. */
  void synchronise() throws IOException {
    try (FileChannel channel = FileChannel.open(metrics(), StandardOpenOption.WRITE)) {
      channel.force(true);
    }
  }

  private void replace(Path file, String content) throws IOException {
    Path next = root.resolve(file.getFileName() + ".tmp");
    Files.writeString(next, content);
    try (FileChannel channel = FileChannel.open(next, StandardOpenOption.WRITE)) {
      channel.force(true);
    }
    Files.move(next, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
  }

  /** Lines of metrics.jsonl. */
  long lines() {
    return lines;
  }

  /** Adds a line to metrics.jsonl. */
  void append(Map<String, Object> row) throws IOException {
    String line;
    try {
      line = JSON.writeValueAsString(row) + "\n";
    } catch (JsonProcessingException e) {
      throw new IllegalStateException(e);
    }
    Files.writeString(metrics(), line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    lines++;
  }

  /** Writes metrics.csv: a column for every name, in the order in which they first occur. */
  void writeCsv() throws IOException {
    List<Map<String, Object>> rows = Report.readMetrics(metrics());
    Set<String> names = new LinkedHashSet<>();
    rows.forEach(row -> names.addAll(row.keySet()));
    StringBuilder table = new StringBuilder(String.join(",", names)).append('\n');
    for (Map<String, Object> row : rows) {
      table
          .append(
              names.stream()
                  .map(name -> row.containsKey(name) ? row.get(name).toString() : "")
                  .collect(Collectors.joining(",")))
          .append('\n');
    }
    replace(root.resolve("metrics.csv"), table.toString());
  }

  /** Keeps the first lines of metrics.jsonl: those that a checkpoint knows. */
  void truncate(long keep) throws IOException {
    List<String> all = Files.exists(metrics()) ? Files.readAllLines(metrics()) : List.of();
    if (all.size() < keep) {
      throw new IOException(
          metrics()
              + ": expected at least "
              + keep
              + " lines, as the checkpoint says, got "
              + all.size());
    }
    StringBuilder kept = new StringBuilder();
    for (String line : all.subList(0, (int) keep)) {
      kept.append(line).append('\n');
    }
    replace(metrics(), kept.toString());
    lines = keep;
  }
}
