package dev.saccade.train.variance;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.assertj.core.api.Assertions.withinPercentage;

import dev.saccade.Context;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.train.variance.Analysis.Row;
import dev.saccade.train.variance.Layout.Part;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;

/** Samples with effects of prompts, groups and responses that are known. */
class AnalysisTest {
  private static final int PROMPTS = 40;
  private static final int GROUPS = 6;
  private static final int SIZE = 4;
  private static final int N = 60;
  private static final double OF_PROMPT = 0.7;
  private static final double OF_GROUP = 0.5;
  private static final double OF_RESPONSE = 1.5;

  private final List<double[][]> samples = new ArrayList<>();

  private List<Row> analyse() {
    Random random = new Random(4);
    Map<Part, Long> sizes = new LinkedHashMap<>();
    sizes.put(new Part("g", 0, 0), (long) N / 3);
    sizes.put(new Part("g", 0, 1), (long) N - N / 3);
    Layout layout = Layout.of(sizes);
    List<Block> blocks = new ArrayList<>();
    try (Context context = Context.builder().threads(1).build();
        Recorder recorder = new Recorder(context, layout, List.of("a", "b"), true)) {
      for (int p = 0; p < PROMPTS; p++) {
        recorder.begin(1);
        double[][] groups = new double[GROUPS][N];
        double[] prompt = normal(random, OF_PROMPT);
        for (int g = 0; g < GROUPS; g++) {
          double[] group = normal(random, OF_GROUP);
          float[] contributions = new float[SIZE * N];
          float[] others = new float[SIZE * N];
          for (int i = 0; i < SIZE; i++) {
            double[] response = normal(random, OF_RESPONSE);
            for (int j = 0; j < N; j++) {
              int at = i * N + j;
              contributions[at] = (float) ((0.2 + prompt[j] + group[j] + response[j]) / SIZE);
              others[at] = -2 * contributions[at];
              groups[g][j] += contributions[at];
            }
          }
          try (Scope scope = context.scope()) {
            recorder.add(0, Tensor.of(scope, contributions, SIZE, N), recorder.open());
            recorder.add(1, Tensor.of(scope, others, SIZE, N), recorder.open());
          }
          recorder.endGroup(SIZE);
        }
        recorder.endPrompt();
        samples.add(groups);
        blocks.add(recorder.end(List.of(new double[0], new double[0])));
      }
    }
    return new Analysis(blocks, layout, GROUPS, 400, 1).run();
  }

  private static double[] normal(Random random, double deviation) {
    double[] values = new double[N];
    for (int j = 0; j < N; j++) {
      values[j] = deviation * random.nextGaussian();
    }
    return values;
  }

  private static Row find(List<Row> rows, String estimator, String head, String statistic) {
    return rows.stream()
        .filter(
            row ->
                row.estimator().equals(estimator)
                    && row.layer().equals(head.equals("all") ? "all" : "0")
                    && row.head().equals(head)
                    && row.statistic().equals(statistic))
        .findFirst()
        .orElseThrow();
  }

  @Test
  void streamedSumsAreThoseOfTwoPasses() {
    List<Row> rows = analyse();
    double within = 0;
    double ofMeans = 0;
    double squares = 0;
    double mean2 = 0;
    for (int j = 0; j < N; j++) {
      double[] means = new double[PROMPTS];
      double grand = 0;
      for (int p = 0; p < PROMPTS; p++) {
        for (double[] group : samples.get(p)) {
          means[p] += group[j] / GROUPS;
          squares += group[j] * group[j] / GROUPS / PROMPTS;
        }
        for (double[] group : samples.get(p)) {
          within += (group[j] - means[p]) * (group[j] - means[p]) / (GROUPS - 1) / PROMPTS;
        }
        grand += means[p] / PROMPTS;
      }
      for (double mean : means) {
        ofMeans += (mean - grand) * (mean - grand) / (PROMPTS - 1);
      }
      mean2 += grand * grand;
    }
    double between = ofMeans - within / GROUPS;
    double signal = mean2 - ofMeans / PROMPTS;

    assertThat(find(rows, "a", "all", "within").value()).isCloseTo(within, withinPercentage(1e-3));
    assertThat(find(rows, "a", "all", "between").value())
        .isCloseTo(between, withinPercentage(1e-2));
    assertThat(find(rows, "a", "all", "signal").value()).isCloseTo(signal, withinPercentage(1e-2));
    assertThat(find(rows, "a", "all", "total").value())
        .isCloseTo(squares - signal, withinPercentage(1e-3))
        .isCloseTo(between + within, withinPercentage(1e-3));
    // Heads are disjoint.
    assertThat(find(rows, "a", "0", "total").value() + find(rows, "a", "1", "total").value())
        .isCloseTo(find(rows, "a", "all", "total").value(), withinPercentage(1e-3));
  }

  @Test
  void componentsAreTheEffects() {
    List<Row> rows = analyse();
    double ofGroup = OF_GROUP * OF_GROUP;
    double ofResponse = OF_RESPONSE * OF_RESPONSE;

    in(find(rows, "a", "all", "between"), N * OF_PROMPT * OF_PROMPT);
    in(find(rows, "a", "all", "within"), N * (ofGroup + ofResponse / SIZE));
    in(find(rows, "a", "all", "within_responses"), N * (ofGroup + ofResponse) / SIZE);
    in(find(rows, "a", "all", "within_covariance"), N * ofGroup * (1 - 1.0 / SIZE));
    in(find(rows, "a", "all", "signal"), N * 0.2 * 0.2);
  }

  private static void in(Row row, double truth) {
    assertThat(truth).as(row.toString()).isBetween(row.low(), row.high());
    assertThat(row.value()).as(row.toString()).isBetween(row.low(), row.high());
  }

  @Test
  void estimatorsThatGoTogetherCorrelate() {
    List<Row> rows = analyse();
    double total = find(rows, "a", "all", "total").value();

    assertThat(find(rows, "b", "all", "total").value())
        .isCloseTo(4 * total, withinPercentage(0.01));
    assertThat(find(rows, "a|b", "all", "covariance_total").value())
        .isCloseTo(-2 * total, withinPercentage(0.01));
    assertThat(find(rows, "a|b", "all", "correlation").value()).isCloseTo(-1, within(1e-4));
  }

  @Test
  void theShareThatCarriesMost() {
    assertThat(Analysis.carrying(new double[] {1, 90, 4, 5})).isEqualTo(0.25);
    assertThat(Analysis.carrying(new double[] {50, 45, 5, -1})).isEqualTo(0.5);
    assertThat(Analysis.carrying(new double[] {0, 0})).isNaN();
  }

  @Test
  void ranksCountTiesAndMultiplicities() {
    List<double[]> points =
        List.of(new double[] {1, 10, 1}, new double[] {2, 10, 1}, new double[] {3, 30, 2});
    // Ranks of (1, 2, 3, 3) and (10, 10, 30, 30).
    double expected = 4.0 / Math.sqrt(4.5 * 4);
    assertThat(Analysis.rankCorrelation(points)).isCloseTo(expected, within(1e-12));
    assertThat(
            Analysis.rankCorrelation(
                List.of(new double[] {1, 3, 1}, new double[] {2, 2, 1}, new double[] {5, 1, 1})))
        .isCloseTo(-1, within(1e-12));
  }

  @Test
  void whatRoundingLeavesHasNoRank() {
    List<double[]> points =
        List.of(
            new double[] {1, 3e-15, 1},
            new double[] {2, 1e-15, 1},
            new double[] {3, 1e-9, 1},
            new double[] {4, 10, 1});
    assertThat(Analysis.withoutRounding(points).stream().mapToDouble(point -> point[1]))
        .containsExactly(0.0, 0.0, 1e-9, 10.0);
  }
}
