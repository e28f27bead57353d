package dev.saccade.train;

import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.function.ToDoubleFunction;
import java.util.stream.Stream;

/**
 * The tensors of one operation, each in memory of its own between guard bytes, aligned to an
 * element and no further unless asked for. Data is drawn from a seed and can be drawn anew in
 * place; outputs hold poison until they are written.
 */
final class GuardedTensors {
  /** Not a multiple of 16: vectors that want more than elements promise would show. */
  private static final int GUARD = 72;

  private static final int ALIGNED_GUARD = 80;

  private static final byte POISON = (byte) 0xa5;

  private final Scope scope;
  private final List<Buffer> buffers = new ArrayList<>();
  private long seed;
  private int guard = GUARD;

  /**
   * @param scope owns the tensors
   * @param seed of the data
   */
  GuardedTensors(Scope scope, long seed) {
    this.scope = scope;
    this.seed = seed;
  }

  /** Tensors from here on begin at multiples of 16 bytes. */
  void align() {
    guard = ALIGNED_GUARD;
  }

  private static final class Buffer {
    final int guard;

    /** Guard, data, guard. */
    final Tensor bytes;

    final Tensor view;

    /** Draws an element; null for outputs, which hold poison. */
    final ToDoubleFunction<Random> draw;

    final boolean written;

    /** What {@link #bytes} holds before a run. */
    final byte[] image;

    Buffer(
        Scope scope,
        int guard,
        boolean written,
        ToDoubleFunction<Random> draw,
        DType dtype,
        long... shape) {
      this.guard = guard;
      int elements = (int) Arrays.stream(shape).reduce(1, (a, b) -> a * b);
      image = new byte[2 * guard + elements * dtype.bytes()];
      Arrays.fill(image, POISON);
      bytes = Tensor.empty(scope, DType.U8, image.length);
      view = Tensor.wrap(scope, bytes.address() + guard, bytes, dtype, shape);
      this.written = written;
      this.draw = draw;
    }

    void draw(Random random) {
      if (draw == null) {
        return;
      }
      ByteBuffer data = ByteBuffer.wrap(image).order(ByteOrder.nativeOrder()).position(guard);
      for (long i = 0; i < view.size(); i++) {
        double x = draw.applyAsDouble(random);
        switch (view.dtype()) {
          case F32 -> data.putFloat((float) x);
          case BF16 -> data.putShort(DType.floatToBf16((float) x));
          case F16 -> data.putShort(DType.floatToF16((float) x));
          case F64 -> data.putDouble(x);
          case I32 -> data.putInt((int) x);
          case I64 -> data.putLong((long) x);
          case U8 -> data.put((byte) x);
        }
      }
    }

    double[] values(byte[] content) {
      ByteBuffer data = ByteBuffer.wrap(content).order(ByteOrder.nativeOrder()).position(guard);
      double[] values = new double[(int) view.size()];
      for (int i = 0; i < values.length; i++) {
        values[i] =
            switch (view.dtype()) {
              case F32 -> data.getFloat();
              case BF16 -> DType.bf16ToFloat(data.getShort());
              case F16 -> DType.f16ToFloat(data.getShort());
              case F64 -> data.getDouble();
              case I32 -> data.getInt();
              case I64 -> data.getLong();
              case U8 -> data.get();
            };
      }
      return values;
    }
  }

  private Tensor add(boolean written, ToDoubleFunction<Random> draw, DType dtype, long... shape) {
    Buffer buffer = new Buffer(scope, guard, written, draw, dtype, shape);
    buffer.draw(new Random(seed + 1_000_003L * buffers.size()));
    buffers.add(buffer);
    return buffer.view;
  }

  // --------------------------------------------------------------------------------- the tensors

  /** An input, drawn element by element. */
  Tensor input(DType dtype, ToDoubleFunction<Random> draw, long... shape) {
    return add(false, draw, dtype, shape);
  }

  /** A normal input. */
  Tensor normal(DType dtype, long... shape) {
    return input(dtype, Random::nextGaussian, shape);
  }

  /** A normal f32 input. */
  Tensor normal(long... shape) {
    return normal(DType.F32, shape);
  }

  /** An i32 input that stays what it is. */
  Tensor fixed(int... values) {
    int[] next = {0};
    return input(DType.I32, random -> values[next[0]++ % values.length], values.length);
  }

  /** An i32 input uniform in [0, bound). */
  Tensor below(int bound, long... shape) {
    return input(DType.I32, random -> random.nextInt(bound), shape);
  }

  /** A tensor that is read and written. */
  Tensor updated(DType dtype, ToDoubleFunction<Random> draw, long... shape) {
    return add(true, draw, dtype, shape);
  }

  /** An f32 output. */
  Tensor output(long... shape) {
    return output(DType.F32, shape);
  }

  /** An output. */
  Tensor output(DType dtype, long... shape) {
    return add(true, null, dtype, shape);
  }

  // ------------------------------------------------------------------------------------- the bits

  /** Draws all inputs anew; {@link #restore} brings them to the device. */
  void redraw(long newSeed) {
    seed = newSeed;
    for (int i = 0; i < buffers.size(); i++) {
      buffers.get(i).draw(new Random(seed + 1_000_003L * i));
    }
  }

  /** Puts data and poison where they were before the operation ran. */
  void restore() {
    buffers.forEach(buffer -> buffer.bytes.copyFrom(buffer.image));
  }

  /** {@link #restore} of what the operation writes, with another poison in the outputs. */
  void restoreWritten(int poison) {
    for (Buffer buffer : buffers) {
      if (buffer.draw == null) {
        Arrays.fill(buffer.image, buffer.guard, buffer.image.length - buffer.guard, (byte) poison);
      }
      if (buffer.written) {
        buffer.bytes.copyFrom(buffer.image);
      }
    }
  }

  /** All bits of what the operation writes, guards included. */
  List<byte[]> written() {
    return buffers.stream().filter(b -> b.written).map(buffer -> buffer.bytes.toBytes()).toList();
  }

  /** {@link #written} as numbers, without the guards. */
  List<double[]> results() {
    return buffers.stream()
        .filter(b -> b.written)
        .map(buffer -> buffer.values(buffer.bytes.toBytes()))
        .toList();
  }

  /** The types of {@link #results}. */
  List<DType> types() {
    return buffers.stream().filter(b -> b.written).map(buffer -> buffer.view.dtype()).toList();
  }

  /**
   * What the operation wrote that it may not: inputs, and bytes beside outputs. Empty where
   * everything is as it should be.
   */
  List<String> trespasses() {
    List<String> found = new ArrayList<>();
    for (int b = 0; b < buffers.size(); b++) {
      Buffer buffer = buffers.get(b);
      byte[] now = buffer.bytes.toBytes();
      for (int i = 0; i < now.length; i++) {
        boolean isGuard = i < buffer.guard || i >= now.length - buffer.guard;
        if (now[i] != buffer.image[i] && (isGuard || !buffer.written)) {
          found.add("tensor %d, %s: byte %d".formatted(b, buffer.view, i - buffer.guard));
          break;
        }
      }
    }
    return found;
  }

  /** How many elements the i32 inputs have, offsets, targets and indices, in all. */
  int indices() {
    return integers().mapToInt(buffer -> (int) buffer.view.size()).sum();
  }

  /** Puts a value in the place of one of {@link #indices}, until the next {@link #redraw}. */
  void setIndex(int place, int value) {
    for (Buffer buffer : integers().toList()) {
      if (place < buffer.view.size()) {
        ByteBuffer.wrap(buffer.image)
            .order(ByteOrder.nativeOrder())
            .putInt(buffer.guard + place * Integer.BYTES, value);
        return;
      }
      place -= (int) buffer.view.size();
    }
    throw new IndexOutOfBoundsException(place);
  }

  private Stream<Buffer> integers() {
    return buffers.stream().filter(buffer -> !buffer.written && buffer.view.dtype() == DType.I32);
  }
}
