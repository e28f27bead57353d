package dev.saccade.train.variance;

import dev.saccade.train.task.CounterRandom;
import dev.saccade.train.variance.Layout.Part;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.IntToDoubleFunction;
import java.util.function.ToDoubleFunction;
import java.util.stream.IntStream;

/**
 * What blocks of prompts say of the variance of estimators, with bootstrap intervals over blocks.
 *
 * <p>With g the gradient of a group and p its prompt: E‖g‖² is the mean of squares, ‖E g‖² the mean
 * of the products of different blocks, which has no bias since blocks are independent, also where
 * the bootstrap draws one twice; total = E‖g‖² − ‖E g‖², within = E Var(g|p), between = total −
 * within.
 */
final class Analysis {
  static final String ALL = "all";

  /** Targets of parameters, which are also told of together. */
  private static final String PARAMETERS = "parameters";

  private static final double CARRIED = 0.9;

  /**
   * Of a variance that is 0 where contributions of f32 cancel, what may be left: (2^-18)² of the
   * largest.
   */
  private static final double ROUNDING = 0x1p-36;

  private final List<Block> blocks;
  private final Layout layout;
  private final double groups;
  private final int size;
  private final double[][] draws;
  private final List<Row> rows = new ArrayList<>();

  /**
   * One number.
   *
   * @param layer a number or {@code all}, as {@code head}
   * @param low end of the 95 % bootstrap interval; NaN where there is none
   */
  record Row(
      String estimator,
      String target,
      String layer,
      String head,
      String statistic,
      double value,
      double low,
      double high) {}

  /** Statistics of a vector, in order. */
  private static final List<String> NAMES =
      List.of(
          "total",
          "between",
          "within",
          "within_responses",
          "within_covariance",
          "signal",
          "snr",
          "cosine_halves",
          "effective_samples",
          "share_between",
          "share_within_responses",
          "share_within_covariance");

  /**
   * What a statistic is computed from, for some parts of the gradient: by block.
   *
   * @param products between the blocks' means
   */
  private record Sums(double[] within, double[] own, double[] second, double[][] products) {}

  /**
   * @param groups of a prompt, on average
   * @param replicates of the bootstrap
   */
  Analysis(List<Block> blocks, Layout layout, double groups, int replicates, long seed) {
    this.blocks = blocks;
    this.layout = layout;
    this.groups = groups;
    size = blocks.size();
    draws = new double[replicates][size];
    for (int b = 0; b < replicates; b++) {
      CounterRandom random = new CounterRandom(seed ^ 0x626f6f7473747261L, b);
      for (int k = 0; k < size; k++) {
        draws[b][random.nextInt(size)]++;
      }
    }
  }

  List<Row> run() {
    Map<String, Map<List<String>, double[][]>> all = new LinkedHashMap<>();
    for (String estimator : blocks.get(0).moments.keySet()) {
      Map<List<String>, double[][]> own = statistics(sums(estimator));
      all.put(estimator, own);
      own.forEach((key, values) -> describe(estimator, key, values));
      heads(estimator, own);
      queryRows(estimator);
      scores(estimator);
    }
    for (String pair : blocks.get(0).pairs.keySet()) {
      String[] names = pair.split("\\|");
      statistics(pairSums(pair))
          .forEach(
              (key, sum) ->
                  covariance(
                      pair, key, all.get(names[0]).get(key), all.get(names[1]).get(key), sum));
    }
    positions();
    totals();
    return rows;
  }

  /** By set of parts: first of the blocks as they are, then of every replicate. */
  private Map<List<String>, double[][]> statistics(Map<List<String>, Sums> sums) {
    Map<List<String>, double[][]> statistics = new LinkedHashMap<>();
    sums.forEach(
        (key, own) ->
            statistics.put(
                key,
                IntStream.rangeClosed(0, draws.length)
                    .parallel()
                    .mapToObj(b -> statistics(own, b == 0 ? ones() : draws[b - 1]))
                    .toArray(double[][]::new)));
    return statistics;
  }

  // ------------------------------------------------------------------------------------------ sums

  /** Sets of parts that statistics are told of: target, layer, head, or all of them. */
  private static List<List<String>> keys(Part part) {
    String layer = Integer.toString(part.layer());
    List<List<String>> keys =
        new ArrayList<>(
            List.of(
                List.of(part.target(), layer, Integer.toString(part.head())),
                List.of(part.target(), layer, ALL),
                List.of(part.target(), ALL, ALL)));
    if (part.target().endsWith("_proj")) {
      keys.add(List.of(PARAMETERS, layer, ALL));
      keys.add(List.of(PARAMETERS, ALL, ALL));
    }
    return keys;
  }

  private Map<List<String>, Sums> sums(String estimator) {
    List<Block.Moments> own = blocks.stream().map(block -> block.moments.get(estimator)).toList();
    return sums(
        own.stream().map(Block.Moments::within).toList(),
        own.stream().map(Block.Moments::own).toList(),
        own.stream().map(Block.Moments::second).toList(),
        own.stream().map(Block.Moments::mean).toList());
  }

  private Map<List<String>, Sums> pairSums(String pair) {
    String[] names = pair.split("\\|");
    List<Block.Pair> own = blocks.stream().map(block -> block.pairs.get(pair)).toList();
    List<float[]> means = new ArrayList<>();
    for (Block block : blocks) {
      float[] sum = block.moments.get(names[0]).mean().clone();
      float[] other = block.moments.get(names[1]).mean();
      for (int i = 0; i < sum.length; i++) {
        sum[i] += other[i];
      }
      means.add(sum);
    }
    List<double[]> within = own.stream().map(Block.Pair::within).toList();
    return sums(within, within, own.stream().map(Block.Pair::second).toList(), means);
  }

  private Map<List<String>, Sums> sums(
      List<double[]> within, List<double[]> own, List<double[]> second, List<float[]> means) {
    Map<List<String>, Sums> sums = new LinkedHashMap<>();
    int n = size;
    for (Part part : layout.parts()) {
      for (List<String> key : keys(part)) {
        sums.computeIfAbsent(
            key, any -> new Sums(new double[n], new double[n], new double[n], new double[n][n]));
      }
    }
    for (int k = 0; k < n; k++) {
      for (int p = 0; p < layout.parts().size(); p++) {
        for (List<String> key : keys(layout.parts().get(p))) {
          Sums to = sums.get(key);
          to.within[k] += within.get(k)[p];
          to.own[k] += own.get(k)[p];
          to.second[k] += second.get(k)[p];
        }
      }
      for (int l = 0; l <= k; l++) {
        double[] products = layout.products(means.get(k), means.get(l));
        for (int p = 0; p < products.length; p++) {
          for (List<String> key : keys(layout.parts().get(p))) {
            Sums to = sums.get(key);
            to.products[k][l] += products[p];
            to.products[l][k] = to.products[k][l];
          }
        }
      }
    }
    return sums;
  }

  // ------------------------------------------------------------------------------------ statistics

  /** In the order of {@link #NAMES}. */
  private double[] statistics(Sums sums, double[] weight) {
    double prompts = 0;
    double within = 0;
    double own = 0;
    double second = 0;
    double signal = 0;
    double pairs = 0;
    double even = 0;
    double odd = 0;
    double across = 0;
    for (int k = 0; k < size; k++) {
      double ofK = weight[k] * blocks.get(k).prompts;
      prompts += ofK;
      within += weight[k] * sums.within[k];
      own += weight[k] * sums.own[k];
      second += weight[k] * sums.second[k];
      for (int l = 0; l < size; l++) {
        double both = ofK * weight[l] * blocks.get(l).prompts;
        if (k != l) {
          signal += both * sums.products[k][l];
          pairs += both;
        }
        if (k % 2 != l % 2) {
          across += both * sums.products[k][l] / 2;
        } else if (k % 2 == 0) {
          even += both * sums.products[k][l];
        } else {
          odd += both * sums.products[k][l];
        }
      }
    }
    within /= prompts;
    own /= prompts;
    signal /= pairs;
    double total = second / prompts - signal;
    double between = total - within;
    double ofMean = Math.max(0, between) / prompts + within / (prompts * groups);
    return new double[] {
      total,
      between,
      within,
      own,
      within - own,
      signal,
      signal / total,
      across / Math.sqrt(even * odd),
      total / ofMean,
      between / total,
      own / total,
      (within - own) / total
    };
  }

  private void describe(String estimator, List<String> key, double[][] values) {
    for (int i = 0; i < NAMES.size(); i++) {
      int own = i;
      addReplicates(estimator, key, NAMES.get(i), b -> values[b][own]);
    }
  }

  private void covariance(
      String pair, List<String> key, double[][] a, double[][] b, double[][] sum) {
    for (int i : new int[] {0, 1, 2}) {
      addReplicates(
          pair, key, "covariance_" + NAMES.get(i), r -> (sum[r][i] - a[r][i] - b[r][i]) / 2);
    }
    addReplicates(
        pair,
        key,
        "correlation",
        r -> (sum[r][0] - a[r][0] - b[r][0]) / 2 / Math.sqrt(a[r][0] * b[r][0]));
  }

  /** The share of the heads of all layers that carries 90 % of the total variance. */
  private void heads(String estimator, Map<List<String>, double[][]> statistics) {
    Map<String, List<double[][]>> byTarget = new LinkedHashMap<>();
    statistics.forEach(
        (key, own) -> {
          if (!key.get(2).equals(ALL)) {
            byTarget.computeIfAbsent(key.get(0), any -> new ArrayList<>()).add(own);
          }
        });
    byTarget.forEach(
        (target, own) ->
            addReplicates(
                estimator,
                List.of(target, ALL, ALL),
                "share_of_heads_90",
                b -> carrying(own.stream().mapToDouble(values -> values[b][0]).toArray())));
  }

  /** The least share of values that sums to 90 % of all. */
  static double carrying(double[] values) {
    double[] sorted = Arrays.stream(values).map(x -> -Math.max(0, x)).sorted().toArray();
    double total = -Arrays.stream(sorted).sum();
    double sum = 0;
    int count = 0;
    // The rounding of a sum is no further value.
    while (count < sorted.length && sum < CARRIED * total * (1 - 1e-12)) {
      sum -= sorted[count++];
    }
    return total > 0 ? (double) count / sorted.length : Double.NaN;
  }

  /** Variance within prompts by row, and what goes with it. */
  private void queryRows(String estimator) {
    int all = layout.rows().size();
    for (String target : List.of("q", "k")) {
      List<Integer> own =
          IntStream.range(0, all)
              .filter(r -> layout.rows().get(r).target().equals(target))
              .boxed()
              .toList();
      if (own.isEmpty()) {
        continue;
      }
      for (int r : own) {
        Layout.Row row = layout.rows().get(r);
        add(
            estimator,
            List.of(target, Integer.toString(row.layer()), ALL),
            "within_row_" + row.row(),
            w -> mean(estimator, w, r));
      }
      add(
          estimator,
          List.of(target, ALL, ALL),
          "share_of_rows_90",
          w -> carrying(own.stream().mapToDouble(r -> mean(estimator, w, r)).toArray()));
    }
    int layers = layout.rows().stream().mapToInt(Layout.Row::layer).max().orElse(-1) + 1;
    for (int l = 0; l < layers; l++) {
      int layer = l;
      List<String> key = List.of("q", Integer.toString(l), ALL);
      add(
          estimator,
          key,
          "rank_correlation_entropy",
          w -> correlation(estimator, w, layer, layers, true));
      add(
          estimator,
          key,
          "rank_correlation_visual_mass",
          w -> correlation(estimator, w, layer, layers, false));
    }
  }

  private double mean(String estimator, double[] weight, int row) {
    int all = layout.rows().size();
    double sum = 0;
    double prompts = 0;
    for (int k = 0; k < size; k++) {
      if (weight[k] > 0) {
        double[] own = blocks.get(k).moments.get(estimator).rows();
        for (int p = 0; p < blocks.get(k).prompts; p++) {
          sum += weight[k] * own[p * all + row];
        }
        prompts += weight[k] * blocks.get(k).prompts;
      }
    }
    return sum / prompts;
  }

  /** Spearman's, of the variance of query rows with what attention looks like there. */
  private double correlation(
      String estimator, double[] weight, int layer, int layers, boolean entropy) {
    int all = layout.rows().size();
    List<double[]> points = new ArrayList<>();
    for (int k = 0; k < size; k++) {
      Block block = blocks.get(k);
      double[] looked = entropy ? block.entropy : block.mass;
      if (looked.length == 0) {
        return Double.NaN;
      }
      int length = looked.length / block.prompts / layers;
      double[] own = block.moments.get(estimator).rows();
      for (int r = 0; r < all && weight[k] > 0; r++) {
        Layout.Row row = layout.rows().get(r);
        if (row.layer() != layer || !row.target().equals("q")) {
          continue;
        }
        for (int p = 0; p < block.prompts; p++) {
          double x = looked[(p * layers + layer) * length + row.row()];
          if (!Double.isNaN(x)) {
            points.add(new double[] {x, own[p * all + r], weight[k]});
          }
        }
      }
    }
    return rankCorrelation(withoutRounding(points));
  }

  /** Points whose y is no more than what rounding leaves of the largest are at 0. */
  static List<double[]> withoutRounding(List<double[]> points) {
    double least = ROUNDING * points.stream().mapToDouble(point -> point[1]).max().orElse(0);
    return points.stream()
        .map(point -> new double[] {point[0], point[1] < least ? 0 : point[1], point[2]})
        .toList();
  }

  /** Of points (x, y, multiplicity), ties at their middle rank. */
  static double rankCorrelation(List<double[]> points) {
    int n = points.size();
    double[][] ranks = new double[2][n];
    for (int c = 0; c < 2; c++) {
      int column = c;
      Integer[] order = IntStream.range(0, n).boxed().toArray(Integer[]::new);
      Arrays.sort(order, Comparator.comparingDouble(i -> points.get(i)[column]));
      double before = 0;
      for (int i = 0; i < n; ) {
        int end = i;
        double tied = 0;
        while (end < n && points.get(order[end])[c] == points.get(order[i])[c]) {
          tied += points.get(order[end++])[2];
        }
        for (; i < end; i++) {
          ranks[c][order[i]] = before + tied / 2;
        }
        before += tied;
      }
    }
    double weight = 0;
    double[] mean = new double[2];
    for (int i = 0; i < n; i++) {
      double w = points.get(i)[2];
      weight += w;
      mean[0] += w * ranks[0][i];
      mean[1] += w * ranks[1][i];
    }
    double xx = 0;
    double yy = 0;
    double xy = 0;
    for (int i = 0; i < n; i++) {
      double dx = ranks[0][i] - mean[0] / weight;
      double dy = ranks[1][i] - mean[1] / weight;
      xx += points.get(i)[2] * dx * dx;
      yy += points.get(i)[2] * dy * dy;
      xy += points.get(i)[2] * dx * dy;
    }
    return xy / Math.sqrt(xx * yy);
  }

  // -----------------------------------------------------------------------------------------
  // scores

  private int heads() {
    return layout.parts().stream()
            .filter(part -> part.target().equals("q"))
            .mapToInt(Part::head)
            .max()
            .orElse(-1)
        + 1;
  }

  private double score(String estimator, double[] weight, int line) {
    double sum = 0;
    double prompts = 0;
    int lines = layout.parts().stream().mapToInt(Part::layer).max().orElse(0) + 1;
    for (int k = 0; k < size; k++) {
      double[] own = blocks.get(k).moments.get(estimator).scores();
      int columns = own.length / (lines * heads());
      for (int t = 0; t < columns; t++) {
        sum += weight[k] * own[line * columns + t];
      }
      prompts += weight[k] * blocks.get(k).prompts;
    }
    return sum / prompts;
  }

  private boolean hasScores(String estimator) {
    return blocks.stream()
        .allMatch(
            block ->
                block.moments.containsKey(estimator)
                    && block.moments.get(estimator).scores().length > 0);
  }

  private void scores(String estimator) {
    forScores(
        estimator, "second_moment", (weight, line) -> score(estimator, weight, line), estimator);
  }

  /** What the draw of positions adds to the variance of the scores' gradient. */
  private void positions() {
    forScores(
        "positions",
        "position_variance",
        (weight, line) ->
            score("positions", weight, line) - score("expected_positions", weight, line),
        "positions",
        "expected_positions");
  }

  private interface OfLine {
    double at(double[] weight, int line);
  }

  private void forScores(String estimator, String statistic, OfLine value, String... needed) {
    if (!Arrays.stream(needed).allMatch(this::hasScores)) {
      return;
    }
    int layers = layout.parts().stream().mapToInt(Part::layer).max().orElse(0) + 1;
    for (int line = 0; line < layers * heads(); line++) {
      int own = line;
      add(
          estimator,
          List.of("scores", Integer.toString(line / heads()), Integer.toString(line % heads())),
          statistic,
          w -> value.at(w, own));
    }
  }

  // -----------------------------------------------------------------------------------------
  // totals

  private void totals() {
    if (blocks.get(0).totals[5] == 0) {
      return;
    }
    List<String> key = List.of("policy", ALL, ALL);
    add(ALL, key, "reward", w -> total(w, 0) / total(w, 5));
    add(ALL, key, "degenerate_groups", w -> total(w, 1) / total(w, 2));
    add(
        ALL,
        key,
        "effective_share_of_weights",
        w -> Math.pow(total(w, 3), 2) / (total(w, 4) * total(w, 5)));
  }

  private double total(double[] weight, int index) {
    return IntStream.range(0, size).mapToDouble(k -> weight[k] * blocks.get(k).totals[index]).sum();
  }

  // -------------------------------------------------------------------------------------------
  // rows

  private double[] ones() {
    double[] ones = new double[size];
    Arrays.fill(ones, 1);
    return ones;
  }

  /** Of weights of the blocks. */
  private void add(
      String estimator, List<String> key, String statistic, ToDoubleFunction<double[]> of) {
    addReplicates(estimator, key, statistic, b -> of.applyAsDouble(b == 0 ? ones() : draws[b - 1]));
  }

  /**
   * Adds a number with its interval.
   *
   * @param of 0: of the blocks as they are; b: of replicate b − 1
   */
  private void addReplicates(
      String estimator, List<String> key, String statistic, IntToDoubleFunction of) {
    double[] sorted =
        IntStream.rangeClosed(1, draws.length)
            .parallel()
            .mapToDouble(of)
            .filter(Double::isFinite)
            .sorted()
            .toArray();
    boolean known = size > 1 && sorted.length > 0;
    rows.add(
        new Row(
            estimator,
            key.get(0),
            key.get(1),
            key.get(2),
            statistic,
            of.applyAsDouble(0),
            known ? quantile(sorted, 0.025) : Double.NaN,
            known ? quantile(sorted, 0.975) : Double.NaN));
  }

  private static double quantile(double[] sorted, double q) {
    double at = q * (sorted.length - 1);
    int low = (int) at;
    int high = Math.min(low + 1, sorted.length - 1);
    return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
  }
}
