package dev.saccade.benchmarks;

import static org.assertj.core.api.Assertions.assertThat;

import dev.saccade.Device;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

class CasesTest {
  private static Stream<Case> all() {
    return Stream.of(Device.Kind.values())
        .flatMap(
            kind ->
                Stream.of(Cases.all(kind), Cases.ceilings(kind), Cases.scaling(kind))
                    .flatMap(List::stream));
  }

  @Test
  void everyParameterIsOneOfItsBenchmark() {
    all()
        .forEach(
            one -> {
              Map<String, String> parameters = one.instance().parameters();
              assertThat(parameters).as(one.name()).containsAllEntriesOf(one.params());
            });
  }

  @Test
  void everyLineHasAKeyOfItsOwn() {
    for (Device.Kind kind : Device.Kind.values()) {
      List<Case> cases = new ArrayList<>(Cases.all(kind));
      cases.addAll(Cases.ceilings(kind));
      assertThat(cases.stream().map(CasesTest::key)).doesNotHaveDuplicates();
      assertThat(Cases.scaling(kind).stream().map(one -> one.axis() + key(one)))
          .doesNotHaveDuplicates();
    }
  }

  private static String key(Case one) {
    Workload workload = one.workload();
    return workload.name() + "," + workload.shape() + "," + one.instance().dtype();
  }

  @Test
  void everyOperationHasAShapeOnEveryDevice() {
    List<String> operations = Suite.operations(Device.CPU, false);
    assertThat(operations)
        .hasSizeGreaterThan(18)
        .contains("token_log_probs", "adamw", "swiglu", "call");
    assertThat(Suite.operations(Device.cuda(0), false)).containsAll(operations).contains("cublas");
  }

  @Test
  void shapesThatDoNotFitAreHalvedToTheEnd() {
    OperationBenchmark logits =
        Cases.logits("TokenLogProbs", "forward", 5, Model.GEMMA_3).instance();
    List<Integer> rows = new ArrayList<>(List.of(logits.extentValue()));
    while (logits.shrink()) {
      rows.add(logits.extentValue());
    }
    assertThat(rows).containsExactly(5, 3, 2, 1);
    assertThat(logits.workload("forward").shape()).isEqualTo("1 × 262144");
    assertThat(Case.of("Call", "overhead").instance().shrink()).isFalse();
  }

  @Test
  void linesOfAGpuFitInTenMinutes() {
    assertThat(Cases.all(Device.Kind.CUDA).stream().filter(Case::isQuick)).hasSizeBetween(15, 30);
  }
}
