package dev.saccade.nd4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.nd4j.linalg.indexing.NDArrayIndex.all;
import static org.nd4j.linalg.indexing.NDArrayIndex.interval;
import static org.nd4j.linalg.indexing.NDArrayIndex.point;

import dev.saccade.Context;
import dev.saccade.DType;
import dev.saccade.InvalidArgumentException;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import dev.saccade.TokenLogProbs;
import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.nd4j.linalg.api.buffer.DataType;
import org.nd4j.linalg.api.ndarray.INDArray;
import org.nd4j.linalg.factory.Nd4j;

class Nd4jTensorsTest {
  private final Context context = Context.cpu();
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    scope.close();
    context.close();
  }

  private static void assertInvalid(ThrowingCallable use, String message) {
    assertThatThrownBy(use).isInstanceOf(InvalidArgumentException.class).hasMessage(message);
  }

  private static INDArray counting(long... shape) {
    long size = 1;
    for (long n : shape) {
      size *= n;
    }
    return Nd4j.arange(size).castTo(DataType.FLOAT).reshape('c', shape);
  }

  @Test
  void isInPlaceBothWays() {
    INDArray theirs = counting(2, 3);
    Tensor ours = Nd4jTensors.wrap(scope, theirs);
    assertThat(ours.address()).isEqualTo(theirs.data().pointer().address());
    assertThat(ours.dtype()).isEqualTo(DType.F32);
    assertThat(ours.shape()).containsExactly(2, 3);
    assertThat(ours.toFloats()).containsExactly(0, 1, 2, 3, 4, 5);
    theirs.muli(2);
    assertThat(ours.toFloats()).containsExactly(0, 2, 4, 6, 8, 10);
    ours.rows(1, 2).zero();
    assertThat(theirs.getFloat(0, 2)).isEqualTo(4);
    assertThat(theirs.getFloat(1, 2)).isZero();
    assertThat(context.liveBytes()).as("nothing was allocated").isZero();
  }

  @ParameterizedTest
  @CsvSource({
    "FLOAT, F32",
    "BFLOAT16, BF16",
    "HALF, F16",
    "DOUBLE, F64",
    "INT, I32",
    "LONG, I64",
    "UBYTE, U8",
    "BOOL, U8"
  })
  void types(DataType theirs, DType ours) {
    Tensor tensor = Nd4jTensors.wrap(scope, Nd4j.ones(DataType.FLOAT, 3).castTo(theirs));
    assertThat(tensor.dtype()).isEqualTo(ours);
    switch (ours) {
      case I32 -> assertThat(tensor.toInts()).containsOnly(1);
      case I64 -> assertThat(tensor.toLongs()).containsOnly(1);
      case U8 -> assertThat(tensor.toBytes()).containsOnly(1);
      default -> assertThat(tensor.toFloats()).containsOnly(1);
    }
  }

  @Test
  void viewsKeepTheirStridesAndOffset() {
    INDArray matrix = counting(4, 6);
    Tensor columns = Nd4jTensors.wrap(scope, matrix.get(interval(1, 3), interval(2, 5)));
    assertThat(columns.shape()).containsExactly(2, 3);
    assertThat(columns.stride(0)).isEqualTo(6);
    assertThat(columns.toFloats()).containsExactly(8, 9, 10, 14, 15, 16);
    Tensor heads = Nd4jTensors.wrap(scope, counting(2, 3, 2, 4).get(all(), point(1), all(), all()));
    assertThat(heads.shape()).containsExactly(2, 2, 4);
    assertThat(heads.toFloats())
        .containsExactly(8, 9, 10, 11, 12, 13, 14, 15, 32, 33, 34, 35, 36, 37, 38, 39);
    assertThat(Nd4jTensors.wrap(scope, matrix.getRow(2)).toFloats())
        .containsExactly(12, 13, 14, 15, 16, 17);
  }

  @Test
  void shapesAtTheEdge() {
    Tensor scalar = Nd4jTensors.wrap(scope, Nd4j.scalar(7f));
    assertThat(scalar.shape()).containsExactly(1);
    assertThat(scalar.item()).isEqualTo(7);
    Tensor none = Nd4jTensors.wrap(scope, Nd4j.empty(DataType.FLOAT));
    assertThat(none.toFloats()).isEmpty();
    assertThat(Nd4jTensors.wrap(scope, Nd4j.create(DataType.FLOAT, 0, 5)).shape())
        .containsExactly(0, 5);
  }

  @Test
  void arraysThatCannotBe() {
    INDArray matrix = counting(2, 3);
    assertInvalid(
        () -> Nd4jTensors.wrap(scope, matrix.transpose()),
        "wrap: strides: expected 1 in dimension 1 of f32[3, 2], got [1, 3]");
    assertInvalid(
        () -> Nd4jTensors.wrap(scope, matrix.dup('f')),
        "wrap: strides: expected 1 in dimension 1 of f32[2, 3], got [1, 2]");
    assertInvalid(
        () -> Nd4jTensors.wrap(scope, matrix.castTo(DataType.SHORT)),
        "wrap: array: expected FLOAT, BFLOAT16, HALF, DOUBLE, INT, LONG, UBYTE or BOOL, got SHORT");
    assertInvalid(() -> Nd4jTensors.wrap(scope, null), "wrap: array: expected a value, got null");
    assertInvalid(() -> Nd4jTensors.wrap(null, matrix), "wrap: scope: expected a value, got null");
    INDArray closed = Nd4j.create(DataType.FLOAT, 3);
    closed.close();
    assertInvalid(
        () -> Nd4jTensors.wrap(scope, closed),
        "wrap: array: expected an open array, got a closed one");
  }

  private static Tensor wrapFresh(
      Scope scope, ReferenceQueue<Object> queue, PhantomReference<?>[] reference) {
    INDArray array = counting(1000);
    reference[0] = new PhantomReference<>(array, queue);
    return Nd4jTensors.wrap(scope, array);
  }

  @Test
  void theArrayLivesAsLongAsItsTensorIsOpen() throws InterruptedException {
    ReferenceQueue<Object> queue = new ReferenceQueue<>();
    PhantomReference<?>[] reference = {null};
    Tensor tensor = wrapFresh(scope, queue, reference);
    for (int i = 0; i < 5; i++) {
      System.gc();
      Nd4j.ones(1000); // would get the memory
      Thread.sleep(10);
    }
    assertThat(queue.poll()).isNull();
    assertThat(tensor.toFloats()[999]).isEqualTo(999);
    tensor.close();
    Object collected = null;
    for (int i = 0; i < 100 && collected == null; i++) {
      System.gc();
      collected = queue.remove(50);
    }
    assertThat(collected).isSameAs(reference[0]);
  }

  @Test
  void resultsGoToArraysOfTheCaller() {
    INDArray logits = Nd4j.create(new float[][] {{1, 2, 3}, {0, 0, 5}});
    INDArray targets = Nd4j.createFromArray(2, 0);
    INDArray logProb = Nd4j.create(DataType.FLOAT, 2);
    TokenLogProbs.forward(
        context,
        Nd4jTensors.wrap(scope, logits),
        Nd4jTensors.wrap(scope, targets),
        TokenLogProbs.Options.DEFAULT,
        new TokenLogProbs.Outputs(Nd4jTensors.wrap(scope, logProb), null, null));
    INDArray expected = Nd4j.nn().logSoftmax(logits.castTo(DataType.DOUBLE));
    assertThat(logProb.getDouble(0)).isCloseTo(expected.getDouble(0, 2), within());
    assertThat(logProb.getDouble(1)).isCloseTo(expected.getDouble(1, 0), within());
  }

  private static org.assertj.core.data.Offset<Double> within() {
    return org.assertj.core.data.Offset.offset(1e-6);
  }
}
