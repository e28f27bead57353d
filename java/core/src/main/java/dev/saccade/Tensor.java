package dev.saccade;

import static dev.saccade.InvalidArgumentException.requirePresent;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_dlpack_tensor;
import java.lang.reflect.Array;
import java.nio.Buffer;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.CharBuffer;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.nio.LongBuffer;
import java.nio.ShortBuffer;
import java.util.Arrays;
import java.util.Set;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.DoublePointer;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.IntPointer;
import org.bytedeco.javacpp.LongPointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.javacpp.ShortPointer;

/**
 * A view of device memory: element type, shape and strides, row-major, the last dimension
 * contiguous.
 *
 * <p>Memory comes from a {@link Scope}, which owns it, or is foreign ({@code wrap}): then it is
 * used in place, without a copy, and the object that it came from is kept reachable until the
 * tensor or its scope is closed. Views ({@link #rows}, {@link #columns}, {@link #reshape}) share
 * the memory of the tensor that they were made from, and close with it.
 *
 * <p>A tensor is used by one thread at a time, as its context is.
 */
public final class Tensor {
  private static final String FLOATING = "f32, bf16, f16 or f64";

  /** The longest array that every JVM makes. */
  private static final int MAX_ARRAY = Integer.MAX_VALUE - 8;

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

  /**
   * An uninitialised tensor. Every operation overwrites its outputs, so outputs need nothing else.
   */
  public static Tensor empty(Scope scope, DType dtype, long... shape) {
    requirePresent("tensor", "scope", scope);
    long[] own = copyOf("tensor", shape);
    long bytes = byteSize("tensor", dtype, own);
    return new Tensor(scope.allocate(bytes, describe(dtype, own)), 0, dtype, own, dense(own));
  }

  /** A tensor of zeros. */
  public static Tensor zeros(Scope scope, DType dtype, long... shape) {
    return empty(scope, dtype, shape).zero();
  }

  /** A copy of {@code values} as f32. Without a shape: one dimension. */
  public static Tensor of(Scope scope, float[] values, long... shape) {
    return of(scope, DType.F32, values, shape);
  }

  /** A copy of {@code values}, rounded to {@code dtype} (f32, bf16, f16 or f64). */
  public static Tensor of(Scope scope, DType dtype, float[] values, long... shape) {
    if (!isFloating(requirePresent("tensor", "dtype", dtype))) {
      throw new InvalidArgumentException("tensor", "dtype", FLOATING, dtype.toString());
    }
    return empty(scope, dtype, shapeOf(values, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as f64. */
  public static Tensor of(Scope scope, double[] values, long... shape) {
    return empty(scope, DType.F64, shapeOf(values, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as i32. */
  public static Tensor of(Scope scope, int[] values, long... shape) {
    return empty(scope, DType.I32, shapeOf(values, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as i64. Without dimensions in {@code shape}: one dimension. */
  public static Tensor of(Scope scope, long[] values, long[] shape) {
    return empty(scope, DType.I64, shapeOf(values, shape)).copyFrom(values);
  }

  /** A copy of {@code values} as u8. */
  public static Tensor of(Scope scope, byte[] values, long... shape) {
    return empty(scope, DType.U8, shapeOf(values, shape)).copyFrom(values);
  }

  /**
   * A dense tensor over foreign memory of the context's device.
   *
   * @param address aligned to an element; 0 only where the shape holds no element
   * @param owner what keeps the memory alive; kept reachable until the tensor or its scope is
   *     closed; may be null
   */
  public static Tensor wrap(Scope scope, long address, Object owner, DType dtype, long... shape) {
    return wrap(scope, "address", address, Long.MAX_VALUE, owner, null, dtype, shape, null);
  }

  /**
   * A tensor over foreign memory of the context's device that may have gaps, such as one of several
   * matrices side by side: row-major, the last dimension contiguous.
   *
   * @param address aligned to an element; 0 only where the shape holds no element
   * @param owner what keeps the memory alive; kept reachable until the tensor or its scope is
   *     closed; may be null
   * @param strides elements from one index of a dimension to the next: 1 in the last dimension, in
   *     others at least what the dimensions after them span; where the size is 1 it does not
   *     matter; null for a dense tensor
   */
  public static Tensor wrap(
      Scope scope, long address, Object owner, DType dtype, long[] shape, long[] strides) {
    return wrap(scope, "address", address, Long.MAX_VALUE, owner, null, dtype, shape, strides);
  }

  /**
   * A tensor over foreign memory as {@link #wrap(Scope, long, Object, DType, long[], long[])} makes
   * it, whose owner counts its users: the tensor takes one count over.
   *
   * @param release gives the memory back; runs once, when the tensor or its scope is closed. If
   *     this throws, it does not run
   */
  public static Tensor adopt(
      Scope scope, long address, Runnable release, DType dtype, long[] shape, long[] strides) {
    return wrap(scope, "address", address, Long.MAX_VALUE, null, release, dtype, shape, strides);
  }

  /**
   * A dense tensor over the memory at a JavaCPP pointer's position, which the tensor keeps
   * reachable until it closes; the pointer may not be deallocated before. A pointer whose limit is
   * 0 does not know its size: then nothing checks that the tensor fits.
   */
  public static Tensor wrap(Scope scope, Pointer pointer, DType dtype, long... shape) {
    requirePresent("wrap", "pointer", pointer);
    if (pointer.isNull()) {
      return wrap(scope, "pointer", 0, Long.MAX_VALUE, pointer, null, dtype, shape, null);
    }
    long element = pointer.sizeof();
    long room =
        pointer.limit() == 0 ? Long.MAX_VALUE : (pointer.limit() - pointer.position()) * element;
    long address = pointer.address() + pointer.position() * element;
    return wrap(scope, "pointer", address, room, pointer, null, dtype, shape, null);
  }

  /**
   * A dense tensor over a direct buffer from its position to its limit, which the tensor keeps
   * reachable until it closes. Elements have the byte order of the machine: that of a {@link
   * ByteBuffer} does not matter, a view of one as another type has to have it.
   */
  public static Tensor wrap(Scope scope, Buffer buffer, DType dtype, long... shape) {
    requirePresent("wrap", "buffer", buffer);
    if (!buffer.isDirect()) {
      throw new InvalidArgumentException("wrap", "buffer", "a direct buffer", "a heap buffer");
    }
    if (buffer.isReadOnly()) {
      throw new InvalidArgumentException("wrap", "buffer", "a writable buffer", "a read-only one");
    }
    Elements elements = Elements.of(buffer);
    if (elements.order != ByteOrder.nativeOrder()) {
      throw new InvalidArgumentException(
          "wrap", "buffer", "the order " + ByteOrder.nativeOrder(), elements.order.toString());
    }
    long address;
    try (Pointer pointer = new Pointer(buffer)) {
      address = pointer.address() + (long) buffer.position() * elements.bytes;
    }
    long room = (long) buffer.remaining() * elements.bytes;
    return wrap(scope, "buffer", address, room, buffer, null, dtype, shape, null);
  }

  /** What the elements of a buffer are; the order of single bytes is always right. */
  private record Elements(int bytes, ByteOrder order) {
    static Elements of(Buffer buffer) {
      if (buffer instanceof FloatBuffer floats) {
        return new Elements(Float.BYTES, floats.order());
      }
      if (buffer instanceof IntBuffer ints) {
        return new Elements(Integer.BYTES, ints.order());
      }
      if (buffer instanceof LongBuffer longs) {
        return new Elements(Long.BYTES, longs.order());
      }
      if (buffer instanceof DoubleBuffer doubles) {
        return new Elements(Double.BYTES, doubles.order());
      }
      if (buffer instanceof ShortBuffer shorts) {
        return new Elements(Short.BYTES, shorts.order());
      }
      if (buffer instanceof CharBuffer chars) {
        return new Elements(Character.BYTES, chars.order());
      }
      return new Elements(Byte.BYTES, ByteOrder.nativeOrder());
    }
  }

  private static Tensor wrap(
      Scope scope,
      String argument,
      long address,
      long room,
      Object owner,
      Runnable release,
      DType dtype,
      long[] shape,
      long[] strides) {
    requirePresent("wrap", "scope", scope);
    long[] own = copyOf("wrap", shape);
    long bytes = byteSize("wrap", dtype, own);
    long[] ownStrides = dense(own);
    String what = describe(dtype, own);
    if (strides != null) {
      long span = layOut(own, strides, ownStrides, what);
      bytes = bytes == 0 ? 0 : span * dtype.bytes();
    }
    if (address == 0 && bytes > 0) {
      throw new InvalidArgumentException("wrap", argument, "an address for " + what, "null");
    }
    if (bytes > room) {
      throw new InvalidArgumentException(
          "wrap", argument, bytes + " bytes for " + what, room + " bytes from its position");
    }
    if (address % dtype.bytes() != 0) {
      throw new InvalidArgumentException(
          "wrap",
          argument,
          "alignment to " + dtype.bytes() + " bytes for " + what,
          "0x" + Long.toHexString(address));
    }
    return new Tensor(scope.adopt(address, bytes, owner, release, what), 0, dtype, own, ownStrides);
  }

  /**
   * Checks foreign strides and writes them to {@code own}, which holds the dense ones.
   *
   * @return elements from the first to the last, both included
   */
  private static long layOut(long[] shape, long[] strides, long[] own, String what) {
    if (strides.length != shape.length) {
      throw new InvalidArgumentException(
          "wrap", "strides", shape.length + " for " + what, Arrays.toString(strides));
    }
    if (product(shape, 0, shape.length) == 0) {
      return 0;
    }
    long span = 1;
    for (int d = shape.length - 1; d >= 0; d--) {
      boolean last = d == shape.length - 1;
      if (shape[d] == 1) {
        own[d] = span;
        continue;
      }
      if (last ? strides[d] != 1 : strides[d] < span) {
        throw new InvalidArgumentException(
            "wrap",
            "strides",
            span + (last ? "" : " or more") + " in dimension " + d + " of " + what,
            Arrays.toString(strides));
      }
      own[d] = strides[d];
      try {
        span = Math.addExact(span, Math.multiplyExact(shape[d] - 1, strides[d]));
        Math.multiplyExact(span, (long) DType.F64.bytes());
      } catch (ArithmeticException e) {
        throw new InvalidArgumentException(
            "wrap", "strides", "fewer than 2^63 bytes for " + what, Arrays.toString(strides));
      }
    }
    return span;
  }

  /**
   * A tensor over the memory of a {@code DLManagedTensor} of <a
   * href="https://dmlc.github.io/dlpack">DLPack</a>, without a copy: what a capsule named {@code
   * dltensor} holds. Row-major, the last dimension contiguous; others may have gaps.
   *
   * <p>The tensor takes it over: its deleter is called once, when the tensor or its scope is
   * closed. If this throws, it stays the caller's. On a GPU the producer's work has to be ordered
   * before the context's: see {@link Context#waitFor}.
   *
   * @param managedTensor address of the {@code DLManagedTensor}
   * @throws InvalidArgumentException if it lies on another device than the scope's context, or has
   *     an element type or a layout that tensors lack
   */
  public static Tensor fromDlpack(Scope scope, long managedTensor) {
    Context context = requirePresent("from_dlpack", "scope", scope).context();
    try (Call call = context.begin("from_dlpack")) {
      var view = call.args(saccade_dlpack_tensor.class, saccade_dlpack_tensor::new);
      call.invoke(Saccade.saccade_dlpack_import(context.handle(), managedTensor, view));
      DType dtype = DType.values()[view.dtype()];
      long[] own = new long[view.dimensions()];
      Arrays.setAll(own, view::shape);
      long[] given = new long[own.length];
      Arrays.setAll(given, view::strides);
      long[] strides = dense(own);
      String what = describe(dtype, own) + " of DLPack";
      long bytes = layOut(own, given, strides, what) * dtype.bytes();
      Runnable release = () -> Saccade.saccade_dlpack_release(managedTensor);
      Storage storage = scope.adopt(view.data(), bytes, null, release, what);
      return new Tensor(storage, 0, dtype, own, strides);
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
    return product(shape, 0, shape.length);
  }

  /** Elements from one index of dimension {@code i} to the next. */
  public long stride(int i) {
    return strides[i];
  }

  /** Whether the elements follow each other without gaps. */
  public boolean isDense() {
    return size() == 0 || contiguousFrom() == 0;
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

  /**
   * Frees the memory, or forgets it if it is foreign, before the scope does; closes all views of
   * it. Idempotent.
   *
   * @throws ConcurrentUseException if another thread is inside a call: nothing is freed then
   */
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
      throw new InvalidArgumentException(
          operation, "range", "within [0, " + size + ")", "[" + from + ", " + to + ")");
    }
  }

  /**
   * The same elements in another shape. A dense tensor takes any shape of the same size; a matrix
   * with a row stride may split its columns: [n, a*b] to [n, a, b].
   */
  public Tensor reshape(long... newShape) {
    long[] s = copyOf("reshape", newShape);
    if (byteSize("reshape", dtype, s) / dtype.bytes() != size()) {
      throw new InvalidArgumentException(
          "reshape", "shape", "the size of " + describe(), Arrays.toString(s));
    }
    long[] st = dense(s);
    if (!isDense()) {
      if (rank() != 2 || s.length < 2 || s[0] != shape[0]) {
        throw new InvalidArgumentException(
            "reshape",
            "shape",
            rank() == 2
                ? "[" + shape[0] + ", ...], since " + describe() + " has gaps between its rows"
                : "a dense tensor, or a matrix whose columns split",
            Arrays.toString(s));
      }
      st[0] = strides[0];
    }
    return new Tensor(storage, offset, dtype, s, st);
  }

  // ----------------------------------------------------------------------------------------- data

  /** Sets every element to 0. */
  public Tensor zero() {
    try (Call call = begin("zero")) {
      int inner = contiguousFrom();
      long bytes = product(shape, inner, rank()) * dtype.bytes();
      for (long run = 0; run < runs(inner); run++) {
        call.invoke(Saccade.saccade_memory_zero(context().handle(), runAddress(inner, run), bytes));
      }
    }
    return this;
  }

  /** Copies {@code values}, rounded to this tensor's type: f32, bf16, f16 or f64. */
  public Tensor copyFrom(float[] values) {
    requireFloating("copy_from");
    requireLength(values);
    return write(
        (memory, index, n) -> {
          switch (dtype) {
            case F32 -> new FloatPointer(memory).put(values, index, n);
            case F64 -> {
              double[] run = new double[n];
              for (int i = 0; i < n; i++) {
                run[i] = values[index + i];
              }
              new DoublePointer(memory).put(run);
            }
            default -> {
              short[] run = new short[n];
              for (int i = 0; i < n; i++) {
                float x = values[index + i];
                run[i] = dtype == DType.BF16 ? DType.floatToBf16(x) : DType.floatToF16(x);
              }
              new ShortPointer(memory).put(run);
            }
          }
        });
  }

  /** Copies {@code values}; an f64 tensor. */
  public Tensor copyFrom(double[] values) {
    requireType("copy_from", DType.F64);
    requireLength(values);
    return write((memory, index, n) -> new DoublePointer(memory).put(values, index, n));
  }

  /** Copies {@code values}; an i32 tensor. */
  public Tensor copyFrom(int[] values) {
    requireType("copy_from", DType.I32);
    requireLength(values);
    return write((memory, index, n) -> new IntPointer(memory).put(values, index, n));
  }

  /** Copies {@code values}; an i64 tensor. */
  public Tensor copyFrom(long[] values) {
    requireType("copy_from", DType.I64);
    requireLength(values);
    return write((memory, index, n) -> new LongPointer(memory).put(values, index, n));
  }

  /** Copies {@code values}; a u8 tensor. */
  public Tensor copyFrom(byte[] values) {
    requireType("copy_from", DType.U8);
    requireLength(values);
    return write((memory, index, n) -> new BytePointer(memory).put(values, index, n));
  }

  /**
   * Copies a tensor of the same type and shape, of the same context. Where one of them has gaps
   * their memory may not overlap.
   */
  public Tensor copyFrom(Tensor source) {
    try (Call call = begin("copy_from")) {
      call.check("source", source, Set.of(dtype), shape);
      int inner = Math.max(contiguousFrom(), source.contiguousFrom());
      long bytes = product(shape, inner, rank()) * dtype.bytes();
      for (long run = 0; run < runs(inner); run++) {
        call.invoke(
            Saccade.saccade_memory_copy(
                context().handle(), runAddress(inner, run), source.runAddress(inner, run), bytes));
      }
    }
    return this;
  }

  /** The elements as f32, converted from f32, bf16, f16 or f64. */
  public float[] toFloats() {
    requireFloating("to_floats");
    float[] values = new float[length("to_floats")];
    read(
        "to_floats",
        (memory, index, n) -> {
          switch (dtype) {
            case F32 -> new FloatPointer(memory).get(values, index, n);
            case F64 -> {
              double[] run = new double[n];
              new DoublePointer(memory).get(run);
              for (int i = 0; i < n; i++) {
                values[index + i] = (float) run[i];
              }
            }
            default -> {
              short[] run = new short[n];
              new ShortPointer(memory).get(run);
              for (int i = 0; i < n; i++) {
                values[index + i] =
                    dtype == DType.BF16 ? DType.bf16ToFloat(run[i]) : DType.f16ToFloat(run[i]);
              }
            }
          }
        });
    return values;
  }

  /** The elements as f64, converted from f32, bf16, f16 or f64. */
  public double[] toDoubles() {
    requireFloating("to_doubles");
    double[] values = new double[length("to_doubles")];
    if (dtype == DType.F64) {
      read("to_doubles", (memory, index, n) -> new DoublePointer(memory).get(values, index, n));
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
    requireType("to_ints", DType.I32);
    int[] values = new int[length("to_ints")];
    read("to_ints", (memory, index, n) -> new IntPointer(memory).get(values, index, n));
    return values;
  }

  /** The elements of an i64 tensor. */
  public long[] toLongs() {
    requireType("to_longs", DType.I64);
    long[] values = new long[length("to_longs")];
    read("to_longs", (memory, index, n) -> new LongPointer(memory).get(values, index, n));
    return values;
  }

  /** The elements of a u8 tensor. */
  public byte[] toBytes() {
    requireType("to_bytes", DType.U8);
    byte[] values = new byte[length("to_bytes")];
    read("to_bytes", (memory, index, n) -> new BytePointer(memory).get(values, index, n));
    return values;
  }

  /** The only element of an f32, bf16, f16 or f64 tensor. */
  public float item() {
    if (size() != 1) {
      throw new InvalidArgumentException("item", "tensor", "one element", describe());
    }
    return toFloats()[0];
  }

  /**
   * A new {@code DLManagedTensor} of <a href="https://dmlc.github.io/dlpack">DLPack</a> over this
   * tensor's memory, without a copy: for a capsule named {@code dltensor}. The memory stays until
   * its deleter was called, which has to happen once, even if this tensor, its scope and its
   * context are closed before. On a GPU the consumer's work has to be ordered after the context's:
   * see {@link Context#signal}.
   *
   * @return its address
   * @throws InvalidArgumentException if the memory is foreign, the tensor has more than 8
   *     dimensions, or gaps elsewhere than between its rows
   */
  public long toDlpack() {
    try (Call call = begin("to_dlpack")) {
      if (storage.isForeign()) {
        throw new InvalidArgumentException(
            "to_dlpack", "tensor", "memory of its context", describe() + " over foreign memory");
      }
      if (rank() > Saccade.SACCADE_DLPACK_DIMENSIONS) {
        throw new InvalidArgumentException(
            "to_dlpack", "tensor", "at most 8 dimensions", describe());
      }
      var view = call.args(saccade_dlpack_tensor.class, saccade_dlpack_tensor::new);
      view.data(address()).dtype(dtype.code()).dimensions(rank());
      for (int d = 0; d < rank(); d++) {
        view.shape(d, shape[d]).strides(d, strides[d]);
      }
      long[] managed = new long[1];
      call.invoke(
          Saccade.saccade_dlpack_export(context().handle(), storage.address(), view, managed));
      storage.export();
      return managed[0];
    }
  }

  // ------------------------------------------------------------------------------------ internals

  /** The first of the dimensions, counted from the last one down, that hold no gaps. */
  private int contiguousFrom() {
    long expected = 1;
    for (int d = rank() - 1; d >= 0; d--) {
      if (shape[d] != 1 && strides[d] != expected) {
        return d + 1;
      }
      expected *= shape[d];
    }
    return 0;
  }

  /** Runs of elements without gaps, when dimensions {@code inner} and on hold none. */
  private long runs(int inner) {
    return size() == 0 ? 0 : product(shape, 0, inner);
  }

  private long runAddress(int inner, long run) {
    long element = offset;
    for (int d = inner - 1; d >= 0; d--) {
      element += run % shape[d] * strides[d];
      run /= shape[d];
    }
    return storage.address() + element * dtype.bytes();
  }

  private interface Transfer {
    /**
     * Moves {@code count} elements between host memory and an array, there from {@code index} on.
     */
    void run(Pointer memory, int index, int count);
  }

  /** Copies all elements from an array, in row-major order. */
  private Tensor write(Transfer transfer) {
    return transfer("copy_from", true, transfer);
  }

  /** Copies all elements to an array, in row-major order. */
  private void read(String operation, Transfer transfer) {
    transfer(operation, false, transfer);
  }

  private Tensor transfer(String operation, boolean write, Transfer transfer) {
    try (Call call = begin(operation)) {
      boolean host = context().device().kind() == Device.Kind.CPU;
      int inner = contiguousFrom();
      int count = (int) product(shape, inner, rank());
      long bytes = (long) count * dtype.bytes();
      for (long run = 0; run < runs(inner); run++) {
        long address = runAddress(inner, run);
        Pointer memory =
            host
                ? new Storage.Address(address, bytes)
                : write ? context().staged(call, bytes) : context().staging(bytes);
        if (!host && !write) {
          call.invoke(
              Saccade.saccade_memory_copy(context().handle(), memory.address(), address, bytes));
        }
        transfer.run(memory, (int) run * count, count);
        if (!host && write) {
          call.invoke(
              Saccade.saccade_memory_copy(context().handle(), address, memory.address(), bytes));
        }
      }
    }
    return this;
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

  private void requireOpen() {
    if (!storage.isOpen()) {
      throw new ClosedException(describe() + " is closed");
    }
  }

  private int length(String operation) {
    long n = size();
    if (n > MAX_ARRAY) {
      throw new InvalidArgumentException(
          operation, "tensor", "at most " + MAX_ARRAY + " elements for an array", describe());
    }
    return (int) n;
  }

  private void requireLength(Object values) {
    int length = Array.getLength(requirePresent("copy_from", "values", values));
    if (length != size()) {
      throw new InvalidArgumentException(
          "copy_from", "values", size() + " elements for " + describe(), length + " elements");
    }
  }

  private void requireType(String operation, DType expected) {
    if (dtype != expected) {
      throw new InvalidArgumentException(operation, "tensor", expected.toString(), describe());
    }
  }

  private void requireFloating(String operation) {
    if (!isFloating(dtype)) {
      throw new InvalidArgumentException(operation, "tensor", FLOATING, describe());
    }
  }

  private static boolean isFloating(DType dtype) {
    return dtype == DType.F64 || DType.FLOAT.contains(dtype);
  }

  /** The shape for an array: as given, or one dimension. */
  private static long[] shapeOf(Object values, long[] shape) {
    int length = Array.getLength(requirePresent("tensor", "values", values));
    if (copyOf("tensor", shape).length == 0) {
      return new long[] {length};
    }
    long size = byteSize("tensor", DType.U8, shape);
    if (length != size) {
      throw new InvalidArgumentException(
          "tensor",
          "values",
          size + " elements for " + Arrays.toString(shape),
          length + " elements");
    }
    return shape;
  }

  private static long[] copyOf(String operation, long[] shape) {
    return requirePresent(operation, "shape", shape).clone();
  }

  private static long product(long[] shape, int from, int to) {
    long product = 1;
    for (int d = from; d < to; d++) {
      product *= shape[d];
    }
    return product;
  }

  private static long[] dense(long[] shape) {
    long[] strides = new long[shape.length];
    long stride = 1;
    for (int d = shape.length - 1; d >= 0; d--) {
      strides[d] = stride;
      stride *= shape[d];
    }
    return strides;
  }

  private static long byteSize(String operation, DType dtype, long[] shape) {
    requirePresent(operation, "dtype", dtype);
    long bytes = dtype.bytes();
    boolean empty = false;
    boolean fits = true;
    for (long d : shape) {
      if (d < 0) {
        throw new InvalidArgumentException(
            operation, "shape", "dimensions of 0 or more", Arrays.toString(shape));
      }
      empty |= d == 0;
      fits &= d == 0 || bytes <= Long.MAX_VALUE / d;
      bytes *= d;
    }
    if (shape.length == 0) {
      throw new InvalidArgumentException(operation, "shape", "at least one dimension", "[]");
    }
    if (!empty && !fits) {
      throw new InvalidArgumentException(
          operation, "shape", "fewer than 2^63 bytes", describe(dtype, shape));
    }
    return empty ? 0 : bytes;
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
