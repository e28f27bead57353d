package dev.saccade;

import dev.saccade.binding.Saccade;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Objects;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.DoublePointer;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.IntPointer;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.ShortPointer;

/**
 * A view of device memory: element type, shape and strides, row-major, the last dimension contiguous.
 *
 * <p>Memory comes from a {@link Scope}, which owns it, or is foreign ({@code wrap}): then it is used in place, without a
 * copy, and the object that it came from is kept reachable as long as the tensor is. Views ({@link #rows}, {@link
 * #columns}, {@link #reshape}) share the memory of the tensor that they were made from, and close with it.
 *
 * <p>A tensor is used by one thread at a time, as its context is.
 */
public final class Tensor {
  private final Storage storage;
  private final long offset;
  private final DType dtype;
  private final long[] shape;
  private final long[] strides;

  private Tensor(Storage storage, long offset, DType dtype, long[] shape, long[] strides) {
    this.storage = storage;
    this.offset = offset;
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
  }

  // ------------------------------------------------------------------------------------ creation

  /** An uninitialised tensor. Every operation overwrites its outputs, so outputs need nothing else. */
  public static Tensor empty(Scope scope, DType dtype, long... shape) {
    long[] own = shape.clone();
    long bytes = byteSize(dtype, own);
    return new Tensor(scope.allocate(bytes, describe(dtype, own)), 0, dtype, own, dense(own));
  }

  /** A tensor of zeros. */
  public static Tensor zeros(Scope scope, DType dtype, long... shape) {
    return empty(scope, dtype, shape).zero();
  }

  /** A copy of {@code values} as f32. Without a shape: one dimension. */
  public static Tensor of(Scope scope, float[] values, long... shape) {
    return empty(scope, DType.F32, shapeOf(values.length, shape)).copyFrom(values);
  }

  /** A copy of {@code values}, rounded to {@code dtype} (f32, bf16, f16 or f64). */
  public static Tensor of(Scope scope, DType dtype, float[] values, long... shape) {
    return empty(scope, dtype, shapeOf(values.length, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as f64. */
  public static Tensor of(Scope scope, double[] values, long... shape) {
    return empty(scope, DType.F64, shapeOf(values.length, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as i32. */
  public static Tensor of(Scope scope, int[] values, long... shape) {
    return empty(scope, DType.I32, shapeOf(values.length, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as i64. */
  public static Tensor of(Scope scope, long[] values, long[] shape) {
    return empty(scope, DType.I64, shapeOf(values.length, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as u8. */
  public static Tensor of(Scope scope, byte[] values, long... shape) {
    return empty(scope, DType.U8, shapeOf(values.length, shape)).copyFrom(values);
  }

  /**
   * A dense tensor over foreign memory of the context's device.
   *
   * @param address aligned to an element; 0 only where the shape holds no element
   * @param owner what keeps the memory alive; held as long as the tensor is reachable; may be null
   */
  public static Tensor wrap(Scope scope, long address, Object owner, DType dtype, long... shape) {
    long[] own = shape.clone();
    long bytes = byteSize(dtype, own);
    String what = describe(dtype, own);
    if (address == 0 && bytes > 0) {
      throw new InvalidArgumentException("wrap", "address", "an address", "0 for " + what);
    }
    if (address % dtype.bytes() != 0) {
      throw new InvalidArgumentException(
          "wrap", "address", "alignment to " + dtype.bytes() + " bytes", "0x" + Long.toHexString(address));
    }
    Storage storage = new Storage(scope.context(), address, bytes, false, owner, what);
    return new Tensor(scope.adopt(storage), 0, dtype, own, dense(own));
  }

  /** A dense tensor over the memory at a JavaCPP pointer's position, which the tensor keeps reachable. */
  public static Tensor wrap(Scope scope, Pointer pointer, DType dtype, long... shape) {
    Objects.requireNonNull(pointer, "pointer");
    int element = pointer.sizeof();
    long have = (pointer.limit() - pointer.position()) * element;
    requireRoom("pointer", pointer.limit() > 0, have, dtype, shape);
    return wrap(scope, pointer.address() + pointer.position() * element, pointer, dtype, shape);
  }

  /** A dense tensor over a direct buffer from its position on, which the tensor keeps reachable. */
  public static Tensor wrap(Scope scope, ByteBuffer buffer, DType dtype, long... shape) {
    Objects.requireNonNull(buffer, "buffer");
    if (!buffer.isDirect()) {
      throw new InvalidArgumentException("wrap", "buffer", "a direct buffer", "a heap buffer");
    }
    if (buffer.isReadOnly()) {
      throw new InvalidArgumentException("wrap", "buffer", "a writable buffer", "a read-only buffer");
    }
    requireRoom("buffer", true, buffer.remaining(), dtype, shape);
    long address;
    try (BytePointer whole = new BytePointer(buffer)) {
      address = whole.address() + whole.position();
    }
    return wrap(scope, address, buffer, dtype, shape);
  }

  private static void requireRoom(String argument, boolean known, long have, DType dtype, long[] shape) {
    long need = byteSize(dtype, shape);
    if (known && have < need) {
      throw new InvalidArgumentException(
          "wrap",
          argument,
          need + " bytes for " + describe(dtype, shape),
          have + " bytes from its position");
    }
  }

  // ---------------------------------------------------------------------------------- description

  /** Element type. */
  public DType dtype() {
    return dtype;
  }

  /** A copy of the dimensions. */
  public long[] shape() {
    return shape.clone();
  }

  /** Dimension {@code i}. */
  public long shape(int i) {
    return shape[i];
  }

  /** Number of dimensions. */
  public int rank() {
    return shape.length;
  }

  /** Number of elements. */
  public long size() {
    long n = 1;
    for (long d : shape) {
      n *= d;
    }
    return n;
  }

  /** Elements from one index of dimension {@code i} to the next. */
  public long stride(int i) {
    return strides[i];
  }

  /** Whether the elements follow each other without gaps. */
  public boolean isDense() {
    return Arrays.equals(strides, dense(shape)) || size() == 0;
  }

  /** The context whose device holds the memory. */
  public Context context() {
    return storage.context();
  }

  /** Whether the memory is still there. */
  public boolean isOpen() {
    return storage.isOpen();
  }

  /**
   * Address of the first element in the memory of the context's device.
   *
   * @throws ClosedException if the tensor is closed
   */
  public long address() {
    requireOpen();
    return storage.address() == 0 ? 0 : storage.address() + offset * dtype.bytes();
  }

  Storage storage() {
    return storage;
  }

  private void requireOpen() {
    if (!storage.isOpen()) {
      throw new ClosedException(describe() + " is closed");
    }
  }

  /** Frees the memory before its scope does; closes all views of it. Idempotent. */
  public void close() {
    storage.close();
  }

  // ---------------------------------------------------------------------------------------- views

  /** Rows {@code from} to {@code to}, exclusive, of the first dimension. */
  public Tensor rows(long from, long to) {
    requireRange("rows", from, to, shape[0]);
    long[] s = shape.clone();
    s[0] = to - from;
    return new Tensor(storage, offset + from * strides[0], dtype, s, strides);
  }

  /** Columns {@code from} to {@code to}, exclusive, of the last dimension of a matrix. */
  public Tensor columns(long from, long to) {
    if (rank() != 2) {
      throw new InvalidArgumentException("columns", "tensor", "two dimensions", describe());
    }
    requireRange("columns", from, to, shape[1]);
    return new Tensor(storage, offset + from, dtype, new long[] {shape[0], to - from}, strides);
  }

  private static void requireRange(String operation, long from, long to, long size) {
    if (from < 0 || to < from || to > size) {
      throw new InvalidArgumentException(operation, "range", "within [0, " + size + "]", "[" + from + ", " + to + ")");
    }
  }

  /**
   * The same elements in another shape. A dense tensor takes any shape of the same size; a matrix with a row stride
   * may split its columns: [n, a*b] to [n, a, b].
   */
  public Tensor reshape(long... newShape) {
    long[] s = newShape.clone();
    if (byteSize(dtype, s) / dtype.bytes() != size()) {
      throw new InvalidArgumentException("reshape", "shape", "the size of " + describe(), Arrays.toString(s));
    }
    if (isDense()) {
      return new Tensor(storage, offset, dtype, s, dense(s));
    }
    if (rank() == 2 && s.length >= 2 && s[0] == shape[0]) {
      long[] st = dense(s);
      st[0] = strides[0];
      return new Tensor(storage, offset, dtype, s, st);
    }
    throw new InvalidArgumentException(
        "reshape", "shape", "[" + shape[0] + ", ...]: only columns of a strided matrix split", Arrays.toString(s));
  }

  // ----------------------------------------------------------------------------------------- data

  /** Sets every element to 0. */
  public Tensor zero() {
    try (Call call = begin("zero")) {
      forRuns(
          (element, index, count) ->
              call.invoke(
                  Saccade.saccade_memory_zero(context().handle(), at(element), count * dtype.bytes())));
    }
    return this;
  }

  /** Copies {@code values}, rounded to this tensor's type: f32, bf16, f16 or f64. */
  public Tensor copyFrom(float[] values) {
    requireLength("values", values.length);
    try (Call call = begin("copy_from")) {
      forRuns(
          (element, index, count) -> {
            int n = Math.toIntExact(count);
            switch (dtype) {
              case F32 -> new FloatPointer(view(element, count)).put(values, index, n);
              case F64 -> {
                double[] run = new double[n];
                for (int i = 0; i < n; i++) {
                  run[i] = values[index + i];
                }
                new DoublePointer(view(element, count)).put(run);
              }
              case BF16, F16 -> {
                short[] run = new short[n];
                for (int i = 0; i < n; i++) {
                  float x = values[index + i];
                  run[i] = dtype == DType.BF16 ? DType.floatToBf16(x) : DType.floatToF16(x);
                }
                new ShortPointer(view(element, count)).put(run);
              }
              default -> throw wrongType("a floating-point tensor");
            }
          });
    }
    return this;
  }

  /** Copies {@code values}; an f64 tensor. */
  public Tensor copyFrom(double[] values) {
    requireLength("values", values.length);
    requireType(DType.F64);
    try (Call call = begin("copy_from")) {
      forRuns(
          (element, index, count) ->
              new DoublePointer(view(element, count)).put(values, index, (int) count));
    }
    return this;
  }

  /** Copies {@code values}; an i32 tensor. */
  public Tensor copyFrom(int[] values) {
    requireLength("values", values.length);
    requireType(DType.I32);
    try (Call call = begin("copy_from")) {
      forRuns(
          (element, index, count) ->
              new IntPointer(view(element, count)).put(values, index, (int) count));
    }
    return this;
  }

  /** Copies {@code values}; an i64 tensor. */
  public Tensor copyFrom(long[] values) {
    requireLength("values", values.length);
    requireType(DType.I64);
    try (Call call = begin("copy_from")) {
      forRuns(
          (element, index, count) ->
              new LongPointer(view(element, count)).put(values, index, (int) count));
    }
    return this;
  }

  /** Copies {@code values}; a u8 tensor. */
  public Tensor copyFrom(byte[] values) {
    requireLength("values", values.length);
    requireType(DType.U8);
    try (Call call = begin("copy_from")) {
      forRuns(
          (element, index, count) ->
              new BytePointer(view(element, count)).put(values, index, (int) count));
    }
    return this;
  }

  /** Copies a tensor of the same type and shape, of the same context. */
  public Tensor copyFrom(Tensor source) {
    try (Call call = begin("copy_from")) {
      call.check("source", source, java.util.Set.of(dtype), shape);
      if (isDense() && source.isDense()) {
        call.invoke(
            Saccade.saccade_memory_copy(
                context().handle(), address(), source.address(), size() * dtype.bytes()));
      } else {
        long[] from = source.runStarts();
        int[] run = {0};
        forSlices(
            (element, index, count) ->
                call.invoke(
                    Saccade.saccade_memory_copy(
                        context().handle(),
                        at(element),
                        source.at(from[run[0]++]),
                        count * dtype.bytes())));
      }
    }
    return this;
  }

  /** The elements as f32, converted from f32, bf16, f16 or f64. */
  public float[] toFloats() {
    float[] values = new float[length()];
    try (Call call = begin("to_floats")) {
      forRuns(
          (element, index, count) -> {
            int n = (int) count;
            switch (dtype) {
              case F32 -> new FloatPointer(view(element, count)).get(values, index, n);
              case F64 -> {
                double[] run = new double[n];
                new DoublePointer(view(element, count)).get(run);
                for (int i = 0; i < n; i++) {
                  values[index + i] = (float) run[i];
                }
              }
              case BF16, F16 -> {
                short[] run = new short[n];
                new ShortPointer(view(element, count)).get(run);
                for (int i = 0; i < n; i++) {
                  values[index + i] =
                      dtype == DType.BF16 ? DType.bf16ToFloat(run[i]) : DType.f16ToFloat(run[i]);
                }
              }
              default -> throw wrongType("a floating-point tensor");
            }
          });
    }
    return values;
  }

  /** The elements as f64, converted from f32, bf16, f16 or f64. */
  public double[] toDoubles() {
    double[] values = new double[length()];
    if (dtype == DType.F64) {
      try (Call call = begin("to_doubles")) {
        forRuns(
            (element, index, count) ->
                new DoublePointer(view(element, count)).get(values, index, (int) count));
      }
    } else {
      float[] floats = toFloats();
      for (int i = 0; i < values.length; i++) {
        values[i] = floats[i];
      }
    }
    return values;
  }

  /** The elements of an i32 tensor. */
  public int[] toInts() {
    requireType(DType.I32);
    int[] values = new int[length()];
    try (Call call = begin("to_ints")) {
      forRuns(
          (element, index, count) ->
              new IntPointer(view(element, count)).get(values, index, (int) count));
    }
    return values;
  }

  /** The elements of an i64 tensor. */
  public long[] toLongs() {
    requireType(DType.I64);
    long[] values = new long[length()];
    try (Call call = begin("to_longs")) {
      forRuns(
          (element, index, count) ->
              new LongPointer(view(element, count)).get(values, index, (int) count));
    }
    return values;
  }

  /** The elements of a u8 tensor. */
  public byte[] toBytes() {
    requireType(DType.U8);
    byte[] values = new byte[length()];
    try (Call call = begin("to_bytes")) {
      forRuns(
          (element, index, count) ->
              new BytePointer(view(element, count)).get(values, index, (int) count));
    }
    return values;
  }

  /** The only element of an f32, bf16, f16 or f64 tensor. */
  public float item() {
    if (size() != 1) {
      throw new InvalidArgumentException("item", "tensor", "one element", describe());
    }
    return toFloats()[0];
  }

  // ------------------------------------------------------------------------------------ internals

  private interface Run {
    /** {@code count} elements from {@code element} of the storage, {@code index} in row-major order. */
    void accept(long element, int index, long count);
  }

  /** Calls {@code run} for every contiguous run of elements, in row-major order. */
  private void forRuns(Run run) {
    if (size() == 0) {
      return;
    }
    if (isDense()) {
      run.accept(offset, 0, size());
    } else {
      forSlices(run);
    }
  }

  private void forSlices(Run run) {
    long width = shape[rank() - 1];
    int index = 0;
    for (long start : runStarts()) {
      run.accept(start, index, width);
      index += (int) width;
    }
  }

  /** First element of every slice along the last dimension. */
  private long[] runStarts() {
    long[] starts = {offset};
    for (int d = 0; d < rank() - 1; d++) {
      long[] next = new long[Math.toIntExact(starts.length * shape[d])];
      int n = 0;
      for (long start : starts) {
        for (long i = 0; i < shape[d]; i++) {
          next[n++] = start + i * strides[d];
        }
      }
      starts = next;
    }
    return starts;
  }

  private Call begin(String operation) {
    Call call = context().begin(operation);
    try {
      requireOpen();
      call.keep(this);
      return call;
    } catch (RuntimeException e) {
      call.close();
      throw e;
    }
  }

  private long at(long element) {
    return storage.address() + element * dtype.bytes();
  }

  private Pointer view(long element, long count) {
    return new Storage.Address(at(element), count * dtype.bytes());
  }

  private int length() {
    long n = size();
    if (n > Integer.MAX_VALUE - 8) {
      throw new InvalidArgumentException("copy", "tensor", "fewer than 2^31 elements for an array", describe());
    }
    return (int) n;
  }

  private void requireLength(String argument, int length) {
    if (length != size()) {
      throw new InvalidArgumentException("copy_from", argument, size() + " elements", length + " elements");
    }
  }

  private void requireType(DType expected) {
    if (dtype != expected) {
      throw wrongType("a tensor of " + expected);
    }
  }

  private InvalidArgumentException wrongType(String expected) {
    return new InvalidArgumentException("copy", "tensor", expected, describe());
  }

  private static long[] shapeOf(int length, long[] shape) {
    return shape.length == 0 ? new long[] {length} : shape;
  }

  private static long[] dense(long[] shape) {
    long[] strides = new long[shape.length];
    long stride = 1;
    for (int i = shape.length - 1; i >= 0; i--) {
      strides[i] = stride;
      stride *= shape[i];
    }
    return strides;
  }

  private static long byteSize(DType dtype, long[] shape) {
    if (shape.length == 0) {
      throw new InvalidArgumentException("tensor", "shape", "at least one dimension", "[]");
    }
    long bytes = dtype.bytes();
    for (long d : shape) {
      if (d < 0) {
        throw new InvalidArgumentException("tensor", "shape", "dimensions of 0 or more", Arrays.toString(shape));
      }
    }
    for (long d : shape) {
      if (d == 0) {
        return 0;
      }
    }
    try {
      for (long d : shape) {
        bytes = Math.multiplyExact(bytes, d);
      }
    } catch (ArithmeticException e) {
      throw new InvalidArgumentException("tensor", "shape", "fewer than 2^63 bytes", Arrays.toString(shape));
    }
    return bytes;
  }

  static String describe(DType dtype, long[] shape) {
    return dtype + Arrays.toString(shape);
  }

  /** Type and shape, such as {@code f32[4, 7]}. */
  String describe() {
    return describe(dtype, shape);
  }

  @Override
  public String toString() {
    return describe() + " on " + context().device() + (isOpen() ? "" : ", closed");
  }
}
