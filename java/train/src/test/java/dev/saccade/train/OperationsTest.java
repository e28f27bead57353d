package dev.saccade.train;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.Graph;
import dev.saccade.Scope;
import dev.saccade.train.Operations.Operation;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** What holds for every operation: of {@link Operations}. */
class OperationsTest {
  static List<Operation> operations() {
    return Operations.all();
  }

  // --------------------------------------------------------------------------------------- bits

  /**
   * The same bits every time, whatever outputs held before; nothing beside outputs is written, and
   * inputs stay.
   */
  private static void repeats(Context context, Operation operation, int times) {
    try (context;
        Scope scope = context.scope()) {
      GuardedTensors tensors = new GuardedTensors(scope, 1);
      Runnable run = operation.preparation().prepare(context, tensors);
      tensors.restore();
      run.run();
      List<byte[]> first = tensors.written();
      for (int i = 1; i < times; i++) {
        tensors.restoreWritten(i);
        run.run();
        requireSameBits("launch " + i, first, tensors.written());
      }
      assertThat(tensors.trespasses()).isEmpty();
    }
  }

  private static void requireSameBits(String what, List<byte[]> expected, List<byte[]> actual) {
    for (int t = 0; t < expected.size(); t++) {
      assertThat(Arrays.mismatch(expected.get(t), actual.get(t)))
          .as("%s, written tensor %d: first byte that differs", what, t)
          .isEqualTo(-1);
    }
  }

  @ParameterizedTest
  @MethodSource("operations")
  void repeatsOnTheCpu(Operation operation) {
    repeats(Contexts.cpu(2), operation, 5);
  }

  /** Under a sanitizer, which takes its time, {@code -Dsaccade.test.launches=2} will do. */
  @OnGpu
  @ParameterizedTest
  @MethodSource("operations")
  void aThousandLaunchesGiveTheSameBits(Operation operation) {
    repeats(Contexts.gpu(), operation, Integer.getInteger("saccade.test.launches", 1000));
  }

  /** With other data, scalars included, in every replay. */
  @OnGpu
  @ParameterizedTest
  @MethodSource("operations")
  void aGraphGivesTheBitsOfTheOperation(Operation operation) {
    try (Context context = Contexts.gpu();
        Scope scope = context.scope()) {
      GuardedTensors recorded = new GuardedTensors(scope, 1);
      GuardedTensors plain = new GuardedTensors(scope, 1);
      Runnable recording = operation.preparation().prepare(context, recorded);
      Runnable run = operation.preparation().prepare(context, plain);
      try (Graph graph = Graph.capture(context, recording)) {
        for (int seed = 1; seed <= 3; seed++) {
          recorded.redraw(seed);
          plain.redraw(seed);
          recorded.restore();
          plain.restore();
          graph.launch();
          run.run();
          requireSameBits("replay " + seed, plain.written(), recorded.written());
          assertThat(recorded.trespasses()).isEmpty();
        }
      }
    }
  }

  // ----------------------------------------------------------------------------------- agreement

  private static List<double[]> results(Context context, Operation operation, List<DType> types) {
    try (context;
        Scope scope = context.scope()) {
      GuardedTensors tensors = new GuardedTensors(scope, 5);
      Runnable run = operation.preparation().prepare(context, tensors);
      tensors.restore();
      run.run();
      types.addAll(tensors.types());
      return tensors.results();
    }
  }

  /**
   * Each is compared with double precision in tests of its own, and both round; what counts here is
   * the rounding of the result's type, of the element and of the largest one.
   */
  @OnGpu
  @ParameterizedTest
  @MethodSource("operations")
  void theGpuAgreesWithTheCpu(Operation operation) {
    assumeTrue(operation.comparable());
    List<DType> types = new ArrayList<>();
    List<double[]> cpu = results(Contexts.cpu(1), operation, types);
    List<double[]> gpu = results(Contexts.gpu(), operation, types);
    for (int t = 0; t < cpu.size(); t++) {
      double[] want = cpu.get(t);
      double largest = Arrays.stream(want).filter(Double::isFinite).map(Math::abs).max().orElse(0);
      double tolerance =
          switch (types.get(t)) {
            case BF16 -> 0x1p-8;
            case F16 -> 0x1p-10;
            default -> 1e-5;
          };
      for (int i = 0; i < want.length; i++) {
        double got = gpu.get(t)[i];
        double allowed = 1e-12 + tolerance * (Math.abs(want[i]) + largest);
        assertThat(Double.compare(got, want[i]) == 0 || Math.abs(got - want[i]) <= allowed)
            .as("tensor %d, element %d: %s on the CPU, %s on the GPU", t, i, want[i], got)
            .isTrue();
      }
    }
  }

  // ------------------------------------------------------------------------------------ bad data

  /**
   * Offsets, targets and indices in the memory of a GPU are data: whatever they are, nothing is
   * written beside outputs, and the context goes on.
   */
  @OnGpu
  @ParameterizedTest
  @MethodSource("operations")
  void badIndicesHarmNothing(Operation operation) {
    try (Context context = Contexts.gpu();
        Scope scope = context.scope()) {
      GuardedTensors tensors = new GuardedTensors(scope, 7);
      Runnable run = operation.preparation().prepare(context, tensors);
      tensors.restore();
      run.run();
      List<byte[]> good = tensors.written();
      for (int place = 0; place < tensors.indices(); place++) {
        for (int bad : new int[] {-1, -7, 1 << 20, Integer.MAX_VALUE, Integer.MIN_VALUE}) {
          tensors.setIndex(place, bad);
          tensors.restore();
          run.run();
          assertThatCode(context::synchronize).doesNotThrowAnyException();
          assertThat(tensors.trespasses()).as("index %d is %d", place, bad).isEmpty();
          tensors.redraw(7);
        }
      }
      tensors.restore();
      run.run();
      requireSameBits("good again", good, tensors.written());
    }
  }
}
