package dev.saccade.train.io;

import dev.saccade.DType;
import dev.saccade.Scope;
import dev.saccade.Tensor;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.Collections;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.bytedeco.javacpp.BytePointer;

/**
 * Named tensors with text metadata, as the safetensors format stores them: an immutable view of a
 * file or of what a {@link Builder} collected.
 *
 * <p>The format is a little-endian u64 with the length of a JSON header, the header ({@code name →
 * dtype, shape, data_offsets}, and {@code __metadata__}), then the elements, row-major and
 * little-endian, without gaps. Files are memory-mapped: opening one reads its header only, and its
 * content must not be changed in place while the view is in use ({@link #write} replaces a file as
 * a whole, which is safe).
 */
public final class Safetensors {
  private final Path file;
  private final SortedMap<String, Entry> entries;
  private final SortedMap<String, String> metadata;

  Safetensors(Path file, Map<String, Entry> entries, Map<String, String> metadata) {
    this.file = file;
    this.entries = Collections.unmodifiableSortedMap(new TreeMap<>(entries));
    this.metadata = Collections.unmodifiableSortedMap(new TreeMap<>(metadata));
  }

  /** One tensor: its element type, its shape (empty for a scalar) and its bytes. */
  public static final class Entry {
    private final DType dtype;
    private final long[] shape;
    private final ByteBuffer data;

    Entry(DType dtype, long[] shape, ByteBuffer data) {
      this.dtype = dtype;
      this.shape = shape.clone();
      this.data = data;
    }

    /** Element type. */
    public DType dtype() {
      return dtype;
    }

    /** A copy of the dimensions; none for a scalar. */
    public long[] shape() {
      return shape.clone();
    }

    /** Number of elements. */
    public int size() {
      return data.capacity() / dtype.bytes();
    }

    /** The elements: a direct, read-only, little-endian buffer of exactly their bytes. */
    public ByteBuffer data() {
      return data.asReadOnlyBuffer().order(ByteOrder.LITTLE_ENDIAN);
    }

    /** The elements as f64, exact for all types but I64. */
    public double[] toDoubles() {
      ByteBuffer from = data();
      double[] values = new double[size()];
      for (int i = 0; i < values.length; i++) {
        values[i] =
            switch (dtype) {
              case F32 -> from.getFloat();
              case BF16 -> DType.bf16ToFloat(from.getShort());
              case F16 -> DType.f16ToFloat(from.getShort());
              case F64 -> from.getDouble();
              case I32 -> from.getInt();
              case I64 -> from.getLong();
              case U8 -> Byte.toUnsignedInt(from.get());
            };
      }
      return values;
    }

    /** The elements as i64, of an I32, I64 or U8 entry. */
    public long[] toLongs() {
      ByteBuffer from = data();
      long[] values = new long[size()];
      for (int i = 0; i < values.length; i++) {
        values[i] =
            switch (dtype) {
              case I32 -> from.getInt();
              case I64 -> from.getLong();
              case U8 -> Byte.toUnsignedInt(from.get());
              default -> throw new IllegalStateException(this + " does not hold integers");
            };
      }
      return values;
    }

    /** The shape that a tensor of these elements has: [1] for a scalar. */
    private long[] tensorShape() {
      return shape.length == 0 ? new long[] {1} : shape;
    }

    /** Type and shape, such as {@code f32[4, 7]}. */
    @Override
    public String toString() {
      return dtype + Arrays.toString(shape);
    }
  }

  // ------------------------------------------------------------------------------------- reading

  /**
   * Maps a file and checks its header.
   *
   * @throws NoSuchFileException if there is no such file
   * @throws SafetensorsException if the file is truncated, its header is not what the format asks
   *     for, its tensors overlap or leave gaps, or a type is not one of {@link DType}
   * @throws IOException if reading fails
   */
  public static Safetensors open(Path file) throws IOException {
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
      return new SafetensorsReader(file, channel).read();
    }
  }

  /** A collection to fill. */
  public static Builder builder() {
    return new Builder();
  }

  /** Names and entries, sorted by name. */
  public SortedMap<String, Entry> entries() {
    return entries;
  }

  /** The text metadata, sorted by key. */
  public SortedMap<String, String> metadata() {
    return metadata;
  }

  /** Whether there is an entry of this name. */
  public boolean contains(String name) {
    return entries.containsKey(name);
  }

  /**
   * The entry of a name.
   *
   * @throws IllegalArgumentException if there is none
   */
  public Entry entry(String name) {
    Entry entry = entries.get(name);
    if (entry == null) {
      throw new IllegalArgumentException(this + ": no tensor \"" + name + "\"");
    }
    return entry;
  }

  /**
   * Copies an entry into a new tensor of {@code scope}, on the device of its context. A scalar
   * becomes a tensor of shape [1].
   *
   * @throws IllegalArgumentException if there is no such entry
   */
  public Tensor load(Scope scope, String name) {
    Entry entry = entry(name);
    Tensor tensor = Tensor.empty(scope, entry.dtype, entry.tensorShape());
    return load(name, tensor);
  }

  /**
   * Copies an entry into a tensor of the same type and shape, which may have strides.
   *
   * @return the tensor
   * @throws IllegalArgumentException if there is no such entry
   * @throws dev.saccade.InvalidArgumentException if the type or the shape differs
   */
  public Tensor load(String name, Tensor into) {
    Entry entry = entry(name);
    try (Scope views = into.context().scope()) {
      into.copyFrom(view(views, entry));
    }
    return into;
  }

  /** A tensor over the bytes of an entry, where they lie; only to be read. */
  private static Tensor view(Scope scope, Entry entry) {
    if (entry.data.capacity() == 0) {
      return Tensor.empty(scope, entry.dtype, entry.tensorShape());
    }
    ByteBuffer data = entry.data;
    if (data.alignmentOffset(0, entry.dtype.bytes()) != 0) {
      // The format allows any offset; a tensor needs its elements aligned.
      data = ByteBuffer.allocateDirect(data.capacity()).put(0, data, 0, data.capacity());
    }
    try (BytePointer start = new BytePointer(data)) {
      return Tensor.wrap(scope, start.address(), data, entry.dtype, entry.tensorShape());
    }
  }

  // ------------------------------------------------------------------------------------- writing

  /**
   * Writes a file as a whole: into a temporary file of the same folder, synchronised to the disk,
   * then renamed. Whoever looks sees the old file or the new one, after a crash too. The bytes
   * depend on names, types, shapes, elements and metadata only.
   *
   * @throws IOException if writing fails; {@code file} is unchanged then
   */
  public void write(Path file) throws IOException {
    SafetensorsWriter.write(this, file);
  }

  /** Collects tensors; each {@code add} copies the elements. */
  public static final class Builder {
    private final Map<String, Entry> entries = new TreeMap<>();
    private final Map<String, String> metadata = new TreeMap<>();

    private Builder() {}

    /** Sets one line of metadata. */
    public Builder metadata(String key, String value) {
      metadata.put(key, value);
      return this;
    }

    /** Sets several lines of metadata. */
    public Builder metadata(Map<String, String> lines) {
      metadata.putAll(lines);
      return this;
    }

    /** Adds a copy of a tensor of any device, in its own type; strides are dropped. */
    public Builder add(String name, Tensor tensor) {
      ByteBuffer data = allocate(tensor.size(), tensor.dtype());
      if (data.capacity() > 0) {
        try (Scope views = tensor.context().scope()) {
          Tensor.wrap(views, data.duplicate(), tensor.dtype(), tensor.shape()).copyFrom(tensor);
        }
      }
      return put(name, tensor.dtype(), tensor.shape(), data);
    }

    /** Adds f32 values. Without a shape: one dimension. */
    public Builder add(String name, float[] values, long... shape) {
      ByteBuffer data = allocate(values.length, DType.F32);
      data.asFloatBuffer().put(values);
      return put(name, DType.F32, shapeOf(values.length, shape), data);
    }

    /** Adds f64 values. Without a shape: one dimension. */
    public Builder add(String name, double[] values, long... shape) {
      ByteBuffer data = allocate(values.length, DType.F64);
      data.asDoubleBuffer().put(values);
      return put(name, DType.F64, shapeOf(values.length, shape), data);
    }

    /** Adds i32 values. Without a shape: one dimension. */
    public Builder add(String name, int[] values, long... shape) {
      ByteBuffer data = allocate(values.length, DType.I32);
      data.asIntBuffer().put(values);
      return put(name, DType.I32, shapeOf(values.length, shape), data);
    }

    /** Adds i64 values. An empty shape: one dimension. */
    public Builder add(String name, long[] values, long[] shape) {
      ByteBuffer data = allocate(values.length, DType.I64);
      data.asLongBuffer().put(values);
      return put(name, DType.I64, shapeOf(values.length, shape), data);
    }

    /** Adds u8 values. Without a shape: one dimension. */
    public Builder add(String name, byte[] values, long... shape) {
      ByteBuffer data = allocate(values.length, DType.U8);
      data.put(0, values);
      return put(name, DType.U8, shapeOf(values.length, shape), data);
    }

    /** Adds an entry of another collection, without a copy. */
    public Builder add(String name, Entry entry) {
      return put(name, entry.dtype, entry.shape, entry.data);
    }

    /** An immutable view of what was added. */
    public Safetensors build() {
      return new Safetensors(null, entries, metadata);
    }

    /** {@link #build} and {@link Safetensors#write}. */
    public void write(Path file) throws IOException {
      build().write(file);
    }

    private Builder put(String name, DType dtype, long[] shape, ByteBuffer data) {
      if (name.equals(SafetensorsReader.METADATA)) {
        throw new IllegalArgumentException("\"" + name + "\" cannot name a tensor");
      }
      if (entries.putIfAbsent(name, new Entry(dtype, shape, data)) != null) {
        throw new IllegalArgumentException("tensor \"" + name + "\" was added twice");
      }
      return this;
    }

    private static ByteBuffer allocate(long size, DType dtype) {
      long bytes = Math.multiplyExact(size, dtype.bytes());
      if (bytes > Integer.MAX_VALUE) {
        throw new IllegalArgumentException(
            size + " elements of " + dtype + " are more than one entry holds (2 GiB)");
      }
      return ByteBuffer.allocateDirect((int) bytes).order(ByteOrder.LITTLE_ENDIAN);
    }

    private static long[] shapeOf(int length, long[] shape) {
      if (shape.length == 0) {
        return new long[] {length};
      }
      long size = 1;
      for (long dimension : shape) {
        if (dimension < 0) {
          throw new IllegalArgumentException("negative dimension in " + Arrays.toString(shape));
        }
        size = Math.multiplyExact(size, dimension);
      }
      if (size != length) {
        throw new IllegalArgumentException(
            length + " values do not fill the shape " + Arrays.toString(shape));
      }
      return shape;
    }
  }

  /** The file, or what kind of collection this is. */
  @Override
  public String toString() {
    return file == null ? "Safetensors in memory" : file.toString();
  }
}
