package dev.saccade.train.variance;

import dev.saccade.train.io.Safetensors;
import java.io.IOException;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * What some prompts say, once their groups are drawn: the unit that is stored, and that the
 * bootstrap draws. Sums are of Σ over prompts.
 */
final class Block {
  /** Prompts of the block. */
  final int prompts;

  /** By estimator. */
  final Map<String, Moments> moments = new LinkedHashMap<>();

  /** Of the sum of two estimators, named {@code a|b}. */
  final Map<String, Pair> pairs = new LinkedHashMap<>();

  /** Of every prompt and row of queries, mean entropy of the attention policy; NaN: no such row. */
  double[] entropy = {};

  /** The same of the attention's mass on visual tokens. */
  double[] mass = {};

  /**
   * Σ reward, Σ degenerate groups, groups, Σ ρ, Σ ρ², responses, with ρ the ratio of a response.
   */
  double[] totals = new double[6];

  /**
   * Of an estimator.
   *
   * @param within Σ over prompts of the variance of a group's gradient given the prompt, by part
   * @param own Σ over prompts of that which the responses have each for itself; the rest is
   *     covariance between responses of a group
   * @param second Σ over prompts of the mean of ‖g‖², by part
   * @param rows for each prompt, the variance within by row
   * @param scores Σ over prompts of the mean Σ over keys of the squared gradient of the scores of a
   *     response, by layer, head and row; empty where it is not known
   * @param mean of the prompts' means
   */
  record Moments(
      double[] within,
      double[] own,
      double[] second,
      double[] rows,
      double[] scores,
      float[] mean) {}

  /** {@code within} and {@code second} of {@link Moments}. */
  record Pair(double[] within, double[] second) {}

  Block(int prompts) {
    this.prompts = prompts;
  }

  void write(Path file) throws IOException {
    Safetensors.Builder builder =
        Safetensors.builder()
            .metadata("prompts", Integer.toString(prompts))
            .metadata("estimators", String.join(" ", moments.keySet()))
            .metadata("pairs", String.join(" ", pairs.keySet()))
            .add("entropy", entropy)
            .add("mass", mass)
            .add("totals", totals);
    moments.forEach(
        (name, own) ->
            builder
                .add(name + ".within", own.within)
                .add(name + ".own", own.own)
                .add(name + ".second", own.second)
                .add(name + ".rows", own.rows)
                .add(name + ".scores", own.scores)
                .add(name + ".mean", own.mean));
    pairs.forEach(
        (name, own) -> builder.add(name + ".within", own.within).add(name + ".second", own.second));
    builder.write(file);
  }

  static Block read(Path file) throws IOException {
    Safetensors stored = Safetensors.open(file);
    Block block = new Block(Integer.parseInt(stored.metadata().get("prompts")));
    for (String name : names(stored, "estimators")) {
      block.moments.put(
          name,
          new Moments(
              values(stored, name + ".within"),
              values(stored, name + ".own"),
              values(stored, name + ".second"),
              values(stored, name + ".rows"),
              values(stored, name + ".scores"),
              floats(values(stored, name + ".mean"))));
    }
    for (String name : names(stored, "pairs")) {
      block.pairs.put(
          name, new Pair(values(stored, name + ".within"), values(stored, name + ".second")));
    }
    block.entropy = values(stored, "entropy");
    block.mass = values(stored, "mass");
    block.totals = values(stored, "totals");
    return block;
  }

  private static String[] names(Safetensors stored, String key) {
    String names = stored.metadata().get(key);
    return names.isEmpty() ? new String[0] : names.split(" ");
  }

  private static double[] values(Safetensors stored, String name) {
    return stored.entry(name).toDoubles();
  }

  private static float[] floats(double[] values) {
    float[] floats = new float[values.length];
    for (int i = 0; i < floats.length; i++) {
      floats[i] = (float) values[i];
    }
    return floats;
  }
}
