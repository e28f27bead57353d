package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;

import dev.saccade.Context;
import dev.saccade.benchmarks.GpuFigures.Aim;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

class GpuFiguresTest {
  private static final double MOST_FLOPS = 1e11;

  static List<GpuFigures.Plan> plans() {
    return GpuFigures.plans().stream()
        .filter(plan -> !plan.line().apply(1).workload().name().endsWith(" BF16"))
        .filter(plan -> plan.line().apply(1).workload().flops() < MOST_FLOPS)
        .toList();
  }

  /** As small as a GPU of little memory makes it, and on the CPU, which has f32 only. */
  @ParameterizedTest
  @MethodSource("plans")
  void everyLineRuns(GpuFigures.Plan plan) {
    GpuFigures.Line line = plan.line().apply(1);
    try (SaccadeEngine engine = new SaccadeEngine(Context.cpu(), line.dtype())) {
      Work work = line.workload().work().apply(engine);
      assertThatCode(work::run).doesNotThrowAnyException();
    }
    assertThat(line.workload().bytesRead()).isPositive();
  }

  @Test
  void repetitionsAreTimed() {
    try (Context context = Context.cpu()) {
      double seconds = new DeviceTimer(context).seconds(List.of(GpuFiguresTest::aMillisecond));
      assertThat(seconds).isBetween(1e-3, 1e-2);
    }
  }

  private static void aMillisecond() {
    for (long start = System.nanoTime(); System.nanoTime() - start < 1_000_000; ) {
      Thread.onSpinWait();
    }
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
