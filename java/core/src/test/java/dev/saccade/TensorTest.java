package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class TensorTest {
  private static final long[] FLAT = {};

  private final Context context = Contexts.one();
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    context.close();
  }

  private static void assertInvalid(ThrowingCallable use, String message) {
    assertThatThrownBy(use).isInstanceOf(InvalidArgumentException.class).hasMessage(message);
  }

  /** 0, 1, 2 ... as f32. */
  private Tensor count(long... shape) {
    float[] values = new float[(int) Arrays.stream(shape).reduce(1, (a, b) -> a * b)];
    for (int i = 0; i < values.length; i++) {
      values[i] = i;
    }
    return Tensor.of(scope, values, shape);
  }

  // -------------------------------------------------------------------------------------------
  // arrays

  @Test
  void arraysOfEveryTypeComeBack() {
    float nan = Float.NaN;
    float[] floats = {1, -0f, nan, Float.MIN_VALUE, Float.POSITIVE_INFINITY, 3e38f};
    assertThat(Tensor.of(scope, floats).toFloats()).containsExactly(floats);
    double[] doubles = {Math.PI, Double.MIN_VALUE, Double.NEGATIVE_INFINITY, Double.NaN};
    assertThat(Tensor.of(scope, doubles).toDoubles()).containsExactly(doubles);
    int[] ints = {0, -1, Integer.MIN_VALUE, Integer.MAX_VALUE};
    assertThat(Tensor.of(scope, ints).toInts()).containsExactly(ints);
    long[] longs = {0, -1, Long.MIN_VALUE, Long.MAX_VALUE};
    assertThat(Tensor.of(scope, longs, FLAT).toLongs()).containsExactly(longs);
    assertThat(Tensor.of(scope, longs, new long[] {2, 2}).shape()).containsExactly(2, 2);
    byte[] bytes = {0, 1, -1, 127, -128};
    assertThat(Tensor.of(scope, bytes).toBytes()).containsExactly(bytes);
  }

  @Test
  void floatsConvert() {
    float[] values = {1, 1.0009765625f, 65504, 70000, 1e-8f, Float.NaN, -0f};
    assertThat(Tensor.of(scope, DType.F32, values).toFloats()).containsExactly(values);
    assertThat(Tensor.of(scope, DType.F64, values).toFloats()).containsExactly(values);
    assertThat(Tensor.of(scope, DType.F16, values).toFloats())
        .containsExactly(1, 1.0009765625f, 65504, Float.POSITIVE_INFINITY, 0, Float.NaN, -0f);
    assertThat(Tensor.of(scope, DType.BF16, values).toFloats())
        .containsExactly(1, 1, 65536, 70144, 0x1.58p-27f, Float.NaN, -0f);
    assertThat(Tensor.of(scope, DType.F16, new float[] {1.5f}).toDoubles()).containsExactly(1.5);
    assertThat(Tensor.of(scope, new double[] {0.1}).toFloats()).containsExactly(0.1f);
    assertThat(Tensor.of(scope, DType.BF16, new float[] {2}).item()).isEqualTo(2);
  }

  @ParameterizedTest
  @EnumSource(names = {"BF16", "F16"})
  void everyBitPatternCrossesATensor(DType dtype) {
    float[] values = new float[1 << 16];
    for (int bits = 0; bits < values.length; bits++) {
      values[bits] =
          dtype == DType.BF16 ? DType.bf16ToFloat((short) bits) : DType.f16ToFloat((short) bits);
    }
    Tensor tensor = Tensor.of(scope, dtype, values, 256, 256);
    assertThat(tensor.toFloats()).isEqualTo(values);
    assertThat(tensor.columns(3, 200).toFloats())
        .isEqualTo(Tensor.of(scope, values, 256, 256).columns(3, 200).toFloats());
  }

  @Test
  void wrongLengthsTypesAndNulls() {
    assertInvalid(
        () -> Tensor.of(scope, new float[5], 2, 3),
        "tensor: values: expected 6 elements for [2, 3], got 5 elements");
    assertInvalid(
        () -> Tensor.of(scope, DType.I32, new float[5]),
        "tensor: dtype: expected f32, bf16, f16 or f64, got i32");
    assertThat(context.liveBytes()).as("nothing was allocated").isZero();
    Tensor tensor = count(2, 3);
    assertInvalid(
        () -> tensor.copyFrom(new float[7]),
        "copy_from: values: expected 6 elements for f32[2, 3], got 7 elements");
    assertInvalid(
        () -> tensor.copyFrom(new int[6]), "copy_from: tensor: expected i32, got f32[2, 3]");
    assertInvalid(
        () -> tensor.copyFrom(new double[6]), "copy_from: tensor: expected f64, got f32[2, 3]");
    assertInvalid(tensor::toLongs, "to_longs: tensor: expected i64, got f32[2, 3]");
    assertInvalid(tensor::toInts, "to_ints: tensor: expected i32, got f32[2, 3]");
    assertInvalid(tensor::toBytes, "to_bytes: tensor: expected u8, got f32[2, 3]");
    assertInvalid(tensor::item, "item: tensor: expected one element, got f32[2, 3]");
    Tensor noInts = Tensor.empty(scope, DType.I32, 0);
    assertInvalid(
        noInts::toFloats, "to_floats: tensor: expected f32, bf16, f16 or f64, got i32[0]");
    assertInvalid(
        noInts::toDoubles, "to_doubles: tensor: expected f32, bf16, f16 or f64, got i32[0]");
    assertInvalid(
        () -> noInts.copyFrom(new float[0]),
        "copy_from: tensor: expected f32, bf16, f16 or f64, got i32[0]");
    assertInvalid(
        () -> tensor.copyFrom((float[]) null), "copy_from: values: expected a value, got null");
    assertInvalid(
        () -> tensor.copyFrom((Tensor) null), "copy_from: source: expected f32[2, 3], got null");
    assertInvalid(
        () -> Tensor.of(scope, (int[]) null), "tensor: values: expected a value, got null");
    assertInvalid(
        () -> Tensor.of(scope, new long[1], null), "tensor: shape: expected a value, got null");
    assertInvalid(
        () -> Tensor.empty(null, DType.F32, 1), "tensor: scope: expected a value, got null");
    assertInvalid(() -> Tensor.empty(scope, null, 1), "tensor: dtype: expected a value, got null");
    assertInvalid(
        () -> Tensor.empty(scope, DType.F32, (long[]) null),
        "tensor: shape: expected a value, got null");
    assertInvalid(
        () -> tensor.reshape((long[]) null), "reshape: shape: expected a value, got null");
  }

  // -------------------------------------------------------------------------------------------
  // shapes

  @Test
  void shapesThatCannotBe() {
    assertInvalid(
        () -> Tensor.empty(scope, DType.F32),
        "tensor: shape: expected at least one dimension, got []");
    assertInvalid(
        () -> Tensor.empty(scope, DType.F32, 3, -1),
        "tensor: shape: expected dimensions of 0 or more, got [3, -1]");
    assertInvalid(
        () -> Tensor.empty(scope, DType.F32, 0, -1),
        "tensor: shape: expected dimensions of 0 or more, got [0, -1]");
    assertInvalid(
        () -> Tensor.of(scope, new float[6], -2, -3),
        "tensor: shape: expected dimensions of 0 or more, got [-2, -3]");
    for (long[] shape :
        new long[][] {
          {1L << 61},
          {1L << 31, 1L << 31},
          {1L << 32, 1L << 32}, // 2^64 elements: 0 where the product wraps
          {Long.MAX_VALUE, Long.MAX_VALUE},
          {3, Long.MAX_VALUE / 2}
        }) {
      assertInvalid(
          () -> Tensor.empty(scope, DType.F32, shape),
          "tensor: shape: expected fewer than 2^63 bytes, got f32" + Arrays.toString(shape));
    }
    assertThat(Tensor.empty(scope, DType.F32, Long.MAX_VALUE, 0, 5).size()).isZero();
  }

  @Test
  void shapesAreCopied() {
    long[] shape = {2, 3};
    Tensor tensor = count(shape);
    shape[0] = 100;
    tensor.shape()[1] = 100;
    assertThat(tensor.shape()).containsExactly(2, 3);
    assertThat(tensor.rank()).isEqualTo(2);
    assertThat(tensor.size()).isEqualTo(6);
    assertThat(tensor.shape(1)).isEqualTo(3);
    assertThat(tensor.stride(0)).isEqualTo(3);
    assertThat(tensor).hasToString("f32[2, 3] on " + context.device());
    assertThat(tensor.context()).isSameAs(context);
    assertThat(tensor.dtype()).isEqualTo(DType.F32);
  }

  @ParameterizedTest
  @EnumSource
  void tensorsWithoutElements(DType dtype) {
    Tensor tensor = Tensor.zeros(scope, dtype, 3, 0);
    assertThat(tensor.address()).isZero();
    assertThat(tensor.isDense()).isTrue();
    assertThat(tensor.isOpen()).isTrue();
    tensor.copyFrom(Tensor.empty(scope, dtype, 3, 0)).zero();
    assertThat(tensor.reshape(0, 7, 2).shape()).containsExactly(0, 7, 2);
    assertThat(tensor.rows(1, 1).size()).isZero();
    if (dtype == DType.F32) {
      assertThat(tensor.copyFrom(new float[0]).toFloats()).isEmpty();
      assertThat(Tensor.of(scope, new float[0]).shape()).containsExactly(0);
      Tensor none = count(3, 4).columns(2, 2);
      assertThat(none.toFloats()).isEmpty();
      assertThat(none.isDense()).isTrue();
      none.zero().copyFrom(tensor);
    }
    tensor.close();
    assertThatThrownBy(tensor::address).isInstanceOf(ClosedException.class);
  }

  // --------------------------------------------------------------------------------------------
  // views

  @Test
  void rows() {
    Tensor tensor = count(4, 3);
    Tensor middle = tensor.rows(1, 3);
    assertThat(middle.isDense()).isTrue();
    assertThat(middle.address()).isEqualTo(tensor.address() + 12);
    assertThat(middle.toFloats()).containsExactly(3, 4, 5, 6, 7, 8);
    assertThat(middle.rows(1, 2).toFloats()).containsExactly(6, 7, 8);
    assertThat(tensor.rows(4, 4).toFloats()).isEmpty();
    assertThat(count(5).rows(2, 4).toFloats()).containsExactly(2, 3);
    middle.copyFrom(new float[] {-1, -2, -3, -4, -5, -6});
    assertThat(tensor.toFloats()).containsExactly(0, 1, 2, -1, -2, -3, -4, -5, -6, 9, 10, 11);
    assertInvalid(() -> tensor.rows(-1, 2), "rows: range: expected within [0, 4), got [-1, 2)");
    assertInvalid(() -> tensor.rows(2, 5), "rows: range: expected within [0, 4), got [2, 5)");
    assertInvalid(() -> tensor.rows(3, 2), "rows: range: expected within [0, 4), got [3, 2)");
  }

  @Test
  void columns() {
    Tensor tensor = count(3, 4);
    Tensor middle = tensor.columns(1, 3);
    assertThat(middle.isDense()).isFalse();
    assertThat(middle.stride(0)).isEqualTo(4);
    assertThat(middle.address()).isEqualTo(tensor.address() + 4);
    assertThat(middle.toFloats()).containsExactly(1, 2, 5, 6, 9, 10);
    assertThat(middle.toDoubles()).containsExactly(1, 2, 5, 6, 9, 10);
    assertThat(middle.rows(1, 3).columns(1, 2).toFloats()).containsExactly(6, 10);
    assertThat(middle.rows(1, 2).isDense()).as("one row").isTrue();
    assertThat(tensor.columns(0, 4).isDense()).isTrue();
    middle.copyFrom(new float[] {-1, -2, -3, -4, -5, -6});
    assertThat(tensor.toFloats()).containsExactly(0, -1, -2, 3, 4, -3, -4, 7, 8, -5, -6, 11);
    middle.zero();
    assertThat(tensor.toFloats()).containsExactly(0, 0, 0, 3, 4, 0, 0, 7, 8, 0, 0, 11);
    assertInvalid(() -> tensor.columns(2, 5), "columns: range: expected within [0, 4), got [2, 5)");
    assertInvalid(
        () -> count(4).columns(0, 1), "columns: tensor: expected two dimensions, got f32[4]");
  }

  @Test
  void viewsOfEveryTypeMoveArrays() {
    Tensor i32 = Tensor.zeros(scope, DType.I32, 2, 3);
    i32.columns(1, 3).copyFrom(new int[] {1, 2, 3, 4});
    assertThat(i32.toInts()).containsExactly(0, 1, 2, 0, 3, 4);
    assertThat(i32.columns(1, 2).toInts()).containsExactly(1, 3);
    Tensor i64 = Tensor.zeros(scope, DType.I64, 2, 3);
    i64.columns(0, 2).copyFrom(new long[] {1, 2, 3, 4});
    assertThat(i64.toLongs()).containsExactly(1, 2, 0, 3, 4, 0);
    assertThat(i64.columns(1, 2).toLongs()).containsExactly(2, 4);
    Tensor u8 = Tensor.zeros(scope, DType.U8, 2, 3);
    u8.columns(2, 3).copyFrom(new byte[] {1, 2});
    assertThat(u8.toBytes()).containsExactly(0, 0, 1, 0, 0, 2);
    assertThat(u8.columns(1, 3).toBytes()).containsExactly(0, 1, 0, 2);
    Tensor f64 = Tensor.zeros(scope, DType.F64, 2, 3);
    f64.columns(0, 1).copyFrom(new double[] {0.1, 0.2});
    f64.columns(1, 2).copyFrom(new float[] {1, 2});
    assertThat(f64.toDoubles()).containsExactly(0.1, 1, 0, 0.2, 2, 0);
    assertThat(f64.columns(0, 2).toDoubles()).containsExactly(0.1, 1, 0.2, 2);
    Tensor f16 = Tensor.zeros(scope, DType.F16, 2, 3);
    f16.columns(1, 3).copyFrom(new float[] {1, 2, 3, 4});
    assertThat(f16.toFloats()).containsExactly(0, 1, 2, 0, 3, 4);
  }

  @Test
  void reshapes() {
    Tensor tensor = count(4, 6);
    assertThat(tensor.reshape(2, 12).shape()).containsExactly(2, 12);
    assertThat(tensor.reshape(24).toFloats()).containsExactly(tensor.toFloats());
    assertInvalid(
        () -> tensor.reshape(5, 5), "reshape: shape: expected the size of f32[4, 6], got [5, 5]");
    assertInvalid(
        () -> tensor.reshape(-4, -6),
        "reshape: shape: expected dimensions of 0 or more, got [-4, -6]");
    Tensor strided = tensor.columns(1, 5);
    Tensor heads = strided.reshape(4, 2, 2);
    assertThat(heads.stride(0)).isEqualTo(6);
    assertThat(heads.stride(1)).isEqualTo(2);
    assertThat(heads.stride(2)).isEqualTo(1);
    assertThat(heads.toFloats()).containsExactly(strided.toFloats());
    assertThat(heads.rows(1, 3).toFloats()).containsExactly(7, 8, 9, 10, 13, 14, 15, 16);
    heads.zero();
    assertThat(strided.toFloats()).containsOnly(0);
    assertThat(tensor.columns(0, 1).toFloats()).containsExactly(0, 6, 12, 18);
    assertThat(tensor.columns(5, 6).toFloats()).containsExactly(5, 11, 17, 23);
    assertInvalid(
        () -> strided.reshape(16),
        "reshape: shape: expected [4, ...], since f32[4, 4] has gaps between its rows, got [16]");
    assertInvalid(
        () -> strided.reshape(2, 8),
        "reshape: shape: expected [4, ...], since f32[4, 4] has gaps between its rows, got [2, 8]");
    assertInvalid(
        () -> heads.reshape(4, 4),
        "reshape: shape: expected a dense tensor, or a matrix whose columns split, got [4, 4]");
    assertThat(strided.rows(2, 3).reshape(4).shape()).as("one row is dense").containsExactly(4);
  }

  @Test
  void tensorsCopyBetweenLayouts() {
    Tensor wide = count(3, 8);
    Tensor strided = wide.columns(2, 6);
    Tensor dense = Tensor.zeros(scope, DType.F32, 3, 4).copyFrom(strided);
    float[] expected = {2, 3, 4, 5, 10, 11, 12, 13, 18, 19, 20, 21};
    assertThat(dense.toFloats()).containsExactly(expected);
    Tensor other = Tensor.zeros(scope, DType.F32, 3, 7);
    other.columns(3, 7).copyFrom(strided); // strides differ
    assertThat(other.columns(3, 7).toFloats()).containsExactly(expected);
    assertThat(other.columns(0, 3).toFloats()).containsOnly(0);
    strided.copyFrom(Tensor.zeros(scope, DType.F32, 3, 4)); // dense into strided
    assertThat(strided.toFloats()).containsOnly(0);
    assertThat(wide.columns(0, 2).toFloats()).containsExactly(0, 1, 8, 9, 16, 17);
    strided.reshape(3, 2, 2).copyFrom(dense.reshape(3, 2, 2));
    assertThat(strided.toFloats()).containsExactly(expected);
    Tensor shifted = count(6);
    shifted.rows(1, 6).copyFrom(shifted.rows(0, 5)); // dense and overlapping
    assertThat(shifted.toFloats()).containsExactly(0, 0, 1, 2, 3, 4);
    assertInvalid(
        () -> dense.copyFrom(count(4, 3)), "copy_from: source: expected f32[3, 4], got f32[4, 3]");
    assertInvalid(
        () -> dense.copyFrom(Tensor.zeros(scope, DType.I32, 3, 4)),
        "copy_from: source: expected f32[3, 4], got i32[3, 4]");
  }

  @Test
  void viewsCloseWithWhatTheyView() {
    Tensor tensor = count(4, 4);
    Tensor view = tensor.columns(1, 3).reshape(4, 2, 1).rows(1, 2);
    view.close(); // closes the memory, hence all
    assertThat(tensor.isOpen()).isFalse();
    assertThatThrownBy(tensor::toFloats)
        .isInstanceOf(ClosedException.class)
        .hasMessage("f32[4, 4] is closed");
    assertThatThrownBy(() -> view.copyFrom(new float[2]))
        .isInstanceOf(ClosedException.class)
        .hasMessage("f32[1, 2, 1] is closed");
    Tensor open = count(4, 4);
    assertThatThrownBy(() -> open.copyFrom(tensor))
        .isInstanceOf(ClosedException.class)
        .hasMessage("copy_from: source: f32[4, 4] is closed");
    assertThatThrownBy(() -> tensor.rows(0, 1).zero()).isInstanceOf(ClosedException.class);
  }
}
