package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;

import dev.saccade.Device;
import dev.saccade.benchmarks.GpuFigures.Aim;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class GpuFiguresTest {
  private static final double MOST_FLOPS = 1e11;

  static List<GpuFigures.Plan> plans() {
    return GpuFigures.plans().stream()
        .filter(plan -> !plan.work().params().containsValue("BF16") || isOfLogits(plan))
        .filter(plan -> smallest(plan.work()).workload(plan.work().method()).flops() < MOST_FLOPS)
        .toList();
  }

  private static boolean isOfLogits(GpuFigures.Plan plan) {
    return plan.work().params().containsKey("dtype");
  }

  /** As small as a GPU of little memory makes it. */
  private static OperationBenchmark smallest(Case work) {
    OperationBenchmark benchmark = work.instance();
    while (benchmark.shrink()) {
      // halved
    }
    return benchmark;
  }

  /** On the CPU, which has products in f32 only. */
  @ParameterizedTest
  @MethodSource("plans")
  void everyLineRuns(GpuFigures.Plan plan) {
    OperationBenchmark benchmark = smallest(plan.work());
    Workload workload = benchmark.workload(plan.work().method());
    try (Engine engine = Engine.open(Engine.SACCADE, Device.CPU, 0, benchmark.dtype())) {
      Work work = workload.work().apply(engine);
      assertThatCode(work::run).doesNotThrowAnyException();
    }
    assertThat(workload.bytesRead()).isPositive();
  }

  @Test
  void aimsAreMetMissedOrNotAsked() {
    assertThat(Aim.share(85).isMet(1, 85, false, Double.NaN)).isTrue();
    assertThat(Aim.share(85).isMet(1, 84.9, true, Double.NaN)).isFalse();
    assertThat(Aim.share(85).isMet(1, Double.NaN, true, Double.NaN)).isFalse();
    assertThat(Aim.microseconds(6).isMet(6e-6, 1, true, Double.NaN)).isTrue();
    assertThat(Aim.microseconds(6).isMet(7e-6, 1, true, Double.NaN)).isFalse();
    assertThat(Aim.microseconds(6).isMet(7e-6, 1, false, Double.NaN)).isNull();
    assertThat(Aim.NONE.isMet(1, 1, true, Double.NaN)).isNull();
    assertThat(Aim.ofPeers(60).isMet(1e-3, 1, false, 0.6e-3)).isTrue();
    assertThat(Aim.ofPeers(60).isMet(1e-3, 1, true, 0.59e-3)).isFalse();
    assertThat(Aim.ofPeers(60).isMet(1e-3, 1, true, Double.NaN)).isNull();
    assertThat(Aim.share(85)).hasToString("≥ 85 %");
    assertThat(Aim.microseconds(2800)).hasToString("≤ 2.80 ms");
    assertThat(Aim.microseconds(6)).hasToString("≤ 6.0 us");
    assertThat(Aim.NONE).hasToString("");
  }
}
