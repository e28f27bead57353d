package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Maps that are views of larger tensors: what lies beside them is neither read nor written. */
class AttentionMapTest {
  private final Context context = Contexts.one();
  private final Scope scope = context.scope();
  private AttentionPolicy.Input input;
  private Tensor all;

  @BeforeEach
  void setUp() {
    float[] values = new float[3 * 2 * 4];
    for (int i = 0; i < values.length; i++) {
      values[i] = i * 7 % 5 - 2;
    }
    Tensor q = Tensor.of(scope, Arrays.copyOf(values, 2 * 2 * 4), 2, 2, 4);
    Tensor k = Tensor.of(scope, values, 3, 2, 4);
    input =
        new AttentionPolicy.Input(
            q, k, Tensor.of(scope, new int[] {0, 2}), Tensor.of(scope, new int[] {0, 3}), 3, null);
    float[] marked = new float[4 * 8];
    Arrays.fill(marked, 777);
    all = Tensor.of(scope, marked, 4, 8);
  }

  @AfterEach
  void tearDown() {
    scope.close();
    context.close();
  }

  private void policy(Tensor map) {
    AttentionPolicy.forward(
        context,
        input,
        AttentionPolicy.Options.DEFAULT,
        new AttentionPolicy.Outputs(null, null, null, map));
  }

  @Test
  void aMapWithGapsIsRejected() {
    assertThatThrownBy(() -> policy(all.rows(0, 2).columns(4, 7)))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessageContaining("map: expected a dense tensor");
    assertThatThrownBy(
            () ->
                AttentionDivergence.forwardBackward(
                    scope,
                    input,
                    new AttentionDivergence.Reference.Map(all.rows(0, 2).columns(0, 3)),
                    AttentionDivergence.Weights.of(Tensor.zeros(scope, DType.F32, 2)),
                    AttentionDivergence.Options.DEFAULT))
        .hasMessageContaining("ref: expected a dense tensor");
    assertThat(all.toFloats()).containsOnly(777);
  }

  @Test
  void aMapWithoutColumnsIsRejected() {
    assertThatThrownBy(() -> policy(Tensor.empty(scope, DType.F32, 2, 0)))
        .hasMessageContaining("map: expected a column for every key, got f32[2, 0]");
  }

  @Test
  void aMapOfOneRowWritesItsOwnColumnsOnly() {
    input =
        new AttentionPolicy.Input(
            input.q().rows(1, 2),
            input.k(),
            Tensor.of(scope, new int[] {0, 1}),
            input.offsetsK(),
            3,
            null);

    policy(all.rows(1, 2).columns(2, 5));

    float[] after = all.toFloats();
    for (int i = 0; i < after.length; i++) {
      boolean inside = i >= 8 + 2 && i < 8 + 5;
      assertThat(after[i] == 777).as("element %d", i).isEqualTo(!inside);
    }
  }

  @Test
  void squaredScoreGradientsNeedGradients() {
    Tensor squares = Tensor.empty(scope, DType.F32, 2, 2);
    assertThatThrownBy(
            () ->
                AttentionDivergence.forwardBackward(
                    context,
                    input,
                    new AttentionDivergence.Reference.Map(Tensor.zeros(scope, DType.F32, 2, 3)),
                    AttentionDivergence.Weights.of(null),
                    AttentionDivergence.Options.DEFAULT,
                    new AttentionDivergence.Outputs(null, null, null, null, null, null, squares)))
        .isInstanceOf(InvalidArgumentException.class)
        .hasMessageContaining("dq: expected");
  }
}
