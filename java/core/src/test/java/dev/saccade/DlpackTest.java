package dev.saccade;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.saccade.binding.Saccade;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.AtomicInteger;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.LongPointer;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class DlpackTest {
  private final Context context = Context.cpu();
  private final Scope scope = context.scope();

  @AfterEach
  void close() {
    scope.close();
    context.close();
  }

  /** A DLManagedTensor of dlpack.h 1.x, without a deleter. */
  private static final class Managed implements AutoCloseable {
    final LongPointer data = new LongPointer(new long[8]);
    final LongPointer shape;
    final LongPointer strides;
    private final BytePointer memory = new BytePointer(64);
    final ByteBuffer fields;

    Managed(int code, int bits, long[] shape, long[] strides) {
      this.shape = new LongPointer(shape);
      this.strides = strides == null ? new LongPointer() : new LongPointer(strides);
      fields = memory.capacity(64).asByteBuffer().order(ByteOrder.nativeOrder());
      fields
          .putLong(0, data.address())
          .putInt(8, 1) // kDLCPU
          .putInt(12, 0)
          .putInt(16, shape.length)
          .put(20, (byte) code)
          .put(21, (byte) bits)
          .putShort(22, (short) 1)
          .putLong(24, this.shape.address())
          .putLong(32, this.strides.address())
          .putLong(40, 0)
          .putLong(48, 0)
          .putLong(56, 0);
    }

    long address() {
      return memory.address();
    }

    @Override
    public void close() {
      data.close();
      shape.close();
      strides.close();
      memory.close();
    }
  }

  private static void assertInvalid(ThrowingCallable use, String message) {
    assertThatThrownBy(use).isInstanceOf(InvalidArgumentException.class).hasMessage(message);
  }

  @ParameterizedTest
  @EnumSource(DType.class)
  void crossesToAnotherContextInPlace(DType dtype) {
    try (Context other = Context.cpu();
        Scope there = other.scope()) {
      Tensor source = Tensor.zeros(scope, dtype, 3, 1, 4);
      Tensor tensor = Tensor.fromDlpack(there, source.toDlpack());
      assertThat(tensor.context()).isSameAs(other);
      assertThat(tensor.dtype()).isEqualTo(dtype);
      assertThat(tensor.shape()).containsExactly(3, 1, 4);
      assertThat(tensor.isDense()).isTrue();
      assertThat(tensor.address()).isEqualTo(source.address());
      assertThat(other.liveBytes()).isZero();
    }
  }

  @Test
  void rowsMayHaveAStride() {
    float[] values = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    Tensor matrix = Tensor.of(scope, values, 3, 4);
    Tensor columns = Tensor.fromDlpack(scope, matrix.columns(1, 3).toDlpack());
    assertThat(columns.stride(0)).isEqualTo(4);
    assertThat(columns.toFloats()).containsExactly(1, 2, 5, 6, 9, 10);
    columns.copyFrom(new float[] {-1, -2, -5, -6, -9, -10});
    assertThat(matrix.toFloats()).containsExactly(0, -1, -2, 3, 4, -5, -6, 7, 8, -9, -10, 11);
    Tensor split = Tensor.fromDlpack(scope, matrix.columns(0, 2).reshape(3, 2, 1).toDlpack());
    assertThat(split.toFloats()).containsExactly(0, -1, 4, -5, 8, -9);
    Tensor row = Tensor.fromDlpack(scope, matrix.rows(2, 3).columns(1, 2).toDlpack());
    assertThat(row.toFloats()).containsExactly(-9);
    assertThat(row.isDense()).isTrue();
    Tensor none = Tensor.fromDlpack(scope, Tensor.zeros(scope, DType.F32, 2, 0).toDlpack());
    assertThat(none.shape()).containsExactly(2, 0);
    assertThat(none.toFloats()).isEmpty();
  }

  @Test
  void memoryOutlivesItsTensorScopeAndContext() {
    Context source = Context.cpu();
    Scope theirs = source.scope();
    Tensor exported = Tensor.of(theirs, new float[] {1, 2, 3});
    long address = exported.address();
    Tensor tensor = Tensor.fromDlpack(scope, exported.toDlpack());
    Tensor second = Tensor.fromDlpack(scope, exported.toDlpack());
    exported.close();
    assertThat(source.liveBytes()).isZero();
    try (Scope later = source.scope()) {
      for (int i = 0; i < 10; i++) {
        Tensor zeros = Tensor.zeros(later, DType.F32, 3);
        assertThat(zeros.address()).as("memory in use is not handed out").isNotEqualTo(address);
      }
    }
    theirs.close();
    source.close();
    tensor.close();
    assertThat(second.toFloats()).containsExactly(1, 2, 3);
    second.copyFrom(new float[] {4, 5, 6});
    assertThat(second.toFloats()).containsExactly(4, 5, 6);
    second.close();
    second.close();
    assertThatThrownBy(second::toFloats).isInstanceOf(ClosedException.class);
  }

  @Test
  void exportThatNobodyTakesIsReleasedByItsDeleter() {
    Tensor tensor = Tensor.of(scope, new float[] {1, 2, 3});
    Saccade.saccade_dlpack_release(tensor.toDlpack());
    assertThat(tensor.toFloats()).containsExactly(1, 2, 3);
  }

  @Test
  void foreignMemoryIsReleasedOnce() {
    AtomicInteger released = new AtomicInteger();
    Storage closed = scope.adopt(0, 0, null, released::incrementAndGet, "one");
    scope.adopt(0, 0, null, released::incrementAndGet, "two");
    assertThat(released).hasValue(0);
    closed.close();
    closed.close();
    assertThat(released).hasValue(1);
    scope.close();
    scope.close();
    context.close();
    assertThat(released).hasValue(2);
  }

  @Test
  void tensorsOfOtherLibraries() {
    try (Managed managed = new Managed(0, 32, new long[] {2, 2}, new long[] {3, 1})) {
      managed.data.put(new long[] {1, 2, 3, 4, 5, 6, 7, 8});
      managed.fields.putLong(40, 8); // byte_offset
      Tensor tensor = Tensor.fromDlpack(scope, managed.address());
      assertThat(tensor.toInts()).containsExactly(2, 0, 0, 4);
      assertThat(tensor.address()).isEqualTo(managed.data.address() + 8);
      assertInvalid(
          tensor::toDlpack,
          "to_dlpack: tensor: expected memory of its context, got i32[2, 2] over foreign memory");
      tensor.close();
    }
    // a slice of a fused projection, of 2 heads of 2 columns each: gaps between heads and rows
    try (Managed managed = new Managed(0, 32, new long[] {2, 2, 2}, new long[] {8, 3, 1})) {
      managed.data.put(new long[] {1, 2, 3, 4, 5, 6, 7, 8});
      Tensor tensor = Tensor.fromDlpack(scope, managed.address());
      assertThat(tensor.toInts()).containsExactly(1, 0, 0, 3, 5, 0, 0, 7);
      assertThat(tensor.stride(0)).isEqualTo(8);
      assertThat(tensor.stride(1)).isEqualTo(3);
      tensor.close();
    }
    try (Managed managed = new Managed(1, 8, new long[] {3}, null)) {
      Tensor tensor = Tensor.fromDlpack(scope, managed.address());
      assertThat(tensor.toBytes()).containsExactly(0, 0, 0);
      tensor.close();
    }
  }

  @Test
  void rejectsWhatTensorsLack() {
    long[] shape = {2, 3};
    assertInvalid(
        () -> Tensor.fromDlpack(scope, 0),
        "dlpack_import: managed: expected the address of a DLManagedTensor, got null");
    assertInvalid(
        () -> Tensor.fromDlpack(null, 8), "from_dlpack: scope: expected a value, got null");
    try (Managed managed = new Managed(2, 32, shape, new long[] {1, 2})) {
      assertInvalid(
          () -> Tensor.fromDlpack(scope, managed.address()),
          "dlpack_import: strides: expected 1 in dimension 1, got 2");
      managed.strides.put(new long[] {2, 1});
      assertInvalid(
          () -> Tensor.fromDlpack(scope, managed.address()),
          "dlpack_import: strides: expected 3 or more in dimension 0, got 2");
      managed.strides.put(new long[] {3, 1});
      managed.fields.putInt(8, 2);
      assertInvalid(
          () -> Tensor.fromDlpack(scope, managed.address()),
          "dlpack_import: device: expected kDLCPU (1), got type 2, id 0");
      managed.fields.putInt(8, 1).putShort(22, (short) 4);
      assertInvalid(
          () -> Tensor.fromDlpack(scope, managed.address()),
          "dlpack_import: dtype: expected f32, bf16, f16, f64, i32, i64 or u8 of one lane, got"
              + " code 2, 32 bits, 4 lanes");
      managed.fields.putShort(22, (short) 1).putInt(16, 9);
      assertInvalid(
          () -> Tensor.fromDlpack(scope, managed.address()),
          "dlpack_import: ndim: expected 1 to 8, got 9");
      managed.fields.putInt(16, 2).putLong(40, 2);
      assertThatThrownBy(() -> Tensor.fromDlpack(scope, managed.address()))
          .hasMessageStartingWith(
              "dlpack_import: data: expected an address aligned to its element");
      managed.fields.putLong(40, 0).putLong(0, 0);
      assertInvalid(
          () -> Tensor.fromDlpack(scope, managed.address()),
          "dlpack_import: data: expected an address, got null with 6 elements");
    }
    assertInvalid(
        () -> Tensor.zeros(scope, DType.U8, 1, 1, 1, 1, 1, 1, 1, 1, 1).toDlpack(),
        "to_dlpack: tensor: expected at most 8 dimensions, got u8[1, 1, 1, 1, 1, 1, 1, 1, 1]");
    Tensor closed = Tensor.zeros(scope, DType.F32, 1);
    closed.close();
    assertThatThrownBy(closed::toDlpack).isInstanceOf(ClosedException.class);
    Scope ended = context.scope();
    ended.close();
    try (Managed managed = new Managed(2, 32, shape, null)) {
      assertThatThrownBy(() -> Tensor.fromDlpack(ended, managed.address()))
          .isInstanceOf(ClosedException.class);
    }
  }
}
