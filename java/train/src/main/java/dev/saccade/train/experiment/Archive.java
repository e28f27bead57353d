package dev.saccade.train.experiment;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.saccade.train.task.Proportion;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The results of finished runs, a line of JSON each. Lines are appended and synchronised to the
 * disk; one that a crash cut short is left out, and its run repeated.
 */
final class Archive {
  private static final ObjectMapper JSON = new ObjectMapper();

  private final Path file;
  private final Map<String, Result> results = new LinkedHashMap<>();

  /**
   * What a run came to.
   *
   * @param key of its plan
   * @param variant its name
   * @param device that it was computed on; null in archives that do not say
   * @param begins digest of the policy that it began with; null in archives that do not say
   * @param optimizerSteps after the warm-up
   * @param responses sampled, or of reference, in these steps
   * @param seconds of training, since the run was last begun or resumed
   * @param accuracy right answers to held-out questions, by task
   * @param metrics means over the last tenth of its steps
   */
  record Result(
      String key,
      String variant,
      long seed,
      String commit,
      String device,
      String begins,
      long optimizerSteps,
      long responses,
      double seconds,
      Map<String, Answers> accuracy,
      Map<String, Double> metrics) {
    /** Whether both began with the same policy; by the kind of their devices where nobody says. */
    boolean beginsAs(Result other) {
      return begins != null && other.begins != null
          ? begins.equals(other.begins)
          : kind().equals(other.kind());
    }

    private String kind() {
      return device == null ? "" : device.replaceFirst(":.*", "");
    }
  }

  /**
   * @param right answers
   * @param scenes questions
   */
  record Answers(long right, long scenes) {
    double rate() {
      return (double) right / scenes;
    }

    static Answers of(Proportion proportion) {
      return new Answers(proportion.successes(), proportion.n());
    }
  }

  /** Opens an archive, which need not be there yet. */
  Archive(Path file) throws IOException {
    this.file = file;
    if (!Files.exists(file)) {
      return;
    }
    List<String> lines = Files.readAllLines(file);
    for (int i = 0; i < lines.size(); i++) {
      try {
        Result result = JSON.readValue(lines.get(i), Result.class);
        results.put(result.key, result);
      } catch (JsonProcessingException e) {
        if (i < lines.size() - 1) {
          throw new IOException(
              "%s, line %d: %s".formatted(file, i + 1, e.getOriginalMessage()), e);
        }
        Path whole = file.resolveSibling(file.getFileName() + ".tmp");
        Files.write(whole, lines.subList(0, i));
        Files.move(
            whole, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      }
    }
  }

  /** The result of a plan; null where there is none yet. */
  synchronized Result get(Experiment.Plan plan) {
    return results.get(plan.key());
  }

  synchronized void add(Result result) throws IOException {
    results.put(result.key, result);
    Files.writeString(
        file,
        JSON.writeValueAsString(result) + "\n",
        StandardOpenOption.CREATE,
        StandardOpenOption.APPEND);
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE)) {
      channel.force(true);
    }
  }
}
