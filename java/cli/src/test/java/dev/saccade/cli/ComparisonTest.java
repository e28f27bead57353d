package dev.saccade.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.saccade.cli.Comparison.Tolerances;
import org.junit.jupiter.api.Test;

class ComparisonTest {
  private static final Tolerances TOLERANCES = new Tolerances(0.1, 0.01, 0.001);

  private static Comparison compare(String name, double[] got, double[] want, long... shape) {
    return Comparison.of(name, got, want, shape, TOLERANCES);
  }

  @Test
  void ordinaryResultsMayErrByAtol() {
    assertThat(compare("lse", new double[] {1.109}, new double[] {1}, 1).passes()).isTrue();
    assertThat(compare("lse", new double[] {1.111}, new double[] {1}, 1).passes()).isFalse();
    assertThat(compare("lse", new double[] {0.0099}, new double[] {0}, 1).passes()).isTrue();
    assertThat(compare("lse", new double[] {0.0101}, new double[] {0}, 1).passes()).isFalse();
  }

  @Test
  void gradientsMayErrByAFractionOfTheirRow() {
    double[] want = {100, 0, 1, 0};
    // 0.1 in the first row, 0.001 in the second
    assertThat(compare("d_logits", new double[] {100, 0.09, 1, 0}, want, 2, 2).passes()).isTrue();
    assertThat(compare("d_logits", new double[] {100, 0, 1, 0.09}, want, 2, 2).passes()).isFalse();
    assertThat(compare("dq", new double[] {100, 0, 1, 0.0009}, want, 2, 2).passes()).isTrue();
    // one dimension: of the tensor
    assertThat(compare("d_log_prob", new double[] {100, 0, 1, 0.09}, want, 4).passes()).isTrue();
    // three dimensions: the last
    assertThat(compare("dk", new double[] {100, 0, 1, 0.09}, want, 1, 2, 2).passes()).isFalse();
  }

  @Test
  void theNamesOfGradients() {
    assertThat(new String[] {"dq", "dk", "d_logits", "d_log_prob", "d_hidden"})
        .allMatch(Comparison::isGradient);
    assertThat(new String[] {"divergence", "dscore_sq", "degenerate", "loss", "kl"})
        .noneMatch(Comparison::isGradient);
  }

  @Test
  void nanFailsOnEitherSide() {
    double nan = Double.NaN;
    assertThat(compare("kl", new double[] {nan}, new double[] {1}, 1).passes()).isFalse();
    assertThat(compare("kl", new double[] {1}, new double[] {nan}, 1).passes()).isFalse();
    assertThat(compare("kl", new double[] {nan}, new double[] {nan}, 1).passes()).isFalse();
    assertThat(compare("d_x", new double[] {1, 1}, new double[] {1, nan}, 2).passes()).isFalse();
  }

  @Test
  void theSameInfinityPassesAndAnotherDoesNot() {
    double inf = Double.POSITIVE_INFINITY;
    assertThat(compare("lse", new double[] {-inf}, new double[] {-inf}, 1).passes()).isTrue();
    assertThat(compare("lse", new double[] {inf}, new double[] {-inf}, 1).passes()).isFalse();
    assertThat(compare("lse", new double[] {inf}, new double[] {1}, 1).passes()).isFalse();
  }

  @Test
  void theWorstElementIsTheOneClosestToWhatIsAllowed() {
    Comparison comparison =
        compare("lse", new double[] {1000.5, 0, 0.008, 0}, new double[] {1000, 0, 0, 0}, 2, 2);

    assertThat(comparison.index()).containsExactly(1, 0);
    assertThat(comparison.error()).isEqualTo(0.008);
    assertThat(comparison.allowed()).isCloseTo(0.01, within(1e-11));
    assertThat(comparison).hasToString("error 8.00e-03 allowed 1.00e-02   80 % at [1, 0]");
  }

  @Test
  void nanIsWorseThanAnyNumber() {
    double nan = Double.NaN;
    Comparison comparison = compare("kl", new double[] {9, nan, 99}, new double[] {1, 1, 1}, 3);

    assertThat(comparison.index()).containsExactly(1);
    assertThat(comparison.toString()).contains("NaN at [1]: got NaN, want 1.0");
  }

  @Test
  void noElementsPass() {
    assertThat(compare("d_x", new double[0], new double[0], 0, 3).passes()).isTrue();
    assertThat(compare("d_x", new double[0], new double[0], 3, 0)).hasToString("no elements");
  }
}
