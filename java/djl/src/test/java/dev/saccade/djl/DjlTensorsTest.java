package dev.saccade.djl;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import ai.djl.engine.Engine;
import ai.djl.ndarray.NDArray;
import ai.djl.ndarray.NDManager;
import ai.djl.ndarray.NDScope;
import ai.djl.ndarray.index.NDIndex;
import ai.djl.ndarray.types.DataType;
import ai.djl.ndarray.types.Shape;
import ai.djl.training.GradientCollector;
import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class DjlTensorsTest {
  private final NDManager manager = NDManager.newBaseManager();
  private final Context context = Context.cpu();
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    scope.close();
    context.close();
    manager.close();
  }

  private static void assertInvalid(ThrowingCallable use, String message) {
    assertThatThrownBy(use).isInstanceOf(InvalidArgumentException.class).hasMessage(message);
  }

  private NDArray counting(long... shape) {
    Shape whole = new Shape(shape);
    return manager.arange((float) whole.size()).reshape(whole);
  }

  @Test
  void isInPlaceBothWays() {
    NDArray theirs = counting(2, 3);
    Tensor ours = DjlTensors.wrap(scope, theirs);
    assertThat(ours.dtype()).isEqualTo(DType.F32);
    assertThat(ours.shape()).containsExactly(2, 3);
    assertThat(ours.toFloats()).containsExactly(0, 1, 2, 3, 4, 5);
    theirs.muli(2);
    assertThat(ours.toFloats()).containsExactly(0, 2, 4, 6, 8, 10);
    ours.rows(1, 2).zero();
    assertThat(theirs.toFloatArray()).containsExactly(0, 2, 4, 0, 0, 0);
    assertThat(context.liveBytes()).as("nothing was allocated").isZero();
  }

  @ParameterizedTest
  @CsvSource({
    "FLOAT32, F32",
    "FLOAT16, F16",
    "FLOAT64, F64",
    "INT32, I32",
    "INT64, I64",
    "UINT8, U8",
    "BOOLEAN, U8"
  })
  void types(DataType theirs, DType ours) {
    Tensor tensor = DjlTensors.wrap(scope, manager.ones(new Shape(3)).toType(theirs, true));
    assertThat(tensor.dtype()).isEqualTo(ours);
    switch (ours) {
      case I32 -> assertThat(tensor.toInts()).containsOnly(1);
      case I64 -> assertThat(tensor.toLongs()).containsOnly(1);
      case U8 -> assertThat(tensor.toBytes()).containsOnly(1);
      default -> assertThat(tensor.toFloats()).containsOnly(1);
    }
  }

  @Test
  void shapesAtTheEdge() {
    Tensor scalar = DjlTensors.wrap(scope, manager.create(7f));
    assertThat(scalar.shape()).containsExactly(1);
    assertThat(scalar.item()).isEqualTo(7);
    assertThat(DjlTensors.wrap(scope, manager.create(new Shape(0, 5))).shape())
        .containsExactly(0, 5);
    Tensor rows = DjlTensors.wrap(scope, counting(4, 3).get(new NDIndex("1:3")));
    assertThat(rows.toFloats()).containsExactly(3, 4, 5, 6, 7, 8);
  }

  @Test
  void memoryOutlivesManagersAndScopes() {
    Tensor ours;
    Tensor scoped;
    try (NDManager other = NDManager.newBaseManager()) {
      ours = DjlTensors.wrap(scope, other.arange(1000f));
      try (NDScope theirs = new NDScope()) {
        theirs.suppressNotUsedWarning();
        scoped = DjlTensors.wrap(scope, other.arange(1000f));
      }
    }
    for (int i = 0; i < 100; i++) {
      manager.zeros(new Shape(1000)).close(); // would get the memory
    }
    assertThat(ours.toFloats()[999]).isEqualTo(999);
    assertThat(scoped.toFloats()[999]).isEqualTo(999);
  }

  @Test
  void arraysThatCannotBe() {
    NDArray matrix = counting(2, 3);
    String gaps =
        "wrap: array: expected an array without gaps, in row-major order, got a view of another";
    assertInvalid(() -> DjlTensors.wrap(scope, matrix.transpose()), gaps);
    assertInvalid(() -> DjlTensors.wrap(scope, matrix.get(new NDIndex(":, 1:"))), gaps);
    assertInvalid(
        () -> DjlTensors.wrap(scope, matrix.toType(DataType.INT8, true)),
        "wrap: array: expected FLOAT32, BFLOAT16, FLOAT16, FLOAT64, INT32, INT64, UINT8 or BOOLEAN,"
            + " got int8");
    assertInvalid(() -> DjlTensors.wrap(scope, null), "wrap: array: expected a value, got null");
    assertInvalid(() -> DjlTensors.wrap(null, matrix), "wrap: scope: expected a value, got null");
    matrix.close();
    assertInvalid(
        () -> DjlTensors.wrap(scope, matrix),
        "wrap: array: expected an open array, got a closed one");
  }

  @Test
  void gradientsGoBackThroughAutograd() {
    NDArray x = manager.randomNormal(new Shape(5, 8));
    NDArray weight = manager.randomNormal(new Shape(8, 16));
    NDArray same = weight.duplicate();
    NDArray targets = manager.arange(5).toType(DataType.INT32, false);
    weight.setRequiresGradient(true);
    same.setRequiresGradient(true);
    try (GradientCollector collector = Engine.getInstance().newGradientCollector()) {
      NDArray logits = x.matMul(weight);
      NDArray dLogits = logits.zerosLike();
      TokenLogProbs.backward(
          context,
          DjlTensors.wrap(scope, logits),
          DjlTensors.wrap(scope, targets),
          TokenLogProbs.Options.DEFAULT,
          DjlTensors.wrap(scope, manager.ones(new Shape(5))),
          null,
          DjlTensors.wrap(scope, dLogits));
      collector.backward(logits.mul(dLogits).sum());
    }
    try (GradientCollector collector = Engine.getInstance().newGradientCollector()) {
      NDArray index = targets.toType(DataType.INT64, false).expandDims(1);
      collector.backward(x.matMul(same).logSoftmax(1).gather(index, 1).sum());
    }
    float[] ours = weight.getGradient().toFloatArray();
    float[] theirs = same.getGradient().toFloatArray();
    for (int i = 0; i < ours.length; i++) {
      assertThat(Math.abs(ours[i] - theirs[i])).isLessThanOrEqualTo(1e-5f);
    }
  }
}
