package dev.saccade.train.variance;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.Context;
import dev.saccade.Divergence;
import dev.saccade.GroupAdvantage;
import dev.saccade.KlEstimator;
import dev.saccade.PolicyLoss;
import dev.saccade.train.Contexts;
import dev.saccade.train.TrainConfig.AttentionTerm.Support;
import dev.saccade.train.model.Prompt;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/**
 * Estimators over every group of responses that can be: their means against gradients by
 * differences, and what the laboratory measures against their variances.
 */
class EnumerationTest {
  private static final AttentionChoice ATTENTION =
      new AttentionChoice(
          new int[] {0}, 0, -1, Divergence.JSD, 0.5f, GroupAdvantage.Estimator.DR_GRPO);
  private static final double NONE = 1e9;

  private static Context context;
  private static TinyPolicy two;
  private static TinyPolicy one;

  @BeforeAll
  static void open() {
    context = Contexts.open(1);
    two = new TinyPolicy(context, 3, 2);
    one = new TinyPolicy(context, 3, 1);
  }

  @AfterAll
  static void close() {
    two.model.close();
    one.model.close();
    context.close();
  }

  private static Setting setting(
      int group, int staleness, KlEstimator kl, double clipLow, double clipHigh) {
    return new Setting(
        group,
        1,
        PolicyLoss.Aggregation.SEQ_MEAN_TOKEN_SUM,
        kl,
        1,
        clipLow,
        clipHigh,
        0,
        0,
        staleness,
        1,
        Support.PREVIOUS);
  }

  private static Laboratory laboratory(
      TinyPolicy policy, TinyPolicy old, TinyPolicy reference, Setting setting, String... names) {
    return laboratory(policy, old, reference, setting, 1, 1, 7, names);
  }

  private static Laboratory laboratory(
      TinyPolicy policy,
      TinyPolicy old,
      TinyPolicy reference,
      Setting setting,
      int prompts,
      int groups,
      long seed,
      String... names) {
    List<Prompt> asked = new ArrayList<>();
    for (int p = 0; p < prompts; p++) {
      asked.add(TinyPolicy.prompt(p));
    }
    return new Laboratory(
        new Laboratory.Models(policy.model, old.model, reference == null ? null : reference.model),
        asked,
        (prompt, response) -> TinyPolicy.reward(response),
        setting,
        ATTENTION,
        new Laboratory.Sampling(
            groups, seed, policy == two ? 2 : policy.responses().get(0).length, TinyPolicy.STOP),
        List.of(names),
        true);
  }

  /** A distribution over gradients: of every group that can be. */
  private record Exact(List<double[]> gradients, List<Double> probabilities) {
    double[] mean() {
      double[] mean = new double[gradients.get(0).length];
      for (int g = 0; g < gradients.size(); g++) {
        for (int i = 0; i < mean.length; i++) {
          mean[i] += probabilities.get(g) * gradients.get(g)[i];
        }
      }
      return mean;
    }

    /** E‖g − E g‖^(2k). */
    double moment(int k) {
      double[] mean = mean();
      double sum = 0;
      for (int g = 0; g < gradients.size(); g++) {
        sum += probabilities.get(g) * Math.pow(squared(minus(gradients.get(g), mean)), k);
      }
      return sum;
    }
  }

  /** Parameters alone; the loss's descent direction turned into the reward's ascent. */
  private static double[] parameters(float[] gradient) {
    int n = 8 * 16 + 8 * 8;
    double[] values = new double[n];
    for (int i = 0; i < n; i++) {
      values[i] = -gradient[i];
    }
    return values;
  }

  /** By estimator, over all groups of responses of the policy that samples. */
  private static List<Exact> enumerate(
      Laboratory laboratory, TinyPolicy old, int prompt, int group, int estimators) {
    List<int[]> responses = old.responses();
    double[] probability =
        responses.stream()
            .mapToDouble(y -> old.probability(TinyPolicy.prompt(prompt), y))
            .toArray();
    assertThat(Arrays.stream(probability).sum()).isCloseTo(1, within(1e-12));
    List<Exact> exact = new ArrayList<>();
    for (int e = 0; e < estimators; e++) {
      exact.add(new Exact(new ArrayList<>(), new ArrayList<>()));
    }
    int count = (int) Math.pow(responses.size(), group);
    for (int code = 0; code < count; code++) {
      int[][] drawn = new int[group][];
      double weight = 1;
      for (int i = 0, rest = code; i < group; i++, rest /= responses.size()) {
        drawn[i] = responses.get(rest % responses.size());
        weight *= probability[rest % responses.size()];
      }
      List<float[]> gradients = laboratory.gradients(prompt, drawn);
      for (int e = 0; e < estimators; e++) {
        exact.get(e).gradients.add(parameters(gradients.get(e)));
        exact.get(e).probabilities.add(weight);
      }
    }
    return exact;
  }

  private static double[] minus(double[] a, double[] b) {
    double[] c = new double[a.length];
    Arrays.setAll(c, i -> a[i] - b[i]);
    return c;
  }

  private static double[] times(double a, double[] b) {
    return Arrays.stream(b).map(x -> a * x).toArray();
  }

  private static double squared(double[] a) {
    return Arrays.stream(a).map(x -> x * x).sum();
  }

  /** ‖a − b‖ / ‖b‖. */
  private static double distance(double[] a, double[] b) {
    return Math.sqrt(squared(minus(a, b)) / squared(b));
  }

  @Test
  void tokenEstimatorsHaveTheMeansOfTheory() {
    Setting setting = setting(2, 0, KlEstimator.K3, 0.2, 0.2);
    double[] gradient = two.gradient(p -> p.expectedReward(TinyPolicy.prompt(0)));
    try (Laboratory laboratory =
        laboratory(two, two, null, setting, "none", "rloo", "dr_grpo", "grpo")) {
      List<Exact> exact = enumerate(laboratory, two, 0, 2, 4);
      assertThat(distance(exact.get(0).mean(), gradient)).as("none").isLessThan(1e-4);
      assertThat(distance(exact.get(1).mean(), gradient)).as("RLOO").isLessThan(1e-4);
      // Its own reward is in the mean that is taken off: a factor of 1 − 1/G.
      assertThat(distance(exact.get(2).mean(), times(0.5, gradient)))
          .as("Dr.GRPO")
          .isLessThan(1e-4);
      // Divided by the group's deviation it is not the gradient of the reward, at no scale.
      double[] standard = exact.get(3).mean();
      double along = 0;
      for (int i = 0; i < gradient.length; i++) {
        along += standard[i] * gradient[i];
      }
      double scale = along / squared(gradient);
      assertThat(distance(standard, times(scale, gradient))).as("GRPO").isGreaterThan(0.05);
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = KlEstimator.class,
      names = {"K1", "K2", "K3", "K3_ST"})
  void klEstimatorsHaveTheGradientsOfTheory(KlEstimator kind) {
    TinyPolicy reference = TinyPolicy.near(one, 0.6);
    Prompt prompt = TinyPolicy.prompt(0);
    Setting setting = setting(2, 0, kind, 0.2, 0.2);
    double[] reverse = one.gradient(p -> -divergence(p, reference, prompt));
    double[] forward = one.gradient(p -> -divergence(reference, p, prompt));
    try (Laboratory laboratory = laboratory(one, one, reference, setting, "kl")) {
      double[] mean = enumerate(laboratory, one, 0, 2, 1).get(0).mean();
      switch (kind) {
        case K1 -> assertThat(squared(mean)).isLessThan(1e-8 * squared(reverse));
        case K3 -> {
          // In the loss K3 has the gradient of the other divergence.
          assertThat(distance(mean, forward)).isLessThan(1e-3);
          assertThat(distance(mean, reverse)).isGreaterThan(0.05);
        }
        default -> assertThat(distance(mean, reverse)).isLessThan(1e-3);
      }
    }
    reference.model.close();
  }

  private static double divergence(TinyPolicy a, TinyPolicy b, Prompt prompt) {
    double sum = 0;
    for (int[] y : a.responses()) {
      double log = a.logProbability(prompt, y);
      sum += Math.exp(log) * (log - b.logProbability(prompt, y));
    }
    return sum;
  }

  @Test
  void clippingABiasesTheGradientOfAStalePolicy() {
    TinyPolicy old = TinyPolicy.near(one, 0.3);
    double[] gradient = one.gradient(p -> p.expectedReward(TinyPolicy.prompt(0)));
    try (Laboratory open =
            laboratory(one, old, null, setting(2, 1, KlEstimator.K3, 1, NONE), "rloo");
        Laboratory clipped =
            laboratory(one, old, null, setting(2, 1, KlEstimator.K3, 0.05, 0.05), "rloo")) {
      double[] weighted = enumerate(open, old, 0, 2, 1).get(0).mean();
      double[] cut = enumerate(clipped, old, 0, 2, 1).get(0).mean();
      // The leave-one-out baseline is independent of the ratio: no bias without the clip.
      assertThat(distance(weighted, gradient)).isLessThan(1e-4);
      assertThat(distance(cut, gradient)).isGreaterThan(0.05);
    }
    old.model.close();
  }

  @Test
  void expectedPositionsAreTheMeanOverSampledPositions() {
    TinyPolicy old = TinyPolicy.near(one, 0.3);
    int[][] group = {{1}, {0}};
    int draws = 4096;
    double[] u = new double[1];
    Laboratory.Models models = new Laboratory.Models(one.model, old.model, null);
    try (Laboratory laboratory =
        new Laboratory(
            models,
            List.of(TinyPolicy.prompt(0)),
            (prompt, response) -> TinyPolicy.reward(response),
            setting(2, 1, KlEstimator.K3, 0.2, 0.2),
            // The row that predicts the first token is that of every response: centred advantages
            // would cancel.
            new AttentionChoice(new int[] {0}, 0, -1, Divergence.JSD, 0.5f, null),
            new Laboratory.Sampling(1, 7, 1, TinyPolicy.STOP),
            List.of("positions", "expected_positions", "ral"),
            false) {
          @Override
          double uniform(int prompt, int response, int layer, int row) {
            return u[0];
          }
        }) {
      double[] mean = new double[0];
      double[] expected = null;
      for (int i = 0; i < draws; i++) {
        u[0] = (i + 0.5) / draws;
        List<float[]> gradients = laboratory.gradients(0, group);
        double[] own = parameters(gradients.get(0));
        if (expected == null) {
          expected = parameters(gradients.get(1));
          mean = new double[own.length];
          assertThat(squared(parameters(gradients.get(2)))).isPositive();
        }
        for (int j = 0; j < mean.length; j++) {
          mean[j] += own[j] / draws;
        }
      }
      // Two key positions whose share is known to half a draw each.
      assertThat(distance(mean, expected)).isLessThan(0.02);
    }
    old.model.close();
  }

  @Test
  void measuredMomentsAgreeWithTheEnumeration() {
    int group = 2;
    int groups = 400;
    Setting setting = setting(group, 0, KlEstimator.K3, 0.2, 0.2);
    String[] names = {"none", "rloo", "dr_grpo", "grpo"};
    List<Exact> exact;
    try (Laboratory laboratory = laboratory(two, two, null, setting, names)) {
      exact = enumerate(laboratory, two, 0, group, names.length);
    }
    try (Laboratory laboratory = laboratory(two, two, null, setting, 1, groups, 11, names)) {
      Block block = laboratory.measure(0, 1, null, () -> {});
      for (int e = 0; e < names.length; e++) {
        Block.Moments measured = block.moments.get(names[e]);
        double[] trace = new double[1];
        List<Layout.Part> parts = laboratory.layout().parts();
        double own = 0;
        for (int p = 0; p < parts.size(); p++) {
          if (parts.get(p).target().endsWith("_proj")) {
            trace[0] += measured.within()[p];
            own += measured.own()[p];
          }
        }
        double variance = exact.get(e).moment(1);
        double deviation = Math.sqrt((exact.get(e).moment(2) - variance * variance) / groups);
        assertThat(trace[0]).as(names[e]).isCloseTo(variance, within(4 * deviation));
        // ‖mean − E g‖² is variance/groups on average, and its deviation at most √2 times that.
        double[] mean = parameters(measured.mean());
        assertThat(squared(minus(mean, exact.get(e).mean())))
            .as(names[e])
            .isLessThan((1 + 4 * Math.sqrt(2)) * variance / groups);
        // Without a baseline responses are independent: all variance is each one's own.
        if (names[e].equals("none")) {
          assertThat(own / trace[0]).isCloseTo(1, within(0.15));
        }
      }
    }
  }
}
